//! What a request may cost at most, whether it may, and what it reserved for it on disk.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::EdgeProxy;
use super::admit::state_parameter;
use super::bill::{counted, find_price, is_priced, note_response, request_body, shortened};
use super::body::{RequestBody, Understood};
use super::ctx::RequestCtx;
use super::media;
use crate::auth::Principal;
use crate::dialect::paths::{Family, Inference};
use crate::domain::{CacheWrites, Denial, DenialCode, Dialect, ModelPrice, NanoUsd, PathClass, TokenUsage};
use crate::limit::{Bound, Claim, Payer, Reservation, TokensThought};
use crate::metering::Reserved;
use crate::metering::meter::prompt_bound;
use crate::upstream::Route;
use crate::upstream::catalogue::Target;

/// Tokens of the longest answer of a model of which it is not known.
const LONGEST_ANSWER: u64 = 32_768;

/// Tokens of the longest prompt of a model of which it is not known.
const LONGEST_PROMPT: u64 = 200_000;

/// Whose money a request spends.
pub(super) fn payer(caller: &Principal) -> Payer {
    Payer {
        token_id: caller.token_id,
        project_id: caller.project_id,
        token_budget: caller.token_budget,
        project_budget: caller.project_budget,
    }
}

/// How many tokens a request is thought to use. A token of text has some four bytes; pictures are thought too large by that.
pub(super) fn tokens_thought(ctx: &RequestCtx) -> TokensThought {
    let none = TokensThought {
        prompt: 0,
        completion: Some(0),
    };
    if !is_priced(ctx) {
        return none;
    }
    let RequestBody::Held(held) = &ctx.body else {
        return none;
    };
    TokensThought {
        // files of a form are no text
        prompt: match &held.facts {
            Understood::Json(_) => held.bytes.len() as u64 / 4 + 1,
            Understood::Form(_) => 1,
        },
        completion: Length::of(ctx).declared,
    }
}

impl EdgeProxy {
    /// Whether the model and the path have a price, where that is asked for: by the operator, or by a budget.
    pub(super) fn admit_price(
        &self,
        ctx: &RequestCtx,
        caller: &Principal,
        method: &Method,
        route: &Route,
    ) -> Result<(), Denial> {
        let settings = &ctx.snapshot.settings.prices;
        let limited = self.limiter.has_budget(&payer(caller));
        let needs_price = settings.refuses_unknown() || limited && settings.warns_of_unknown();
        if !needs_price {
            return Ok(());
        }
        let because = if settings.refuses_unknown() {
            "the operator refuses such requests (`prices.unknown: refuse`)"
        } else {
            "what this token may spend is limited, so that requests without a price are refused"
        };
        if !is_priced(ctx) {
            if !limited || is_free(ctx, method) {
                return Ok(());
            }
            let path = ctx.path.as_ref().map_or("", |path| &path.path);
            let message = format!("`{}` has no price, and {because}", shortened(path));
            return Err(Denial::new(DenialCode::PriceUnknown, message));
        }
        let asked = ctx.asked_model().unwrap_or_default();
        let unpriced = route.usable().find(|target| {
            target.provider.dialect != Dialect::Demo && price_at(ctx, target, &asked).is_none()
        });
        let Some(target) = unpriced else {
            return Ok(());
        };
        let message = format!(
            "model `{}` of upstream `{}` has no price, and {because}",
            shortened(target.model.as_deref().unwrap_or(&asked)),
            target.provider.name
        );
        Err(Denial::new(DenialCode::PriceUnknown, message).with_param("model"))
    }

    /// Reserves what the request may cost, wherever there is a budget.
    ///
    /// WHY: the bytes of a body are never fewer than its tokens, and cost nothing to count. Only where so much is not left
    /// are the tokens counted, which takes a thousand times as long.
    pub(super) async fn claim(&self, ctx: &RequestCtx, payer: Payer) -> Claim {
        if !self.limiter.has_budget(&payer) {
            return Claim::nothing();
        }
        let body = request_body(ctx);
        let bytes: usize = body.iter().map(Bytes::len).sum();
        let by_bytes = bound(ctx, bytes as u64);
        let claim = self.limiter.claim(payer, by_bytes).await;
        if !claim.is_short() || !by_bytes.declared || !has_tokenizer(ctx) {
            return claim;
        }
        match counted(move || prompt_bound(&body)).await {
            Some(tokens) if tokens < bytes as u64 => self.limiter.claim(payer, bound(ctx, tokens)).await,
            _ => claim,
        }
    }

