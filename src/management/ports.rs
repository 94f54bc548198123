//! What the control plane asks of the rest of the program; `app` hands in who answers.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::domain::audit::AuditSink;
use crate::domain::{Dialect, ProjectId, Timestamp};

/// The running configuration.
#[async_trait]
pub trait ConfigView: Send + Sync + 'static {
    /// What `GET /manage/config` answers: effective values with secrets masked, generation, keys not active
    /// in this version, last reload.
    fn show(&self) -> Value;
    /// Reads, checks and swaps in the configuration.
    async fn reload(&self) -> ReloadAnswer;
}

/// What a reload came to.
#[derive(Debug, Clone, PartialEq)]
pub enum ReloadAnswer {
    /// The new configuration holds; the outcome is answered as it is (generation, what needs a new process).
    Applied(Value),
    /// The old configuration stays. Each error says file, line, column and what would be right.
    Refused(Vec<String>),
}

/// The configured providers.
pub trait ProviderView: Send + Sync + 'static {
    /// All of them, in configuration order.
    fn list(&self) -> Vec<ProviderEntry>;
    /// The provider that `api_key` of a project is for.
    fn default_provider(&self) -> String;
    /// Whether provider `name` has a key in the configuration (or needs none); `None`: no such provider.
    fn has_configured_key(&self, name: &str) -> Option<bool>;
}

/// One provider as `GET /manage/providers` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ProviderEntry {
    /// Its configured name.
    pub name: String,
    /// The wire format it speaks.
    #[schemars(with = "String")]
    pub dialect: Dialect,
    /// Its address, without user information.
    pub base_url: String,
    /// Whether requests without a model go there.
    pub default: bool,
    /// Whether the configuration has a key for it.
    pub key: KeyState,
    /// How it is.
    pub health: ProviderHealth,
    /// Targets that cool down.
    pub cooldowns: Vec<Cooldown>,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests that wait for a place or for the rate of a key.
    pub waiting: u64,
    /// Its targets: the configured ones, and those that clients named and that are cooling, failing or in use.
    pub targets: Vec<TargetEntry>,
    /// Its keys in the configuration, by their names.
    pub keys: Vec<KeyEntry>,
}

/// One model at a provider.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TargetEntry {
    /// The provider's name of the model; empty for calls without one.
    pub model: String,
    /// `closed`, `open` (left alone) or `half_open` (one request tries it).
    pub state: String,
    /// Failures in a row.
    pub failures: u32,
    /// Requests under way.
    pub in_flight: u64,
    /// Milliseconds to the head of its good answers, of late; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// One key of a provider, without the key.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct KeyEntry {
    /// Its name.
    pub id: String,
    /// `ok`, or why it is left alone: `refused`, `money`, `rate_limited`.
    pub state: String,
    /// Until when it is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<super::openapi::shapes::Time>")]
    pub until: Option<Timestamp>,
    /// Requests that wait for its rate.
    pub waiting: u64,
}

/// Whether a provider has a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub enum KeyState {
    /// In the configuration.
    #[serde(rename = "configured")]
    Configured,
    /// It needs none.
    #[serde(rename = "not needed")]
    NotNeeded,
    /// Only projects with a key of their own can use it.
    #[serde(rename = "no key")]
    Missing,
}

/// How a provider is, as its breakers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderHealth {
    /// All its targets are tried.
    Healthy,
    /// Some of its targets cool down.
    Degraded,
    /// All its targets cool down.
    CoolingDown,
}

/// One target that is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cooldown {
    /// The provider's name of the model; absent when the whole provider cools down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Until when.
    #[schemars(with = "super::openapi::shapes::Time")]
    pub until: Timestamp,
    /// Why, in a word or two.
    pub reason: String,
}

/// The configured public models.
pub trait ModelView: Send + Sync + 'static {
    /// All of them, in configuration order.
    fn list(&self) -> Vec<ModelEntry>;
}

/// One public model as `GET /manage/models` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ModelEntry {
    /// The public name.
    pub name: String,
    /// How a target is chosen.
    pub strategy: String,
    /// Tokens the model can read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// Tokens the model can write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// Where it goes.
    pub targets: Vec<ModelTarget>,
}

/// One target of a public model.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ModelTarget {
    /// The provider's configured name.
    pub provider: String,
    /// The provider's name of the model.
    pub model: String,
    /// Its share.
    pub weight: u32,
    /// Lower goes first.
    pub priority: u32,
}

/// The HTTP cache.
#[async_trait]
pub trait CacheAdmin: Send + Sync + 'static {
    /// Drops entries; answers how many, or that there is no cache.
    async fn purge(&self, purge: Purge) -> PurgeOutcome;
    /// What `GET /manage/cache` answers.
    fn stats(&self) -> CacheStats;
}

/// What a purge is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purge {
    /// All variants of one method and URL, of one project or of all.
    Url {
        /// Upper case.
        method: String,
        /// Path and query as the client sends them.
        path_and_query: String,
        /// Of this project alone.
        project: Option<ProjectId>,
    },
    /// Everything whose shown key starts so.
    Prefix(String),
    /// Everything of one project.
    Project(ProjectId),
    /// Everything.
    All,
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeOutcome {
    /// So many entries were dropped.
    Deleted(u64),
    /// Caching is off.
    Disabled,
}

/// Counters and gauges of the cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct CacheStats {
    /// Whether it is on.
    pub enabled: bool,
    /// `memory`, `redis`.
    pub backend: &'static str,
    /// Entries now.
    pub entries: u64,
    /// Bytes now.
    pub bytes: u64,
    /// Bytes at most.
    pub max_bytes: u64,
    /// Answers from the cache since the start.
    pub hits: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    /// Answers stored.
    pub stores: u64,
    /// Requests that were not looked up.
    pub bypasses: u64,
    /// Requests answered by the provider call of an identical one that was under way.
    pub coalesced: u64,
    /// Requests that wait for such an answer, or read it, now.
    pub followers: u64,
}

/// The counters of tokens that are not in the store yet.
#[async_trait]
pub trait UsageFlush: Send + Sync + 'static {
    /// Writes them, so that what is read next is true. Trouble is the flusher's to log.
    async fn flush(&self);
}

/// The metrics of the process.
pub trait MetricsView: Send + Sync + 'static {
    /// Prometheus text, format 0.0.4.
    fn prometheus(&self) -> String;
    /// The JSON of `METRICS_PATH`.
    fn json(&self) -> Value;
}

/// Whether traffic should come here.
pub trait Readiness: Send + Sync + 'static {
    /// The truth of this moment.
    fn state(&self) -> ReadyState;
}

/// The truth of `/ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadyState {
    /// Everything works.
    Ready,
    /// The process is not up yet.
    Starting,
    /// The process is on its way out.
    Draining,
    /// The store was never reached since the start; the word says why ([`crate::store::StoreError::kind`]).
    StoreNeverReached(&'static str),
    /// It serves, with less than everything; words such as `store_unavailable`.
    Degraded(Vec<&'static str>),
}

/// The audit trail: takes events, and can be asked to have written what it took.
#[async_trait]
pub trait AuditTrail: AuditSink {
    /// Returns when the events offered before are written, or after a second.
    async fn flush(&self);
}
