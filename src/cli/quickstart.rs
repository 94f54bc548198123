//! `llm-proxy quickstart`: everything at once, with nothing to prepare.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::api::Api;
use super::completion::Chat;
use super::secret_files::kept_secret;
use super::source::{Overlay, Source};
use super::{Failure, Global, output};
use crate::app::{Addresses, App, Plan};
use crate::config::{EnvSource as _, FileChoice, ProcessEnvironment};
use crate::domain::Secret;

/// Flags of `quickstart`.
#[derive(Debug, Args)]
pub struct QuickstartArguments {
    /// Stop after the streamed answer instead of serving on.
    #[arg(long)]
    once: bool,
    /// Where the database and the keys are kept.
    #[arg(long, default_value = "./data", value_name = "FOLDER")]
    data: PathBuf,
    /// Address of the proxy listener.
    #[arg(
        long,
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS",
        env = "LISTEN_ADDR"
    )]
    addr: String,
    /// Address of the management sidecar.
    #[arg(
        long,
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS",
        env = "MANAGEMENT_LISTEN_ADDR"
    )]
    management_addr: String,
}

/// What the first request goes to.
struct FirstRequest {
    /// Whether the built-in demonstration provider answers.
    demo: bool,
    model: &'static str,
}

/// What is shown and used, once the server runs.
struct Tour {
    arguments: QuickstartArguments,
    first: FirstRequest,
    management_token: Secret,
    configuration: PathBuf,
    json: bool,
}