    /// Writes down what is reserved, before the request leaves.
    pub(super) async fn keep_reserved(&self, ctx: &mut RequestCtx) -> Result<(), Denial> {
        let amount = ctx.reservation.as_ref().and_then(Reservation::reserved);
        let Some(amount) = amount.filter(|amount| *amount > NanoUsd::ZERO) else {
            return Ok(());
        };
        let Some(reserved) = reserved(ctx, amount) else {
            return Ok(());
        };
        let written = match &ctx.bill.opened {
            Some(opened) => self.ledger.reserve_more(opened, reserved).await,
            None => self.ledger.reserve(reserved).await.map(|opened| {
                ctx.bill.opened = Some(opened);
            }),
        };
        written.map_err(|error| {
            log::error!("a request with a budget is refused: {error}");
            Denial::new(
                DenialCode::StoreUnavailable,
                "what this request may spend cannot be recorded now; try again",
            )
            .with_retry_after(Duration::from_secs(1))
        })
    }

    /// A response of a session has used this: it is paid now. Whether anything is left of the budgets for another.
    pub(super) async fn pay_response(&self, ctx: &mut RequestCtx, usage: TokenUsage) -> bool {
        let cost = note_response(ctx, usage);
        let Some(caller) = ctx.caller.clone() else {
            return false;
        };
        let Some(reservation) = &mut ctx.reservation else {
            return true;
        };
        if !self
            .limiter
            .pay(reservation, caller.token_id, caller.project_id, cost)
        {
            return false;
        }
        // if this process dies: what was paid, and the response that may be under way
        self.keep_reserved(ctx).await.is_ok()
    }

    /// An attempt that came to nothing may have cost something; whether there is as much for the next one.
    pub(super) async fn may_spend_again(&self, ctx: &mut RequestCtx) -> bool {
        let spent = ctx.bill.last_attempt_cost();
        if spent == NanoUsd::ZERO {
            return true;
        }
        let Some(reservation) = &mut ctx.reservation else {
            return true;
        };
        reservation.reserve_more(spent) && self.keep_reserved(ctx).await.is_ok()
    }
}

fn reserved(ctx: &RequestCtx, amount: NanoUsd) -> Option<Reserved> {
    let caller = ctx.caller.as_ref()?;
    let asked = ctx.destination.as_ref().and_then(|route| route.usable().next());
    let provider = match (&ctx.outcome.served.provider, asked) {
        (Some(provider), _) => provider.to_string(),
        (None, Some(target)) => target.provider.name.to_string(),
        (None, None) => String::new(),
    };
    Some(Reserved {
        record_id: ctx.arrival.record_id,
        request_id: ctx.arrival.request_id().to_owned(),
        project_id: caller.project_id,
        token_id: caller.token_id,
        endpoint: ctx
            .path
            .as_ref()
            .map(|path| shortened(&path.path))
            .unwrap_or_default(),
        model: shortened(&ctx.asked_model().unwrap_or_default()),
        provider,
        received_at: ctx.arrival.received_at,
        amount,
    })
}

/// What costs nothing at any provider: looking, deleting, sending files.
fn is_free(ctx: &RequestCtx, method: &Method) -> bool {
    let Some(path) = &ctx.path else { return true };
    match path.class {
        PathClass::Inference | PathClass::Models => true,
        PathClass::Realtime => false,
        _ => {
            matches!(*method, Method::GET | Method::HEAD | Method::DELETE)
                || ["/v1/files", "/v1/uploads"].iter().any(|free| {
                    path.path
                        .strip_prefix(free)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
        }
    }
}

fn price_at<'a>(ctx: &'a RequestCtx, target: &Target, asked: &str) -> Option<&'a ModelPrice> {
    let provider = &target.provider;
    find_price(
        ctx,
        target.public.as_deref().unwrap_or(asked),
        &provider.name,
        provider.dialect,
        target.model.as_deref(),
    )
}

