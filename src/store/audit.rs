//! The port for audit events.

use async_trait::async_trait;

use super::{Page, Paged, StoreError};
use crate::domain::audit::AuditEvent;
use crate::domain::ids::AuditId;
use crate::domain::{ProjectId, Timestamp};

/// Which events a list shows; exact matches, but `search` is a substring (wildcards escaped).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Action.
    pub action: Option<String>,
    /// Actor.
    pub actor: Option<String>,
    /// Outcome word.
    pub outcome: Option<String>,
    /// Client address.
    pub client_ip: Option<String>,
    /// Project.
    pub project_id: Option<ProjectId>,
    /// Request id.
    pub request_id: Option<String>,
    /// Correlation id.
    pub correlation_id: Option<String>,
    /// HTTP method.
    pub method: Option<String>,
    /// Path.
    pub path: Option<String>,
    /// Substring of request id, correlation id, client address, action, actor, method, path, reason, metadata.
    pub search: Option<String>,
    /// Not before.
    pub start: Option<Timestamp>,
    /// Not after.
    pub end: Option<Timestamp>,
}

/// Audit events, append only.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Adds a batch in one transaction; an id that is there already is skipped.
    async fn append(&self, events: &[AuditEvent]) -> Result<(), StoreError>;
    /// One event.
    async fn get(&self, id: AuditId) -> Result<Option<AuditEvent>, StoreError>;
    /// Newest first.
    async fn list(&self, filter: &AuditFilter, page: Page) -> Result<Paged<AuditEvent>, StoreError>;
    /// Deletes a bounded number of events older than `before`; answers how many.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError>;
}
