//! Counts what happens before a request exists.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(super) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the front has counted since the start.
#[derive(Debug, Default)]
pub struct FrontCounters {
    /// Connections accepted, the refused ones included.
    pub connections_accepted: Counter,
    /// Connections refused because `max_connections` were open.
    pub connections_refused: Counter,
    /// Times a connection could not be accepted.
    pub accept_errors: Counter,
    /// Heads refused as malformed, or for a method that is never served.
    pub malformed_heads: Counter,
    /// Heads above a limit.
    pub oversized_heads: Counter,
    /// Heads that did not come in time.
    pub slow_heads: Counter,
    /// Requests that ended in a panic.
    pub panics: Counter,
}
