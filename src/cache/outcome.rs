//! What the cache did for a request, as the client reads it.

use std::borrow::Cow;

use super::policy::{Bypass, Wish};

/// Why a request that was looked up went to the provider; the words of RFC 9211.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing was found.
    UriMiss,
    /// Only answers to requests with other fields were found.
    VaryMiss,
    /// What was found is not fresh any more.
    Stale,
    /// The request wants it: `no-cache`, or younger or fresher than what was found.
    Request,
}

impl Forwarded {
    fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOutcome {
    /// Answered from the store or a running fill.
    Hit,
    /// Our 304.
    ConditionalHit,
    /// Storing has begun.
    Stored {
        /// Whose wish alone allows it.
        forced: Option<Wish>,
        /// Why the provider was asked.
        forwarded: Forwarded,
    },
    /// The provider said that what is stored still holds.
    Revalidated {
        /// Why the provider was asked.
        forwarded: Forwarded,
    },
    /// Looked up, not found, not storable.
    Miss {
        /// Why the provider was asked.
        forwarded: Forwarded,
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
            Self::Stored { .. } | Self::Revalidated { .. } => "stored",
            Self::Miss { .. } => "miss",
            Self::Bypass(_) => "bypass",
        }
    }

    /// `Cache-Status` as RFC 9211 writes it.
    pub fn cache_status(self) -> Cow<'static, str> {
        match self {
            Self::Hit | Self::ConditionalHit => "llm-proxy; hit".into(),
            Self::Stored {
                forced: None,
                forwarded: Forwarded::UriMiss,
            } => "llm-proxy; stored; fwd=uri-miss".into(),
            Self::Stored { forced, forwarded } => {
                let detail = match forced {
                    None => "",
                    Some(Wish::Request) => "; detail=forced",
                    Some(Wish::Rule) => "; detail=rule",
                };
                format!("llm-proxy; stored; fwd={}{detail}", forwarded.as_str()).into()
            }
            Self::Revalidated { forwarded } => {
                format!("llm-proxy; stored; fwd={}; fwd-status=304", forwarded.as_str()).into()
            }
            Self::Miss { forwarded } => format!("llm-proxy; fwd={}", forwarded.as_str()).into(),
            Self::Bypass(Bypass::NoStore) => "llm-proxy; fwd=request".into(),
            Self::Bypass(Bypass::Method) => "llm-proxy; fwd=method".into(),
            Self::Bypass(Bypass::Off) => "llm-proxy; fwd=bypass".into(),
        }
    }

    /// Whether it was answered from the cache, and so is free of quota, rate and budget.
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::ConditionalHit)
    }
}
