//! What a request may cost at most, whether it may, and what it reserved for it on disk.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::EdgeProxy;
use super::bill::{counted, family, is_priced, request_body, shortened};
use super::body::{RequestBody, Understood};
use super::ctx::RequestCtx;
use crate::auth::Principal;
use crate::dialect::paths::{Family, Inference};
use crate::domain::{CacheWrites, Denial, DenialCode, Dialect, ModelPrice, NanoUsd, PathClass, Priced};
use crate::limit::{Bound, Claim, Payer, Reservation, TokensThought};
use crate::live::STATE_PARAMETERS;
use crate::metering::Reserved;
use crate::metering::meter::prompt_bound;
use crate::upstream::Route;
use crate::upstream::catalogue::Target;

/// Tokens of one answer of a realtime session, where its model does not say.
const REALTIME_TOKENS: u64 = 4096;

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
        prompt: held.bytes.len() as u64 / 4 + 1,
        completion: match answer_length(ctx).tokens {
            OutputTokens::AtMost(tokens) => Some(tokens),
            OutputTokens::TimesTheLongest(_) | OutputTokens::Unknown => None,
        },
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
    ctx.snapshot.settings.prices.prices.find(Priced {
        public: asked,
        provider: &target.provider.name,
        family: family(target.provider.dialect),
        model: target.model.as_deref().unwrap_or(asked),
    })
}

/// What the request costs at most, wherever it goes, if its prompt has at most so many tokens.
fn bound(ctx: &RequestCtx, prompt: u64) -> Bound {
    if !is_priced(ctx) {
        return Bound {
            most: Some(NanoUsd::ZERO),
            declared: true,
        };
    }
    let Length { tokens, declared } = answer_length(ctx);
    let asked = ctx.asked_model().unwrap_or_default();
    let body = request_body(ctx);
    let mut most = Some(NanoUsd::ZERO);
    for target in ctx.destination.iter().flat_map(Route::usable) {
        let Some(price) = price_at(ctx, target, &asked) else {
            // counts as free
            continue;
        };
        let realtime = ctx.is_realtime();
        let output = match tokens {
            OutputTokens::AtMost(tokens) => Some(tokens),
            OutputTokens::TimesTheLongest(n) => {
                price.max_output_tokens.map(|longest| longest.saturating_mul(n))
            }
            OutputTokens::Unknown => None,
        };
        let (prompt, output) = if realtime {
            (
                price.max_input_tokens.unwrap_or(REALTIME_TOKENS),
                Some(price.max_output_tokens.unwrap_or(REALTIME_TOKENS)),
            )
        } else {
            (prompt, output)
        };
        let cost =
            output.map(|output| price.bound(prompt, output, cache_writes(target.provider.dialect, &body)));
        most = most.zip(cost).map(|(most, cost)| most.max(cost));
    }
    Bound { most, declared }
}

/// How long an answer may be.
struct Length {
    tokens: OutputTokens,
    /// The client said so.
    declared: bool,
}

enum OutputTokens {
    AtMost(u64),
    /// So many answers, each as long as the model can.
    TimesTheLongest(u64),
    Unknown,
}

fn answer_length(ctx: &RequestCtx) -> Length {
    let unknown = Length {
        tokens: OutputTokens::Unknown,
        declared: false,
    };
    let (Some(path), RequestBody::Held(held)) = (&ctx.path, &ctx.body) else {
        return unknown;
    };
    let Understood::Json(facts) = &held.facts else {
        return unknown;
    };
    let reads_state = STATE_PARAMETERS.iter().any(|name| {
        facts
            .parameter(name)
            .is_some_and(|value| value.as_text() != Some("null"))
    });
    if reads_state {
        // the prompt is longer than what was sent, nobody knows by how much
        return unknown;
    }
    match path.facts.family {
        Family::Inference(Inference::Embeddings | Inference::Rerank) => Length {
            tokens: OutputTokens::AtMost(0),
            declared: true,
        },
        Family::Inference(Inference::Audio | Inference::Images) => unknown,
        _ => match facts.declared_output_tokens() {
            Some(tokens) => Length {
                tokens: OutputTokens::AtMost(tokens),
                declared: true,
            },
            None => Length {
                tokens: OutputTokens::TimesTheLongest(facts.n.unwrap_or(1)),
                declared: false,
            },
        },
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
