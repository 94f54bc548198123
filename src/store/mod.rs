//! Persistence: ports here, SQL below. One small trait per aggregate; both back ends pass one suite.

pub mod audit;
pub mod error;
pub mod grants;
pub mod projects;
pub mod tokens;
pub mod usage;

pub use audit::{AuditFilter, AuditStore};
pub use error::StoreError;
pub use grants::{GrantOutcome, Grants};
pub use projects::ProjectStore;
pub use tokens::{StoredPrincipal, TokenFilter, TokenStore};
pub use usage::{UsageDelta, UsageStore};

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
