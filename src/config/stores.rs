//! `database`, `encryption` and `redis`: where state lives and how it is sealed.

use std::path::PathBuf;
use std::time::Duration;

use super::schema::Key;
use super::section::{MILLISECOND, Section, TEN_YEARS};
use crate::domain::Secret;
use crate::domain::crypto::Sealer;

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "database.driver",
        "`postgres` when a url is set, else `sqlite`",
        "The store: `sqlite` (one file, one process) or `postgres` (shared by a fleet).",
    )
    .computed()
    .process(),
    Key::new(
        "database.path",
        "./data/llm-proxy.db",
        "The SQLite file; `:memory:` keeps nothing.",
    )
    .process(),
    Key::new(
        "database.url",
        "none",
        "PostgreSQL as a libpq URL, every `sslmode`: `postgres://user:password@host/database`.",
    )
    .process()
    .url(),
    Key::new(
        "database.listen_url",
        "none",
        "Direct URL for LISTEN when `url` leads to a pooler.",
    )
    .process()
    .url(),
    Key::new("database.pool_size", "10", "PostgreSQL connections.").process(),
    Key::new(
        "database.timeout",
        "2s",
        "Longest PostgreSQL statement; above: `store_unavailable`.",
    )
    .process(),
    Key::new(
        "encryption.key",
        "none",
        "Seals provider keys of projects: base64 of 32 bytes (`openssl rand -base64 32`).",
    )
    .process()
    .secret(),
    Key::new(
        "encryption.keys",
        "[]",
        "Keys with ids: the first seals, all open, and so does `key`. For rotation, with `migrate encrypt --rotate`.",
    )
    .process()
    .secret(),
    Key::new(
        "encryption.keys[].id",
        "required",
        "Stored with what is sealed: 1 to 32 letters, digits, `-`, `_`, `.`.",
    )
    .process(),
    Key::new(
        "encryption.keys[].key",
        "required",
        "Base64 of 32 bytes.",
    )
    .process()
    .secret(),
    Key::new(
        "encryption.required",
        "false",
        "Whether the program refuses to start without a key.",
    )
    .process(),
    Key::new(
        "redis.url",
        "none",
        "`redis://`, `rediss://`, `redis-cluster://` or `redis-sentinel://`; without it nothing uses Redis.",
    )
    .process()
    .url(),
    Key::new(
        "redis.timeout",
        "50ms",
        "Longest wait for Redis; then the fallback, for a second.",
    ),
];

/// `database`.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseSettings {
    /// Which store; `postgres` when a url is set.
    pub driver: DatabaseDriver,
    /// The SQLite file, or `:memory:`.
    pub path: PathBuf,
    /// libpq URL of PostgreSQL; always there when the driver is `postgres`.
    pub url: Option<Secret>,
    /// Direct URL for LISTEN when `url` leads to a pooler; `None` is `url`.
    pub listen_url: Option<Secret>,
    /// PostgreSQL connections.
    pub pool_size: usize,
    /// Longest PostgreSQL statement, with the wait for a connection.
    pub timeout: Duration,
}

impl DatabaseSettings {
    /// Whether the store is a private SQLite in memory.
    pub fn is_in_memory(&self) -> bool {
        self.driver == DatabaseDriver::Sqlite && self.path.as_os_str() == ":memory:"
    }
}

/// `database.driver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DatabaseDriver {
    /// One file, one process.
    Sqlite,
    /// Shared by a fleet.
    Postgres,
}

impl DatabaseDriver {
    /// Its word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// `encryption`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncryptionSettings {
    /// Base64 of 32 bytes (checked); without it and `keys` provider keys are stored as they are.
    pub key: Option<Secret>,
    /// Keys with their ids (checked): the first seals, all open.
    pub keys: Vec<(String, Secret)>,
    /// Whether the program refuses to start without a key (checked).
    pub required: bool,
}

/// `redis`.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisSettings {
    /// `redis://`, `rediss://`, `redis-cluster://` or `redis-sentinel://`; `None`: nothing uses Redis.
    pub url: Option<Secret>,
    /// Longest wait for Redis; then the fallback.
    pub timeout: Duration,
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            driver: DatabaseDriver::Sqlite,
            path: PathBuf::from("./data/llm-proxy.db"),
            url: None,
            listen_url: None,
            pool_size: 10,
            timeout: Duration::from_secs(2),
        }
    }
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            url: None,
            timeout: Duration::from_millis(50),
        }
    }
}

