//! What is kept of a request once it is over: counters, metrics, the access line.

use std::time::Duration;

use http::HeaderMap;
use pingora_proxy::{FailToProxy, Session};

use super::EdgeProxy;
use super::bill::Total;
use super::ctx::RequestCtx;
use super::forward::client::ClientGone;
use super::forward::deliver::Delivered;
use super::outcome::{Ending, Origin};
use crate::auth::Refused;
use crate::cache::CacheOutcome;
use crate::domain::audit::{AuditEvent, AuditOutcome};
use crate::domain::{Denial, DenialCode};
use crate::telemetry::metrics::{CacheEvent, RequestFacts, RequestLabels, TokenCounts};
use crate::telemetry::{AccessLine, Outcome, UsedLine};

impl EdgeProxy {
    /// Runs in `logging`: after the answer, whatever became of it.
    pub(super) fn record(
        &self,
        session: &mut Session,
        error: Option<&pingora_core::Error>,
        ctx: &mut RequestCtx,
    ) {
        let duration = self.clock.monotonic().saturating_sub(ctx.arrival.started);
        if ctx.cache.outcome.is_some_and(CacheOutcome::is_hit) {
            ctx.outcome.ending = match error.map(pingora_core::Error::esource) {
                None => Ending::Complete,
                Some(pingora_core::ErrorSource::Downstream) => Ending::ClientGone,
                Some(_) => Ending::Cut,
            };
            ctx.outcome.bytes_out = session.downstream_session.body_bytes_sent() as u64;
        }
        self.count_usage(ctx);
        let served = &ctx.outcome.served;
        let overhead = overhead(ctx, duration);
        let labels = RequestLabels {
            project: ctx.caller.as_ref().map(|caller| caller.project_id),
            provider: served.provider.as_deref().unwrap_or_default(),
            model: ctx.model_label(),
            status: ctx.outcome.status,
        };
        let facts = RequestFacts {
            duration,
            time_to_first_byte: ctx
                .outcome
                .first_byte
                .filter(|_| ctx.outcome.origin == Origin::Upstream),
            overhead: Some(overhead),
            tokens: ctx
                .bill
                .total
                .map_or_else(TokenCounts::default, |total| TokenCounts {
                    prompt: total.usage.prompt,
                    completion: total.usage.completion,
                    cache_read: total.usage.cache_read,
                    cache_write: total.usage.cache_write,
                    reasoning: total.usage.reasoning,
                }),
            cost_nano_usd: ctx.bill.total.map_or(0, |total| total.cost.nanos()),
            error: ctx.outcome.refusal,
        };
        if !ctx.arrival.is_own {
            self.metrics.record_request(labels, &facts);
        }
        self.count_cache(ctx);
        ctx.release();
        let served = &ctx.outcome.served;
        if ctx.arrival.is_quiet || !self.access_log.is_on() {
            return;
        }
        let head = session.req_header();
        self.access_log.write(AccessLine {
            at: ctx.arrival.received_at,
            record_id: ctx.arrival.record_id,
            request_id: ctx.arrival.request_id().into(),
            token_id: ctx.caller.as_ref().map(|caller| caller.token_id),
            project_id: ctx.caller.as_ref().map(|caller| caller.project_id),
            // addresses of people are not logged; the audit log has those of refused calls
            client: None,
            method: head.method.as_str().into(),
            path: cut(head.uri.path()).into(),
            model: ctx.asked_model().map(Into::into),
            served_model: served.model.clone(),
            provider: served.provider.clone(),
            status: ctx.outcome.status,
            error: ctx.outcome.refusal,
            bytes_in: ctx.outcome.bytes_in,
            bytes_out: ctx.outcome.bytes_out,
            duration,
            time_to_first_byte: ctx.outcome.first_byte,
            attempts: served.attempts,
            waited: served.paused,
            failed_attempts: served.failures(),
            used: ctx.bill.total.map(used),
            cache: ctx.cache.outcome.map(CacheOutcome::as_str),
            outcome: match ctx.outcome.ending {
                Ending::Complete => Outcome::Complete,
                Ending::Cut => Outcome::Cut,
                Ending::None | Ending::ClientGone => Outcome::ClientLeft,
            },
        });
    }

