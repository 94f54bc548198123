//! The cache before a provider: whether a request is looked up, under which key, and what a hit looks like.

use std::sync::Arc;

use pingora_cache::CacheKey;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::EdgeProxy;
use super::admit::Stop;
use super::body::{RequestBody, Understood};
use super::ctx::RequestCtx;
use super::decorate::decorate;
use super::forward::client::Client;
use super::outcome::Origin;
use crate::cache::{
    Bypass, CacheOutcome, EntryKey, KeyParts, Plan, Question, RuleFacts, Said, Waiting, canonical_json,
    not_cached,
};
use crate::domain::{Clock, Denial, DenialCode};

/// Bodies above this are brought into canonical form off the proxy's threads.
const INLINE_CANONICAL_BYTES: usize = 64 * 1024;

impl EdgeProxy {
    /// Decides whether the request is looked up, under which key, and what answers it. Waits when another request asks
    /// a provider the same.
    pub(super) async fn plan_cache(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<(), Stop> {
        if ctx.is_realtime() {
            // a session is no answer that could be kept, and none that is kept is a session
            ctx.cache.outcome = Some(CacheOutcome::Bypass(Bypass::Method));
            return Ok(());
        }
        let head = session.req_header();
        let snapshot = Arc::clone(&ctx.snapshot);
        let settings = &snapshot.settings.cache;
        // WHY: a name of its own for each request, where no rule could look at it
        let asked_model = (!settings.rules.is_empty()).then(|| ctx.asked_model()).flatten();
        let asked = RuleFacts {
            path: ctx.path.as_ref().map_or("", |path| &path.path),
            model: asked_model.as_deref(),
            json: match &ctx.body {
                RequestBody::Held(held) if matches!(held.facts, Understood::Json(_)) => &held.bytes,
                _ => &[],
            },
        };
        let lookup = match Plan::of(settings, head.method.as_str(), &head.headers, asked) {
            Plan::Lookup(lookup) => lookup,
            Plan::Bypass(why) => {
                if let Some(denial) = Plan::only_if_cached_denial(&head.headers) {
                    return Err(denial.into());
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
        let head = session.req_header();
        let (Some(caller), Some(path), Some(route)) = (&ctx.caller, &ctx.path, &ctx.destination) else {
            return Ok(());
        };
        let targets = route.cache_identity();
        let key = EntryKey::of(&KeyParts {
            project: caller.project_id,
            token: lookup.of_one_token.then_some(caller.token_id),
            method: head.method.as_str(),
            path: &path.path,
            query: head.uri.query(),
            targets: &targets,
            headers: &head.headers,
            body: &body,
        });
        // one provider's validators mean nothing to another
        let one_target = targets.len() == 1;
        ctx.cache.lookup = Some(lookup);
        let mut said = self.cache.ask(Question {
            key: &key,
            headers: &head.headers,
            lookup,
            coalesce: settings.coalesce,
        });
        loop {
            said = match said {
                Said::Wait(waiting) => {
                    self.wait_for_another(session, ctx, &key, waiting, settings.coalesce)
                        .await?
                }
                Said::Hit { chosen, follower } => {
                    ctx.cache.chosen = Some(chosen);
                    ctx.cache.follower = follower;
                    break;
                }
                Said::Forward(mut forward) => {
                    forward.stale = forward.stale.filter(|_| one_target);
                    ctx.cache.forward = Some(forward);
                    break;
                }
            };
        }
        ctx.cache.key = Some(key);
        Ok(())
    }

    /// Waits while another request asks a provider the same, as long as this one's client is there and its time lasts.
    async fn wait_for_another(
        &self,
        session: &mut Session,
        ctx: &RequestCtx,
        key: &EntryKey,
        waiting: Waiting,
        coalesce: bool,
    ) -> Result<Said, Stop> {
        let headers = session.req_header().headers.clone();
        let Some(lookup) = ctx.cache.lookup else {
            return Err(Denial::new(DenialCode::InternalError, "the request is not looked up").into());
        };
        let question = Question {
            key,
            headers: &headers,
            lookup,
            coalesce,
        };
        let spent = self.clock.monotonic().saturating_sub(ctx.arrival.started);
        let left = ctx.snapshot.settings.server.request_timeout.saturating_sub(spent);
        let mut client = Client::new(&mut session.downstream_session);
        tokio::select! {
            biased;
            said = waiting.answer(&self.cache, question) => Ok(said),
            gone = client.gone() => Err(Stop::Broken(gone.0)),
            () = tokio::time::sleep(left) => Err(Denial::new(
                DenialCode::RequestTimeout,
                "no answer within `server.request_timeout`; another request was asking the upstream the same",
            ).into()),
        }
    }

    /// Turns Pingora's cache phases on for a request that was found.
    pub(super) fn look_up(&self, session: &mut Session, ctx: &RequestCtx) {
        if ctx.cache.chosen.is_some() {
            self.cache.enable(&mut session.cache);
        }
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
    /// The key in Pingora's form, with what was found.
    pub(super) fn pingora_key(&self) -> Option<CacheKey> {
        Some(self.key.as_ref()?.to_pingora(self.chosen.clone()?))
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
