//! `llm-proxy setup`: a configuration with its keys, and a first project with a token.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::api::Api;
use super::secret_files::{kept_secret, write_secret};
use super::source::{Overlay, Source};
use super::{Failure, Global, output};
use crate::app::{Addresses, App, Plan};
use crate::config::FileChoice;
use crate::domain::Secret;

/// Where the configuration goes when nothing else is said.
const DEFAULT_FILE: &str = "./conf/llm-proxy.yaml";
/// Longest answer to a question.
const MOST_HOURS: u64 = 365 * 24;

/// Flags of `setup`. The configuration goes to `--config`, else to ./conf/llm-proxy.yaml.
#[derive(Debug, Args)]
pub struct SetupArguments {
    /// Key for OpenAI.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    openai_key: Option<String>,
    /// Key for Anthropic.
    #[arg(long, env = "ANTHROPIC_API_KEY", hide_env_values = true, value_name = "KEY")]
    anthropic_key: Option<String>,
    /// The SQLite file.
    #[arg(long, default_value = "data/llm-proxy.db", value_name = "FILE")]
    db: PathBuf,
    /// Address of the proxy listener.
    #[arg(long, default_value = "localhost:8080", value_name = "ADDRESS")]
    addr: String,
    /// Address of the management sidecar.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    management_addr: String,
    /// Ask for what is missing.
    #[arg(long, env = "INTERACTIVE")]
    interactive: bool,
    /// Name of the first project.
    #[arg(long, env = "PROJECT", default_value = "DefaultProject", value_name = "NAME")]
    project: String,
    /// How long its token works, in hours.
    #[arg(
        long,
        env = "DURATION",
        default_value_t = 24,
        value_name = "HOURS",
        value_parser = clap::value_parser!(u64).range(1..=MOST_HOURS)
    )]
    duration: u64,
    /// Make no project and no token.
    #[arg(long, env = "SKIP_PROJECT")]
    skip_project: bool,
    /// Write over a configuration that is there.
    #[arg(long)]
    force: bool,
}

/// Runs `setup`.
pub fn run(global: &Global, mut arguments: SetupArguments) -> Result<(), Failure> {
    let file = global.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    if arguments.interactive {
        ask(&mut arguments)?;
    }
    if arguments.openai_key.is_none() && arguments.anthropic_key.is_none() {
        return Err(Failure::Usage(
            "--openai-key or --anthropic-key is required (or the variable OPENAI_API_KEY, or --interactive)"
                .to_owned(),
        ));
    }
    if file.exists() && !arguments.force {
        return Err(Failure::Failed(format!(
            "`{}` exists already; name another file by --config, or write over it by --force",
            file.display()
        )));
    }
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&folder)?;
    let management_token = match &global.management_token {
        Some(given) => {
            let token = Secret::new(given.as_str());
            write_secret(&folder.join("management.token"), &token)?;
            token
        }
        None => kept_secret(&folder.join("management.token"), &URL_SAFE_NO_PAD)?,
    };
    kept_secret(&folder.join("encryption.key"), &STANDARD)?;
    for (name, key) in [
        ("openai", &arguments.openai_key),
        ("anthropic", &arguments.anthropic_key),
    ] {
        if let Some(key) = key {
            write_secret(&folder.join(format!("{name}.key")), &Secret::new(key.as_str()))?;
        }
    }
    std::fs::write(&file, yaml(&arguments)?)?;
    let first = if arguments.skip_project {
        source(&file, &[])?.load_or_report(global.json)?;
        None
    } else {
        Some(first_project(global, &arguments, &file, management_token)?)
    };
    told(global, &arguments, &file, first)
}

fn source(file: &Path, set: &[(&str, &str)]) -> Result<Source, Failure> {
    // what stands in the environment now is not what the server will have
    let mut overlay = Overlay::only(|name| matches!(name, "LOG_LEVEL" | "RUST_LOG"));
    for (name, value) in set {
        overlay.set(name, Some((*value).to_owned()));
    }
    Ok(Source {
        file: FileChoice::Path(file.to_owned()),
        overlay,
        needs_management_token: true,
        cwd: std::env::current_dir()?,
    })
}

/// Serves for a moment on ports of its own, so that the project is made by the very rules of the API.
fn first_project(
    global: &Global,
    arguments: &SetupArguments,
    file: &Path,
    management_token: Secret,
) -> Result<Value, Failure> {
    let source = source(
        file,
        &[
            ("LISTEN_ADDR", "127.0.0.1:0"),
            ("MANAGEMENT_LISTEN_ADDR", "127.0.0.1:0"),
            ("LOG_LEVEL", "warn"),
        ],
    )?;
    let loaded = source.load_or_report(global.json)?;
    let app = App::build(Plan {
        loaded,
        reread: Box::new(move || source.load()),
    })?;
    let (name, minutes) = (arguments.project.clone(), arguments.duration * 60);
    let made = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&made);
    app.run(move |stop, addresses| async move {
        let making = tokio::task::spawn_blocking(move || make(&addresses, management_token, &name, minutes));
        *slot.lock() = Some(making.await);
        stop.stop();
    })?;
    let made = made.lock().take();
    match made {
        Some(Ok(made)) => made,
        _ => Err(Failure::Failed("the project could not be made".to_owned())),
    }
}

