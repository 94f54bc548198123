//! `server`: the data plane's listeners, time-outs and bounds.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::address::ListenAddress;
use super::machine;

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
            request_timeout: Duration::from_secs(600),
            stream_idle_timeout: Duration::from_secs(300),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(75),
            max_header_bytes: 64 << 10,
            max_headers: 200,
            max_request_bytes: 100_000_000,
            max_inspected_bytes: 32 << 20,
            memory_budget_bytes: machine::memory_budget_bytes(),
            max_concurrent_requests: None,
            max_connections: machine::max_connections(),
            drain_timeout: Duration::from_secs(60),
            shutdown_delay: Duration::ZERO,
            path_prefixes: vec!["/api/litellm".to_owned()],
            trusted_proxies: Vec::new(),
            expose_headers: ExposedHeaders::default(),
        }
    }
}
