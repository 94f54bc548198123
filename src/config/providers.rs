//! `providers`: the upstream accounts.

use std::path::PathBuf;
use std::time::Duration;

use super::address::BaseUrl;
use super::observing::{header_name, method, origin};
use super::provider_keys::{KeySettings, read_api_keys};
use super::schema::Key;
use super::section::{MILLISECOND, Section, TEN_YEARS};
use crate::domain::{Dialect, Glob, Secret};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "default_provider",
        "`openai`; with exactly one provider in the file, that one",
        "Serves what no model or path decides. Also written `default_api`.",
    )
    .computed(),
    Key::new(
        "unknown_models",
        "pass_through",
        "Models that are not configured: `pass_through` (to the default provider, name unchanged) or `reject` (404).",
    ),
    Key::new(
        "providers.<name>.dialect",
        "by name, else `openai`",
        "The wire format: `openai`, `anthropic`, `azure`, `demo` (answers OpenAI's and Anthropic's).",
    )
    .computed(),
    Key::new(
        "providers.<name>.base_url",
        "of `openai` and `anthropic` their public addresses",
        "Where it is; a path part counts. Required but for these two and the demo dialect.",
    )
    .computed(),
    Key::new(
        "providers.<name>.api_version",
        "none",
        "Azure's dated `api-version`; the model is then called as a deployment. Without: Azure's `/openai/v1`.",
    ),
    Key::new(
        "providers.<name>.ca_file",
        "none",
        "Root certificates (PEM) trusted instead of the system's.",
    ),
    Key::new(
        "providers.<name>.api_key",
        "none",
        "The installation's key; without one only projects with an own key can use the provider.",
    )
    .secret(),
    Key::new(
        "providers.<name>.api_keys",
        "[]",
        "Instead of `api_key`: several keys that take turns; one that is refused, penniless or at its rate is left alone for a while.",
    )
    .secret(),
    Key::new(
        "providers.<name>.api_keys[].id",
        "`key-1`, `key-2` …",
        "The key's name in records, logs and `/manage/providers`.",
    )
    .computed(),
    Key::new("providers.<name>.api_keys[].key", "none", "The key.").secret(),
    Key::new(
        "providers.<name>.api_keys[].limits",
        "none",
        "What the provider allows this key a minute, `{rpm, tpm}`: requests above wait here, at most `router.max_wait`.",
    ),
    Key::new(
        "providers.<name>.headers.<header>",
        "none",
        "Added to every request to this provider.",
    )
    .secret(),
    Key::new(
        "providers.<name>.allowed_endpoints",
        "[]",
        "Paths it serves, `*` is one segment; empty: the dialect's inference paths.",
    ),
    Key::new(
        "providers.<name>.allowed_methods",
        "[]",
        "Methods it serves; empty: all that the paths need.",
    ),
    Key::new(
        "providers.<name>.param_whitelist.<parameter>",
        "none",
        "Values that a parameter of the body may have; `*` does not cross `/`.",
    ),
    Key::new(
        "providers.<name>.allowed_origins",
        "[]",
        "Origins that may use it; empty: all.",
    ),
    Key::new(
        "providers.<name>.required_headers",
        "[]",
        "Headers that a request must have.",
    ),
    Key::new(
        "providers.<name>.shared_state",
        "deny",
        "Stateful paths (files, batches …) through the installation's key: `deny` or `allow`.",
    ),
    Key::new(
        "providers.<name>.timeouts.connect",
        "10s",
        "To an open connection, TLS included; above: `connect_timeout`.",
    ),
    Key::new(
        "providers.<name>.timeouts.response_header",
        "= `server.request_timeout`",
        "From the sent request to the end of the answer's head; above: `first_byte_timeout`.",
    )
    .computed(),
    Key::new(
        "providers.<name>.timeouts.idle_connection",
        "90s",
        "How long an idle connection is kept.",
    ),
    Key::new(
        "providers.<name>.timeouts.request",
        "none",
        "One attempt from head to last byte, streams excepted.",
    ),
    Key::new(
        "providers.<name>.timeouts.flush_interval",
        "none",
        "Accepted, no effect: nothing is held back.",
    ),
    Key::new(
        "providers.<name>.connection.max_idle_conns",
        "256",
        "Idle connections kept.",
    )
    .process(),
    Key::new(
        "providers.<name>.connection.max_idle_conns_per_host",
        "none",
        "The same under its old name.",
    )
    .process(),
    Key::new(
        "providers.<name>.connection.http2",
        "auto",
        "`auto` (when offered), `never`, `always`.",
    )
    .process(),
    Key::new(
        "providers.<name>.max_concurrency",
        "none",
        "Requests under way at once; the next ones wait, at most `router.max_wait`, then the next target.",
    ),
    Key::new(
        "providers.<name>.max_queue",
        "100",
        "Requests that wait for a place; further ones go to the next target at once.",
    ),
    Key::new(
        "providers.<name>.include_usage",
        "auto",
        "Asks chat and completions streams for their usage: `auto` until the provider refuses that, `always`, `never`.",
    ),
];

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
    /// Azure's dated version; `None`: its `/openai/v1` paths.
    pub api_version: Option<String>,
    /// Root certificates (PEM) that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The installation's keys; none: only projects with an own key can use it.
    pub api_keys: Vec<KeySettings>,
    /// Requests under way at once; `None`: as many as come.
    pub max_concurrency: Option<u32>,
    /// Requests that wait for a place.
    pub max_queue: u32,
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
    /// Whether streams are asked for their usage.
    pub include_usage: IncludeUsage,
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

