//! Migrates SQLite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::connection::{ConnectionSettings, SqliteLocation, open_writer};
use super::failure::Failure;
use super::threads::Threads;
use crate::domain::{Clock, Timestamp};
use crate::store::StoreError;
use crate::store::migrate::{AppliedMigration, MigrationStatus, SQLITE, Schema, missing, status};

const EXISTS: &str = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'";
const HAS_TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' LIMIT 1";
const CREATE: &str = "\
CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL
) STRICT";
const APPLIED: &str =
    "SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version LIMIT 10000";
const RECORD: &str =
    "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)";

/// Brings the schema up to date in one transaction; answers what was applied now.
pub(super) fn up(connection: &Connection, now: Timestamp) -> Result<Vec<MigrationStatus>, Failure> {
    if missing(SQLITE, &applied(connection)?)?.is_empty() {
        return Ok(Vec::new());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let done = apply_missing(connection, now);
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = connection.execute_batch(end);
    let done = done?;
    ended?;
    Ok(done)
}

fn apply_missing(connection: &Connection, now: Timestamp) -> Result<Vec<MigrationStatus>, Failure> {
    let applied = applied(connection)?;
    if !exists(connection, EXISTS)? {
        connection.execute_batch(CREATE)?;
    }
    let mut done = Vec::new();
    for migration in missing(SQLITE, &applied)? {
        connection.execute_batch(migration.sql)?;
        connection.execute(
            RECORD,
            params![
                migration.version,
                migration.name,
                migration.checksum(),
                now.as_micros()
            ],
        )?;
        done.push(MigrationStatus {
            version: migration.version,
            name: migration.name.to_owned(),
            applied_at: Some(now),
        });
    }
    Ok(done)
}

pub(super) fn applied(connection: &Connection) -> Result<Vec<AppliedMigration>, Failure> {
    if !exists(connection, EXISTS)? {
        if exists(connection, HAS_TABLES)? {
            return Err(StoreError::Damaged(
                "the file is a database of another program: it has tables but no `schema_migrations`"
                    .to_owned(),
            )
            .into());
        }
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(APPLIED)?;
    let rows = statement.query_map([], |row| {
        Ok(AppliedMigration {
            version: row.get(0)?,
            name: row.get(1)?,
            checksum: row.get(2)?,
            applied_at: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn exists(connection: &Connection, query: &str) -> rusqlite::Result<bool> {
    Ok(connection.query_row(query, [], |_| Ok(())).optional()?.is_some())
}

/// The schema of a file that no server has open (`migrate up` takes its lock).
pub(super) struct SqliteSchema {
    pub(super) location: SqliteLocation,
    pub(super) clock: Arc<dyn Clock>,
}

impl SqliteSchema {
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, Timestamp) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let location = self.location.clone();
        let now = self.clock.now();
        tokio::task::spawn_blocking(move || {
            let settings = ConnectionSettings {
                busy_timeout: Duration::from_secs(5),
                fsync: true,
            };
            let connection = open_writer(&location, settings)?;
            work(&connection, now).map_err(|failure| failure.named(location.path()))
        })
        .await
        .unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }
}

#[async_trait]
impl Schema for SqliteSchema {
    async fn up(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        let all = self.status().await?;
        if all.iter().all(|migration| migration.applied_at.is_some()) {
            return Ok(Vec::new());
        }
        let _lock = self.location.path().map(super::lock_beside).transpose()?;
        self.on_thread(up).await
    }

    async fn status(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        self.on_thread(|connection, _| Ok(status(SQLITE, &applied(connection)?)?))
            .await
    }
}

/// The schema of a store that is open, and so up to date.
pub(super) struct OpenSchema {
    pub(super) threads: Threads,
}

#[async_trait]
impl Schema for OpenSchema {
    async fn up(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        Ok(Vec::new())
    }

    async fn status(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        self.threads
            .read(|connection| Ok(status(SQLITE, &applied(connection)?)?))
            .await
    }
}