/// What the request costs at most, wherever it goes, if what was sent has at most so many tokens.
fn bound(ctx: &RequestCtx, sent: u64) -> Bound {
    if !is_priced(ctx) {
        return Bound {
            most: Some(NanoUsd::ZERO),
            declared: true,
        };
    }
    let length = Length::of(ctx);
    let asked = ctx.asked_model().unwrap_or_default();
    let body = request_body(ctx);
    // a model without a price counts as free
    let prices = ctx
        .destination
        .iter()
        .flat_map(Route::usable)
        .filter_map(|target| Some((target, price_at(ctx, target, &asked)?)));
    let (media, media_is_sure) = media::bound(ctx, length.answers);
    let mut tokens_are_free = true;
    let most = prices
        .map(|(target, price)| {
            tokens_are_free &= price.has_free_tokens();
            let prompt = if length.reads_more {
                price.max_input_tokens.unwrap_or(LONGEST_PROMPT)
            } else if length.declared.is_some() {
                sent
            } else {
                // pictures and sounds have more bytes than a model takes tokens
                price.max_input_tokens.map_or(sent, |longest| sent.min(longest))
            };
            let answer = length.declared.unwrap_or_else(|| {
                let longest = price.max_output_tokens.unwrap_or(LONGEST_ANSWER);
                longest.saturating_mul(length.answers)
            });
            let tokens = price.bound(prompt, answer, cache_writes(target.provider.dialect, &body));
            tokens.plus(price.media_cost(&media))
        })
        .max()
        .unwrap_or(NanoUsd::ZERO);
    Bound {
        most: Some(most),
        declared: media_is_sure && (length.declared.is_some() || tokens_are_free) && !length.reads_more,
    }
}

/// How long prompt and answer may be.
struct Length {
    /// Tokens of the answer at most, as the client declared it, or because there is none.
    declared: Option<u64>,
    /// How many answers were asked for.
    answers: u64,
    /// The model reads more than was sent: what the provider keeps, or what is said in a session.
    reads_more: bool,
}

impl Length {
    fn of(ctx: &RequestCtx) -> Self {
        let unknown = |reads_more| Self {
            declared: None,
            answers: 1,
            reads_more,
        };
        let (Some(path), RequestBody::Held(held)) = (&ctx.path, &ctx.body) else {
            return unknown(ctx.is_realtime());
        };
        let Understood::Json(facts) = &held.facts else {
            return unknown(false);
        };
        let declared = match path.facts.family {
            Family::Inference(Inference::Embeddings | Inference::Rerank) => Some(0),
            Family::Inference(Inference::Audio | Inference::Images) => None,
            _ => facts.declared_output_tokens(),
        };
        Self {
            declared,
            answers: facts.n.unwrap_or(1),
            reads_more: state_parameter(held).is_some(),
        }
    }
}

/// Whether some of the prompt may be written to the provider's cache: Anthropic must be asked to.
fn cache_writes(dialect: Dialect, body: &[Bytes]) -> CacheWrites {
    if dialect != Dialect::Anthropic {
        return CacheWrites::Some;
    }
    let has = |word: &[u8]| {
        body.iter()
            .any(|bytes| memchr::memmem::find(bytes, word).is_some())
    };
    match (has(b"cache_control"), has(b"\"1h\"")) {
        (false, _) => CacheWrites::No,
        (true, false) => CacheWrites::Some,
        (true, true) => CacheWrites::ForAnHour,
    }
}

/// Whether the vocabulary that is built in is that of the model, so that counted tokens are a bound.
fn has_tokenizer(ctx: &RequestCtx) -> bool {
    let asked = ctx.asked_model().unwrap_or_default();
    ctx.destination.iter().flat_map(Route::usable).all(|target| {
        let model = target.model.as_deref().unwrap_or(&asked);
        matches!(target.provider.dialect, Dialect::OpenAi | Dialect::Azure)
            && ["gpt-", "o1", "o3", "o4", "chatgpt-", "codex-", "text-embedding-"]
                .iter()
                .any(|name| model.starts_with(name))
    })
}
