//! `providers`: the upstream accounts.

use std::path::PathBuf;
use std::time::Duration;

use super::address::BaseUrl;
use crate::domain::{Dialect, Glob, Secret};

/// One of `providers`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderSettings {
    /// Its name: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Whether it stands in the file or is only built in.
    pub source: ProviderSource,
    /// The wire format it speaks.
    pub dialect: Dialect,
    /// Where it is; `http://demo.invalid` for the demo dialect, which opens no connection.
    pub base_url: BaseUrl,
    /// Further root certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// The installation's key; `None`: only projects with an own key can use it.
    pub api_key: Option<Secret>,
    /// Added to every request to it.
    pub headers: Vec<(String, Secret)>,
    /// Paths it serves; empty: the dialect's inference paths, models and realtime.
    pub allowed_endpoints: Vec<String>,
    /// Methods it serves, in upper case; empty: all that the paths need.
    pub allowed_methods: Vec<String>,
    /// Body parameter → values allowed for it; empty: no rule.
    pub param_whitelist: Vec<(String, Vec<Glob>)>,
    /// Origins allowed; empty: all.
    pub allowed_origins: Vec<String>,
    /// Headers a request must have, in lower case.
    pub required_headers: Vec<String>,
    /// Whether stateful paths may use the installation's key.
    pub shared_state: SharedState,
    /// Time-outs of one attempt.
    pub timeouts: ProviderTimeouts,
    /// The connection pool.
    pub connection: ProviderConnection,
}

/// Where a provider is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderSource {
    /// In the file.
    File,
    /// Built in, not mentioned in the file.
    BuiltIn,
}

/// `providers.*.shared_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharedState {
    /// Stateful paths need the project's own key.
    Deny,
    /// Stateful paths go through the provider's own key too.
    Allow,
}

/// `providers.*.timeouts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderTimeouts {
    /// To an open connection, TLS included.
    pub connect: Duration,
    /// From the sent request to the end of the answer's head.
    pub response_header: Duration,
    /// How long an idle connection is kept.
    pub idle_connection: Duration,
    /// A whole attempt that is no stream; `None` is no bound of its own.
    pub request: Option<Duration>,
}

/// `providers.*.connection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderConnection {
    /// Idle connections kept.
    pub max_idle_connections: usize,
    /// HTTP/2.
    pub http2: Http2,
}

/// `providers.*.connection.http2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Http2 {
    /// When ALPN offers it.
    Auto,
    /// HTTP/1.1 alone.
    Never,
    /// HTTP/2 alone.
    Always,
}

impl ProviderSettings {
    /// A provider of `dialect` at `base_url` with every other key at its default.
    pub fn new(name: &str, dialect: Dialect, base_url: BaseUrl) -> Self {
        Self {
            name: name.to_owned(),
            source: ProviderSource::File,
            dialect,
            base_url,
            ca_file: None,
            api_key: None,
            headers: Vec::new(),
            allowed_endpoints: Vec::new(),
            allowed_methods: Vec::new(),
            param_whitelist: Vec::new(),
            allowed_origins: Vec::new(),
            required_headers: Vec::new(),
            shared_state: SharedState::Deny,
            timeouts: ProviderTimeouts::default(),
            connection: ProviderConnection::default(),
        }
    }

    /// The providers that exist without a file: `openai` and `anthropic`.
    pub fn built_in() -> Vec<Self> {
        [
            ("openai", Dialect::OpenAi, "api.openai.com"),
            ("anthropic", Dialect::Anthropic, "api.anthropic.com"),
        ]
        .into_iter()
        .map(|(name, dialect, host)| Self {
            source: ProviderSource::BuiltIn,
            ..Self::new(name, dialect, BaseUrl::https(host))
        })
        .collect()
    }
}

impl Default for ProviderTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response_header: Duration::from_secs(600),
            idle_connection: Duration::from_secs(90),
            request: None,
        }
    }
}

impl Default for ProviderConnection {
    fn default() -> Self {
        Self {
            max_idle_connections: 256,
            http2: Http2::Auto,
        }
    }
}
