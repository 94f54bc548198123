//! Counts what happens before a request exists.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::Metrics;
use crate::telemetry::metrics::Source;

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

impl FrontCounters {
    /// Lets `metrics` read these counts.
    pub(super) fn report_to(self: &Arc<Self>, metrics: &Metrics) {
        type Pick = fn(&FrontCounters) -> &Counter;
        let table: [(Source, Pick); 7] = [
            (Source::ConnectionsAccepted, |counts| &counts.connections_accepted),
            (Source::ConnectionsRefused, |counts| &counts.connections_refused),
            (Source::AcceptErrors, |counts| &counts.accept_errors),
            (Source::HeadsMalformed, |counts| &counts.malformed_heads),
            (Source::HeadsTooLarge, |counts| &counts.oversized_heads),
            (Source::HeadsTooSlow, |counts| &counts.slow_heads),
            (Source::Panics, |counts| &counts.panics),
        ];
        for (source, pick) in table {
            let counts = Arc::clone(self);
            metrics.connect(source, move || pick(&counts).get());
        }
    }
}
