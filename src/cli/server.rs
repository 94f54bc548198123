//! `llm-proxy server`: serves until it is told to stop.

use std::path::PathBuf;

use clap::Args;

use super::source::Source;
use super::{Failure, Global};
use crate::app::{App, Plan};

/// Flags of `server`; each overrides its environment variable and its key.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// Address of the proxy listener (LISTEN_ADDR).
    #[arg(long, value_name = "ADDRESS")]
    addr: Option<String>,
    /// The SQLite file (DATABASE_PATH).
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// A file of `NAME=value` lines instead of `.env`; variables of the process stand above it.
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
    /// Least level logged (LOG_LEVEL).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log to this file (LOG_FILE).
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Write the process's number to this file, and remove it at the end.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Log level debug.
    #[arg(short = 'v', long)]
    debug: bool,
    /// Not supported: let systemd or a container engine keep the process.
    #[arg(short, long, hide = true)]
    daemon: bool,
}

/// Runs `server`.
pub fn run(global: &Global, arguments: ServerArguments) -> Result<(), Failure> {
    if arguments.daemon {
        return Err(Failure::Usage(
            "--daemon is not supported: let systemd (systemd/llm-proxy.service) or a container engine keep the process".to_owned(),
        ));
    }
    let mut source = Source::of(global)?;
    source.needs_management_token = true;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    source.overlay.fill_up_from(arguments.env);
    source.overlay.set("LISTEN_ADDR", arguments.addr);
    source.overlay.set("DATABASE_PATH", arguments.db.map(text));
    source.overlay.set("LOG_FILE", arguments.log_file.map(text));
    source.overlay.set(
        "LOG_LEVEL",
        arguments
            .log_level
            .or_else(|| arguments.debug.then(|| "debug".to_owned())),
    );
    let loaded = source.load_or_report(global.json)?;
    let reread = {
        let source = source.clone();
        move || source.load()
    };
    let app = App::build(Plan {
        loaded,
        reread: Box::new(reread),
    })?;
    if let Some(path) = &arguments.pid_file {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|error| Failure::Failed(format!("`{}`: {error}", path.display())))?;
    }
    let ended = app.run(|_, _| async {});
    if let Some(path) = &arguments.pid_file {
        // whoever took it away meanwhile wanted it gone
        let _ = std::fs::remove_file(path);
    }
    Ok(ended?)
}
