//! `llm-proxy manage`: projects, tokens, cache and models of a running server.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::api::Api;
use super::{Failure, Global, output};

/// `manage …`.
#[derive(Debug, Subcommand)]
pub enum ManageCommand {
    /// Tenants.
    #[command(subcommand)]
    Project(ProjectCommand),
    /// Credentials of a project.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The HTTP cache.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Public models and where they go.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Audit events, newest first.
    Audit(super::manage_audit::AuditArguments),
    /// What was used and what it cost.
    Usage(super::manage_usage::UsageArguments),
}

/// `manage project …`.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// All projects.
    List,
    /// One project.
    Get {
        /// Its id.
        id: String,
    },
    /// A new project.
    Create(ProjectFields),
    /// Change a project.
    Update {
        /// Its id.
        id: String,
        #[command(flatten)]
        fields: ProjectFields,
        /// Activate (true) or deactivate (false).
        #[arg(long)]
        active: Option<bool>,
        /// With --active false: revoke its tokens too.
        #[arg(long)]
        revoke_tokens: bool,
    },
    /// Projects cannot be deleted; deactivate them.
    Delete {
        /// Its id.
        id: String,
    },
}

/// What a project is made of.
#[derive(Debug, Args)]
pub struct ProjectFields {
    /// Its unique name.
    #[arg(long)]
    name: Option<String>,
    /// Key for the default provider.
    #[arg(long, alias = "openai-key")]
    api_key: Option<String>,
    /// Key for another provider, as `name=key`; repeatable.
    #[arg(long = "provider-key", value_name = "PROVIDER=KEY")]
    provider_keys: Vec<String>,
    #[command(flatten)]
    restrictions: Restrictions,
}

/// What a token may do, or all tokens of a project together.
#[derive(Debug, Args)]
pub struct Restrictions {
    /// Models that may be asked for (`*` within a segment); repeatable.
    #[arg(long = "allowed-model", value_name = "GLOB")]
    allowed_models: Vec<String>,
    /// Requests a minute.
    #[arg(long)]
    rpm: Option<u32>,
    /// Tokens of models a minute.
    #[arg(long)]
    tpm: Option<u64>,
    /// Requests under way at once.
    #[arg(long)]
    concurrency: Option<u32>,
    /// Dollars that may be spent in each period; 0: nothing.
    #[arg(long = "budget", value_name = "USD", allow_negative_numbers = true)]
    budget_usd: Option<f64>,
    /// When the budget starts anew.
    #[arg(long, requires = "budget_usd", default_value = "month", value_parser = ["day", "week", "month", "total"])]
    budget_period: String,
}

/// `manage token …`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// A new token; its secret is shown once.
    #[command(alias = "create")]
    Generate(TokenFields),
    /// All tokens, or those of a project.
    List {
        /// Of this project only.
        #[arg(long)]
        project_id: Option<String>,
        /// Neither revoked nor expired.
        #[arg(long)]
        active_only: bool,
    },
    /// One token.
    Get {
        /// Its id (not the secret).
        id: String,
    },
    /// Revoke a token; it stops working at once.
    Revoke {
        /// Its id.
        id: Option<String>,
        /// Every token of this project instead.
        #[arg(long, conflicts_with = "id")]
        project_id: Option<String>,
    },
    /// Give a token a new secret.
    Rotate {
        /// Its id.
        id: String,
        /// How long the old secret still works.
        #[arg(long, default_value_t = 0, value_name = "MINUTES")]
        overlap: u32,
    },
}

/// What a token is made of.
#[derive(Debug, Args)]
pub struct TokenFields {
    /// Whose token.
    #[arg(long)]
    project_id: String,
    /// How long it works, in minutes.
    #[arg(long, default_value_t = 1440, value_name = "MINUTES")]
    duration: u64,
    /// How many requests it may make in all.
    #[arg(long)]
    max_requests: Option<u64>,
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    restrictions: Restrictions,
}

/// `manage cache …`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Drop answers: one URL, a prefix of the shown key, a project, or all.
    Purge {
        /// Method of the answers.
        #[arg(long, default_value = "GET")]
        method: String,
        /// Path and query, such as /v1/models.
        #[arg(long)]
        url: Option<String>,
        /// Everything whose shown cache key starts so.
        #[arg(long)]
        prefix: Option<String>,
        /// Everything of a project.
        #[arg(long)]
        project_id: Option<String>,
        /// Everything.
        #[arg(long)]
        all: bool,
    },
    /// Entries, bytes, hits.
    Stats,
}

