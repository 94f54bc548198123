//! Audit events in PostgreSQL.

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use tokio_postgres::types::Type;

use super::database::Database;
use super::failure::Failure;
use super::rows::{audit_columns, text, text_option};
use crate::domain::Timestamp;
use crate::domain::audit::AuditEvent;
use crate::domain::ids::AuditId;
use crate::store::audit::{AuditFilter, AuditStore};
use crate::store::columns::{AuditColumns, offset};
use crate::store::{Page, Paged, StoreError};

const INSERT: &str = "\
INSERT INTO audit_events (id, timestamp, action, actor, outcome, project_id, token_id, request_id, correlation_id,
    client_ip, method, path, user_agent, reason, metadata)
SELECT * FROM UNNEST($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (id) DO NOTHING";

const BY_ID: &str = "\
SELECT id, timestamp, action, actor, outcome, project_id, token_id, request_id, correlation_id,
       client_ip, method, path, user_agent, reason, metadata
FROM audit_events WHERE id = $1";

const LIST: &str = "\
SELECT id, timestamp, action, actor, outcome, project_id, token_id, request_id, correlation_id,
       client_ip, method, path, user_agent, reason, metadata
FROM audit_events
WHERE ($1 IS NULL OR action = $1) AND ($2 IS NULL OR actor = $2) AND ($3 IS NULL OR outcome = $3)
  AND ($4 IS NULL OR client_ip = $4) AND ($5 IS NULL OR project_id = $5) AND ($6 IS NULL OR request_id = $6)
  AND ($7 IS NULL OR correlation_id = $7) AND ($8 IS NULL OR method = $8) AND ($9 IS NULL OR path = $9)
  AND ($10 IS NULL OR timestamp >= $10) AND ($11 IS NULL OR timestamp <= $11)
  AND ($12 IS NULL
       OR strpos(lower(request_id), lower($12)) > 0 OR strpos(lower(correlation_id), lower($12)) > 0
       OR strpos(lower(client_ip), lower($12)) > 0 OR strpos(lower(action), lower($12)) > 0
       OR strpos(lower(actor), lower($12)) > 0 OR strpos(lower(method), lower($12)) > 0
       OR strpos(lower(path), lower($12)) > 0 OR strpos(lower(reason), lower($12)) > 0
       OR strpos(lower(metadata), lower($12)) > 0)
ORDER BY timestamp DESC, id COLLATE \"C\" DESC LIMIT $13 OFFSET $14";

const COUNT: &str = "\
SELECT COUNT(*)
FROM audit_events
WHERE ($1 IS NULL OR action = $1) AND ($2 IS NULL OR actor = $2) AND ($3 IS NULL OR outcome = $3)
  AND ($4 IS NULL OR client_ip = $4) AND ($5 IS NULL OR project_id = $5) AND ($6 IS NULL OR request_id = $6)
  AND ($7 IS NULL OR correlation_id = $7) AND ($8 IS NULL OR method = $8) AND ($9 IS NULL OR path = $9)
  AND ($10 IS NULL OR timestamp >= $10) AND ($11 IS NULL OR timestamp <= $11)
  AND ($12 IS NULL
       OR strpos(lower(request_id), lower($12)) > 0 OR strpos(lower(correlation_id), lower($12)) > 0
       OR strpos(lower(client_ip), lower($12)) > 0 OR strpos(lower(action), lower($12)) > 0
       OR strpos(lower(actor), lower($12)) > 0 OR strpos(lower(method), lower($12)) > 0
       OR strpos(lower(path), lower($12)) > 0 OR strpos(lower(reason), lower($12)) > 0
       OR strpos(lower(metadata), lower($12)) > 0)";

const PRUNE: &str = "\
DELETE FROM audit_events WHERE id IN (
    SELECT id FROM audit_events WHERE timestamp < $1 ORDER BY timestamp LIMIT 1000)";

/// Audit events in PostgreSQL.
pub(super) struct PostgresAudit {
    pub(super) database: Database,
}

/// A batch, column by column: one statement takes all of it.
#[derive(Default)]
struct Batch {
    timestamps: Vec<i64>,
    /// `id`, `action`, `actor`, `outcome` and `metadata`.
    required: [Vec<String>; 5],
    /// `project_id`, `token_id`, `request_id`, `correlation_id`, `client_ip`, `method`, `path`, `user_agent`, `reason`.
    optional: [Vec<Option<String>>; 9],
}

