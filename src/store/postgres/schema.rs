//! Migrates PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{ClientWrapper, Transaction};
use tokio_postgres::types::Type;

use super::database::Database;
use super::failure::Failure;
use crate::domain::{Clock, Timestamp};
use crate::store::StoreError;
use crate::store::migrate::{AppliedMigration, MigrationStatus, POSTGRES, Schema, missing, status};

/// Waiting for another instance's migration is part of it.
const LIMIT: Duration = Duration::from_mins(2);

const PATIENCE: &str = "SELECT set_config('statement_timeout', '110000', true)";
const LOCK: &str = "SELECT pg_advisory_xact_lock(7311302716422186)";
const EXISTS: &str = "SELECT to_regclass('schema_migrations') IS NOT NULL";
const CREATE: &str = "\
CREATE TABLE schema_migrations (
    version BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at BIGINT NOT NULL
)";
const APPLIED: &str =
    "SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version LIMIT 10000";
const RECORD: &str =
    "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES ($1, $2, $3, $4)";

/// The schema of PostgreSQL.
pub(super) struct PostgresSchema {
    pub(super) database: Database,
    pub(super) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Schema for PostgresSchema {
    async fn up(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        let now = self.clock.now();
        self.database
            .run_within(LIMIT, move |client| Box::pin(up(client, now)))
            .await
    }

    async fn status(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        self.database
            .run(|client| {
                Box::pin(async move {
                    let transaction = client.transaction().await?;
                    Ok(status(POSTGRES, &applied(&transaction).await?)?)
                })
            })
            .await
    }
}

/// Everything in one transaction under an advisory lock: of instances that start together one migrates, the others
/// wait and find nothing to do.
async fn up(client: &mut ClientWrapper, now: Timestamp) -> Result<Vec<MigrationStatus>, Failure> {
    let transaction = client.transaction().await?;
    transaction.query_typed(PATIENCE, &[]).await?;
    transaction.query_typed(LOCK, &[]).await?;
    let applied = applied(&transaction).await?;
    let missing = missing(POSTGRES, &applied)?;
    if applied.is_empty() && !exists(&transaction).await? {
        transaction.batch_execute(CREATE).await?;
    }
    let mut done = Vec::new();
    for migration in missing {
        transaction.batch_execute(migration.sql).await?;
        transaction
            .execute_typed(
                RECORD,
                &[
                    (&i64::from(migration.version), Type::INT8),
                    (&migration.name, Type::TEXT),
                    (&migration.checksum(), Type::TEXT),
                    (&now.as_micros(), Type::INT8),
                ],
            )
            .await?;
        done.push(MigrationStatus {
            version: migration.version,
            name: migration.name.to_owned(),
            applied_at: Some(now),
        });
    }
    transaction.commit().await?;
    Ok(done)
}

async fn applied(transaction: &Transaction<'_>) -> Result<Vec<AppliedMigration>, Failure> {
    if !exists(transaction).await? {
        return Ok(Vec::new());
    }
    let rows = transaction.query_typed(APPLIED, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(AppliedMigration {
                version: row.try_get(0)?,
                name: row.try_get(1)?,
                checksum: row.try_get(2)?,
                applied_at: row.try_get(3)?,
            })
        })
        .collect()
}

async fn exists(transaction: &Transaction<'_>) -> Result<bool, Failure> {
    Ok(transaction.query_typed_one(EXISTS, &[]).await?.try_get(0)?)
}
