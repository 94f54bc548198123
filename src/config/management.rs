//! `management`: the sidecar's listener and who may use it.

use super::address::ListenAddress;
use super::schema::Key;
use super::section::Section;
use crate::domain::Secret;

pub(super) const KEYS: &[Key] = &[
    Key::new("management.listen", "127.0.0.1:8081", "Where the sidecar listens; `\"\"` turns it off.").process(),
    Key::new("management.on_proxy_listener", "local", "Whether `/manage`, metrics and the like are answered on the proxy listener: `off`, `local` (local users alone), `all` (everybody with a bearer)."),
    Key::new("management.token", "none", "The administrator's bearer. Required unless `tokens` has an admin or both management surfaces are off. Shorter than 20 characters: a warning.").secret(),
    Key::new("management.tokens", "[]", "Further bearers, also the way to rotate."),
    Key::new("management.tokens[].name", "none", "Who it is, for the audit log; unique."),
    Key::new("management.tokens[].token", "none", "The bearer.").secret(),
    Key::new("management.tokens[].role", "none", "`admin`: everything; `viewer`: every GET except audit; `metrics`: the metrics paths."),
    Key::new("management.metrics.enabled", "true", "Whether the metrics paths exist."),
    Key::new("management.metrics.path", "/metrics", "JSON here, Prometheus text at `<path>/prometheus`."),
    Key::new("management.admin_ui.enabled", "true", "The admin pages.").inactive(),
    Key::new("management.admin_ui.path", "/admin", "Where they are.").inactive(),
];

/// `management`.
#[derive(Debug, Clone, PartialEq)]
pub struct ManagementSettings {
    /// Where the sidecar listens; `None` turns it off.
    pub listen: Option<ListenAddress>,
    /// Whether our own paths are answered on the proxy listener too.
    pub on_proxy_listener: OnProxyListener,
    /// The administrator's token.
    pub token: Option<Secret>,
    /// Further tokens, each with a role.
    pub tokens: Vec<ManagementToken>,
    /// The metrics paths.
    pub metrics: MetricsSettings,
}

/// `management.on_proxy_listener`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnProxyListener {
    /// Never: 404 as for any unknown path.
    Off,
    /// To local users alone.
    Local,
    /// To everybody with a bearer.
    All,
}

/// One of `management.tokens`.
#[derive(Debug, Clone, PartialEq)]
pub struct ManagementToken {
    /// Who it is, for the audit log.
    pub name: String,
    /// The bearer.
    pub token: Secret,
    /// What it may do.
    pub role: ManagementRole,
}

/// What a management token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ManagementRole {
    /// Everything.
    Admin,
    /// Every GET except audit.
    Viewer,
    /// The metrics paths.
    Metrics,
}

/// `management.metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Whether the metrics paths exist.
    pub enabled: bool,
    /// JSON here, Prometheus text at `<path>/prometheus`.
    pub path: String,
}

impl Default for ManagementSettings {
    fn default() -> Self {
        Self {
            listen: Some(ListenAddress::new("127.0.0.1", 8081)),
            on_proxy_listener: OnProxyListener::Local,
            token: None,
            tokens: Vec::new(),
            metrics: MetricsSettings::default(),
        }
    }
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            path: "/metrics".to_owned(),
        }
    }
}

impl ManagementSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let off = section.is_empty_text("listen");
        Self {
            listen: if off {
                None
            } else {
                section.parsed("listen").or(default.listen)
            },
            on_proxy_listener: section.choice(
                "on_proxy_listener",
                default.on_proxy_listener,
                &[
                    ("off", OnProxyListener::Off),
                    ("local", OnProxyListener::Local),
                    ("all", OnProxyListener::All),
                ],
                &[],
            ),
            token: section.secret("token"),
            tokens: read_tokens(section),
            metrics: MetricsSettings::read(&section.section("metrics")),
        }
    }

    /// Whether somebody could use the management API.
    pub fn is_reachable(&self) -> bool {
        self.listen.is_some() || self.on_proxy_listener != OnProxyListener::Off
    }

    /// Whether anybody may do everything.
    pub fn has_admin(&self) -> bool {
        self.token.is_some()
            || self
                .tokens
                .iter()
                .any(|token| token.role == ManagementRole::Admin)
    }
}

fn read_tokens(section: &Section<'_>) -> Vec<ManagementToken> {
    let mut tokens: Vec<ManagementToken> = Vec::new();
    for item in section.items("tokens") {
        for key in ["name", "token", "role"] {
            if !item.has(key) {
                item.refuse(key, "is missing");
            }
        }
        let roles = [
            ("admin", ManagementRole::Admin),
            ("viewer", ManagementRole::Viewer),
            ("metrics", ManagementRole::Metrics),
        ];
        let role = item.choice("role", ManagementRole::Metrics, &roles, &[]);
        let (Some(name), Some(token)) = (item.text("name"), item.secret("token")) else {
            continue;
        };
        if tokens.iter().any(|other| other.name == name) {
            item.refuse("name", "is the name of another token already");
        }
        if tokens.iter().any(|other| other.token == token) {
            item.refuse("token", "is the same as another token");
        }
        tokens.push(ManagementToken { name, token, role });
    }
    tokens
}

impl MetricsSettings {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let path = section.text("path").unwrap_or(default.path);
        let taken = [
            "/manage",
            "/health",
            "/ready",
            "/live",
            "/v1",
            "/openapi.json",
            "/openai",
        ];
        let normal = path.starts_with('/')
            && path.len() > 1
            && path
                .split('/')
                .skip(1)
                .all(|segment| !matches!(segment, "" | "." | ".."))
            && path
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b));
        if !normal {
            section.refuse("path", "must be a path such as `/metrics`");
        } else if taken
            .iter()
            .any(|taken| path == *taken || path.starts_with(&format!("{taken}/")))
        {
            section.refuse("path", "is another path's place; write `/metrics`");
        }
        Self {
            enabled: section.flag("enabled", default.enabled),
            path,
        }
    }
}