/// `manage models …`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// All public models.
    List,
}

/// Runs `manage`.
pub fn run(global: &Global, command: ManageCommand) -> Result<(), Failure> {
    let api = Api::find(global)?;
    let shown = Shown { json: global.json };
    match command {
        ManageCommand::Project(command) => project(&api, shown, command),
        ManageCommand::Token(command) => token(&api, shown, command),
        ManageCommand::Cache(command) => cache(&api, shown, command),
        ManageCommand::Audit(arguments) => super::manage_audit::run(&api, shown, &arguments),
        ManageCommand::Usage(arguments) => super::manage_usage::run(&api, shown, &arguments),
        ManageCommand::Models(ModelsCommand::List) => {
            let list = api.ask(&Method::GET, "/manage/models", None)?;
            shown.list(
                &list,
                &[
                    ("Name", "/name"),
                    ("Strategy", "/strategy"),
                    ("Targets", "/targets"),
                ],
            )
        }
    }
}

fn project(api: &Api, shown: Shown, command: ProjectCommand) -> Result<(), Failure> {
    match command {
        ProjectCommand::List => {
            let list = api.ask(&Method::GET, "/manage/projects", None)?;
            shown.list(
                &list,
                &[
                    ("ID", "/id"),
                    ("Name", "/name"),
                    ("API Key", "/api_key"),
                    ("Active", "/is_active"),
                    ("Created", "/created_at"),
                    ("Updated", "/updated_at"),
                ],
            )
        }
        ProjectCommand::Get { id } => {
            shown.object(&api.ask(&Method::GET, &path("/manage/projects", &id)?, None)?)
        }
        ProjectCommand::Create(fields) => {
            if fields.name.is_none() {
                return Err(Failure::Usage("--name is required".to_owned()));
            }
            let body = project_body(fields)?;
            shown.object(&api.ask(&Method::POST, "/manage/projects", Some(&Value::Object(body)))?)
        }
        ProjectCommand::Update {
            id,
            fields,
            active,
            revoke_tokens,
        } => {
            let mut body = project_body(fields)?;
            put(&mut body, "is_active", active);
            put(&mut body, "revoke_tokens", revoke_tokens.then_some(true));
            if body.is_empty() {
                return Err(Failure::Usage(
                    "nothing to change: give --name, --api-key, --active or a limit".to_owned(),
                ));
            }
            shown.object(&api.ask(
                &Method::PATCH,
                &path("/manage/projects", &id)?,
                Some(&Value::Object(body)),
            )?)
        }
        ProjectCommand::Delete { id } => {
            shown.object(&api.ask(&Method::DELETE, &path("/manage/projects", &id)?, None)?)
        }
    }
}

fn project_body(fields: ProjectFields) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    put(&mut body, "name", fields.name);
    put(&mut body, "api_key", fields.api_key);
    let mut keys = Map::new();
    for pair in fields.provider_keys {
        let Some((provider, key)) = pair.split_once('=') else {
            return Err(Failure::Usage("--provider-key wants `provider=key`".to_owned()));
        };
        keys.insert(provider.to_owned(), key.into());
    }
    if !keys.is_empty() {
        body.insert("providers".to_owned(), Value::Object(keys));
    }
    fields.restrictions.put_into(&mut body);
    Ok(body)
}

impl Restrictions {
    fn put_into(self, body: &mut Map<String, Value>) {
        if !self.allowed_models.is_empty() {
            body.insert("allowed_models".to_owned(), self.allowed_models.into());
        }
        let mut limits = Map::new();
        put(&mut limits, "rpm", self.rpm);
        put(&mut limits, "tpm", self.tpm);
        put(&mut limits, "concurrency", self.concurrency);
        if !limits.is_empty() {
            body.insert("limits".to_owned(), Value::Object(limits));
        }
        if let Some(usd) = self.budget_usd {
            body.insert(
                "budget".to_owned(),
                json!({"usd": usd, "period": self.budget_period}),
            );
        }
    }
}