/// Runs `quickstart`.
pub fn run(global: &Global, mut arguments: QuickstartArguments) -> Result<(), Failure> {
    crate::store::state_dir::create_private_dir(&arguments.data)?;
    arguments.data = arguments.data.canonicalize()?;
    let management_token = kept_secret(&arguments.data.join("management.token"), &URL_SAFE_NO_PAD)?;
    kept_secret(&arguments.data.join("encryption.key"), &STANDARD)?;
    let has_key = ProcessEnvironment
        .variables()
        .iter()
        .any(|(name, value)| name.starts_with("OPENAI_API_KEY") && !value.trim().is_empty());
    let first = if has_key {
        FirstRequest {
            demo: false,
            model: "gpt-4o-mini",
        }
    } else {
        FirstRequest {
            demo: true,
            model: "demo",
        }
    };
    let configuration = arguments.data.join("quickstart.yaml");
    std::fs::write(&configuration, yaml(&arguments, first.demo))?;
    let source = Source {
        file: FileChoice::Path(configuration.clone()),
        overlay: Overlay::only(is_provider_or_log_variable),
        needs_management_token: true,
        cwd: arguments.data.clone(),
    };
    let loaded = source.load_or_report(global.json)?;
    let reread = move || source.load();
    let app = App::build(Plan {
        loaded,
        reread: Box::new(reread),
    })?;
    let worked = Arc::new(AtomicBool::new(false));
    let once = arguments.once;
    let tour = Tour {
        arguments,
        first,
        management_token,
        configuration,
        json: global.json,
    };
    let shown = Arc::clone(&worked);
    app.run(move |stop, addresses| async move {
        let json = tour.json;
        match tokio::task::spawn_blocking(move || tour.give(&addresses)).await {
            Ok(Ok(())) => shown.store(true, Ordering::Release),
            Ok(Err(Failure::Failed(message) | Failure::Usage(message))) => output::error(&message, json),
            Ok(Err(Failure::Reported)) => {}
            Err(error) => output::error(&format!("quickstart broke: {error}"), json),
        }
        if once || !shown.load(Ordering::Acquire) {
            stop.stop();
        }
    })?;
    if worked.load(Ordering::Acquire) {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

/// Of the environment, quickstart takes keys and addresses of providers and the log level, nothing else.
fn is_provider_or_log_variable(name: &str) -> bool {
    name.ends_with("_API_KEY")
        || name.ends_with("_API_KEY_FILE")
        || matches!(name, "OPENAI_API_URL" | "LOG_LEVEL" | "LOG_FORMAT" | "RUST_LOG")
}

fn yaml(arguments: &QuickstartArguments, demo: bool) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let in_data = |name: &str| quoted(&arguments.data.join(name).to_string_lossy());
    let mut text = format!(
        "# Written by `llm-proxy quickstart`; a start for a configuration of your own.\n\
         server:\n  listen: {listen}\n  state_dir: {state}\n\
         management:\n  listen: {management}\n  token: ${{file:management.token}}\n\
         encryption:\n  key: ${{file:encryption.key}}\n\
         database:\n  path: {database}\n\
         audit:\n  file: {audit}\n\
         logging:\n  level: ${{LOG_LEVEL:-warn}}\n  format: text\n",
        listen = quoted(&arguments.addr),
        state = quoted(&arguments.data.to_string_lossy()),
        management = quoted(&arguments.management_addr),
        database = in_data("llm-proxy.db"),
        audit = in_data("audit.log"),
    );
    if demo {
        text.push_str(
            "default_provider: demo\n\
             providers:\n  demo:\n    dialect: demo   # built in, no network: replace it by a provider of yours\n\
             models:\n  demo:\n    targets:\n      - {provider: demo, model: demo}\n",
        );
    }
    text
}

impl Tour {
    /// Makes a project and a token, streams one answer, and says how to go on.
    fn give(&self, addresses: &Addresses) -> Result<(), Failure> {
        let management = addresses
            .management
            .map(|address| format!("http://{address}"))
            .unwrap_or_default();
        let api = Api::new(&management, Some(self.management_token.clone()))?;
        let project = Self::project(&api)?;
        let body = json!({"project_id": project, "duration_minutes": 7 * 24 * 60, "name": "quickstart"});
        let token = api.ask(&Method::POST, "/manage/tokens", Some(&body))?;
        let text = |value: &Value, key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (secret, token_id) = (text(&token, "token"), text(&token, "id"));
        let Some(proxy) = addresses.proxy.first() else {
            return Err(Failure::Failed("no proxy listener".to_owned()));
        };
        let base = format!("http://{}", local(*proxy));
        if !self.json {
            output::line(&format!("llm-proxy serves {base} (management {management})"))?;
            output::line("made a project and a token; streaming one answer through the proxy:\n")?;
        }
        let body = json!({
            "model": self.first.model,
            "stream": true,
            "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
        });
        let answer = Chat::new(&base, Secret::new(secret.as_str()))
            .stream(&body, |piece| if self.json { Ok(()) } else { output::raw(piece) })?;
        if self.json {
            return output::json(&json!({
                "base_url": format!("{base}/v1"), "token": secret, "token_id": token_id, "project_id": project,
                "management_url": management, "demo": self.first.demo, "answer": answer,
                "configuration": self.configuration,
            }));
        }
        self.explain(&base, &management, &secret, &token_id)
    }

    fn project(api: &Api) -> Result<String, Failure> {
        let id = |project: &Value| project.get("id").and_then(Value::as_str).map(str::to_owned);
        let list = api.ask(&Method::GET, "/manage/projects", None)?;
        let known = list
            .as_array()
            .into_iter()
            .flatten()
            .find(|project| project.get("name").and_then(Value::as_str) == Some("quickstart"));
        if let Some(id) = known.and_then(id) {
            return Ok(id);
        }
        let made = api.ask(
            &Method::POST,
            "/manage/projects",
            Some(&json!({"name": "quickstart"})),
        )?;
        id(&made).ok_or_else(|| Failure::Failed("the project has no id".to_owned()))
    }

    fn explain(&self, base: &str, management: &str, secret: &str, token_id: &str) -> Result<(), Failure> {
        let model = self.first.model;
        let token_file = self.arguments.data.join("management.token");
        let mut text = format!(
            "\n\nYour token (shown once):  {secret}\n\
             Base URL (OpenAI):        {base}/v1\n\
             Base URL (Anthropic):     {base}\n\n\
             OpenAI SDKs, Open WebUI, Continue, Codex:\n\
             \x20 export OPENAI_BASE_URL={base}/v1\n\
             \x20 export OPENAI_API_KEY={secret}\n\
             Anthropic SDKs, Claude Code:\n\
             \x20 export ANTHROPIC_BASE_URL={base}\n\
             \x20 export ANTHROPIC_API_KEY={secret}\n\n\
             Try it:\n\
             \x20 curl -N {base}/v1/chat/completions -H 'Authorization: Bearer {secret}' \\\n\
             \x20   -H 'Content-Type: application/json' \\\n\
             \x20   -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\
             Revoke it (the next request is refused):\n\
             \x20 curl -X DELETE {management}/manage/tokens/{token_id} \\\n\
             \x20   -H \"Authorization: Bearer $(cat {token_file})\"\n\
             Configuration: {configuration}\n",
            token_file = token_file.display(),
            configuration = self.configuration.display(),
        );
        if self.first.demo {
            text.push_str(
                "No provider key was given, so the built-in demonstration answered. Set OPENAI_API_KEY and start again\n\
                 for the real one.\n",
            );
        }
        if !self.arguments.once {
            text.push_str("Serving; Ctrl-C ends it.\n");
        }
        output::raw(&text)
    }
}

/// The address under which this machine reaches a listener.
fn local(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let loopback: std::net::IpAddr = if address.is_ipv6() {
        std::net::Ipv6Addr::LOCALHOST.into()
    } else {
        std::net::Ipv4Addr::LOCALHOST.into()
    };
    SocketAddr::new(loopback, address.port())
}
