//! `llm-proxy config`: checks or shows the configuration.

use clap::Subcommand;
use serde_json::json;

use super::config_history::{self, RollbackArguments};
use super::source::Source;
use super::{Failure, Global, output};
use crate::config::{show, show_yaml};

/// `config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read the configuration as a server would, and list every fault with file, line and column.
    Check,
    /// Print the effective configuration, secrets masked.
    Show,
    /// Say what the file would change of the configuration in force; exit 1 when it would change anything.
    Diff,
    /// Put back the last configuration that was in force.
    Rollback(RollbackArguments),
}

/// Runs `config`.
pub fn run(global: &Global, command: &ConfigCommand) -> Result<(), Failure> {
    let mut source = Source::of(global)?;
    source.needs_management_token = matches!(command, ConfigCommand::Check);
    match command {
        ConfigCommand::Check => check(global, &source),
        ConfigCommand::Diff => config_history::show_diff(global),
        ConfigCommand::Rollback(arguments) => config_history::rollback(global, arguments),
        ConfigCommand::Show => {
            let loaded = source.load_or_report(global.json)?;
            if global.json {
                output::json(&show(&loaded))
            } else {
                output::raw(&show_yaml(&loaded))
            }
        }
    }
}

fn check(global: &Global, source: &Source) -> Result<(), Failure> {
    let loaded = match source.load() {
        Ok(loaded) => loaded,
        Err(errors) if global.json => {
            let faults: Vec<String> = errors.faults.iter().map(ToString::to_string).collect();
            output::json(&json!({"ok": false, "errors": faults}))?;
            return Err(Failure::Reported);
        }
        Err(errors) => {
            output::error(&format!("the configuration cannot be used:\n{errors}"), false);
            return Err(Failure::Reported);
        }
    };
    if global.json {
        return output::json(&json!({
            "ok": true,
            "file": loaded.path,
            "warnings": loaded.warnings,
            "not_active": loaded.inactive_keys,
        }));
    }
    let file = loaded.path.as_ref().map_or_else(
        || "built-in defaults".to_owned(),
        |path| path.display().to_string(),
    );
    for warning in &loaded.warnings {
        output::line(&format!("warning: {warning}"))?;
    }
    for key in &loaded.inactive_keys {
        output::line(&format!("not active in this version: {key}"))?;
    }
    output::line(&format!("{file}: good"))
}
