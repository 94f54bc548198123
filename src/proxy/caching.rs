//! The cache as the data plane uses it: what a request asked, what came of it, and the fill of a miss.

use bytes::Bytes;
use http::header::HeaderValue;
use pingora_cache::{CacheMeta, HttpCache, NoCacheReason};
use pingora_http::ResponseHeader;

/// What the cache had to say about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheStatus {
    /// Not decided yet, or a refusal: no field is shown.
    #[default]
    Unknown,
    /// Not looked up.
    Bypass,
    /// Looked up, not found, not storable.
    Miss,
    /// Looked up, not found, storing has begun.
    Stored,
    /// From the store.
    Hit,
    /// Our own 304.
    ConditionalHit,
}

impl CacheStatus {
    /// The value of `X-PROXY-CACHE`.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Bypass => Some("bypass"),
            Self::Miss => Some("miss"),
            Self::Stored => Some("stored"),
            Self::Hit => Some("hit"),
            Self::ConditionalHit => Some("conditional-hit"),
        }
    }
}

/// The cache's part in one request.
#[derive(Debug, Default)]
pub struct CacheState {
    /// What came of it.
    pub status: CacheStatus,
    /// The request opted in (`Cache-Control: public`), or a rule did for it.
    pub forced: bool,
    /// The key as people see it.
    pub shown_key: Option<String>,
}

impl CacheState {
    /// Refusals carry no cache fields.
    pub fn forget_for_refusal(&mut self) {
        self.status = CacheStatus::Unknown;
    }

    /// Adds `X-PROXY-CACHE`, `Cache-Status` and, when exposed, the key.
    pub(super) fn decorate(
        &self,
        exposed: bool,
        key_exposed: bool,
        answer: &mut ResponseHeader,
    ) -> pingora_core::Result<()> {
        let Some(word) = self.status.as_str() else { return Ok(()) };
        if exposed {
            answer.insert_header("x-proxy-cache", HeaderValue::from_static(word))?;
            answer.insert_header("cache-status", HeaderValue::from_static(self.cache_status()))?;
        }
        if key_exposed && let Some(key) = &self.shown_key {
            answer.insert_header("x-proxy-cache-key", key.as_str())?;
        }
        Ok(())
    }

    /// RFC 9211.
    fn cache_status(&self) -> &'static str {
        match self.status {
            CacheStatus::Hit | CacheStatus::ConditionalHit => "llm-proxy; hit",
            CacheStatus::Stored if self.forced => "llm-proxy; stored; fwd=uri-miss; detail=forced",
            CacheStatus::Stored => "llm-proxy; stored; fwd=uri-miss",
            CacheStatus::Miss => "llm-proxy; fwd=uri-miss",
            CacheStatus::Bypass | CacheStatus::Unknown => "llm-proxy; fwd=bypass",
        }
    }
}

/// The fill of a miss by the answer that goes to the client. Its troubles never touch the answer.
pub(crate) struct Fill<'a> {
    cache: &'a mut HttpCache,
    running: bool,
}

impl<'a> Fill<'a> {
    /// No fill has begun.
    pub(crate) fn idle(cache: &'a mut HttpCache) -> Self {
        Self { cache, running: false }
    }

    /// Whether the request was looked up and missed, so that its answer may be stored.
    pub(crate) fn is_possible(&self) -> bool {
        self.cache.enabled() && !self.cache.bypassing()
    }

    /// Begins to store under `meta`; answers whether it did.
    pub(crate) async fn begin(&mut self, meta: CacheMeta) -> bool {
        self.cache.set_cache_meta(meta);
        match self.cache.set_miss_handler().await {
            Ok(()) => self.running = true,
            Err(error) => {
                log::debug!("an answer could not be stored: {error}");
                self.cache.disable(NoCacheReason::StorageError);
            }
        }
        self.running
    }

    /// Nothing of this answer is stored.
    pub(crate) fn decline(&mut self) {
        if self.cache.enabled() {
            self.cache.disable(NoCacheReason::OriginNotCache);
        }
        self.running = false;
    }

    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: &Bytes) {
        if !self.running {
            return;
        }
        if let Some(handler) = self.cache.miss_handler()
            && handler.write_body(bytes.clone(), false).await.is_err()
        {
            self.abandon();
        }
    }

    /// The answer was whole: keeps it.
    pub(crate) async fn finish(&mut self) {
        if std::mem::take(&mut self.running)
            && let Err(error) = self.cache.finish_miss_handler().await
        {
            log::debug!("a stored answer could not be kept: {error}");
        }
    }

    /// The answer was not whole: drops what was stored of it.
    pub(crate) fn abandon(&mut self) {
        if std::mem::take(&mut self.running) {
            self.cache.disable(NoCacheReason::UpstreamError);
        }
    }
}
