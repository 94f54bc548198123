//! `auth`: bounds of what is kept in memory about credentials.

use std::time::Duration;

use super::schema::Key;
use super::section::{MILLISECOND, Section, TEN_YEARS};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "auth.known_tokens",
        "100000",
        "Most tokens kept in memory; the least used leave first.",
    ),
    Key::new(
        "auth.unknown_tokens",
        "100000",
        "Most credentials remembered as unknown.",
    ),
    Key::new(
        "auth.store_timeout",
        "2s",
        "Longest wait for the store on a token that is not in memory; above: 503 `store_unavailable`.",
    ),
    Key::new(
        "auth.max_stale",
        "1h",
        "How long known tokens are served while the store is away; then 503 `store_unavailable`.",
    ),
    Key::new(
        "auth.failed_per_ip",
        "60",
        "Unknown credentials an address may try a minute; above: 429.",
    ),
];

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

impl AuthSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            known_tokens: section.number("known_tokens", default.known_tokens, 1..=100_000_000),
            unknown_tokens: section.number("unknown_tokens", default.unknown_tokens, 1..=100_000_000),
            store_timeout: section.duration("store_timeout", default.store_timeout, MILLISECOND..=TEN_YEARS),
            max_stale: section.duration("max_stale", default.max_stale, Duration::ZERO..=TEN_YEARS),
            failed_per_ip: section.number("failed_per_ip", default.failed_per_ip, 1..=u32::MAX),
        }
    }
}
