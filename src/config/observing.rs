//! `audit`, `cors` and `logging`: what is written down, and what browsers are told.

use std::path::PathBuf;
use std::time::Duration;

/// `audit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// Whether events are kept at all.
    pub enabled: bool,
    /// The file; `None` writes none.
    pub file: Option<PathBuf>,
    /// Whether events are kept in the store too.
    pub store_in_database: bool,
    /// How long the store keeps them.
    pub retention: Duration,
    /// Size at which the file is rotated.
    pub max_file_bytes: u64,
    /// Rotated files kept.
    pub max_backups: u32,
}

/// `cors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsSettings {
    /// Origins allowed; `*` is any.
    pub allowed_origins: Vec<String>,
    /// Methods of `Access-Control-Allow-Methods`.
    pub allowed_methods: Vec<String>,
    /// Headers of `Access-Control-Allow-Headers`; `*` echoes what was asked for.
    pub allowed_headers: Vec<String>,
    /// `Access-Control-Max-Age`.
    pub max_age: Duration,
}

/// `logging`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingSettings {
    /// Least level written.
    pub level: log::LevelFilter,
    /// How lines look.
    pub format: LogFormat,
    /// Whether each request writes a line.
    pub access_log: bool,
    /// The file; `None` is standard error.
    pub file: Option<PathBuf>,
    /// Size at which the file is rotated.
    pub max_file_bytes: u64,
    /// Rotated files kept.
    pub max_backups: u32,
    /// `RUST_LOG`: refines the levels of our own targets.
    pub directives: Option<String>,
}

/// `logging.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// For people.
    Text,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            file: Some(PathBuf::from("./data/audit.log")),
            store_in_database: true,
            retention: Duration::from_hours(400 * 24),
            max_file_bytes: 100_000_000,
            max_backups: 5,
        }
    }
}

impl Default for CorsSettings {
    fn default() -> Self {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Self {
            allowed_origins: words(&["*"]),
            allowed_methods: words(&["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
            allowed_headers: words(&["*"]),
            max_age: Duration::from_hours(24),
        }
    }
}

impl Default for LoggingSettings {
    fn default() -> Self {
        Self {
            level: log::LevelFilter::Info,
            format: LogFormat::Json,
            access_log: true,
            file: None,
            max_file_bytes: 100_000_000,
            max_backups: 5,
            directives: None,
        }
    }
}