fn token(api: &Api, shown: Shown, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Generate(fields) => {
            let mut body = Map::new();
            put(&mut body, "project_id", Some(fields.project_id));
            put(&mut body, "duration_minutes", Some(fields.duration));
            put(&mut body, "max_requests", fields.max_requests);
            put(&mut body, "name", fields.name);
            fields.restrictions.put_into(&mut body);
            shown.object(&api.ask(&Method::POST, "/manage/tokens", Some(&Value::Object(body)))?)
        }
        TokenCommand::List {
            project_id,
            active_only,
        } => {
            let mut query = Vec::new();
            if let Some(id) = project_id {
                query.push(format!("project_id={}", segment(&id)?));
            }
            if active_only {
                query.push("active_only=true".to_owned());
            }
            let list = api.ask(&Method::GET, &format!("/manage/tokens?{}", query.join("&")), None)?;
            shown.list(
                &list,
                &[
                    ("ID", "/id"),
                    ("Token", "/token"),
                    ("Project", "/project_id"),
                    ("Active", "/is_active"),
                    ("Requests", "/request_count"),
                    ("Max", "/max_requests"),
                    ("Expires", "/expires_at"),
                ],
            )
        }
        TokenCommand::Get { id } => {
            shown.object(&api.ask(&Method::GET, &path("/manage/tokens", &id)?, None)?)
        }
        TokenCommand::Revoke { id: Some(id), .. } => {
            api.ask(&Method::DELETE, &path("/manage/tokens", &id)?, None)?;
            shown.object(&json!({"revoked": id}))
        }
        TokenCommand::Revoke {
            project_id: Some(project),
            ..
        } => {
            let target = format!("{}/tokens/revoke", path("/manage/projects", &project)?);
            shown.object(&api.ask(&Method::POST, &target, None)?)
        }
        TokenCommand::Revoke { .. } => Err(Failure::Usage("name a token id or --project-id".to_owned())),
        TokenCommand::Rotate { id, overlap } => {
            let target = format!("{}/rotate", path("/manage/tokens", &id)?);
            shown.object(&api.ask(&Method::POST, &target, Some(&json!({"overlap_minutes": overlap})))?)
        }
    }
}

fn cache(api: &Api, shown: Shown, command: CacheCommand) -> Result<(), Failure> {
    let CacheCommand::Purge {
        method,
        url,
        prefix,
        project_id,
        all,
    } = command
    else {
        return shown.object(&api.ask(&Method::GET, "/manage/cache", None)?);
    };
    let body = match (url, prefix, project_id, all) {
        (Some(url), None, project, false) => {
            let mut body = json!({"method": method, "url": url});
            if let Some(project) = project {
                body["project_id"] = project.into();
            }
            body
        }
        (url, Some(prefix), None, false) => {
            json!({"method": method, "url": url.unwrap_or_else(|| "/".to_owned()), "prefix": prefix})
        }
        (None, None, Some(project), false) => json!({"project_id": project}),
        (None, None, None, true) => json!({"all": true}),
        _ => {
            return Err(Failure::Usage(
                "give one of --url, --prefix, --project-id, --all".to_owned(),
            ));
        }
    };
    shown.object(&api.ask(&Method::POST, "/manage/cache/purge", Some(&body))?)
}

/// How answers are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    json: bool,
}

impl Shown {
    /// Whether answers are shown as JSON.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    pub(super) fn object(self, value: &Value) -> Result<(), Failure> {
        let Value::Object(object) = value else {
            return output::json(value);
        };
        if self.json {
            return output::json(value);
        }
        for (key, value) in object {
            output::line(&format!("{key}: {}", cell(value)))?;
        }
        Ok(())
    }

    pub(super) fn list(self, value: &Value, columns: &[(&str, &str)]) -> Result<(), Failure> {
        if self.json {
            return output::json(value);
        }
        let rows: Vec<Vec<String>> = value
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| {
                columns
                    .iter()
                    .map(|(_, pointer)| row.pointer(pointer).map_or_else(String::new, cell))
                    .collect()
            })
            .collect();
        let headers: Vec<&str> = columns.iter().map(|(header, _)| *header).collect();
        output::table(&headers, &rows)
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(|item| match (item.get("provider"), item.get("model")) {
                (Some(Value::String(provider)), Some(Value::String(model))) => format!("{provider}/{model}"),
                _ => cell(item),
            })
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

fn put<T: Into<Value>>(body: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        body.insert(key.to_owned(), value.into());
    }
}

/// An id that can stand in a path; anything else never existed.
fn segment(id: &str) -> Result<&str, Failure> {
    let fits = !id.is_empty()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        Ok(id)
    } else {
        Err(Failure::Usage(format!(
            "`{id}` is no id; ids look like `3f2b8c1e-8f0a-4a53-9a57-0a4a2b8f3f10`"
        )))
    }
}

fn path(base: &str, id: &str) -> Result<String, Failure> {
    Ok(format!("{base}/{}", segment(id)?))
}