/// `providers.*.include_usage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IncludeUsage {
    /// Asked for until the provider refuses a request because of it.
    Auto,
    /// Asked for.
    Always,
    /// Not asked for.
    Never,
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
            api_version: None,
            ca_file: None,
            api_keys: Vec::new(),
            max_concurrency: None,
            max_queue: 100,
            headers: Vec::new(),
            allowed_endpoints: Vec::new(),
            allowed_methods: Vec::new(),
            param_whitelist: Vec::new(),
            allowed_origins: Vec::new(),
            required_headers: Vec::new(),
            shared_state: SharedState::Deny,
            include_usage: IncludeUsage::Auto,
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
            response_header: Duration::from_mins(10),
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

impl ProviderSettings {
    /// All of `providers`: those of the file in its order, then the built-in ones that it does not mention.
    pub(super) fn read_all(root: &Section<'_>, request_timeout: Duration) -> Vec<Self> {
        let section = root.section("providers");
        let mut built_in: Vec<Self> = Self::built_in();
        let (mut in_file, mut by_variable) = (Vec::new(), Vec::new());
        for (name, own) in root.named("providers") {
            let base = built_in
                .iter()
                .position(|provider| provider.name == name)
                .map(|at| built_in.remove(at));
            let Some(own) = own else {
                if base.is_none() {
                    section.refuse(
                        &name,
                        "has no value; write `base_url: …` below it, or remove the name",
                    );
                }
                continue;
            };
            let is_in_file = section.is_in_file(&name);
            let provider = Self::read(&own, &section, name, base, request_timeout);
            if is_in_file {
                in_file.push(Self {
                    source: ProviderSource::File,
                    ..provider
                });
            } else {
                by_variable.push(Self {
                    source: ProviderSource::BuiltIn,
                    ..provider
                });
            }
        }
        for provider in &mut built_in {
            provider.timeouts.response_header = request_timeout;
        }
        // WHY: a variable such as OPENAI_API_KEY must not change the order in which providers are tried.
        let mut last: Vec<Self> = by_variable.into_iter().chain(built_in).collect();
        last.sort_by_key(|provider| provider.name != "openai");
        in_file.extend(last);
        in_file
    }

    fn read(
        own: &Section<'_>,
        all: &Section<'_>,
        name: String,
        base: Option<Self>,
        request_timeout: Duration,
    ) -> Self {
        if name.is_empty()
            || name.len() > 64
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            all.refuse(
                &name,
                "is no name for a provider; use letters, digits, `-`, `_`, `.`, at most 64",
            );
        }
        let by_name = match name.as_str() {
            "anthropic" => Dialect::Anthropic,
            "azure" => Dialect::Azure,
            "demo" => Dialect::Demo,
            _ => Dialect::OpenAi,
        };
        let words = [
            ("openai", Dialect::OpenAi),
            ("anthropic", Dialect::Anthropic),
            ("azure", Dialect::Azure),
            ("demo", Dialect::Demo),
        ];
        let dialect = own.choice("dialect", by_name, &words, &[]);
        let base_url = own
            .parsed("base_url")
            .or(base.map(|base| base.base_url))
            .unwrap_or_else(|| {
                if dialect != Dialect::Demo && !own.has("base_url") {
                    own.refuse("base_url", "is missing; write `base_url: https://host`");
                }
                BaseUrl::demo()
            });
        Self {
            api_version: read_api_version(own, dialect),
            ca_file: read_ca_file(own),
            api_keys: read_api_keys(own),
            max_concurrency: own.optional_number("max_concurrency", 1..=1_000_000),
            max_queue: own.number("max_queue", 100, 0..=100_000),
            headers: read_headers(own),
            allowed_endpoints: own.checked_list("allowed_endpoints", Vec::new(), endpoint),
            allowed_methods: own.checked_list("allowed_methods", Vec::new(), method),
            param_whitelist: read_param_whitelist(own),
            allowed_origins: own.checked_list("allowed_origins", Vec::new(), origin),
            required_headers: own.checked_list("required_headers", Vec::new(), |text| {
                header_name(text).map(|name| name.to_ascii_lowercase())
            }),
            shared_state: own.choice(
                "shared_state",
                SharedState::Deny,
                &[("deny", SharedState::Deny), ("allow", SharedState::Allow)],
                &[],
            ),
            include_usage: own.choice(
                "include_usage",
                IncludeUsage::Auto,
                &[
                    ("auto", IncludeUsage::Auto),
                    ("always", IncludeUsage::Always),
                    ("never", IncludeUsage::Never),
                ],
                &[],
            ),
            timeouts: ProviderTimeouts::read(&own.section("timeouts"), request_timeout),
            connection: ProviderConnection::read(&own.section("connection")),
            ..Self::new(&name, dialect, base_url)
        }
    }
}