impl DatabaseSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let url = read_url(
            section,
            "url",
            &["postgres", "postgresql"],
            "`postgres://user:password@host:5432/database`",
        );
        let by_url = if section.is_set("url") {
            DatabaseDriver::Postgres
        } else {
            DatabaseDriver::Sqlite
        };
        let words = [
            ("sqlite", DatabaseDriver::Sqlite),
            ("postgres", DatabaseDriver::Postgres),
        ];
        let driver = section.choice("driver", by_url, &words, &["mysql"]);
        if driver == DatabaseDriver::Postgres && !section.is_set("url") {
            section.refuse(
                "driver",
                "needs a `database.url`; write `postgres://user:password@host/database`",
            );
        }
        Self {
            driver,
            path: section.file_path("path").unwrap_or(default.path),
            url,
            listen_url: read_url(
                section,
                "listen_url",
                &["postgres", "postgresql"],
                "`postgres://user@host/database`",
            ),
            pool_size: section.number("pool_size", default.pool_size, 1..=10_000),
            timeout: section.duration("timeout", default.timeout, MILLISECOND..=TEN_YEARS),
        }
    }
}

impl EncryptionSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let key = checked_key(section);
        let mut keys: Vec<(String, Secret)> = Vec::new();
        for item in section.items("keys") {
            let Some(id) = item.text("id") else {
                item.refuse("id", "is missing; it is stored with what the key seals");
                continue;
            };
            let is_name = (1..=32).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !is_name {
                item.refuse("id", "must be 1 to 32 letters, digits, `-`, `_` or `.`");
            } else if keys.iter().any(|(known, _)| *known == id) {
                item.refuse("id", "occurs twice; ids tell keys apart");
            }
            if !item.has("key") {
                item.refuse("key", "is missing");
            }
            keys.extend(checked_key(&item).map(|key| (id, key)));
        }
        let required = section.flag("required", false);
        if required && !section.is_set("key") && keys.is_empty() {
            section.refuse(
                "key",
                "is required and not set; make one with `openssl rand -base64 32`",
            );
        }
        Self { key, keys, required }
    }

    /// Whether provider keys are sealed.
    pub fn has_key(&self) -> bool {
        self.key.is_some() || !self.keys.is_empty()
    }
}

/// `key` of a section, when it can seal.
fn checked_key(section: &Section<'_>) -> Option<Secret> {
    let key = section.secret("key")?;
    match Sealer::with_key(&key) {
        Ok(_) => Some(key),
        Err(error) => {
            section.refuse("key", &error.to_string());
            None
        }
    }
}

impl RedisSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let schemes = [
            "redis",
            "rediss",
            "redis-cluster",
            "rediss-cluster",
            "redis-sentinel",
            "rediss-sentinel",
        ];
        Self {
            url: read_url(section, "url", &schemes, "`redis://:password@host:6379/0`"),
            timeout: section.duration("timeout", Self::default().timeout, MILLISECOND..=TEN_YEARS),
        }
    }
}

/// A URL with a known scheme and something after it; who connects checks the rest.
fn read_url(section: &Section<'_>, key: &str, schemes: &[&str], shape: &str) -> Option<Secret> {
    let text = section.text(key)?;
    let Some((scheme, rest)) = text.split_once("://") else {
        section.refuse(key, &format!("is no URL; write {shape}"));
        return None;
    };
    if !schemes.contains(&scheme) {
        let known = scheme == "mysql" || scheme == "sqlite";
        let verdict = if known {
            format!("`{scheme}://` is not supported here")
        } else {
            "has another scheme".to_owned()
        };
        section.refuse(key, &format!("{verdict}; write {shape}"));
        return None;
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    if text.contains(char::is_whitespace) || !hosts.split(',').all(is_host_and_port) {
        section.refuse(
            key,
            &format!("is a malformed URL; write {shape}, with special characters as `%40`"),
        );
        return None;
    }
    Some(Secret::new(text))
}

/// `host`, `host:port`, `[v6]:port`, a percent-encoded socket folder, or nothing (libpq's default).
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, after)) => (host, after.strip_prefix(':')),
        None => text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };
    port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok()) && !host.contains(['[', ']', '#'])
}