    fn count_cache(&self, ctx: &RequestCtx) {
        let Some(outcome) = ctx.cache.outcome else { return };
        self.cache.count(outcome);
        self.metrics.count_cache(match outcome {
            CacheOutcome::Hit | CacheOutcome::ConditionalHit => CacheEvent::Hit,
            CacheOutcome::Stored { .. } | CacheOutcome::Revalidated { .. } | CacheOutcome::Miss { .. } => {
                CacheEvent::Miss
            }
            CacheOutcome::Bypass(_) => CacheEvent::Bypass,
        });
        if matches!(outcome, CacheOutcome::Stored { .. }) {
            self.metrics.count_cache(CacheEvent::Store);
        }
    }

    /// Answers from the cache.
    fn count_usage(&self, ctx: &RequestCtx) {
        let Some(caller) = &ctx.caller else { return };
        let by_proxy = ctx
            .path
            .as_ref()
            .is_some_and(|path| path.class == crate::domain::PathClass::Models);
        if ctx.cache.outcome.is_some_and(CacheOutcome::is_hit) && !by_proxy {
            self.counters.count_cache_hit(caller.token_id);
        }
    }

    /// The request leaves for a provider: from now on it counts, once, whatever follows. Counted before the client has its
    /// answer, so that a limit set after the answer knows of it.
    pub(super) fn note_sent(&self, ctx: &mut RequestCtx) {
        if let Some(reservation) = &mut ctx.reservation {
            reservation.mark_sent();
        }
        if std::mem::replace(&mut ctx.outcome.sent, true) {
            return;
        }
        let Some(caller) = &ctx.caller else { return };
        if caller.max_requests.is_some() {
            // its grant has counted the request
            self.counters.note_use(caller.token_id);
        } else {
            self.counters.count_request(caller.token_id);
        }
    }

    /// The client left before the answer was whole.
    pub(super) fn client_left(ctx: &mut RequestCtx, gone: ClientGone) -> Delivered {
        ctx.outcome.ending = Ending::ClientGone;
        Delivered::Broken(gone.0)
    }

    /// A hook failed. What can still be said is said.
    pub(super) async fn fail(
        &self,
        session: &mut Session,
        error: &pingora_core::Error,
        ctx: &mut RequestCtx,
    ) -> FailToProxy {
        let begun = session
            .response_written()
            .is_some_and(|head| !head.status.is_informational());
        let client_left = *error.esource() == pingora_core::ErrorSource::Downstream;
        if !begun && !client_left {
            log::error!(record = ctx.arrival.record_id.to_string(); "a request failed inside: {}", error.etype().as_str());
            session.set_keepalive(None);
            let denial = Denial::new(
                DenialCode::InternalError,
                "something broke while this request was handled",
            );
            // a client that cannot be told is a client that left
            let _ = self.reject(session, ctx, denial).await;
        }
        FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        }
    }

    /// An audit event for a refused credential.
    pub(super) fn audit_denied(&self, session: &Session, ctx: &RequestCtx, refused: &Refused) {
        if refused.denial.code == DenialCode::StoreUnavailable {
            return;
        }
        let head = session.req_header();
        let mut event = AuditEvent::new(
            ctx.arrival.received_at,
            "proxy.denied",
            "anonymous",
            AuditOutcome::Denied,
        );
        if let Some(principal) = &refused.principal {
            event.project_id = Some(principal.project_id);
            event.token_id = Some(principal.token_id);
            "token".clone_into(&mut event.actor);
        }
        event.request_id = Some(ctx.arrival.request_id().to_owned());
        event.client_ip = Some(ctx.arrival.client);
        event.method = Some(head.method.to_string());
        event.path = Some(cut(head.uri.path()).to_owned());
        event.user_agent = user_agent(&head.headers);
        event.reason = Some(refused.denial.code.as_str().to_owned());
        self.audit.offer(event);
    }
}

/// As much of a path as is written down.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(256)]
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(http::header::USER_AGENT)?.to_str().ok()?;
    Some(value.chars().take(256).collect())
}

/// Our own time until the first byte: what was not spent waiting for providers.
fn overhead(ctx: &RequestCtx, duration: Duration) -> Duration {
    ctx.outcome
        .first_byte
        .unwrap_or(duration)
        .saturating_sub(ctx.outcome.served.waited)
}

fn used(total: Total) -> UsedLine {
    UsedLine {
        prompt_tokens: total.usage.prompt,
        completion_tokens: total.usage.completion,
        cost: total.cost,
    }
}
