//! The way from a file and an environment to settings: read, parse, interpolate, overlay, check.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::{EnvSource, Environment};
use super::error::{ConfigErrors, Faults};
use super::file::{self, FileFault};
use super::interpolate::{self, interpolate};
use super::overrides::Overrides;
use super::path::KeyPath;
use super::schema;
use super::section::Section;
use super::settings::{
    AuditSettings, AuthSettings, BudgetsSettings, CacheSettings, CorsSettings, DatabaseSettings,
    EncryptionSettings, LedgerSettings, LimitsSettings, LoggingSettings, ManagementSettings, ModelSettings,
    PriceSettings, ProviderSettings, ProviderSource, RedisSettings, RouterSettings, ServerSettings, Settings,
    UnknownModels,
};
use super::tree::{self, Entry, Node, Value};
use crate::domain::Secret;

/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Where the file is when nothing names it.
const DEFAULT_PATH: &str = "conf/llm-proxy.yaml";
/// Shorter management tokens are warned about.
const SHORT_TOKEN: usize = 20;

/// What to load.
pub struct LoadRequest<'a> {
    /// Which file.
    pub file: FileChoice,
    /// The process's variables.
    pub env: &'a dyn EnvSource,
    /// The working directory, where `.env` and `conf/llm-proxy.yaml` are.
    pub cwd: PathBuf,
    /// Whether a missing management token is a fault. The server wants one; `migrate` does not.
    pub needs_management_token: bool,
}

/// Which file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChoice {
    /// This one (`--config`).
    Path(PathBuf),
    /// What `LLM_PROXY_CONFIG` or `API_CONFIG_PATH` names, else `./conf/llm-proxy.yaml` if it exists.
    Search,
    /// This text, as if it stood in that file.
    Text {
        /// The file.
        path: PathBuf,
        /// What stands in it.
        text: Secret,
    },
    /// None.
    Nothing,
}

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the program holds.
    pub settings: Settings,
    /// The file it came from.
    pub path: Option<PathBuf>,
    /// The text of that file.
    pub text: Secret,
    /// What a person should know and that is no fault.
    pub warnings: Vec<String>,
    /// Keys that file or environment set and that do nothing in this version, by path.
    pub inactive_keys: Vec<String>,
    /// Files whose change asks for a reload: the YAML, `.env`, those of `${file:…}` and `_FILE` variables.
    pub watched_files: Vec<PathBuf>,
    /// What was said, for display and comparison.
    pub(super) tree: Node,
}

/// Reads, checks and converts the whole configuration.
///
/// # Errors
/// Every fault at once, except that a fault of YAML syntax ends the reading.
pub fn load(request: &LoadRequest<'_>) -> Result<Loaded, ConfigErrors> {
    let (environment, variables_file) = match Environment::gather(request.env, &request.cwd) {
        Ok(gathered) => gathered,
        Err((file, messages)) => {
            let faults = Faults::new(&file.display().to_string(), "");
            for message in messages {
                faults.general("", message);
            }
            return Err(faults.into_errors());
        }
    };
    let path = choose_file(request, &environment);
    let folder = path
        .as_ref()
        .and_then(|path| path.parent())
        .map_or_else(|| request.cwd.clone(), |f| request.cwd.join(f));
    let mut watched_files: Vec<PathBuf> = path.iter().map(|path| request.cwd.join(path)).collect();
    watched_files.extend(variables_file);
    let source = match &request.file {
        FileChoice::Text { text, .. } => text.expose().to_owned(),
        _ => read_source(path.as_deref(), &request.cwd).map_err(|errors| errors.watching(&watched_files))?,
    };
    let name = path
        .as_ref()
        .map_or_else(|| "configuration".to_owned(), |path| path.display().to_string());
    let faults = Faults::new(&name, &source);
    let Some(mut tree) = parse(&source, &faults) else {
        return Err(faults.into_errors().watching(&watched_files));
    };
    rename_old_keys(&mut tree, &faults);
    let context = interpolate::Context {
        environment: &environment,
        folder: &folder,
    };
    interpolate(
        &mut tree,
        &KeyPath::default(),
        &context,
        &mut watched_files,
        &faults,
    );
    let mut warnings = Vec::new();
    Overrides {
        environment: &environment,
        faults: &faults,
        warnings: &mut warnings,
        files: &mut watched_files,
    }
    .apply(&mut tree);
    let mut inactive_keys = Vec::new();
    schema::check(&tree, &faults, &mut inactive_keys);
    let settings = convert(
        &tree,
        &faults,
        &Wants {
            management_token: request.needs_management_token,
            directives: environment.filled("RUST_LOG"),
        },
    );
    if !faults.is_empty() {
        return Err(faults.into_errors().watching(&watched_files));
    }
    warn(&settings, &tree, &mut warnings);
    let certificates = settings
        .providers
        .iter()
        .filter_map(|provider| provider.ca_file.as_ref());
    watched_files.extend(certificates.map(|path| request.cwd.join(path)));
    watched_files.extend(settings.prices.file.iter().map(|path| request.cwd.join(path)));
    watched_files.sort();
    watched_files.dedup();
    Ok(Loaded {
        settings,
        path,
        text: Secret::new(source),
        warnings,
        inactive_keys,
        watched_files,
        tree,
    })
}

