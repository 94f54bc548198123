//! One attempt after another, until the client has an answer or nobody is left who could give one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, ClientGone};
use super::deliver::Delivered;
use super::exchange::{Answer, Exchange, Exchanged, Failed};
use crate::dialect::stainless::ClientPatience;
use crate::domain::{Dialect, Secret};
use crate::proxy::EdgeProxy;
use crate::proxy::bill::Turn;
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;
use crate::proxy::outcome::Tried;
use crate::proxy::spend::tokens_thought;
use crate::upstream::keys::KeyFault;
use crate::upstream::places::Place;
use crate::upstream::retry::{Reach, Retries, Situation};
use crate::upstream::target::Reuse;
use crate::upstream::{Attempt, AttemptFailure, AttemptKey, Attempts, Route};

/// The shortest sleep before targets are looked at again that others are trying just now.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An attempt that may begin.
struct Current<'r> {
    attempt: Attempt<'r>,
    from: Reuse,
}

/// What all attempts of a request share.
struct Journey<'r> {
    attempts: Attempts<'r>,
    retries: Retries,
    /// The end of the last head.
    overall: Instant,
    /// The newest answer that was not good enough, as long as a better one is looked for.
    kept: Option<Answer<'r>>,
}

/// What follows a failure.
enum Step<'r> {
    On(Current<'r>),
    End(Delivered),
}

impl EdgeProxy {
    pub(super) async fn attempt_all(
        &self,
        ctx: &mut RequestCtx,
        route: &Route,
        client: &mut Client<'_>,
        fill: &mut Fill,
    ) -> Delivered {
        let caller = ctx.caller.clone();
        let own_key = |provider: &str| -> Option<&Secret> {
            caller.as_ref()?.provider_keys.get(provider)?.as_ref().ok()
        };
        let snapshot = Arc::clone(&ctx.snapshot);
        let registry = snapshot.catalogue.key_registry();
        let thought = tokens_thought(ctx);
        let tokens = thought.prompt.saturating_add(thought.completion.unwrap_or(0));
        let patience = ClientPatience::of(&client.request_head().headers);
        let mut journey = Journey {
            attempts: route.attempts(registry, &own_key, tokens),
            retries: Retries::new(&snapshot.catalogue.router, patience.retries),
            overall: self.deadline(ctx, patience),
            kept: None,
        };
        let mut current = match journey.attempts.first(self.clock.monotonic()) {
            Ok(attempt) => at_once(attempt),
            Err(denial) => return Delivered::Refused(denial),
        };
        loop {
            let began = self.clock.monotonic();
            ctx.outcome.served.begin(&current.attempt);
            let exchanged = self
                .one_attempt(ctx, client, fill, route, &mut journey, &mut current)
                .await;
            let failed = match exchanged {
                Exchanged::Delivered(delivered) => {
                    self.metrics
                        .count_attempt(&current.attempt.provider().name, answered_status(ctx));
                    return delivered;
                }
                Exchanged::AskAgain => {
                    let provider = Arc::clone(current.attempt.provider());
                    self.attempt_ended(ctx, &provider.name, ctx.bill.status(), true)
                        .await;
                    drop(current);
                    let now = self.clock.monotonic();
                    let Some(attempt) = journey.attempts.same(now, true) else {
                        return Delivered::Refused(journey.attempts.circuit_open(now));
                    };
                    current = at_once(attempt);
                    continue;
                }
                Exchanged::Failed(failed) => failed,
            };
            let took = self.clock.monotonic().saturating_sub(began);
            match self
                .after_failure(ctx, client, fill, &mut journey, current, failed, took)
                .await
            {
                Step::On(next) => current = next,
                Step::End(delivered) => return delivered,
            }
        }
    }

    /// The end of the last head: the operator's, or what the client itself waits for.
    fn deadline(&self, ctx: &RequestCtx, patience: ClientPatience) -> Instant {
        let limit = ctx.snapshot.settings.server.request_timeout;
        let limit = patience.answers_within.map_or(limit, |within| within.min(limit));
        let spent = self.clock.monotonic().saturating_sub(ctx.arrival.started);
        Instant::now() + limit.saturating_sub(spent)
    }