fn read_api_version(own: &Section<'_>, dialect: Dialect) -> Option<String> {
    let version = own.text("api_version")?;
    if dialect != Dialect::Azure {
        own.refuse(
            "api_version",
            "belongs to `dialect: azure`; remove it or set that",
        );
    } else if version.len() > 64
        || !version
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        own.refuse(
            "api_version",
            "is no version of Azure's API; write one like `2024-10-21`",
        );
    }
    Some(version)
}

fn read_ca_file(own: &Section<'_>) -> Option<PathBuf> {
    let path = own.file_path("ca_file")?;
    match super::file::read_regular(&path, 16 << 20) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => {}
        Ok(_) => own.refuse("ca_file", "holds no PEM certificate"),
        Err(fault) => own.refuse("ca_file", &format!("cannot be used: {fault}")),
    }
    Some(path)
}

fn read_headers(own: &Section<'_>) -> Vec<(String, Secret)> {
    let section = own.section("headers");
    let mut headers = Vec::new();
    for (name, _) in own.named("headers") {
        let lower = name.to_ascii_lowercase();
        let framing = [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
            "te",
            "trailer",
        ];
        if let Err(message) = header_name(&name) {
            section.refuse(&name, &format!("`{name}` {message}"));
        } else if framing.contains(&lower.as_str()) {
            section.refuse(&name, "belongs to the connection and cannot be set");
        } else if let Some(value) = section.header_value(&name) {
            headers.push((name, value));
        }
    }
    headers
}

fn read_param_whitelist(own: &Section<'_>) -> Vec<(String, Vec<Glob>)> {
    let section = own.section("param_whitelist");
    own.named("param_whitelist")
        .into_iter()
        .map(|(parameter, _)| {
            let globs = section.checked_list(&parameter, Vec::new(), |text| Ok(Glob::new(text)));
            (parameter, globs)
        })
        .collect()
}

fn endpoint(text: &str) -> Result<String, String> {
    let normal = text.starts_with('/')
        && text
            .split('/')
            .skip(1)
            .all(|segment| !matches!(segment, "" | "." | ".."))
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%'));
    if normal {
        return Ok(text.to_owned());
    }
    Err("is no path; write `/v1/chat/completions`, without query and slash at the end".to_owned())
}

impl ProviderTimeouts {
    fn read(section: &Section<'_>, request_timeout: Duration) -> Self {
        let default = Self::default();
        let range = MILLISECOND..=TEN_YEARS;
        section.optional_duration("flush_interval", Duration::ZERO..=TEN_YEARS);
        Self {
            connect: section.duration("connect", default.connect, range.clone()),
            response_header: section.duration("response_header", request_timeout, range.clone()),
            idle_connection: section.duration("idle_connection", default.idle_connection, range.clone()),
            request: section.optional_duration("request", range),
        }
    }
}

impl ProviderConnection {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let old = section.optional_number("max_idle_conns_per_host", 1..=1_000_000);
        Self {
            max_idle_connections: section.number(
                "max_idle_conns",
                old.unwrap_or(default.max_idle_connections),
                1..=1_000_000,
            ),
            http2: section.choice(
                "http2",
                default.http2,
                &[
                    ("auto", Http2::Auto),
                    ("never", Http2::Never),
                    ("always", Http2::Always),
                ],
                &[],
            ),
        }
    }
}
