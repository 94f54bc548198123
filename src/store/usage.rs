//! The port for counters of tokens.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{Timestamp, TokenId};

/// What a token did since the last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageDelta {
    /// The token.
    pub token_id: TokenId,
    /// Client requests let through, of tokens without `max_requests` (grants count the others).
    pub requests: u64,
    /// Answers from the cache.
    pub cache_hits: u64,
    /// When it was last used.
    pub last_used_at: Timestamp,
}

/// Counters of tokens.
#[async_trait]
pub trait UsageStore: Send + Sync + 'static {
    /// Adds a batch in one transaction. Unknown tokens are skipped.
    async fn add(&self, deltas: &[UsageDelta]) -> Result<(), StoreError>;
}
