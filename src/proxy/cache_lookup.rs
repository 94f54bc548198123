//! The cache before a provider: whether a request is looked up, under which key, and what a hit looks like.

use std::sync::Arc;

use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::EdgeProxy;
use super::body::{RequestBody, Understood};
use super::ctx::RequestCtx;
use super::decorate::decorate;
use super::outcome::Origin;
use crate::cache::{Bypass, CacheOutcome, EntryKey, KeyParts, Plan, canonical_json, not_cached};
use crate::domain::{Clock, Denial};

/// Bodies above this are brought into canonical form off the proxy's threads.
const INLINE_CANONICAL_BYTES: usize = 64 * 1024;

impl EdgeProxy {
    /// Decides whether the request is looked up, and under which key.
    pub(super) async fn plan_cache(&self, session: &Session, ctx: &mut RequestCtx) -> Result<(), Denial> {
        if ctx.is_realtime() {
            // a session is no answer that could be kept, and none that is kept is a session
            ctx.cache.outcome = Some(CacheOutcome::Bypass(Bypass::Method));
            return Ok(());
        }
        let head = session.req_header();
        let snapshot = Arc::clone(&ctx.snapshot);
        let plan = Plan::of(&snapshot.settings.cache, head.method.as_str(), &head.headers);
        let lookup = match plan {
            Plan::Lookup(lookup) => lookup,
            Plan::Bypass(why) => {
                if let Some(denial) = Plan::only_if_cached_denial(&head.headers) {
                    return Err(denial);
                }
                ctx.cache.outcome = Some(CacheOutcome::Bypass(why));
                return Ok(());
            }
        };
        let body = match &ctx.body {
            RequestBody::Held(held) if matches!(held.facts, Understood::Json(_)) => {
                canonical(&held.bytes).await
            }
            RequestBody::Held(held) => held.bytes.to_vec(),
            RequestBody::Unread => Vec::new(),
            // what is not held cannot be part of a key
            RequestBody::Streamed => return Ok(()),
        };
        let (Some(caller), Some(path), Some(route)) = (&ctx.caller, &ctx.path, &ctx.destination) else {
            return Ok(());
        };
        let key = EntryKey::of(&KeyParts {
            project: caller.project_id,
            method: head.method.as_str(),
            path: &path.path,
            query: head.uri.query(),
            targets: &route.cache_identity(),
            headers: &head.headers,
            body: &body,
        });
        ctx.cache.lookup = Some(lookup);
        ctx.cache.key = Some(key);
        Ok(())
    }

    /// Turns Pingora's cache phases on for a request that is looked up.
    pub(super) fn look_up(&self, session: &mut Session, ctx: &RequestCtx) {
        if ctx.cache.key.is_some() {
            self.cache.enable(&mut session.cache);
        }
    }

    /// What was found is good enough for this request, or is as good as nothing.
    pub(super) fn judge_hit(&self, meta: &CacheMeta, ctx: &RequestCtx) -> Option<ForcedFreshness> {
        ctx.cache
            .lookup
            .as_ref()
            .and_then(|lookup| lookup.verdict(meta, &*self.clock))
    }

    /// The refusal of a request that must not leave the cache and found nothing there.
    pub(super) fn refuse_miss(ctx: &RequestCtx) -> Option<Denial> {
        ctx.cache
            .lookup
            .filter(|lookup| lookup.only_if_cached)
            .map(|_| not_cached())
    }

    /// Puts our fields on an answer from the cache.
    pub(super) fn dress_hit(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<()> {
        let not_modified = answer.status == http::StatusCode::NOT_MODIFIED;
        let outcome = if not_modified {
            CacheOutcome::ConditionalHit
        } else {
            CacheOutcome::Hit
        };
        ctx.cache.outcome = Some(outcome);
        ctx.outcome.origin = Origin::Upstream;
        ctx.outcome.status = answer.status.as_u16();
        let clock: &dyn Clock = &*self.clock;
        ctx.outcome.first_byte = Some(clock.monotonic().saturating_sub(ctx.arrival.started));
        decorate(ctx, session.get_header(http::header::ORIGIN), answer, clock.now())
    }
}

impl super::caching::CacheState {
    /// The key in Pingora's form.
    pub(super) fn pingora_key(&self) -> Option<CacheKey> {
        self.key.as_ref().map(EntryKey::to_pingora)
    }
}

async fn canonical(body: &bytes::Bytes) -> Vec<u8> {
    if body.len() <= INLINE_CANONICAL_BYTES {
        return canonical_json(body);
    }
    let owned = body.clone();
    // a panic there would be a defect: the body as it is makes a key that nothing else has
    tokio::task::spawn_blocking(move || canonical_json(&owned))
        .await
        .unwrap_or_else(|_| body.to_vec())
}
