//! `server`: the data plane's listeners, time-outs and bounds.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::address::ListenAddress;
use super::machine;
use super::schema::Key;
use super::section::{MILLISECOND, Section, TEN_YEARS};

pub(super) const KEYS: &[Key] = &[
    Key::new("server.listen", ":8080", "Where the proxy listens: one address or a list of `host:port`, `[::]:port`, `:port`.").process(),
    Key::new("server.tls", "none", "Certificates, chosen by SNI: a list of `{cert_file, key_file}`.").inactive(),
    Key::new("server.tls_min_version", "1.2", "Oldest TLS version: `1.2` or `1.3`.").process().inactive(),
    Key::new("server.acme", "none", "Automatic certificates: `{domains, email, directory, storage}`.").inactive(),
    Key::new("server.state_dir", "the directory of `database.path`, else `./data`", "Folder of the grant log, the reload result and the pid; mode 0700.").computed().process(),
    Key::new("server.threads", "what affinity and cgroup allow", "Worker threads of the data plane.").computed().process(),
    Key::new("server.request_timeout", "600s", "To the end of the last answer's head, over all attempts, waits and retries; above: 504 `request_timeout`."),
    Key::new("server.stream_idle_timeout", "300s", "Longest silence inside an answer; above: 504 `idle_timeout` or a cut."),
    Key::new("server.header_timeout", "30s", "Time for a whole request head; above: 408 `header_timeout`."),
    Key::new("server.body_timeout", "60s", "Longest silence inside a request body; above: 408 `body_timeout`."),
    Key::new("server.keepalive_timeout", "75s", "How long an idle client connection is kept."),
    Key::new("server.max_header_size", "64KiB", "Largest request head; above: 431."),
    Key::new("server.max_headers", "200", "Most header lines of a request, at most 256; above: 431."),
    Key::new("server.max_request_size", "100MB", "Largest body of any kind, counted while reading; above: 413."),
    Key::new("server.max_inspected_size", "32MiB", "Largest body that must be held in memory to be understood (JSON); above: 413."),
    Key::new("server.memory_budget", "a quarter of the memory available, at least 64MiB", "Bytes of held bodies and answers together; one token at most a quarter of it; above: 503 `overloaded`.").computed(),
    Key::new("server.max_concurrent_requests", "none", "Requests under way at once; above: 503 `overloaded`. Management is not affected."),
    Key::new("server.max_connections", "(RLIMIT_NOFILE - 256) / 2", "Connections open at once; above: accepted, 503 `overloaded`, closed; health paths are still answered.").computed(),
    Key::new("server.drain_timeout", "60s", "How long running requests may take to end when the process stops; then they are cut."),
    Key::new("server.shutdown_delay", "0s", "How long everything is still served after `/ready` turned 503."),
    Key::new("server.path_prefixes", "[/api/litellm]", "Stripped from paths before routing."),
    Key::new("server.trusted_proxies", "[]", "CIDRs whose `X-Forwarded-For` names the client; `0.0.0.0/0` and `::/0` are refused."),
    Key::new("server.proxy_protocol", "off", "PROXY protocol on the listener: `off` or `v1v2`.").process().inactive(),
    Key::new("server.expose_headers", "[origin, provider, model, attempts, timing, cache, ratelimit]", "Which of our own headers answers carry; also `cost` (on answers that are no streams) and `cache_key`."),
];

