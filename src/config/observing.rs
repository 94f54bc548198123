//! `audit`, `cors` and `logging`: what is written down, and what browsers are told.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::schema::Key;
use super::section::{Section, TEN_YEARS};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "audit.enabled",
        "true",
        "Whether management actions and denied credentials are recorded.",
    ),
    Key::new(
        "audit.file",
        "./data/audit.log",
        "The file, one JSON object a line; `none` writes none.",
    ),
    Key::new(
        "audit.store_in_database",
        "true",
        "Whether events are kept in the store too, for the API.",
    ),
    Key::new("audit.retention", "400d", "How long the store keeps them."),
    Key::new("audit.max_size", "100MB", "Size at which the file is rotated."),
    Key::new("audit.max_backups", "5", "Rotated files kept."),
    Key::new(
        "cors.allowed_origins",
        "[\"*\"]",
        "Origins that browsers may call from; `*` is any.",
    ),
    Key::new(
        "cors.allowed_methods",
        "[GET, POST, PUT, PATCH, DELETE, OPTIONS]",
        "Methods named to browsers.",
    ),
    Key::new(
        "cors.allowed_headers",
        "[\"*\"]",
        "Headers named to browsers; `*` names those that were asked for.",
    ),
    Key::new("cors.max_age", "24h", "How long browsers keep the answer."),
    Key::new(
        "logging.level",
        "info",
        "Least level written: `off`, `error`, `warn`, `info`, `debug`, `trace`. `RUST_LOG` refines it.",
    ),
    Key::new("logging.format", "json", "`json` or `text`."),
    Key::new(
        "logging.access_log",
        "true",
        "Whether each request writes a line.",
    ),
    Key::new("logging.file", "none", "The file; `none` is standard error."),
    Key::new("logging.max_size", "100MB", "Size at which the file is rotated."),
    Key::new("logging.max_backups", "5", "Rotated files kept."),
];

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

impl AuditSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            enabled: section.flag("enabled", default.enabled),
            file: if section.is_present("file") {
                section.file_path("file")
            } else {
                default.file
            },
            store_in_database: section.flag("store_in_database", default.store_in_database),
            retention: section.duration(
                "retention",
                default.retention,
                Duration::from_hours(1)..=TEN_YEARS,
            ),
            max_file_bytes: section.size("max_size", default.max_file_bytes, 1 << 10..=1 << 40),
            max_backups: section.number("max_backups", default.max_backups, 0..=1000),
        }
    }
}

impl CorsSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            allowed_origins: section.checked_list("allowed_origins", default.allowed_origins, |text| {
                if text == "*" {
                    Ok(text.to_owned())
                } else {
                    origin(text)
                }
            }),
            allowed_methods: section.checked_list("allowed_methods", default.allowed_methods, method),
            allowed_headers: section.checked_list("allowed_headers", default.allowed_headers, header_name),
            max_age: section.duration("max_age", default.max_age, Duration::ZERO..=TEN_YEARS),
        }
    }
}

impl LoggingSettings {
    pub(super) fn read(section: &Section<'_>, directives: Option<&str>) -> Self {
        let default = Self::default();
        let levels = [
            ("off", LevelFilter::Off),
            ("error", LevelFilter::Error),
            ("warn", LevelFilter::Warn),
            ("warning", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("debug", LevelFilter::Debug),
            ("trace", LevelFilter::Trace),
        ];
        let formats = [
            ("json", LogFormat::Json),
            ("text", LogFormat::Text),
            ("console", LogFormat::Text),
        ];
        Self {
            level: section.choice("level", default.level, &levels, &[]),
            format: section.choice("format", default.format, &formats, &[]),
            access_log: section.flag("access_log", default.access_log),
            file: section.file_path("file"),
            max_file_bytes: section.size("max_size", default.max_file_bytes, 1 << 10..=1 << 40),
            max_backups: section.number("max_backups", default.max_backups, 0..=1000),
            directives: directives.map(str::to_owned),
        }
    }
}

/// `scheme://host[:port]`, in lower case.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let fine = text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', ',']) && text.is_ascii()
    });
    if fine || text == "null" {
        return Ok(text.to_ascii_lowercase());
    }
    Err("is no origin; write `https://host` without a path".to_owned())
}

/// An HTTP method, in upper case.
pub(super) fn method(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    match upper.as_str() {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => Ok(upper),
        _ => {
            Err("is no method; write `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS`".to_owned())
        }
    }
}

/// A header's name, as written.
pub(super) fn header_name(text: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !text.is_empty() && text.bytes().all(token) {
        return Ok(text.to_owned());
    }
    Err("is no header name".to_owned())
}
