//! `database`, `encryption` and `redis`: where state lives and how it is sealed.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::Secret;

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

/// `encryption`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncryptionSettings {
    /// Base64 of 32 bytes (checked); `None` stores provider keys as they are.
    pub key: Option<Secret>,
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
