//! The cache's part in one request: what was asked of it, what came of it, and the fill of a miss.

use bytes::Bytes;
use http::header::HeaderValue;
use pingora_cache::{CachePhase, HttpCache};
use pingora_http::ResponseHeader;

use crate::cache::{CacheOutcome, EntryKey, Lookup, ResponseCache, Storable};

/// The cache's part in one request.
#[derive(Debug, Default)]
pub struct CacheState {
    /// What the request allows; `None`: it is not looked up.
    pub lookup: Option<Lookup>,
    /// Under which key.
    pub key: Option<EntryKey>,
    /// What came of it; `None` for refusals, which carry no cache fields.
    pub outcome: Option<CacheOutcome>,
}

impl CacheState {
    /// Adds `X-PROXY-CACHE`, `Cache-Status` and, when exposed, the key.
    pub(super) fn decorate(
        &self,
        exposed: bool,
        key_exposed: bool,
        answer: &mut ResponseHeader,
    ) -> pingora_core::Result<()> {
        let Some(outcome) = self.outcome else {
            return Ok(());
        };
        if exposed {
            answer.insert_header("x-proxy-cache", HeaderValue::from_static(outcome.as_str()))?;
            answer.insert_header("cache-status", HeaderValue::from_static(outcome.cache_status()))?;
        }
        if key_exposed && let Some(key) = &self.key {
            answer.insert_header("x-proxy-cache-key", key.to_string())?;
        }
        Ok(())
    }

    /// A miss whose answer is not stored.
    pub(super) fn miss(&mut self) {
        if let Some(lookup) = &self.lookup {
            self.outcome = Some(CacheOutcome::Miss {
                refresh: lookup.refresh,
            });
        }
    }
}

/// The fill of a miss by the answer that goes to the client. Its troubles never touch the answer.
pub(crate) struct Fill<'a> {
    cache: &'a mut HttpCache,
    response_cache: &'a ResponseCache,
    running: bool,
}

impl<'a> Fill<'a> {
    /// No fill has begun.
    pub(crate) fn idle(cache: &'a mut HttpCache, response_cache: &'a ResponseCache) -> Self {
        Self {
            cache,
            response_cache,
            running: false,
        }
    }

    /// Whether the request was looked up and missed, so that its answer may be stored.
    pub(crate) fn is_possible(&self) -> bool {
        self.cache.enabled() && self.cache.phase() == CachePhase::Miss
    }

    /// Begins to store; answers whether it did.
    pub(crate) async fn begin(
        &mut self,
        head: &ResponseHeader,
        answer: &Storable,
        max_object_bytes: u64,
    ) -> bool {
        self.running = self
            .response_cache
            .begin(self.cache, head, answer, max_object_bytes)
            .await;
        self.running
    }

    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: &Bytes) {
        if self.running {
            self.response_cache.write(self.cache, bytes.clone()).await;
        }
    }

    /// The answer was whole: keeps it.
    pub(crate) async fn finish(&mut self) {
        if std::mem::take(&mut self.running) {
            self.response_cache.finish(self.cache).await;
        }
    }

    /// The answer was not whole, or is not to be stored.
    pub(crate) fn abandon(&mut self) {
        self.running = false;
        self.response_cache.abandon(self.cache);
    }
}