impl Loaded {
    /// This configuration with those values of `running` that only a new process can change.
    ///
    /// # Errors
    /// When the mixture does not fit together.
    pub fn pinned_to(&self, running: &Self) -> Result<Self, ConfigErrors> {
        let mut tree = self.tree.clone();
        for path in super::diff::process_paths(&self.tree, &running.tree) {
            let keys: Vec<&str> = path.iter().map(String::as_str).collect();
            match running.tree.at(&keys) {
                Some(node) => tree.set(&keys, node.clone()),
                None => tree.remove(&keys),
            }
        }
        let faults = Faults::new("configuration", "");
        let wants = Wants {
            management_token: false,
            directives: running.settings.logging.directives.as_deref(),
        };
        let settings = convert(&tree, &faults, &wants);
        if !faults.is_empty() {
            return Err(faults.into_errors());
        }
        Ok(Self {
            settings,
            tree,
            ..self.clone()
        })
    }
}

/// The file that a request would read, also when it cannot be used.
pub fn chosen_file(request: &LoadRequest<'_>) -> Option<PathBuf> {
    let (environment, _) = Environment::gather(request.env, &request.cwd).ok()?;
    choose_file(request, &environment)
}

fn choose_file(request: &LoadRequest<'_>, environment: &Environment) -> Option<PathBuf> {
    match &request.file {
        FileChoice::Path(path) | FileChoice::Text { path, .. } => Some(path.clone()),
        FileChoice::Nothing => None,
        FileChoice::Search => {
            let named = ["LLM_PROXY_CONFIG", "API_CONFIG_PATH"]
                .iter()
                .find_map(|name| environment.filled(name));
            named.map(PathBuf::from).or_else(|| {
                request
                    .cwd
                    .join(DEFAULT_PATH)
                    .exists()
                    .then(|| PathBuf::from(DEFAULT_PATH))
            })
        }
    }
}

