//! Provider keys at rest in SQLite, over a connection of their own: a server may hold the database meanwhile.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::connection::{ConnectionSettings, SqliteLocation, open_writer};
use super::failure::Failure;
use crate::domain::Secret;
use crate::store::StoreError;
use crate::store::sealed_keys::{SealedKey, SealedKeys};

const AFTER: &str = "\
SELECT project_id, provider, sealed FROM project_provider_keys
WHERE (project_id, provider) > (?1, ?2) ORDER BY project_id, provider LIMIT ?3";
const REPLACE: &str = "\
UPDATE project_provider_keys SET sealed = ?4 WHERE project_id = ?1 AND provider = ?2 AND sealed = ?3";

pub(super) struct SqliteSealedKeys {
    pub(super) location: SqliteLocation,
}

impl SqliteSealedKeys {
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let location = self.location.clone();
        tokio::task::spawn_blocking(move || {
            let settings = ConnectionSettings {
                busy_timeout: Duration::from_secs(10),
                fsync: true,
            };
            let connection = open_writer(&location, settings)?;
            work(&connection).map_err(|failure| failure.named(location.path()))
        })
        .await
        .unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }
}

#[async_trait]
impl SealedKeys for SqliteSealedKeys {
    async fn after(&self, last: Option<&SealedKey>, limit: u32) -> Result<Vec<SealedKey>, StoreError> {
        let (project, provider) = last.map_or_else(Default::default, |last| {
            (last.project_id.clone(), last.provider.clone())
        });
        self.on_thread(move |connection| {
            let mut statement = connection.prepare(AFTER)?;
            let rows = statement.query_map(params![project, provider, limit], |row| {
                Ok(SealedKey {
                    project_id: row.get(0)?,
                    provider: row.get(1)?,
                    sealed: Secret::new(row.get::<_, String>(2)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn replace(&self, key: &SealedKey, sealed: &Secret) -> Result<bool, StoreError> {
        let (key, sealed) = (key.clone(), sealed.clone());
        self.on_thread(move |connection| {
            let changed = connection.execute(
                REPLACE,
                params![key.project_id, key.provider, key.sealed.expose(), sealed.expose()],
            )?;
            Ok(changed == 1)
        })
        .await
    }
}
