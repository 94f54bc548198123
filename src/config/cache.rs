//! `cache`: the HTTP cache.

use std::time::Duration;

use super::machine;
use super::schema::Key;
use super::section::{Section, TEN_YEARS};
use crate::domain::{EndpointPattern, Glob};

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
    ),
    Key::new(
        "cache.scope",
        "project",
        "Who shares stored answers: the tokens of a `project`, or each `token` has its own.",
    ),
    Key::new(
        "cache.rules",
        "[]",
        "Answers that are kept though no request asks for it: a list; the first that matches counts.",
    ),
    Key::new(
        "cache.rules[].endpoint",
        "every path",
        "What the path begins with, such as `/v1/embeddings`; `*` for a segment.",
    ),
    Key::new(
        "cache.rules[].model",
        "every model",
        "The public name asked for; `*` for any letters but `/`.",
    ),
    Key::new(
        "cache.rules[].temperature_zero",
        "false",
        "Only requests that say `temperature: 0`.",
    ),
    Key::new(
        "cache.rules[].ttl",
        "none",
        "How long the answers are fresh, whatever they say; else their number, else `default_ttl`.",
    ),
    Key::new(
        "cache.rules[].scope",
        "cache.scope",
        "`project` or `token`, for these answers.",
    ),
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
    /// Whether identical requests at the same time share one call.
    pub coalesce: bool,
    /// Who shares what no rule says otherwise of.
    pub scope: CacheScope,
    /// Answers that are kept though no request asks for it; the first that matches counts.
    pub rules: Vec<CacheRule>,
}

/// Who shares stored answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheScope {
    /// All tokens of a project.
    Project,
    /// Each token has its own.
    Token,
}

/// One of `cache.rules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRule {
    /// The path below `/v1`; `None`: every one.
    pub endpoint: Option<EndpointPattern>,
    /// The public name asked for; `None`: every one, and requests that name none.
    pub model: Option<Glob>,
    /// Only requests that say `temperature: 0`.
    pub temperature_zero: bool,
    /// How long the answers are fresh, whatever they say.
    pub ttl: Option<Duration>,
    /// Who shares them.
    pub scope: CacheScope,
}

impl CacheRule {
    fn read(section: &Section<'_>, scope: CacheScope) -> Self {
        Self {
            endpoint: section.text("endpoint").as_deref().map(EndpointPattern::new),
            model: section.text("model").map(Glob::new),
            temperature_zero: section.flag("temperature_zero", false),
            ttl: section.optional_duration("ttl", Duration::from_secs(1)..=TEN_YEARS),
            scope: scope_of(section, scope),
        }
    }
}

fn scope_of(section: &Section<'_>, default: CacheScope) -> CacheScope {
    let words = [("project", CacheScope::Project), ("token", CacheScope::Token)];
    section.choice("scope", default, &words, &[])
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            default_ttl: Duration::from_mins(5),
            max_object_bytes: 1 << 20,
            max_size_bytes: machine::cache_bytes(),
            stream_responses: true,
            coalesce: true,
            scope: CacheScope::Project,
            rules: Vec::new(),
        }
    }
}

impl CacheSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        section.choice("backend", (), &[("memory", ())], &["redis"]);
        let scope = scope_of(section, default.scope);
        let settings = Self {
            enabled: section.flag("enabled", default.enabled),
            default_ttl: section.duration("default_ttl", default.default_ttl, Duration::ZERO..=TEN_YEARS),
            max_object_bytes: section.size("max_object_bytes", default.max_object_bytes, 1..=1 << 30),
            max_size_bytes: section.size("max_size", default.max_size_bytes, 1..=1 << 40),
            stream_responses: section.flag("stream_responses", default.stream_responses),
            coalesce: section.flag("coalesce", default.coalesce),
            scope,
            rules: section
                .items("rules")
                .iter()
                .map(|rule| CacheRule::read(rule, scope))
                .collect(),
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
