//! The port for `max_requests`: permission for one client request, durable before the request leaves.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::TokenId;

/// What was asked for, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantOutcome {
    /// One request may leave. A crash may lose it, never duplicate it.
    Granted,
    /// `max_requests` is used up.
    Exhausted,
}

/// Grants of limited tokens: exact under any concurrency and across the death of the process.
///
/// SQLite: this process owns the cap; a grant is one write to `state_dir/grants.log` before the request
/// leaves, folded into the store in groups, replayed before the listener opens (survives process death;
/// power loss may duplicate at most 100 ms of grants). PostgreSQL: one conditional `UPDATE` shared by all
/// callers of a token that wait at the same time (survives death of any instance).
#[async_trait]
pub trait Grants: Send + Sync + 'static {
    /// Takes one request of the token's `max_requests`.
    async fn take(&self, token: TokenId, max_requests: u64) -> Result<GrantOutcome, StoreError>;
    /// Returns a grant whose request never reached a connection.
    async fn give_back(&self, token: TokenId);
    /// Forgets what is kept of a token (its `max_requests` was changed); the next `take` reads anew.
    async fn forget(&self, token: TokenId) -> Result<(), StoreError>;
    /// Folds what is only logged into the store, for reading and for a clean stop.
    async fn flush(&self) -> Result<(), StoreError>;
}
