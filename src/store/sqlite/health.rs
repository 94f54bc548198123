//! Asks SQLite whether it reads and writes.

use async_trait::async_trait;
use rusqlite::params;

use super::threads::Threads;
use crate::domain::Clock;
use crate::store::{StoreError, StoreHealth};

const READ: &str = "SELECT COUNT(*) FROM schema_migrations LIMIT 1";
const WRITE: &str = "UPDATE heartbeat SET timestamp = ?1 WHERE id = 1";

/// Health of SQLite.
pub(super) struct SqliteHealth {
    pub(super) threads: Threads,
    pub(super) clock: std::sync::Arc<dyn Clock>,
}

#[async_trait]
impl StoreHealth for SqliteHealth {
    async fn ping(&self) -> Result<(), StoreError> {
        self.threads
            .read(|connection| {
                Ok(connection
                    .prepare_cached(READ)?
                    .query_row([], |row| row.get::<_, i64>(0))?)
            })
            .await?;
        let now = self.clock.now().as_micros();
        self.threads
            .write(move |connection| {
                connection.prepare_cached(WRITE)?.execute(params![now])?;
                Ok(())
            })
            .await
    }
}