    /// An attempt has failed: another one, or the last word.
    #[expect(clippy::too_many_arguments, reason = "the parts of one step of the loop")]
    async fn after_failure<'r>(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        journey: &mut Journey<'r>,
        mut current: Current<'r>,
        failed: Failed<'r>,
        took: Duration,
    ) -> Step<'r> {
        let Failed {
            failure,
            body_can_be_repeated,
            retry_after,
            answer,
        } = failed;
        let provider = Arc::clone(current.attempt.provider());
        let status = ctx.bill.status();
        self.blame(
            ctx,
            &mut current.attempt,
            &journey.attempts,
            &failure,
            retry_after,
        );
        self.note_failure(ctx, &current.attempt, &failure, took);
        let situation = Situation {
            body_can_be_repeated,
            inference: ctx.is_inference(),
        };
        let reach = journey.retries.reach(&failure, situation);
        if reach == Reach::Nowhere
            && let Some(answer) = answer
        {
            // it is the answer: nothing of it is closed
            self.metrics.count_attempt(&provider.name, status);
            return Step::End(self.deliver_last(ctx, client, fill, *answer).await);
        }
        let may_go_on = self
            .attempt_ended(ctx, &provider.name, status, failure.may_have_cost())
            .await;
        if let Some(answer) = answer {
            journey.kept = Some(*answer);
        }
        drop(current);
        if may_go_on && reach != Reach::Nowhere {
            match self
                .next_attempt(ctx, client, journey, &failure, reach, retry_after)
                .await
            {
                Ok(Some(next)) => {
                    if !failure.is_no_attempt() {
                        journey.retries.attempt();
                    }
                    return Step::On(next);
                }
                Ok(None) => {}
                Err(gone) => return Step::End(Self::client_left(ctx, gone)),
            }
        }
        // nobody is left to ask: the newest answer that a provider gave, else why the last attempt failed
        Step::End(match journey.kept.take() {
            Some(answer) => self.deliver_last(ctx, client, fill, answer).await,
            None => Delivered::Refused(failure.denial(&provider.name)),
        })
    }

    fn note_failure(
        &self,
        ctx: &mut RequestCtx,
        attempt: &Attempt<'_>,
        failure: &AttemptFailure,
        took: Duration,
    ) {
        let (provider, cause) = (&attempt.provider().name, failure.as_str());
        let status = ctx.bill.status();
        self.metrics.count_failure(provider, cause);
        log::warn!(provider = &**provider, attempt = ctx.outcome.served.attempts, status = status.unwrap_or(0), cause;
            "an attempt at upstream `{provider}` failed: {cause}");
        ctx.outcome.served.tried(Tried {
            provider: Arc::clone(provider),
            model: attempt.target.model.clone(),
            key: attempt.key.pooled().map(|key| Arc::clone(&key.id)),
            cause,
            status,
            took,
        });
    }

    /// Waits for a place and for the key's rate, and asks.
    async fn one_attempt<'r>(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        route: &Route,
        journey: &mut Journey<'r>,
        current: &mut Current<'r>,
    ) -> Exchanged<'r> {
        match self.enter(ctx, client, journey, &current.attempt).await {
            Ok(place) => {
                ctx.bill.turn = Some(Turn {
                    _place: place,
                    _in_flight: current.attempt.permit.take_in_flight(),
                });
            }
            Err(Turned::Away(failure)) => {
                return Exchanged::Failed(Failed {
                    failure,
                    body_can_be_repeated: true,
                    retry_after: None,
                    answer: None,
                });
            }
            Err(Turned::ClientGone(gone)) => return Exchanged::Delivered(Self::client_left(ctx, gone)),
        }
        let may_move_on = ctx.is_inference()
            && ctx.body_can_be_repeated()
            && journey.retries.are_left()
            && journey.attempts.another(self.clock.monotonic());
        let exchange = Exchange {
            target: current.attempt.target,
            key: current.attempt.key.clone(),
            from: current.from,
            overall: journey.overall,
            may_move_on,
            first_token: route
                .first_token()
                .filter(|_| may_move_on && ctx.asks_for_stream()),
        };
        self.exchange(ctx, client, fill, exchange, &mut current.attempt.permit)
            .await
    }

    /// A place at the provider and a turn of its key, for at most what is left of `router.max_wait`.
    async fn enter(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        journey: &mut Journey<'_>,
        attempt: &Attempt<'_>,
    ) -> Result<Place, Turned> {
        let places = &attempt.provider().places;
        let pace = attempt.key.pooled().and_then(|key| key.pace.as_ref());
        if pace.is_none()
            && let Some(place) = places.try_enter()
        {
            return Ok(place);
        }
        let began = Instant::now();
        let until = (began + journey.retries.wait_left()).min(journey.overall);
        let who = ctx.caller.as_ref().map(|caller| caller.token_id);
        let entering = async {
            let paced = match (pace, who) {
                (Some(pace), Some(who)) => {
                    let tokens = paced_tokens(ctx, attempt.provider().dialect);
                    let paced = pace.enter(who, tokens, until).await;
                    Some(paced.map_err(|_| AttemptFailure::NoPace)?)
                }
                _ => None,
            };
            match places.enter(until).await {
                Ok(place) => Ok((place, paced)),
                Err(_) => {
                    if let Some(paced) = paced {
                        paced.give_back();
                    }
                    Err(AttemptFailure::NoPlace)
                }
            }
        };
        let entered = tokio::select! {
            biased;
            entered = entering => entered,
            gone = client.gone() => return Err(Turned::ClientGone(gone)),
        };
        let waited = began.elapsed();
        if waited > LOOK_AGAIN / 20 {
            journey.retries.waited(waited);
            ctx.outcome.served.paused(waited);
            self.metrics.count_wait(&attempt.provider().name, "turn");
        }
        let (place, paced) = entered.map_err(Turned::Away)?;
        ctx.bill.paced = paced;
        Ok(place)
    }

    /// The next attempt, after a pause if it must be.
    async fn next_attempt<'r>(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        journey: &mut Journey<'r>,
        failure: &AttemptFailure,
        reach: Reach,
        retry_after: Option<Duration>,
    ) -> Result<Option<Current<'r>>, ClientGone> {
        let now = self.clock.monotonic();
        let attempts = &mut journey.attempts;
        if reach == Reach::Larger {
            attempts.only_larger();
        }
        let other_key = match failure {
            AttemptFailure::Key(..) => attempts.other_key(now),
            _ => None,
        };
        if let Some(attempt) = other_key.or_else(|| attempts.next(now)) {
            return Ok(Some(at_once(attempt)));
        }
        if reach == Reach::AtOnce {
            journey.retries.reused_connection_retried();
            return Ok(attempts.same(now, true).map(|attempt| Current {
                attempt,
                from: Reuse::Avoided,
            }));
        }
        if reach != Reach::Around {
            return Ok(None);
        }
        let mut wait = retry_after.unwrap_or_else(|| journey.retries.pause(chance(ctx)));
        loop {
            let most = match retry_after {
                Some(_) => journey.retries.wait_left(),
                // nobody waits for a breaker to close by itself
                None => journey.retries.wait_left().min(journey.retries.longest_pause()),
            };
            wait = wait.max(journey.attempts.free_in(self.clock.monotonic()));
            if wait > most || Instant::now() + wait >= journey.overall {
                return Ok(None);
            }
            tokio::select! {
                biased;
                gone = client.gone() => return Err(gone),
                () = tokio::time::sleep(wait) => {}
            }
            journey.retries.waited(wait);
            ctx.outcome.served.paused(wait);
            self.metrics.count_wait(
                ctx.outcome.served.provider.as_deref().unwrap_or_default(),
                "pause",
            );
            let now = self.clock.monotonic();
            journey.attempts.begin_round(now);
            if let Some(attempt) = journey.attempts.next(now) {
                return Ok(Some(at_once(attempt)));
            }
            wait = journey.attempts.free_in(now);
            if wait.is_zero() {
                // it could be asked, and has been asked enough
                return Ok(None);
            }
            wait = wait.max(LOOK_AGAIN);
        }
    }

    async fn deliver_last(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        answer: Answer<'_>,
    ) -> Delivered {
        let provider = Arc::clone(&answer.target.provider.name);
        match self.deliver_answer(ctx, client, fill, answer, None).await {
            Delivered::Abandoned(failure) => Delivered::Refused(failure.denial(&provider)),
            delivered => delivered,
        }
    }

    /// What a failure says of the target and of the key.
    fn blame(
        &self,
        ctx: &RequestCtx,
        attempt: &mut Attempt<'_>,
        attempts: &Attempts<'_>,
        failure: &AttemptFailure,
        retry_after: Option<Duration>,
    ) {
        let now = self.clock.monotonic();
        let cooldown = &ctx.snapshot.catalogue.router.cooldown;
        match failure {
            AttemptFailure::Key(_, KeyFault::RateLimited) => {
                attempt.permit.succeeded();
                let alone = attempt.key.pooled().is_none() || attempt.provider().keys.keys().len() < 2;
                if let (AttemptKey::Other, Some(pause)) = (&attempt.key, retry_after) {
                    attempt.permit.cool_down(now, pause, cooldown);
                }
                if retry_after.is_some() || !alone {
                    attempts.bench(attempt, now, KeyFault::RateLimited, retry_after);
                }
            }
            AttemptFailure::Key(_, fault) => {
                attempt.permit.succeeded();
                attempts.bench(attempt, now, *fault, None);
                let provider = &*attempt.provider().name;
                let key = attempt.key.pooled().map_or("of the project", |key| &key.id);
                log::error!(provider, key, fault = fault.as_str();
                    "upstream `{provider}` does not take the key `{key}`: {}; it is left alone for a while", fault.as_str());
            }
            AttemptFailure::NoPlace | AttemptFailure::NoPace => {}
            failure if failure.counts_against_target() => {
                if ctx.outcome.served.has_failed(attempt.target) {
                    attempt.permit.failed_again(now, cooldown);
                } else {
                    attempt.permit.failed(now, cooldown);
                }
            }
            AttemptFailure::Status(_) | AttemptFailure::TooLong(_) => attempt.permit.succeeded(),
            _ => {}
        }
        if let (AttemptFailure::Status(_), Some(pause)) = (failure, retry_after) {
            attempt.permit.cool_down(now, pause, cooldown);
        }
    }

    /// One that came to nothing for the client. Answers whether there is money for another.
    async fn attempt_ended(
        &self,
        ctx: &mut RequestCtx,
        provider: &str,
        status: Option<u16>,
        may_have_cost: bool,
    ) -> bool {
        self.metrics.count_attempt(provider, status);
        self.close_attempt(ctx, may_have_cost).await;
        self.may_spend_again(ctx).await
    }
}

