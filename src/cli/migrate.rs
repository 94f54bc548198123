//! `llm-proxy migrate`: the schema of the database.

use clap::Subcommand;
use serde_json::json;

use super::source::Source;
use super::{Failure, Global, output};
use crate::app::{self, Sealing};
use crate::config::Settings;
use crate::domain::crypto::Standing;

/// `migrate …`.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Apply what is missing.
    Up,
    /// Say what is applied and what is missing.
    Status,
    /// Say the newest migration that is applied.
    Version,
    /// Not supported: migrations are not undone; a backup made before brings the database back.
    #[command(hide = true)]
    Down,
    /// Seal provider keys at rest that are not sealed yet; a server may run meanwhile.
    Encrypt {
        /// Seal all anew with the first of `encryption.keys`, those of older keys too.
        #[arg(long, conflicts_with = "status")]
        rotate: bool,
        /// Say with which key each is sealed, and change nothing.
        #[arg(long)]
        status: bool,
    },
    /// The same as `encrypt --status`.
    #[command(hide = true)]
    EncryptStatus,
}

/// Runs `migrate`.
pub fn run(global: &Global, command: &MigrateCommand) -> Result<(), Failure> {
    if matches!(command, MigrateCommand::Down) {
        return Err(Failure::Usage(
            "migrations are not undone: put a backup from before back with `llm-proxy restore FILE`"
                .to_owned(),
        ));
    }
    let loaded = Source::of(global)?.load_or_report(global.json)?;
    let sealing = match command {
        MigrateCommand::Encrypt { rotate: true, .. } => Some(Sealing::All),
        MigrateCommand::Encrypt { status: false, .. } => Some(Sealing::Bare),
        MigrateCommand::Encrypt { .. } | MigrateCommand::EncryptStatus => Some(Sealing::Look),
        MigrateCommand::Up | MigrateCommand::Status | MigrateCommand::Version | MigrateCommand::Down => None,
    };
    if let Some(sealing) = sealing {
        return encrypt(global, &loaded.settings, sealing);
    }
    let up = matches!(command, MigrateCommand::Up);
    let rows = app::migrate(&loaded.settings, up)?;
    if matches!(command, MigrateCommand::Version) {
        let newest = rows
            .iter()
            .filter(|row| row.applied_at.is_some())
            .map(|row| row.version)
            .max();
        return if global.json {
            output::json(&json!({"version": newest}))
        } else {
            output::line(&newest.map_or_else(|| "none".to_owned(), |version| format!("{version:04}")))
        };
    }
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

fn encrypt(global: &Global, settings: &Settings, sealing: Sealing) -> Result<(), Failure> {
    let report = app::seal_at_rest(settings, sealing)?;
    if global.json {
        let found: Vec<_> = report
            .found
            .iter()
            .map(|(standing, count)| {
                let (word, id) = words(standing);
                json!({"standing": word, "key_id": id, "provider_keys": count})
            })
            .collect();
        output::json(&json!({
            "found": found, "sealed": report.sealed, "overtaken": report.overtaken, "unreadable": report.unreadable(),
        }))?;
    } else {
        let rows: Vec<Vec<String>> = report
            .found
            .iter()
            .map(|(standing, count)| {
                let (word, id) = words(standing);
                vec![word.to_owned(), id.unwrap_or("-").to_owned(), count.to_string()]
            })
            .collect();
        output::table(&["SEALED WITH", "KEY ID", "PROVIDER KEYS"], &rows)?;
        if sealing != Sealing::Look {
            output::line(&format!("sealed {} now", report.sealed))?;
        }
    }
    if report.unreadable() > 0 {
        return Err(Failure::Failed(format!(
            "{} provider keys cannot be opened with any configured key; configure the key that sealed them, or set them \
             again with `manage project update`",
            report.unreadable()
        )));
    }
    Ok(())
}

/// How a key is sealed, and the id of the key that did it, where that is told.
fn words(standing: &Standing) -> (&'static str, Option<&str>) {
    match standing {
        Standing::Plain => ("not sealed", None),
        Standing::Current => ("current key", None),
        Standing::Older(id) => ("older key", id.as_deref()),
        Standing::Unreadable(id) => ("unreadable", id.as_deref()),
    }
}