impl Batch {
    fn of(events: &[AuditEvent]) -> Self {
        let mut batch = Self::default();
        for event in events {
            let row = AuditColumns::of(event);
            batch.timestamps.push(row.timestamp);
            let required = [&row.id, &row.action, &row.actor, &row.outcome, &row.metadata];
            for (column, value) in batch.required.iter_mut().zip(required) {
                column.push(text(value));
            }
            let optional = [
                &row.project_id,
                &row.token_id,
                &row.request_id,
                &row.correlation_id,
                &row.client_ip,
                &row.method,
                &row.path,
                &row.user_agent,
                &row.reason,
            ];
            for (column, value) in batch.optional.iter_mut().zip(optional) {
                column.push(text_option(value.as_ref()));
            }
        }
        batch
    }

    async fn insert(&self, client: &mut ClientWrapper) -> Result<(), Failure> {
        let [id, action, actor, outcome, metadata] = &self.required;
        let [
            project,
            token,
            request,
            correlation,
            client_ip,
            method,
            path,
            user_agent,
            reason,
        ] = &self.optional;
        client
            .execute_typed(
                INSERT,
                &[
                    (id, Type::TEXT_ARRAY),
                    (&self.timestamps, Type::INT8_ARRAY),
                    (action, Type::TEXT_ARRAY),
                    (actor, Type::TEXT_ARRAY),
                    (outcome, Type::TEXT_ARRAY),
                    (project, Type::TEXT_ARRAY),
                    (token, Type::TEXT_ARRAY),
                    (request, Type::TEXT_ARRAY),
                    (correlation, Type::TEXT_ARRAY),
                    (client_ip, Type::TEXT_ARRAY),
                    (method, Type::TEXT_ARRAY),
                    (path, Type::TEXT_ARRAY),
                    (user_agent, Type::TEXT_ARRAY),
                    (reason, Type::TEXT_ARRAY),
                    (metadata, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }
}

#[async_trait]
impl AuditStore for PostgresAudit {
    async fn append(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        let batch = Batch::of(events);
        self.database
            .run(move |client| Box::pin(async move { batch.insert(client).await }))
            .await
    }

    async fn get(&self, id: AuditId) -> Result<Option<AuditEvent>, StoreError> {
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let rows = client
                        .query_typed(BY_ID, &[(&id.to_string(), Type::TEXT)])
                        .await?;
                    let Some(row) = rows.first() else { return Ok(None) };
                    Ok(Some(audit_columns(row)?.read()?))
                })
            })
            .await
    }

    async fn list(&self, filter: &AuditFilter, page: Page) -> Result<Paged<AuditEvent>, StoreError> {
        let filter = filter.clone();
        self.database
            .run(move |client| Box::pin(list(client, filter, page)))
            .await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.database
            .run(move |client| {
                Box::pin(async move {
                    Ok(client
                        .execute_typed(PRUNE, &[(&before.as_micros(), Type::INT8)])
                        .await?)
                })
            })
            .await
    }
}

async fn list(
    client: &mut ClientWrapper,
    filter: AuditFilter,
    page: Page,
) -> Result<Paged<AuditEvent>, Failure> {
    let words = [
        &filter.action,
        &filter.actor,
        &filter.outcome,
        &filter.client_ip,
        &filter.project_id.map(|id| id.to_string()),
        &filter.request_id,
        &filter.correlation_id,
        &filter.method,
        &filter.path,
    ]
    .map(|word| text_option(word.as_ref()));
    let [
        action,
        actor,
        outcome,
        client_ip,
        project,
        request,
        correlation,
        method,
        path,
    ] = &words;
    let start = filter.start.map(Timestamp::as_micros);
    let end = filter.end.map(Timestamp::as_micros);
    // What was written holds no NUL, so a search for one finds nothing in both back ends.
    let search = text_option(filter.search.as_ref());
    let (limit, offset) = (i64::from(page.size), offset(page));
    let bound: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 14] = [
        (action, Type::TEXT),
        (actor, Type::TEXT),
        (outcome, Type::TEXT),
        (client_ip, Type::TEXT),
        (project, Type::TEXT),
        (request, Type::TEXT),
        (correlation, Type::TEXT),
        (method, Type::TEXT),
        (path, Type::TEXT),
        (&start, Type::INT8),
        (&end, Type::INT8),
        (&search, Type::TEXT),
        (&limit, Type::INT8),
        (&offset, Type::INT8),
    ];
    let total: i64 = client.query_typed_one(COUNT, &bound[..12]).await?.try_get(0)?;
    let rows = client.query_typed(LIST, &bound).await?;
    let rows = rows
        .iter()
        .map(|row| Ok(audit_columns(row)?.read()?))
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}
