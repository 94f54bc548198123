//! `cache`: the HTTP cache.

use std::time::Duration;

use super::machine;
use super::schema::Key;
use super::section::{Section, TEN_YEARS};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "cache.enabled",
        "true",
        "Whether anything is looked up or stored.",
    ),
    Key::new(
        "cache.backend",
        "memory",
        "Where answers are kept: `memory` (later `redis`).",
    )
    .process(),
    Key::new(
        "cache.default_ttl",
        "300s",
        "How long an answer is fresh that is `public` without a number.",
    ),
    Key::new("cache.max_object_bytes", "1MiB", "Largest answer that is stored."),
    Key::new(
        "cache.max_size",
        "the smaller of 256MiB and an eighth of memory",
        "Bytes of all stored answers; the least used leave first.",
    )
    .computed()
    .process(),
    Key::new(
        "cache.stream_responses",
        "true",
        "Whether complete streams are stored.",
    ),
    Key::new(
        "cache.coalesce",
        "true",
        "One upstream call for identical requests at the same time.",
    )
    .inactive(),
    Key::new("cache.scope", "project", "Who shares stored answers.").inactive(),
    Key::new(
        "cache.rules",
        "[]",
        "Further things to store: a list of `{endpoint, model, temperature_zero, ttl, scope}`.",
    )
    .inactive(),
    Key::new("cache.redis_url", "none", "A Redis of its own for the cache.")
        .process()
        .url()
        .inactive(),
    Key::new(
        "cache.key_prefix",
        "\"llmproxy:cache:\"",
        "What the cache's Redis keys begin with.",
    )
    .process()
    .inactive(),
];

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
            default_ttl: Duration::from_mins(5),
            max_object_bytes: 1 << 20,
            max_size_bytes: machine::cache_bytes(),
            stream_responses: true,
        }
    }
}

impl CacheSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        section.choice("backend", (), &[("memory", ())], &["redis"]);
        let settings = Self {
            enabled: section.flag("enabled", default.enabled),
            default_ttl: section.duration("default_ttl", default.default_ttl, Duration::ZERO..=TEN_YEARS),
            max_object_bytes: section.size("max_object_bytes", default.max_object_bytes, 1..=1 << 30),
            max_size_bytes: section.size("max_size", default.max_size_bytes, 1..=1 << 40),
            stream_responses: section.flag("stream_responses", default.stream_responses),
        };
        if settings.max_object_bytes > settings.max_size_bytes {
            let key = if section.has("max_object_bytes") {
                "max_object_bytes"
            } else {
                "max_size"
            };
            section.refuse(key, "`max_object_bytes` is larger than `max_size`");
        }
        settings
    }
}
