//! Placeholder until the cache lands.
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::EdgeProxy;
use super::caching::{CacheState, CacheStatus};
use super::ctx::RequestCtx;

impl EdgeProxy {
    pub(super) fn look_up(&self, _session: &mut Session, ctx: &mut RequestCtx) {
        ctx.cache.status = CacheStatus::Bypass;
    }

    pub(super) fn dress_hit(&self, _: &mut Session, _: &mut ResponseHeader, _: &mut RequestCtx) -> pingora_core::Result<()> {
        Ok(())
    }

    pub(super) fn storable(&self, _: &RequestCtx, _: &RequestHeader, _: &ResponseHeader, _: bool) -> Option<CacheMeta> {
        None
    }
}

impl CacheState {
    pub(super) fn take_key(&mut self) -> Option<CacheKey> {
        None
    }

    pub(super) fn forced_freshness(&self) -> Option<ForcedFreshness> {
        None
    }
}
