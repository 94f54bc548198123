//! Have we answered this before: freshness rules, keys and the bounded memory store.
//!
//! Pingora's cache phases do the lookup and answer hits; the forwarding loop admits by hand. In the order of
//! a request: [`Plan::of`] and [`EntryKey::of`] (admission) → [`ResponseCache::enable`]
//! (`request_cache_filter`) → [`EntryKey::to_pingora`] (`cache_key_callback`) → [`Lookup::verdict`]
//! (`cache_hit_filter`) → [`storable`] and [`ResponseCache::begin`] (the loop has the answer's head) →
//! [`ResponseCache::write`] for each chunk → [`ResponseCache::finish`] after a whole answer, else
//! [`ResponseCache::abandon`].

mod canonical;
mod complete;
mod fill;
mod hit;
pub mod key;
pub mod memory;
pub mod outcome;
pub mod policy;
pub mod purge;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::header;
use pingora_cache::{CacheKey, CacheMeta, CachePhase, ForcedFreshness, HttpCache, NoCacheReason};
use pingora_http::ResponseHeader;

pub use canonical::canonical_json;
pub use key::{EntryKey, KeyParts};
pub use memory::{FillRules, MemoryStore, RunningFills, StoreStats};
pub use outcome::CacheOutcome;
pub use policy::{AnswerFacts, Bypass, Framing, Lookup, NotStored, Plan, Storable, not_cached, storable};
pub use purge::Purge;

use crate::domain::Clock;

/// The cache of the process.
pub struct ResponseCache {
    store: &'static MemoryStore,
    hits: AtomicU64,
    misses: AtomicU64,
    bypasses: AtomicU64,
    stores: AtomicU64,
}

/// What operators see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Answers from the cache, our 304 included.
    pub hits: u64,
    /// Looked up and not found, whether stored afterwards or not.
    pub misses: u64,
    /// Not looked up.
    pub bypasses: u64,
    /// Answers whose storing began.
    pub stores: u64,
    /// The store itself.
    pub store: StoreStats,
}

/// Header fields that belong to one exchange or to our own answer and are never stored.
const NOT_STORED: [&str; 24] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "set-cookie",
    "server",
    "alt-svc",
    "strict-transport-security",
    "nel",
    "report-to",
    "age",
    "x-request-id",
    "request-id",
    "openai-organization",
    "openai-project",
    "openai-processing-ms",
    "anthropic-organization-id",
    "cache-status",
    "x-proxy",
];

const NOT_STORED_PREFIXES: [&str; 7] = [
    "access-control-",
    "x-ratelimit-",
    "anthropic-ratelimit-",
    "retry-after",
    "x-llm-proxy-",
    "x-proxy-",
    "proxy-",
];

impl ResponseCache {
    /// A cache of at most `max_size_bytes`, which lives as long as the process.
    pub fn new(max_size_bytes: u64, sharing: RunningFills, clock: Arc<dyn Clock>) -> Self {
        Self {
            store: MemoryStore::leak(max_size_bytes, sharing, clock),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            bypasses: AtomicU64::new(0),
            stores: AtomicU64::new(0),
        }
    }

    /// Turns Pingora's cache phases on for a request that is looked up.
    pub fn enable(&self, cache: &mut HttpCache) {
        if !cache.enabled() {
            cache.enable(self.store, None, None, None, None);
        }
    }

    /// Begins to store an answer, after a miss. `head` is the provider's; what must not be stored is left out
    /// here. Answers whether storing has begun.
    pub async fn begin(
        &self,
        cache: &mut HttpCache,
        head: &ResponseHeader,
        answer: &Storable,
        max_object_bytes: u64,
    ) -> bool {
        if cache.phase() != CachePhase::Miss {
            return false;
        }
        let epoch = SystemTime::UNIX_EPOCH;
        let mut meta = CacheMeta::new(epoch, epoch, 0, 0, stored_head(head));
        meta.extensions_mut().insert(FillRules {
            fresh_for: answer.fresh_for,
            age: answer.age,
            max_object_bytes,
            content_length: answer.content_length,
            is_stream: answer.is_stream,
        });
        cache.set_cache_meta(meta);
        if let Err(error) = cache.set_miss_handler().await {
            log::warn!("an answer cannot be stored: {error}");
            cache.disable(NoCacheReason::StorageError);
            return false;
        }
        self.stores.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Stores a chunk of an answer whose storing has begun. Never fails: what cannot be stored is dropped.
    pub async fn write(&self, cache: &mut HttpCache, chunk: Bytes) {
        if cache.phase() == CachePhase::Miss
            && let Some(writer) = cache.miss_handler()
            && let Err(error) = writer.write_body(chunk, false).await
        {
            log::warn!("an answer cannot be stored: {error}");
        }
    }

    /// The answer is whole: others may have it.
    pub async fn finish(&self, cache: &mut HttpCache) {
        if cache.phase() == CachePhase::Miss
            && let Err(error) = cache.finish_miss_handler().await
        {
            log::warn!("an answer cannot be stored: {error}");
        }
    }

    /// The answer is not whole, or will not be stored after all.
    pub fn abandon(&self, cache: &mut HttpCache) {
        if cache.enabled() {
            cache.disable(NoCacheReason::UpstreamError);
        }
    }

    /// Counts what became of a request.
    pub fn count(&self, outcome: CacheOutcome) {
        let counter = match outcome {
            CacheOutcome::Hit | CacheOutcome::ConditionalHit => &self.hits,
            CacheOutcome::Stored { .. } | CacheOutcome::Miss { .. } => &self.misses,
            CacheOutcome::Bypass(_) => &self.bypasses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes entries and answers how many.
    pub fn purge(&self, purge: &Purge) -> u64 {
        self.store.purge_entries(purge)
    }

    /// What operators see.
    pub fn stats(&self) -> CacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: read(&self.hits),
            misses: read(&self.misses),
            bypasses: read(&self.bypasses),
            stores: read(&self.stores),
            store: self.store.stats(),
        }
    }
}

impl EntryKey {
    /// Pingora's form.
    pub fn to_pingora(&self) -> CacheKey {
        let mut key = CacheKey::new(Vec::new(), String::new());
        key.set_primary_bin_override(self.hash);
        key.extensions.insert(self.clone());
        key
    }
}

impl Lookup {
    /// What `cache_hit_filter` answers for something found: `None` when it is good enough for this request.
    pub fn verdict(&self, meta: &CacheMeta, clock: &dyn Clock) -> Option<ForcedFreshness> {
        let now = memory::system_time(clock.now());
        let fresh_for = meta.fresh_until().duration_since(now).unwrap_or_default();
        let age = now.duration_since(meta.created()).unwrap_or_default();
        if self.accepts(age, fresh_for) {
            None
        } else {
            Some(ForcedFreshness::ForceMiss)
        }
    }
}

/// A head as it is stored: without what belongs to one exchange, one client or our own answers.
fn stored_head(head: &ResponseHeader) -> ResponseHeader {
    let mut stored = head.clone();
    let nominated: Vec<String> = head
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let unwanted: Vec<String> = head
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| {
            NOT_STORED.contains(name)
                || NOT_STORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || nominated.iter().any(|nominated| nominated == name)
        })
        .map(str::to_owned)
        .collect();
    for name in unwanted {
        stored.remove_header(name.as_str());
    }
    stored
}

#[cfg(test)]
mod tests;
