//! `cache`: the HTTP cache.

use std::time::Duration;

use super::machine;

/// `cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// Whether anything is looked up or stored.
    pub enabled: bool,
    /// TTL of what is `public` without a number.
    pub default_ttl: Duration,
    /// Largest answer stored.
    pub max_object_bytes: u64,
    /// Bytes of all that is stored.
    pub max_size_bytes: u64,
    /// Whether complete streams are stored.
    pub stream_responses: bool,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            default_ttl: Duration::from_secs(300),
            max_object_bytes: 1 << 20,
            max_size_bytes: machine::cache_bytes(),
            stream_responses: true,
        }
    }
}
