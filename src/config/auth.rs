//! `auth`: bounds of what is kept in memory about credentials.

use std::time::Duration;

/// `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    /// Most tokens known at once.
    pub known_tokens: usize,
    /// Most credentials remembered as unknown.
    pub unknown_tokens: usize,
    /// Longest wait for the store on a miss.
    pub store_timeout: Duration,
    /// How long known tokens are served while the store is away.
    pub max_stale: Duration,
    /// Unknown credentials an address may try a minute before it gets 429.
    pub failed_per_ip: u32,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            known_tokens: 100_000,
            unknown_tokens: 100_000,
            store_timeout: Duration::from_secs(2),
            max_stale: Duration::from_hours(1),
            failed_per_ip: 60,
        }
    }
}
