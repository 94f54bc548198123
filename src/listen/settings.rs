//! What the connection front may be told while it runs.

use std::time::Duration;

/// Headers that Pingora can hold; a higher `max_headers` is cut to this.
pub(super) const HEADER_COUNT_CEILING: usize = 256;

/// The largest head that Pingora accepts; a higher `max_header_bytes` is cut to this.
const HEADER_BYTES_CEILING: usize = 896 * 1024;

/// Settings of the connection front; swapped whole on a reload, read once per request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontSettings {
    /// From the first byte of a head to its last (`server.header_timeout`).
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request (`server.keepalive_timeout`).
    pub keepalive_timeout: Duration,
    /// Request line and header fields together (`server.max_header_size`).
    pub max_header_bytes: usize,
    /// Header fields of one request (`server.max_headers`).
    pub max_headers: usize,
    /// Connections that are served at once (`server.max_connections`).
    pub max_connections: usize,
}

impl FrontSettings {
    /// The bound on a head's bytes that holds in fact.
    pub(super) fn header_bytes_limit(&self) -> usize {
        self.max_header_bytes.min(HEADER_BYTES_CEILING)
    }

    /// The bound on a head's fields that holds in fact.
    pub(super) fn header_count_limit(&self) -> usize {
        self.max_headers.min(HEADER_COUNT_CEILING)
    }
}

impl Default for FrontSettings {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(75),
            max_header_bytes: 64 * 1024,
            max_headers: 200,
            max_connections: super::descriptors::connections_for(super::descriptors::soft_limit()),
        }
    }
}
