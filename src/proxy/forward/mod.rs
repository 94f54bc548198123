//! The forwarding loop: attempts at one target after another until the client has an answer.
//!
//! It runs inside `proxy_upstream_filter`, after the cache and with a reservation in hand, because only there
//! can a head be held, a failed attempt be replaced and the last bytes wait for something.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use pingora_core::{Error, ErrorType};
use pingora_proxy::Session;
use tokio::time::Instant;

use self::client::Client;
use self::deliver::Delivered;
use self::exchange::{Exchange, Exchanged};
use super::EdgeProxy;
use super::caching::Fill;
use super::ctx::RequestCtx;
use super::outcome::Ending;
use crate::domain::{Denial, DenialCode};
use crate::upstream::retry::Situation;
use crate::upstream::target::Reuse;
use crate::upstream::{Next, RetryBudget, Route};

pub(crate) mod client;
pub(super) mod deliver;
mod demo;
mod events;
mod exchange;
pub(super) use exchange::address;
pub(crate) mod head;
mod pump;
mod relay;
mod sending;
mod stored;
mod tunnel;

/// How long a refusal waits for its grant to be back.
const GRANT_RETURN: std::time::Duration = std::time::Duration::from_secs(2);

impl EdgeProxy {
    /// Answers a request from a provider. A panic inside is a 500 and a settled reservation.
    pub(super) async fn forward(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<()> {
        let run = AssertUnwindSafe(self.reserve_and_forward(session, ctx))
            .catch_unwind()
            .await;
        if let Ok(result) = run {
            return result;
        }
        self.rooms
            .panics
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        log::error!(record = ctx.arrival.record_id.to_string(); "a request panicked while it was forwarded");
        if session
            .response_written()
            .is_some_and(|head| !head.status.is_informational())
        {
            return Err(Error::new_in(ErrorType::InternalError));
        }
        let denial = Denial::new(
            DenialCode::InternalError,
            "something broke while this request was handled",
        );
        self.reject(session, ctx, denial).await
    }

    async fn reserve_and_forward(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<()> {
        if let Some(denial) = Self::refuse_miss(ctx) {
            return self.reject(session, ctx, denial).await;
        }
        if let Err(denial) = self.reserve(ctx).await {
            // nobody waits for an answer that will not be asked for
            ctx.cache.forward = None;
            return self.reject(session, ctx, denial).await;
        }
        let Some(route) = ctx.destination.take() else {
            let denial = Denial::new(DenialCode::InternalError, "the request has no destination");
            return self.reject(session, ctx, denial).await;
        };
        let (delivered, left) = {
            let audience = ctx.cache.audience();
            let mut client = Client::new(&mut session.downstream_session).with_audience(audience);
            let mut fill = Fill::idle(&mut ctx.cache);
            let delivered = Box::pin(self.attempt_all(ctx, &route, &mut client, &mut fill)).await;
            (delivered, client.left())
        };
        if let Some(gone) = left {
            // others may have the answer; there is nobody to tell it here
            ctx.outcome.ending = Ending::ClientGone;
            return Err(gone.0);
        }
        match delivered {
            Delivered::Whole => Ok(()),
            Delivered::Refused(denial) => {
                if !ctx.outcome.sent {
                    // nothing reached a provider: the grant is back before the client hears of it
                    ctx.reservation = None;
                    self.limiter.settle(GRANT_RETURN).await;
                }
                self.reject(session, ctx, denial).await
            }
            Delivered::Broken(error) => Err(error),
        }
    }

    async fn attempt_all(
        &self,
        ctx: &mut RequestCtx,
        route: &Route,
        client: &mut Client<'_>,
        fill: &mut Fill,
    ) -> Delivered {
        let now = || self.clock.monotonic();
        let mut attempts = match route.attempts(now()) {
            Ok(attempts) => attempts,
            Err(denial) => return Delivered::Refused(denial),
        };
        let mut budget = RetryBudget::new(ctx.snapshot.catalogue.retries);
        let cooldown = ctx.snapshot.catalogue.cooldown.clone();
        let spent = now().saturating_sub(ctx.arrival.started);
        let overall = Instant::now() + ctx.snapshot.settings.server.request_timeout.saturating_sub(spent);
        let mut attempt = attempts.next(now());
        let mut from = Reuse::Allowed;
        loop {
            let Some(mut current) = attempt.take() else {
                return Delivered::Refused(route.circuit_open(now()));
            };
            let provider = std::sync::Arc::clone(current.provider());
            ctx.outcome.served.attempts += 1;
            ctx.outcome.served.provider = Some(std::sync::Arc::clone(&provider.name));
            ctx.outcome.served.model.clone_from(&current.target.model);
            let another_target = attempts.another(now());
            let may_move_on = |status, budget: &mut RetryBudget| may_move_on(status, another_target, budget);
            let exchange = Exchange {
                target: current.target,
                from,
                overall,
                budget: &mut budget,
                may_move_on: &may_move_on,
            };
            let exchanged = self
                .exchange(ctx, client, fill, exchange, &mut current.permit)
                .await;
            let provider_name = &*provider.name;
            match exchanged {
                Exchanged::Delivered(delivered) => {
                    self.metrics.count_attempt(provider_name, answered_status(ctx));
                    return delivered;
                }
                Exchanged::AskAgain => {
                    self.attempt_ended(ctx, provider_name, ctx.bill.status()).await;
                    drop(current);
                    attempt = attempts.same(now());
                    from = Reuse::Allowed;
                }
                Exchanged::MovedOn(status) => {
                    self.attempt_ended(ctx, provider_name, Some(status)).await;
                    log::warn!(provider = provider_name, status; "upstream `{provider_name}` answered {status}, trying the next");
                    attempt = attempts.next(now());
                    from = Reuse::Allowed;
                }
                Exchanged::Failed {
                    failure,
                    body_can_be_repeated,
                } => {
                    let may_go_on = self.attempt_ended(ctx, provider_name, None).await;
                    if failure.counts_against_target() {
                        current.permit.failed(now(), &cooldown);
                    }
                    drop(current);
                    let situation = Situation {
                        body_can_be_repeated: body_can_be_repeated && may_go_on,
                        another_target: attempts.another(now()),
                        inference: ctx.is_inference(),
                    };
                    let next = budget.after(&failure, situation);
                    warn_of_failure(ctx, provider_name, failure.as_str());
                    (attempt, from) = match next {
                        Next::NextTarget => (attempts.next(now()), Reuse::Allowed),
                        Next::SameTarget => (attempts.same(now()), Reuse::Avoided),
                        Next::GiveUp => return Delivered::Refused(failure.denial(provider_name)),
                    };
                    if attempt.is_none() {
                        return Delivered::Refused(failure.denial(provider_name));
                    }
                }
            }
        }
    }
}

fn warn_of_failure(ctx: &RequestCtx, provider: &str, failure: &str) {
    log::warn!(provider, attempt = ctx.outcome.served.attempts, failure;
        "an attempt at upstream `{provider}` failed: {failure}");
}

impl EdgeProxy {
    /// One that came to nothing for the client. Answers whether there is money for another.
    async fn attempt_ended(&self, ctx: &mut RequestCtx, provider: &str, status: Option<u16>) -> bool {
        self.metrics.count_attempt(provider, status);
        self.close_attempt(ctx).await;
        self.may_spend_again(ctx).await
    }
}

fn may_move_on(status: u16, another_target: bool, budget: &mut RetryBudget) -> bool {
    let situation = Situation {
        body_can_be_repeated: true,
        another_target,
        inference: true,
    };
    budget.after(&crate::upstream::AttemptFailure::Status(status), situation) != Next::GiveUp
}

/// What the provider answered, if the client has its answer.
fn answered_status(ctx: &RequestCtx) -> Option<u16> {
    (ctx.outcome.origin == super::outcome::Origin::Upstream).then_some(ctx.outcome.status)
}