fn read_source(path: Option<&Path>, cwd: &Path) -> Result<String, ConfigErrors> {
    let Some(path) = path else {
        return Ok(String::new());
    };
    let failed = |message: String| {
        let faults = Faults::new(&path.display().to_string(), "");
        faults.general("", message);
        faults.into_errors()
    };
    let text = file::read_regular(&cwd.join(path), MAX_FILE_BYTES).map_err(|fault| {
        failed(match fault {
            FileFault::TooLarge => "the configuration is larger than 4MiB".to_owned(),
            fault => format!("cannot read the configuration: {fault}"),
        })
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn parse(source: &str, faults: &Faults) -> Option<Node> {
    let mut duplicates = Vec::new();
    let parsed = tree::parse(source, &mut duplicates);
    for duplicate in duplicates {
        faults.at_key(&duplicate.place, &KeyPath::default(), &duplicate.message);
    }
    match parsed {
        Ok(node) if node.is_null() => Some(Node::empty_map()),
        Ok(node) if matches!(node.value, Value::Map(_)) => Some(node),
        Ok(node) => {
            faults.syntax(
                &node.place,
                "the configuration must be a mapping, `key: value` lines",
            );
            None
        }
        Err(fault) => {
            faults.syntax(&fault.place, &fault.message);
            None
        }
    }
}

/// `apis` is `providers`, `default_api` is `default_provider`: the names of the old provider file.
fn rename_old_keys(tree: &mut Node, faults: &Faults) {
    let Value::Map(entries) = &mut tree.value else {
        return;
    };
    for (old, new) in [("apis", "providers"), ("default_api", "default_provider")] {
        let has_new = entries.iter().any(|entry| entry.key == new);
        if let Some(entry) = entries.iter_mut().find(|entry: &&mut Entry| entry.key == old) {
            if has_new {
                let message =
                    format!("`{old}` is the old name of `{new}`, which is there too; keep one of them");
                faults.at_key(&entry.place, &KeyPath::of(old), &message);
            }
            new.clone_into(&mut entry.key);
        }
    }
}

struct Wants<'a> {
    management_token: bool,
    directives: Option<&'a str>,
}

fn convert(tree: &Node, faults: &Faults, wants: &Wants<'_>) -> Settings {
    let root = Section::root(tree, faults);
    let database = DatabaseSettings::read(&root.section("database"));
    let server = ServerSettings::read(&root.section("server"), state_dir(&database));
    let redis = RedisSettings::read(&root.section("redis"));
    let providers = ProviderSettings::read_all(&root, server.request_timeout);
    let names: Vec<&str> = providers.iter().map(|provider| provider.name.as_str()).collect();
    let settings = Settings {
        management: ManagementSettings::read(&root.section("management")),
        auth: AuthSettings::read(&root.section("auth")),
        encryption: EncryptionSettings::read(&root.section("encryption")),
        default_provider: default_provider(&root, &providers, &names),
        unknown_models: root.choice(
            "unknown_models",
            UnknownModels::PassThrough,
            &[
                ("pass_through", UnknownModels::PassThrough),
                ("reject", UnknownModels::Reject),
            ],
            &[],
        ),
        models: ModelSettings::read_all(&root, &names),
        router: RouterSettings::read(&root.section("router")),
        limits: LimitsSettings::read(&root.section("limits"), root.section("redis").is_set("url")),
        budgets: BudgetsSettings::read(&root.section("budgets")),
        prices: PriceSettings::read(&root.section("prices")),
        ledger: LedgerSettings::read(&root.section("ledger")),
        cache: CacheSettings::read(&root.section("cache")),
        audit: AuditSettings::read(&root.section("audit")),
        cors: CorsSettings::read(&root.section("cors")),
        logging: LoggingSettings::read(&root.section("logging"), wants.directives),
        database,
        server,
        redis,
        providers,
    };
    check_together(&root, &settings, wants.management_token, faults);
    settings
}

fn state_dir(database: &DatabaseSettings) -> PathBuf {
    let folder = database
        .path
        .parent()
        .filter(|_| database.path.as_os_str() != ":memory:");
    match folder {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("./data"),
    }
}

fn default_provider(root: &Section<'_>, providers: &[ProviderSettings], names: &[&str]) -> String {
    if let Some(name) = root.text("default_provider") {
        super::routing::refuse_unknown_provider(root, "default_provider", &name, names);
        return name;
    }
    let mut in_file = providers
        .iter()
        .filter(|provider| provider.source == ProviderSource::File);
    let name = match (in_file.next(), in_file.next()) {
        (Some(only), None) => only.name.clone(),
        _ => "openai".to_owned(),
    };
    if !names.contains(&name.as_str()) && !root.is_set("default_provider") {
        let list: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let message = if list.is_empty() {
            "there is no provider; name one under `providers`".to_owned()
        } else {
            format!(
                "is missing, and `openai` is removed; write one of {}",
                list.join(", ")
            )
        };
        root.refuse("default_provider", &message);
    }
    name
}

fn check_together(root: &Section<'_>, settings: &Settings, needs_token: bool, faults: &Faults) {
    let management = &settings.management;
    let section = root.section("management");
    let is_given = section.is_set("token") && !section.is_broken("token") || section.is_set("tokens");
    let is_missing = !management.has_admin() && (faults.is_empty() || !is_given);
    if needs_token && management.is_reachable() && is_missing {
        faults.general(
            "",
            "MANAGEMENT_TOKEN environment variable is required; set it, or `management.token`, or give one of \
             `management.tokens` the role `admin`"
                .to_owned(),
        );
    }
    if let Some(sidecar) = &management.listen
        && sidecar.port != 0
        && settings.server.listen.iter().any(|address| {
            address.port == sidecar.port
                && (address.host == sidecar.host || address.host.is_empty() || sidecar.host.is_empty())
        })
    {
        section.refuse(
            "listen",
            &format!(
                "port {} is the proxy's own in `server.listen`; choose another",
                sidecar.port
            ),
        );
    }
}

fn warn(settings: &Settings, tree: &Node, warnings: &mut Vec<String>) {
    let management = &settings.management;
    let tokens = management
        .tokens
        .iter()
        .map(|token| (format!("management token `{}`", token.name), &token.token));
    let own = management
        .token
        .iter()
        .map(|token| ("the management token".to_owned(), token));
    for (name, token) in own.chain(tokens) {
        if token.expose().chars().count() < SHORT_TOKEN {
            warnings.push(format!(
                "{name} is shorter than {SHORT_TOKEN} characters; make one with `openssl rand -base64 32`"
            ));
        }
    }
    if !settings.encryption.has_key() {
        warnings
            .push("provider keys of projects are stored unencrypted: no `encryption.key` is set".to_owned());
    }
    if settings.server.request_timeout < Duration::from_secs(1) {
        warnings.push("`server.request_timeout` is shorter than a second".to_owned());
    }
    let flushes = tree.get("providers").is_some_and(|providers| {
        providers.entries().iter().any(|entry| {
            entry
                .node
                .at(&["timeouts", "flush_interval"])
                .is_some_and(|node| !node.is_null())
        })
    });
    if flushes {
        warnings.push("`timeouts.flush_interval` has no effect: nothing is held back".to_owned());
    }
}

#[cfg(test)]
mod tests;
