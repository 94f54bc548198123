//! How much of a cap this instance may give out by itself: the port that grants and budgets go through.
//!
//! In a fleet an instance will draw slices of caps from the shared store. Today the slice is everything: of `max_requests`
//! the store itself gives one at a time, of a budget this process may spend whatever the store says is left.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::TokenId;
use crate::store::{GrantOutcome, Grants, LedgerStore, Spending, StoreError};

/// Where permission to spend comes from.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// One of a token's `max_requests`, durable before the answer.
    async fn take_request(&self, token: TokenId, max_requests: u64) -> Result<GrantOutcome, StoreError>;
    /// Returns one whose request never reached a connection.
    async fn return_request(&self, token: TokenId);
    /// What a token, a project or the installation has spent, everything included that this process has settled: what is
    /// left of its budget is this process's to give out.
    async fn spending(&self, subject: &str, first_day: i64) -> Result<Spending, StoreError>;
}

/// Records on their way to the store.
#[async_trait]
pub trait Backlog: Send + Sync + 'static {
    /// Waits until every record made so far is in the store; an error: it is away and they wait elsewhere.
    async fn all_in_store(&self) -> Result<(), StoreError>;
}

/// The slice is everything.
pub struct WholeSlices {
    /// `max_requests`.
    pub grants: Arc<dyn Grants>,
    /// What was spent.
    pub ledger: Arc<dyn LedgerStore>,
    /// What was spent and is not there yet.
    pub backlog: Arc<dyn Backlog>,
}

#[async_trait]
impl Leases for WholeSlices {
    async fn take_request(&self, token: TokenId, max_requests: u64) -> Result<GrantOutcome, StoreError> {
        self.grants.take(token, max_requests).await
    }

    async fn return_request(&self, token: TokenId) {
        self.grants.give_back(token).await;
    }

    async fn spending(&self, subject: &str, first_day: i64) -> Result<Spending, StoreError> {
        self.backlog.all_in_store().await?;
        self.ledger.spending(subject, first_day).await
    }
}
