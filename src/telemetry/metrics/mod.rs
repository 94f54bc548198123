//! Every metric of the process, declared once.

mod declared;
mod render;
mod series;
mod sources;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};

use crate::domain::denial::LimitScope;
use crate::domain::{Clock, DenialCode, ProjectId};

use declared::Declared;
use series::SeriesCache;
pub use sources::Source;

/// What a finished request is counted under.
#[derive(Debug, Clone, Copy)]
pub struct RequestLabels<'a> {
    /// The tenant, once known.
    pub project: Option<ProjectId>,
    /// The configured name of the provider that answered; empty when none was asked.
    pub provider: &'a str,
    /// The public name of the model if it is configured or priced, else `other`; empty when there is none.
    pub model: &'a str,
    /// The status that the client got.
    pub status: u16,
}

/// What a finished request took.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestFacts {
    /// From the end of its head to the last byte of its answer.
    pub duration: Duration,
    /// To the first byte of the provider's answer.
    pub time_to_first_byte: Option<Duration>,
    /// Our own share of the duration.
    pub overhead: Option<Duration>,
    /// What the provider counted.
    pub tokens: TokenCounts,
    /// What it cost, in billionths of a dollar.
    pub cost_nano_usd: i64,
    /// The word of our refusal, if we refused.
    pub error: Option<DenialCode>,
}

/// Tokens of one request by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Read, cached ones included.
    pub prompt: u64,
    /// Written.
    pub completion: u64,
    /// Read from the provider's cache.
    pub cache_read: u64,
    /// Written to the provider's cache.
    pub cache_write: u64,
    /// Spent on reasoning.
    pub reasoning: u64,
}

/// What the HTTP cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheEvent {
    /// Answered from the cache.
    Hit,
    /// Looked up and not found.
    Miss,
    /// Not looked up.
    Bypass,
    /// An answer was stored.
    Store,
}

/// How a reload of the configuration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// The new configuration is in use.
    Applied,
    /// The old one stays.
    Refused,
}

/// The metrics of the process. Counting is lock-free but for a shared read lock per request.
pub struct Metrics {
    clock: Arc<dyn Clock>,
    started: Duration,
    declared: Declared,
    series: SeriesCache,
    requests: AtomicU64,
    errors: AtomicU64,
    sources: Mutex<Vec<sources::Connected>>,
}

impl Metrics {
    /// Metrics of a process that starts now.
    ///
    /// # Errors
    /// Two metrics were declared under one name: a defect of this program.
    pub fn new(clock: Arc<dyn Clock>) -> Result<Arc<Self>, prometheus::Error> {
        let declared = Declared::new()?;
        declared
            .build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(Arc::new(Self {
            started: clock.monotonic(),
            clock,
            declared,
            series: SeriesCache::default(),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            sources: Mutex::default(),
        }))
    }

    /// Counts a finished request.
    pub fn record_request(&self, labels: RequestLabels<'_>, facts: &RequestFacts) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if labels.status >= 400 {
            self.errors.fetch_add(1, Ordering::Relaxed);
            self.declared.error(facts.error).inc();
        }
        if let Some(overhead) = facts.overhead {
            self.declared.overhead.observe(overhead.as_secs_f64());
        }
        self.series.of(&self.declared, labels).record(facts);
    }

    /// Counts a try at a provider; `status` is what it answered, if it did.
    pub fn count_attempt(&self, provider: &str, status: Option<u16>) {
        self.series.attempts(&self.declared, provider, status).inc();
    }

    /// Counts a try that came to nothing; `provider` is a configured one.
    pub fn count_failure(&self, provider: &str, cause: &str) {
        self.declared.failures.with_label_values(&[provider, cause]).inc();
    }

    /// Counts a wait for a provider: for a `turn`, or a `pause` between attempts.
    pub fn count_wait(&self, provider: &str, what_for: &str) {
        self.declared.waits.with_label_values(&[provider, what_for]).inc();
    }

    /// Counts what the cache did.
    pub fn count_cache(&self, event: CacheEvent) {
        self.cache_counter(event).inc();
    }

    /// Counts an answer of a priced model for which no usage is known.
    pub fn count_priced_without_usage(&self) {
        self.declared.priced_without_usage.inc();
    }

    /// Counts a refusal by a limit.
    pub fn count_rate_limited(&self, scope: LimitScope) {
        self.declared.rate_limited(scope).inc();
    }

    /// Counts a reload of the configuration.
    pub fn count_config_reload(&self, result: ReloadResult) {
        let result = match result {
            ReloadResult::Applied => "applied",
            ReloadResult::Refused => "refused",
        };
        self.declared.config_reloads.with_label_values(&[result]).inc();
    }

    /// Counts a failure of the store.
    pub fn count_store_error(&self) {
        self.declared.store_errors.inc();
    }

    /// Counts an event that nobody will get.
    pub fn count_event_dropped(&self) {
        self.declared.events_dropped.inc();
    }

    /// Counts a request as running until the guard is dropped.
    pub fn request_began(&self) -> ActiveGuard {
        ActiveGuard::of(&self.declared.active_requests)
    }

    /// Counts a streamed answer as running until the guard is dropped.
    pub fn stream_began(&self) -> ActiveGuard {
        ActiveGuard::of(&self.declared.active_streams)
    }

    /// Connects a number that another part counts by itself; it is read when metrics are.
    pub fn connect(&self, source: Source, read: impl Fn() -> u64 + Send + Sync + 'static) {
        let mut connected = self.sources.lock();
        connected.retain(|known| known.source != source);
        connected.push(sources::Connected {
            source,
            read: Box::new(read),
        });
        connected.sort_by_key(|known| known.source);
    }

    fn cache_counter(&self, event: CacheEvent) -> &IntCounter {
        match event {
            CacheEvent::Hit => &self.declared.cache_hits,
            CacheEvent::Miss => &self.declared.cache_misses,
            CacheEvent::Bypass => &self.declared.cache_bypass,
            CacheEvent::Store => &self.declared.cache_stores,
        }
    }

    fn uptime(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.started)
    }
}

/// Something that runs; dropping it says that it has ended.
#[derive(Debug)]
pub struct ActiveGuard(IntGauge);

impl ActiveGuard {
    fn of(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
