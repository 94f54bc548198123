//! The command line: one file a subcommand.
//!
//! Exit codes: 0 good, 1 failure or findings, 2 bad usage.

mod api;
mod backup;
mod benchmark;
mod chat;
mod client_config;
mod completion;
mod completions;
mod config;
mod config_history;
mod doctor;
mod explain;
mod healthcheck;
mod manage;
mod manage_audit;
mod manage_usage;
mod migrate;
mod output;
mod quickstart;
mod reload;
mod secret_files;
mod server;
mod service;
mod setup;
mod source;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// High-performance edge proxy for LLM APIs.
#[derive(Debug, Parser)]
#[command(name = "llm-proxy", version, about, long_about = None, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command understands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The YAML configuration; else LLM_PROXY_CONFIG, API_CONFIG_PATH, ./conf/llm-proxy.yaml, built-in defaults.
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Address of the management API, such as http://127.0.0.1:8081.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MANAGEMENT_API_BASE_URL",
        alias = "api-base-url"
    )]
    manage_api_base_url: Option<String>,
    /// Management token; else MANAGEMENT_TOKEN or the configuration.
    #[arg(long, global = true, value_name = "TOKEN", hide_env_values = true)]
    management_token: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: the proxy listener, the management sidecar, everything.
    Server(server::ServerArguments),
    /// Show it working at once: SQLite, a project, a token, one streamed request; then keep serving.
    Quickstart(quickstart::QuickstartArguments),
    /// Write a configuration, its keys, and a first project with a token.
    Setup(setup::SetupArguments),
    /// Look at everything a server needs, and say what is wrong and what to do.
    Doctor(doctor::DoctorArguments),
    /// Say what a code of a refusal means, and what to do about it.
    Explain(explain::ExplainArguments),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Have the running server read its configuration again.
    Reload,
    /// Bring the database to this version's schema, or say where it stands.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Copy the database into one file, also while a server runs.
    Backup(backup::BackupArguments),
    /// Put a backup into the database's place; no server may run.
    Restore(backup::RestoreArguments),
    /// Manage projects, tokens, cache, models and audit events of a running server.
    #[command(subcommand)]
    Manage(manage::ManageCommand),
    /// Talk to a model through the proxy.
    Chat(chat::ChatArguments),
    /// The same as `chat`, as it was called before.
    #[command(subcommand, hide = true)]
    Openai(OpenaiCommand),
    /// Send the same request again and again through the proxy, and say how long it takes.
    Benchmark(benchmark::BenchmarkArguments),
    /// Print ready-made settings for a client.
    ClientConfig(client_config::ClientConfigArguments),
    /// Print what a shell completes.
    Completions(completions::CompletionsArguments),
    /// Install the systemd service, look at it, or take it away.
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Exit 0 when the running server is ready, 1 when not.
    Healthcheck(healthcheck::HealthcheckArguments),
    /// Print the version.
    Version,
}

/// `openai …`.
#[derive(Debug, Subcommand)]
enum OpenaiCommand {
    /// Talk to a model through the proxy.
    Chat(chat::ChatArguments),
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// It was used wrongly: exit 2.
    Usage(String),
    /// It did not work: exit 1.
    Failed(String),
    /// What is wrong was printed already: exit 1.
    Reported,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(format!("{:#}", error.into()))
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // help and version are no failures
            let code = if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
            let _ = error.print();
            return code;
        }
    };
    let json = arguments.global.json;
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(Failure::Failed(message)) => {
            output::error(&message, json);
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            output::error(&message, json);
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let global = arguments.global;
    match arguments.command {
        Command::Server(arguments) => server::run(&global, arguments),
        Command::Quickstart(arguments) => quickstart::run(&global, arguments),
        Command::Doctor(arguments) => doctor::run(&global, &arguments),
        Command::Explain(arguments) => explain::run(&global, &arguments),
        Command::Setup(arguments) => setup::run(&global, arguments),
        Command::Backup(arguments) => backup::backup(&global, &arguments),
        Command::Restore(arguments) => backup::restore(&global, &arguments),
        Command::Chat(arguments) | Command::Openai(OpenaiCommand::Chat(arguments)) => {
            chat::run(&global, &arguments)
        }
        Command::Benchmark(arguments) => benchmark::run(&global, &arguments),
        Command::ClientConfig(arguments) => client_config::run(&global, &arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Config(command) => config::run(&global, &command),
        Command::Reload => reload::run(&global),
        Command::Migrate(command) => migrate::run(&global, &command),
        Command::Manage(command) => manage::run(&global, command),
        Command::Service(command) => service::run(&global, &command),
        Command::Healthcheck(arguments) => healthcheck::run(&global, &arguments),
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            if global.json {
                output::json(&serde_json::json!({"name": "llm-proxy", "version": version}))
            } else {
                output::line(&format!("llm-proxy {version}"))
            }
        }
    }
}
