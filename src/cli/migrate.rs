//! `llm-proxy migrate`: the schema of the database.

use clap::Subcommand;
use serde_json::json;

use super::source::Source;
use super::{Failure, Global, output};
use crate::app;

/// `migrate …`.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Apply what is missing.
    Up,
    /// Say what is applied and what is missing.
    Status,
}

/// Runs `migrate`.
pub fn run(global: &Global, command: &MigrateCommand) -> Result<(), Failure> {
    let loaded = Source::of(global)?.load_or_report(global.json)?;
    let up = matches!(command, MigrateCommand::Up);
    let rows = app::migrate(&loaded.settings, up)?;
    if global.json {
        let list: Vec<_> = rows
            .iter()
            .map(|row| json!({"version": row.version, "name": row.name, "applied_at": row.applied_at}))
            .collect();
        return output::json(&json!({"migrations": list}));
    }
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let applied = row
                .applied_at
                .map_or_else(|| "missing".to_owned(), crate::domain::Timestamp::to_rfc3339);
            vec![format!("{:04}", row.version), row.name.clone(), applied]
        })
        .collect();
    output::table(&["VERSION", "NAME", "APPLIED"], &table)
}