/// `server`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// Where the proxy listens; at least one.
    pub listen: Vec<ListenAddress>,
    /// Grant log, spool, reload result, pid.
    pub state_dir: PathBuf,
    /// Worker threads of the data plane.
    pub threads: usize,
    /// To the end of the last head, over all attempts, waits and retries.
    pub request_timeout: Duration,
    /// Longest silence inside an answer.
    pub stream_idle_timeout: Duration,
    /// Time for a whole request head.
    pub header_timeout: Duration,
    /// Longest silence inside a request body.
    pub body_timeout: Duration,
    /// How long an idle client connection is kept.
    pub keepalive_timeout: Duration,
    /// Largest request head; above: 431.
    pub max_header_bytes: usize,
    /// Most header lines of a request; above: 431.
    pub max_headers: usize,
    /// Largest request body of any kind; above: 413.
    pub max_request_bytes: u64,
    /// Largest body that is held in memory to be understood; above: 413.
    pub max_inspected_bytes: u64,
    /// Bytes that all held bodies and answers may take together; above: 503 `overloaded`.
    pub memory_budget_bytes: u64,
    /// Requests under way at once; `None` is no bound.
    pub max_concurrent_requests: Option<u32>,
    /// Connections open at once.
    pub max_connections: usize,
    /// How long running requests may take to end when the process stops.
    pub drain_timeout: Duration,
    /// How long everything is still served after `/ready` turned 503.
    pub shutdown_delay: Duration,
    /// Stripped from paths before routing; each starts with `/` and does not end with one.
    pub path_prefixes: Vec<String>,
    /// Peers whose `X-Forwarded-For` names the client.
    pub trusted_proxies: Vec<IpNet>,
    /// Which of our own headers answers carry.
    pub expose_headers: ExposedHeaders,
}

/// `server.expose_headers`: which of our own headers answers carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExposedHeaders {
    /// `X-LLM-Proxy-Origin`.
    pub origin: bool,
    /// `X-LLM-Proxy-Provider`.
    pub provider: bool,
    /// `X-LLM-Proxy-Model`.
    pub model: bool,
    /// `X-LLM-Proxy-Attempts`.
    pub attempts: bool,
    /// The timing headers.
    pub timing: bool,
    /// `X-PROXY-CACHE` and `Cache-Status`.
    pub cache: bool,
    /// `x-ratelimit-*`.
    pub ratelimit: bool,
    /// `X-LLM-Proxy-Cost-Usd`.
    pub cost: bool,
    /// `X-PROXY-CACHE-KEY`.
    pub cache_key: bool,
}

impl Default for ExposedHeaders {
    fn default() -> Self {
        Self {
            origin: true,
            provider: true,
            model: true,
            attempts: true,
            timing: true,
            cache: true,
            ratelimit: true,
            cost: false,
            cache_key: false,
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddress::any(8080)],
            state_dir: PathBuf::from("./data"),
            threads: machine::threads(),
            request_timeout: Duration::from_mins(10),
            stream_idle_timeout: Duration::from_mins(5),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_mins(1),
            keepalive_timeout: Duration::from_secs(75),
            max_header_bytes: 64 << 10,
            max_headers: 200,
            max_request_bytes: 100_000_000,
            max_inspected_bytes: 32 << 20,
            memory_budget_bytes: machine::memory_budget_bytes(),
            max_concurrent_requests: None,
            max_connections: machine::max_connections(),
            drain_timeout: Duration::from_mins(1),
            shutdown_delay: Duration::ZERO,
            path_prefixes: vec!["/api/litellm".to_owned()],
            trusted_proxies: Vec::new(),
            expose_headers: ExposedHeaders::default(),
        }
    }
}

