//! Names, help texts, labels and buckets.

use prometheus::{
    CounterVec, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::domain::DenialCode;
use crate::domain::denial::LimitScope;

/// From a cached answer to the longest reasoning.
const DURATION_SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Our own time is a matter of microseconds.
const OVERHEAD_SECONDS: [f64; 12] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0,
];

/// The code of an error that a provider answered with.
const UPSTREAM_ERROR: &str = "upstream_status";

/// The kinds of tokens, in the order of [`super::TokenCounts`].
pub(super) const TOKEN_KINDS: [&str; 5] = ["prompt", "completion", "cache_read", "cache_write", "reasoning"];

/// The registry and the handles into it.
pub(super) struct Declared {
    pub registry: Registry,
    pub uptime: Gauge,
    pub build_info: IntGaugeVec,
    pub requests: IntCounterVec,
    pub duration: HistogramVec,
    pub time_to_first_byte: HistogramVec,
    pub overhead: Histogram,
    pub attempts: IntCounterVec,
    /// Tries that came to nothing.
    pub failures: IntCounterVec,
    /// Requests that waited for a provider, by what for.
    pub waits: IntCounterVec,
    pub tokens: IntCounterVec,
    pub cost: CounterVec,
    pub priced_without_usage: IntCounter,
    pub cache_hits: IntCounter,
    pub cache_misses: IntCounter,
    pub cache_bypass: IntCounter,
    pub cache_stores: IntCounter,
    pub active_requests: IntGauge,
    pub active_streams: IntGauge,
    pub config_reloads: IntCounterVec,
    pub store_errors: IntCounter,
    pub events_dropped: IntCounter,
    errors: Vec<IntCounter>,
    upstream_errors: IntCounter,
    rate_limited: [IntCounter; 4],
}

impl Declared {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let declare = Declare(Registry::new());
        let errors = declare.counters(
            "errors_total",
            "Answers with status 400 or above, by code.",
            &["code"],
        )?;
        let limited = declare.counters(
            "rate_limited_total",
            "Refusals by a limit, by what was limited.",
            &["scope"],
        )?;
        Ok(Self {
            uptime: declare.gauge("uptime_seconds", "Seconds since the process started.")?,
            build_info: declare.info(
                "build_info",
                "Always 1; the version is in the label.",
                &["version"],
            )?,
            requests: declare.counters(
                "requests_total",
                "Requests answered, refused ones included.",
                &["project", "provider", "model", "status"],
            )?,
            duration: declare.histograms(
                "request_duration_seconds",
                "From the end of a request's head to the last byte of its answer.",
            )?,
            time_to_first_byte: declare.histograms(
                "time_to_first_byte_seconds",
                "From the end of a request's head to the first byte of the provider's answer.",
            )?,
            overhead: declare.overhead()?,
            attempts: declare.counters(
                "upstream_attempts_total",
                "Tries at providers, by the status they answered or `none`.",
                &["provider", "status"],
            )?,
            failures: declare.failures()?,
            waits: declare.waits()?,
            tokens: declare.counters(
                "tokens_total",
                "Tokens counted by providers or estimated, by kind.",
                &["project", "provider", "model", "kind"],
            )?,
            cost: declare.costs()?,
            priced_without_usage: declare.counter(
                "priced_without_usage_total",
                "Answers of priced models for which no usage was told and nothing could be counted.",
            )?,
            cache_hits: declare.counter("cache_hits_total", "Answers from the cache.")?,
            cache_misses: declare.counter("cache_misses_total", "Look-ups that found nothing.")?,
            cache_bypass: declare.counter("cache_bypass_total", "Requests that were not looked up.")?,
            cache_stores: declare.counter("cache_stores_total", "Answers stored in the cache.")?,
            active_requests: declare.active("active_requests", "Requests under way.")?,
            active_streams: declare.active("active_streams", "Streamed answers under way.")?,
            config_reloads: declare.counters(
                "config_reloads_total",
                "Reloads of the configuration, by result.",
                &["result"],
            )?,
            store_errors: declare.counter("store_errors_total", "Failed calls to the store.")?,
            events_dropped: declare.counter("events_dropped_total", "Events that nobody will get.")?,
            errors: DenialCode::ALL
                .iter()
                .map(|code| errors.with_label_values(&[code.as_str()]))
                .collect(),
            upstream_errors: errors.with_label_values(&[UPSTREAM_ERROR]),
            rate_limited: [
                LimitScope::Global,
                LimitScope::Ip,
                LimitScope::Token,
                LimitScope::Project,
            ]
            .map(|scope| limited.with_label_values(&[scope.as_str()])),
            registry: declare.0,
        })
    }

    /// The counter of one error code; `None` is a provider's own error.
    pub(super) fn error(&self, code: Option<DenialCode>) -> &IntCounter {
        // the enum and its table come from one macro, in one order
        code.and_then(|code| self.errors.get(code as usize))
            .unwrap_or(&self.upstream_errors)
    }

    pub(super) fn rate_limited(&self, scope: LimitScope) -> &IntCounter {
        let [global, ip, token, project] = &self.rate_limited;
        match scope {
            LimitScope::Global => global,
            LimitScope::Ip => ip,
            LimitScope::Token => token,
            LimitScope::Project => project,
        }
    }
}