fn make(addresses: &Addresses, token: Secret, name: &str, minutes: u64) -> Result<Value, Failure> {
    let management = addresses
        .management
        .map(|address| format!("http://{address}"))
        .unwrap_or_default();
    let api = Api::new(&management, Some(token))?;
    let list = api.ask(&Method::GET, "/manage/projects", None)?;
    let known = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|project| project.get("name").and_then(Value::as_str) == Some(name))
        .cloned();
    let project = match known {
        Some(project) => project,
        None => api.ask(&Method::POST, "/manage/projects", Some(&json!({"name": name})))?,
    };
    let body = json!({"project_id": project["id"], "duration_minutes": minutes, "name": "setup"});
    let token = api.ask(&Method::POST, "/manage/tokens", Some(&body))?;
    Ok(
        json!({"project_id": project["id"], "token_id": token["id"], "token": token["token"], "expires_at": token["expires_at"]}),
    )
}

fn told(
    global: &Global,
    arguments: &SetupArguments,
    file: &Path,
    first: Option<Value>,
) -> Result<(), Failure> {
    if global.json {
        let mut answer = first.unwrap_or_else(|| json!({}));
        answer["configuration"] = json!(file);
        return output::json(&answer);
    }
    output::line(&format!(
        "wrote `{}`; the keys lie beside it, readable by you alone",
        file.display()
    ))?;
    if let Some(first) = first {
        let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
        output::line(&format!(
            "project: {} ({})",
            arguments.project,
            text("project_id")
        ))?;
        output::line(&format!(
            "token (shown once, until {}): {}",
            text("expires_at"),
            text("token")
        ))?;
    }
    output::line(&format!("start it:  llm-proxy server -c {}", file.display()))?;
    output::line(&format!(
        "then:      http://{}/v1 is the base URL of clients",
        arguments.addr
    ))
}

fn ask(arguments: &mut SetupArguments) -> Result<(), Failure> {
    let asked = |question: &str, default: &str| -> Result<String, Failure> {
        let input = std::io::stdin();
        let shown = if default.is_empty() {
            String::new()
        } else {
            format!(" [{default}]")
        };
        output::raw(&format!("{question}{shown}: "))?;
        let mut line = String::new();
        if input.lock().read_line(&mut line)? == 0 {
            return Err(Failure::Failed(
                "standard input ended before everything was answered".to_owned(),
            ));
        }
        if !input.is_terminal() {
            output::line("")?;
        }
        let answer = line.trim();
        Ok(if answer.is_empty() { default } else { answer }.to_owned())
    };
    let key = |name: &str, given: &Option<String>| -> Result<Option<String>, Failure> {
        if given.is_some() {
            return Ok(given.clone());
        }
        Ok(Some(asked(&format!("Key for {name} (empty: none)"), "")?).filter(|key| !key.is_empty()))
    };
    arguments.openai_key = key("OpenAI", &arguments.openai_key)?;
    arguments.anthropic_key = key("Anthropic", &arguments.anthropic_key)?;
    arguments.addr = asked("Address of the proxy", &arguments.addr)?;
    arguments.management_addr = asked("Address of the management API", &arguments.management_addr)?;
    arguments.db = asked("SQLite file", &arguments.db.to_string_lossy())?.into();
    let wants_project = asked("Make a first project with a token? (yes/no)", "yes")?;
    arguments.skip_project |= !matches!(wants_project.to_ascii_lowercase().as_str(), "y" | "yes");
    if !arguments.skip_project {
        arguments.project = asked("Name of the project", &arguments.project)?;
        let hours = asked("Hours that its token works", &arguments.duration.to_string())?;
        arguments.duration = hours
            .parse()
            .ok()
            .filter(|hours| (1..=MOST_HOURS).contains(hours))
            .ok_or_else(|| {
                Failure::Usage(format!("`{hours}` is no number of hours from 1 to {MOST_HOURS}"))
            })?;
    }
    Ok(())
}

fn yaml(arguments: &SetupArguments) -> Result<String, Failure> {
    let quoted = |text: &str| Value::from(text).to_string();
    let database = std::path::absolute(&arguments.db)?;
    let data = database.parent().unwrap_or(Path::new(".")).to_owned();
    crate::store::state_dir::create_private_dir(&data)?;
    let path = |name: &str| quoted(&data.join(name).to_string_lossy());
    let mut text = format!(
        "# Written by `llm-proxy setup`. Every key: docs/configuration.md; check it: llm-proxy config check -c THIS\n\
         server:\n  listen: {listen}\n  state_dir: {state}\n\
         management:\n  listen: {management}\n  token: ${{file:management.token}}\n\
         encryption:\n  key: ${{file:encryption.key}}\n\
         database:\n  path: {database}\n\
         audit:\n  file: {audit}\n\
         providers:\n",
        listen = quoted(&arguments.addr),
        state = quoted(&data.to_string_lossy()),
        management = quoted(&arguments.management_addr),
        database = quoted(&database.to_string_lossy()),
        audit = path("audit.log"),
    );
    for (name, key) in [
        ("openai", &arguments.openai_key),
        ("anthropic", &arguments.anthropic_key),
    ] {
        if key.is_some() {
            text = format!("{text}  {name}:\n    api_key: ${{file:{name}.key}}\n");
        }
    }
    if arguments.openai_key.is_none() {
        text.push_str("default_provider: anthropic\n");
    }
    Ok(text)
}
