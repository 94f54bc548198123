//! Counters of tokens in PostgreSQL.

use async_trait::async_trait;
use tokio_postgres::types::Type;

use super::database::Database;
use crate::store::StoreError;
use crate::store::columns::signed;
use crate::store::usage::{UsageDelta, UsageStore};

// Rows are locked in the order of their ids, so that two batches never wait for each other.
const ADD: &str = "\
WITH delta AS (
    SELECT id, SUM(requests)::BIGINT AS requests, SUM(cache_hits)::BIGINT AS cache_hits, MAX(used_at) AS used_at
    FROM UNNEST($1, $2, $3, $4) AS batch (id, requests, cache_hits, used_at) GROUP BY id
), locked AS (
    SELECT id FROM tokens WHERE id = ANY($1) ORDER BY id FOR UPDATE
)
UPDATE tokens SET request_count = tokens.request_count + delta.requests,
    cache_hit_count = tokens.cache_hit_count + delta.cache_hits,
    last_used_at = GREATEST(tokens.last_used_at, delta.used_at)
FROM locked JOIN delta ON delta.id = locked.id
WHERE tokens.id = locked.id";

/// Counters of tokens in PostgreSQL.
pub(super) struct PostgresUsage {
    pub(super) database: Database,
}

#[async_trait]
impl UsageStore for PostgresUsage {
    async fn add(&self, deltas: &[UsageDelta]) -> Result<(), StoreError> {
        if deltas.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = deltas.iter().map(|delta| delta.token_id.to_string()).collect();
        let requests: Vec<i64> = deltas.iter().map(|delta| signed(delta.requests)).collect();
        let hits: Vec<i64> = deltas.iter().map(|delta| signed(delta.cache_hits)).collect();
        let used: Vec<i64> = deltas
            .iter()
            .map(|delta| delta.last_used_at.as_micros())
            .collect();
        self.database
            .run(move |client| {
                Box::pin(async move {
                    client
                        .execute_typed(
                            ADD,
                            &[
                                (&ids, Type::TEXT_ARRAY),
                                (&requests, Type::INT8_ARRAY),
                                (&hits, Type::INT8_ARRAY),
                                (&used, Type::INT8_ARRAY),
                            ],
                        )
                        .await?;
                    Ok(())
                })
            })
            .await
    }
}
