//! Persistence: ports here, SQL below. One small trait per aggregate; both back ends pass one suite.

pub mod audit;
mod columns;
#[cfg(test)]
mod contract;
pub mod error;
pub mod grants;
pub mod health;
pub mod ledger;
mod ledger_columns;
pub mod migrate;
pub mod postgres;
pub mod projects;
pub mod sealed_keys;
pub mod sqlite;
pub mod state_dir;
pub mod tokens;
pub mod usage;

pub use audit::{AuditFilter, AuditStore};
pub use error::StoreError;
pub use grants::{GrantOutcome, Grants};
pub use health::StoreHealth;
pub use ledger::{
    INSTALLATION, LedgerStore, RecordFilter, SPEND_DAYS_KEPT, Spending, UsageGroup, UsageQuery, UsageRow,
    UsageSums,
};
pub use projects::ProjectStore;
pub use sealed_keys::SealedKeys;
pub use tokens::{StoredPrincipal, TokenFilter, TokenStore};
pub use usage::{UsageDelta, UsageStore};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

/// Whether commits of the ledger wait for the disk. It may change while a store is open: clones are one.
#[derive(Debug, Clone, Default)]
pub struct Fsync(Arc<AtomicBool>);

impl Fsync {
    /// On or off to begin with.
    pub fn new(is_on: bool) -> Self {
        Self(Arc::new(AtomicBool::new(is_on)))
    }

    /// For every commit from now on.
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Ordering::Relaxed);
    }

    /// Whether they wait.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Every port of one back end.
#[derive(Clone)]
pub struct Store {
    /// `sqlite` or `postgres`.
    pub driver: &'static str,
    /// Tokens.
    pub tokens: Arc<dyn TokenStore>,
    /// Projects.
    pub projects: Arc<dyn ProjectStore>,
    /// Audit events.
    pub audit: Arc<dyn AuditStore>,
    /// Counters of tokens.
    pub usage: Arc<dyn UsageStore>,
    /// Usage records.
    pub ledger: Arc<dyn LedgerStore>,
    /// Grants of limited tokens.
    pub grants: Arc<dyn Grants>,
    /// Health.
    pub health: Arc<dyn StoreHealth>,
    /// Whether commits of the ledger wait for the disk.
    pub fsync: Fsync,
    /// The schema; SQLite's is up to date once the store is open.
    pub schema: Arc<dyn migrate::Schema>,
    closing: Arc<dyn StoreClose>,
}

impl Store {
    /// Folds and writes what is still on its way, then ends the back end's threads. Later calls answer errors.
    pub async fn close(&self) {
        self.closing.close().await;
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// How a back end ends.
#[async_trait]
trait StoreClose: Send + Sync + 'static {
    async fn close(&self);
}

/// A slice of a list, one-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// One-based page number.
    pub number: u32,
    /// Rows a page, at most 100 where a person asks for pages.
    pub size: u32,
}

/// One page of a list, and how many rows there are in all.
#[derive(Debug, Clone, PartialEq)]
pub struct Paged<T> {
    /// The rows of this page.
    pub rows: Vec<T>,
    /// Rows in all pages.
    pub total: u64,
}