fn at_once(attempt: Attempt<'_>) -> Current<'_> {
    Current {
        attempt,
        from: Reuse::Allowed,
    }
}

/// Why an attempt did not begin.
enum Turned {
    Away(AttemptFailure),
    ClientGone(ClientGone),
}

/// What a provider counts of a request when it comes: Anthropic what it reads, the others also what it may write.
fn paced_tokens(ctx: &RequestCtx, dialect: Dialect) -> u64 {
    let thought = tokens_thought(ctx);
    let written = match dialect {
        Dialect::Anthropic => 0,
        Dialect::OpenAi | Dialect::Azure | Dialect::Demo => thought.completion.unwrap_or(0),
    };
    thought.prompt.saturating_add(written)
}

/// A number that nobody knows before.
fn chance(ctx: &RequestCtx) -> u32 {
    let seed = ctx
        .arrival
        .record_id
        .seed()
        .rotate_left(13 * ctx.outcome.served.attempts);
    u32::try_from(seed & u64::from(u32::MAX)).unwrap_or(0)
}

/// What the provider answered, if the client has its answer.
fn answered_status(ctx: &RequestCtx) -> Option<u16> {
    (ctx.outcome.origin == crate::proxy::outcome::Origin::Upstream).then_some(ctx.outcome.status)
}
