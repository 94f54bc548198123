//! `management`: the sidecar's listener and who may use it.

use super::address::ListenAddress;
use crate::domain::Secret;

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
