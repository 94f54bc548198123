//! Audit events in SQLite.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::failure::Failure;
use super::threads::Threads;
use crate::domain::Timestamp;
use crate::domain::audit::AuditEvent;
use crate::domain::ids::AuditId;
use crate::store::audit::{AuditFilter, AuditStore};
use crate::store::columns::{AuditColumns, offset};
use crate::store::{Page, Paged, StoreError};

const INSERT: &str = "\
INSERT INTO audit_events (id, timestamp, action, actor, outcome, project_id, token_id, request_id, correlation_id,
    client_ip, method, path, user_agent, reason, metadata)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
ON CONFLICT (id) DO NOTHING";

const BY_ID: &str = "\
SELECT id, timestamp, action, actor, outcome, project_id, token_id, request_id, correlation_id,
       client_ip, method, path, user_agent, reason, metadata
FROM audit_events WHERE id = ?1";

const LIST: &str = "\
SELECT id, timestamp, action, actor, outcome, project_id, token_id, request_id, correlation_id,
       client_ip, method, path, user_agent, reason, metadata
FROM audit_events
WHERE (:action IS NULL OR action = :action) AND (:actor IS NULL OR actor = :actor)
  AND (:outcome IS NULL OR outcome = :outcome) AND (:client_ip IS NULL OR client_ip = :client_ip)
  AND (:project_id IS NULL OR project_id = :project_id) AND (:request_id IS NULL OR request_id = :request_id)
  AND (:correlation_id IS NULL OR correlation_id = :correlation_id)
  AND (:method IS NULL OR method = :method) AND (:path IS NULL OR path = :path)
  AND (:start IS NULL OR timestamp >= :start) AND (:end IS NULL OR timestamp <= :end)
  AND (:search IS NULL
       OR instr(lower(request_id), lower(:search)) OR instr(lower(correlation_id), lower(:search))
       OR instr(lower(client_ip), lower(:search)) OR instr(lower(action), lower(:search))
       OR instr(lower(actor), lower(:search)) OR instr(lower(method), lower(:search))
       OR instr(lower(path), lower(:search)) OR instr(lower(reason), lower(:search))
       OR instr(lower(metadata), lower(:search)))
ORDER BY timestamp DESC, id DESC LIMIT :limit OFFSET :offset";

const COUNT: &str = "\
SELECT COUNT(*)
FROM audit_events
WHERE (:action IS NULL OR action = :action) AND (:actor IS NULL OR actor = :actor)
  AND (:outcome IS NULL OR outcome = :outcome) AND (:client_ip IS NULL OR client_ip = :client_ip)
  AND (:project_id IS NULL OR project_id = :project_id) AND (:request_id IS NULL OR request_id = :request_id)
  AND (:correlation_id IS NULL OR correlation_id = :correlation_id)
  AND (:method IS NULL OR method = :method) AND (:path IS NULL OR path = :path)
  AND (:start IS NULL OR timestamp >= :start) AND (:end IS NULL OR timestamp <= :end)
  AND (:search IS NULL
       OR instr(lower(request_id), lower(:search)) OR instr(lower(correlation_id), lower(:search))
       OR instr(lower(client_ip), lower(:search)) OR instr(lower(action), lower(:search))
       OR instr(lower(actor), lower(:search)) OR instr(lower(method), lower(:search))
       OR instr(lower(path), lower(:search)) OR instr(lower(reason), lower(:search))
       OR instr(lower(metadata), lower(:search)))";

const PRUNE: &str = "\
DELETE FROM audit_events WHERE id IN (
    SELECT id FROM audit_events WHERE timestamp < ?1 ORDER BY timestamp LIMIT 1000)";

/// Audit events in SQLite.
pub(super) struct SqliteAudit {
    pub(super) threads: Threads,
}

#[async_trait]
impl AuditStore for SqliteAudit {
    async fn append(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        let rows: Vec<AuditColumns> = events.iter().map(AuditColumns::of).collect();
        self.threads
            .write(move |connection| {
                let mut statement = connection.prepare_cached(INSERT)?;
                for row in &rows {
                    statement.execute(params![
                        row.id,
                        row.timestamp,
                        row.action,
                        row.actor,
                        row.outcome,
                        row.project_id,
                        row.token_id,
                        row.request_id,
                        row.correlation_id,
                        row.client_ip,
                        row.method,
                        row.path,
                        row.user_agent,
                        row.reason,
                        row.metadata,
                    ])?;
                }
                Ok(())
            })
            .await
    }

    async fn get(&self, id: AuditId) -> Result<Option<AuditEvent>, StoreError> {
        self.threads
            .read(move |connection| {
                let columns = connection
                    .prepare_cached(BY_ID)?
                    .query_row(params![id.to_string()], audit_columns)
                    .optional()?;
                Ok(columns.map(AuditColumns::read).transpose()?)
            })
            .await
    }

    async fn list(&self, filter: &AuditFilter, page: Page) -> Result<Paged<AuditEvent>, StoreError> {
        let filter = filter.clone();
        self.threads
            .read(move |connection| list(connection, &filter, page))
            .await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.threads
            .write(move |connection| {
                let deleted = connection
                    .prepare_cached(PRUNE)?
                    .execute(params![before.as_micros()])?;
                Ok(deleted as u64)
            })
            .await
    }
}

fn list(connection: &Connection, filter: &AuditFilter, page: Page) -> Result<Paged<AuditEvent>, Failure> {
    let project = filter.project_id.map(|id| id.to_string());
    let start = filter.start.map(Timestamp::as_micros);
    let end = filter.end.map(Timestamp::as_micros);
    let total: i64 = connection.prepare_cached(COUNT)?.query_row(
        named_params! {
            ":action": filter.action, ":actor": filter.actor, ":outcome": filter.outcome,
            ":client_ip": filter.client_ip, ":project_id": project, ":request_id": filter.request_id,
            ":correlation_id": filter.correlation_id, ":method": filter.method, ":path": filter.path,
            ":start": start, ":end": end, ":search": filter.search,
        },
        |row| row.get(0),
    )?;
    let mut statement = connection.prepare_cached(LIST)?;
    let rows = statement.query_map(
        named_params! {
            ":action": filter.action, ":actor": filter.actor, ":outcome": filter.outcome,
            ":client_ip": filter.client_ip, ":project_id": project, ":request_id": filter.request_id,
            ":correlation_id": filter.correlation_id, ":method": filter.method, ":path": filter.path,
            ":start": start, ":end": end, ":search": filter.search,
            ":limit": page.size, ":offset": offset(page),
        },
        audit_columns,
    )?;
    let rows = rows
        .map(|columns| Ok(columns?.read()?))
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}

fn audit_columns(row: &Row<'_>) -> rusqlite::Result<AuditColumns> {
    Ok(AuditColumns {
        id: row.get(0)?,
        timestamp: row.get(1)?,
        action: row.get(2)?,
        actor: row.get(3)?,
        outcome: row.get(4)?,
        project_id: row.get(5)?,
        token_id: row.get(6)?,
        request_id: row.get(7)?,
        correlation_id: row.get(8)?,
        client_ip: row.get(9)?,
        method: row.get(10)?,
        path: row.get(11)?,
        user_agent: row.get(12)?,
        reason: row.get(13)?,
        metadata: row.get(14)?,
    })
}