/// Registers metrics under the common prefix.
struct Declare(Registry);

type Declaration<T> = Result<T, prometheus::Error>;

impl Declare {
    fn options(name: &str, help: &str) -> Opts {
        Opts::new(format!("llm_proxy_{name}"), help)
    }

    fn keep<T: prometheus::core::Collector + Clone + 'static>(&self, metric: T) -> Declaration<T> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Declaration<IntCounter> {
        self.keep(IntCounter::with_opts(Self::options(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Declaration<IntCounterVec> {
        self.keep(IntCounterVec::new(Self::options(name, help), labels)?)
    }

    fn costs(&self) -> Declaration<CounterVec> {
        let options = Self::options("cost_usd_total", "What requests cost, in US dollars.");
        self.keep(CounterVec::new(options, &["project", "provider", "model"])?)
    }

    fn gauge(&self, name: &str, help: &str) -> Declaration<Gauge> {
        self.keep(Gauge::with_opts(Self::options(name, help))?)
    }

    fn active(&self, name: &str, help: &str) -> Declaration<IntGauge> {
        self.keep(IntGauge::with_opts(Self::options(name, help))?)
    }

    fn info(&self, name: &str, help: &str, labels: &[&str]) -> Declaration<IntGaugeVec> {
        self.keep(IntGaugeVec::new(Self::options(name, help), labels)?)
    }

    fn histograms(&self, name: &str, help: &str) -> Declaration<HistogramVec> {
        let options = HistogramOpts::from(Self::options(name, help)).buckets(DURATION_SECONDS.to_vec());
        self.keep(HistogramVec::new(options, &["provider", "model"])?)
    }

    fn failures(&self) -> Result<IntCounterVec, prometheus::Error> {
        self.counters(
            "upstream_failures_total",
            "Tries at providers that came to nothing for the client, by cause.",
            &["provider", "cause"],
        )
    }

    fn waits(&self) -> Result<IntCounterVec, prometheus::Error> {
        self.counters(
            "upstream_waits_total",
            "Requests that waited: for a place or the rate of a key (`turn`), or between attempts (`pause`).",
            &["provider", "for"],
        )
    }

    fn overhead(&self) -> Declaration<Histogram> {
        let options = Self::options(
            "overhead_seconds",
            "Our own time per request, the provider's left out.",
        );
        let options = HistogramOpts::from(options).buckets(OVERHEAD_SECONDS.to_vec());
        self.keep(Histogram::with_opts(options)?)
    }
}
