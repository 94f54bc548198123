//! Counters of tokens in SQLite.

use async_trait::async_trait;
use rusqlite::params;

use super::threads::Threads;
use crate::store::StoreError;
use crate::store::columns::signed;
use crate::store::usage::{UsageDelta, UsageStore};

const ADD: &str = "\
UPDATE tokens SET request_count = request_count + ?2, cache_hit_count = cache_hit_count + ?3,
    last_used_at = MAX(COALESCE(last_used_at, ?4), ?4)
WHERE id = ?1";

/// Counters of tokens in SQLite. They are added, never set, so that grants folded meanwhile stay.
pub(super) struct SqliteUsage {
    pub(super) threads: Threads,
}

#[async_trait]
impl UsageStore for SqliteUsage {
    async fn add(&self, deltas: &[UsageDelta]) -> Result<(), StoreError> {
        if deltas.is_empty() {
            return Ok(());
        }
        let deltas = deltas.to_vec();
        self.threads
            .write(move |connection| {
                let mut statement = connection.prepare_cached(ADD)?;
                for delta in &deltas {
                    statement.execute(params![
                        delta.token_id.to_string(),
                        signed(delta.requests),
                        signed(delta.cache_hits),
                        delta.last_used_at.as_micros(),
                    ])?;
                }
                Ok(())
            })
            .await
    }
}