impl ServerSettings {
    pub(super) fn read(section: &Section<'_>, state_dir: PathBuf) -> Self {
        let default = Self::default();
        let duration = |key: &str, default| section.duration(key, default, MILLISECOND..=TEN_YEARS);
        Self {
            listen: read_listen(section, default.listen),
            state_dir: section.file_path("state_dir").unwrap_or(state_dir),
            threads: section.number("threads", default.threads, 1..=1024),
            request_timeout: duration("request_timeout", default.request_timeout),
            stream_idle_timeout: duration("stream_idle_timeout", default.stream_idle_timeout),
            header_timeout: duration("header_timeout", default.header_timeout),
            body_timeout: duration("body_timeout", default.body_timeout),
            keepalive_timeout: duration("keepalive_timeout", default.keepalive_timeout),
            max_header_bytes: section.size(
                "max_header_size",
                default.max_header_bytes as u64,
                1024..=1_000_000,
            ) as usize,
            max_headers: section.number("max_headers", default.max_headers, 8..=256),
            max_request_bytes: section.size("max_request_size", default.max_request_bytes, 1..=1 << 40),
            max_inspected_bytes: section.size("max_inspected_size", default.max_inspected_bytes, 1..=1 << 30),
            memory_budget_bytes: section.size(
                "memory_budget",
                default.memory_budget_bytes,
                1 << 20..=1 << 44,
            ),
            max_concurrent_requests: section.optional_number("max_concurrent_requests", 1..=u32::MAX),
            max_connections: section.number("max_connections", default.max_connections, 1..=1 << 20),
            drain_timeout: section.duration(
                "drain_timeout",
                default.drain_timeout,
                Duration::ZERO..=TEN_YEARS,
            ),
            shutdown_delay: section.duration(
                "shutdown_delay",
                default.shutdown_delay,
                Duration::ZERO..=TEN_YEARS,
            ),
            path_prefixes: section.checked_list("path_prefixes", default.path_prefixes, path_prefix),
            trusted_proxies: section.checked_list("trusted_proxies", default.trusted_proxies, trusted_proxy),
            expose_headers: read_exposed(section),
        }
    }
}

fn read_listen(section: &Section<'_>, default: Vec<ListenAddress>) -> Vec<ListenAddress> {
    let Some(items) = section.one_or_list("listen") else {
        return default;
    };
    let mut addresses: Vec<ListenAddress> = Vec::new();
    for item in &items {
        match item.text.parse() {
            _ if item.text.starts_with("unix:") => {
                section.refuse_item(item, "is not supported in this version; write `host:port`");
            }
            Ok(address) if addresses.contains(&address) && address.port != 0 => {
                section.refuse_item(item, "stands here twice");
            }
            Ok(address) => addresses.push(address),
            Err(message) => section.refuse_item(item, &message),
        }
    }
    if items.is_empty() {
        section.refuse("listen", "names no address; write `:8080`");
    }
    addresses
}

fn path_prefix(text: &str) -> Result<String, String> {
    let normal = text.starts_with('/')
        && text.len() > 1
        && text
            .split('/')
            .skip(1)
            .all(|segment| !matches!(segment, "" | "." | ".."))
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b));
    if !normal {
        return Err("is no path prefix; write `/name` without a slash at the end".to_owned());
    }
    match text.split('/').nth(1) {
        Some("v1" | "openai" | "manage" | "health" | "ready" | "live" | "metrics") => {
            Err("begins like a path that is served anyway; choose another".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

fn trusted_proxy(text: &str) -> Result<IpNet, String> {
    if text == "unix" {
        return Err("is not supported in this version; write addresses or CIDRs".to_owned());
    }
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| "is no CIDR; write `10.0.0.0/8`, `fd00::/8` or one address".to_owned())?;
    if net.prefix_len() == 0 {
        return Err("would let every client choose its own address; name the proxies' networks".to_owned());
    }
    Ok(net.trunc())
}

fn read_exposed(section: &Section<'_>) -> ExposedHeaders {
    let Some(items) = section.list("expose_headers") else {
        return ExposedHeaders::default();
    };
    let mut exposed = ExposedHeaders {
        origin: false,
        provider: false,
        model: false,
        attempts: false,
        timing: false,
        cache: false,
        ratelimit: false,
        cost: false,
        cache_key: false,
    };
    for item in &items {
        match item.text.as_str() {
            "origin" => exposed.origin = true,
            "provider" => exposed.provider = true,
            "model" => exposed.model = true,
            "attempts" => exposed.attempts = true,
            "timing" => exposed.timing = true,
            "cache" => exposed.cache = true,
            "ratelimit" => exposed.ratelimit = true,
            "cache_key" => exposed.cache_key = true,
            "cost" => exposed.cost = true,
            _ => section.refuse_item(
                item,
                "is not known here; write `origin`, `provider`, `model`, `attempts`, `timing`, `cache`, `ratelimit`, `cost` or `cache_key`",
            ),
        }
    }
    exposed
}
