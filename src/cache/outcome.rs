//! What the cache did for a request, as the client reads it.

use super::policy::Bypass;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOutcome {
    /// Answered from the store or a running fill.
    Hit,
    /// Our 304.
    ConditionalHit,
    /// Storing has begun.
    Stored {
        /// Only because the request asked for it.
        forced: bool,
        /// The request said `no-cache`, so nothing was looked for.
        refresh: bool,
    },
    /// Looked up, not found, not storable.
    Miss {
        /// The request said `no-cache`.
        refresh: bool,
    },
    /// Not looked up.
    Bypass(Bypass),
}

impl CacheOutcome {
    /// `X-PROXY-CACHE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::ConditionalHit => "conditional-hit",
            Self::Stored { .. } => "stored",
            Self::Miss { .. } => "miss",
            Self::Bypass(_) => "bypass",
        }
    }

    /// `Cache-Status` as RFC 9211 writes it.
    pub fn cache_status(self) -> &'static str {
        match self {
            Self::Hit | Self::ConditionalHit => "llm-proxy; hit",
            Self::Stored { forced, refresh } => match (forced, refresh) {
                (false, false) => "llm-proxy; stored; fwd=uri-miss",
                (true, false) => "llm-proxy; stored; fwd=uri-miss; detail=forced",
                (false, true) => "llm-proxy; stored; fwd=request",
                (true, true) => "llm-proxy; stored; fwd=request; detail=forced",
            },
            Self::Miss { refresh: false } => "llm-proxy; fwd=uri-miss",
            Self::Miss { refresh: true } | Self::Bypass(Bypass::NoStore) => "llm-proxy; fwd=request",
            Self::Bypass(Bypass::Method) => "llm-proxy; fwd=method",
            Self::Bypass(Bypass::Off) => "llm-proxy; fwd=bypass",
        }
    }

    /// Whether it was answered from the cache, and so is free of quota, rate and budget.
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::ConditionalHit)
    }
}
