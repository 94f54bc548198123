//! Our own fields on answers of the data plane.

use http::header::HeaderValue;
use pingora_http::ResponseHeader;

use super::ctx::RequestCtx;
use crate::domain::Timestamp;

/// Adds what every answer carries and what `server.expose_headers` asks for.
pub(super) fn decorate(
    ctx: &RequestCtx,
    origin: Option<&HeaderValue>,
    answer: &mut ResponseHeader,
    now: Timestamp,
) -> pingora_core::Result<()> {
    answer.insert_header("x-request-id", ctx.arrival.request_id.clone())?;
    answer.insert_header("x-proxy", HeaderValue::from_static("llm-proxy"))?;
    let mut fields = Ok(());
    let is_preflight = answer
        .headers
        .contains_key(http::header::ACCESS_CONTROL_ALLOW_ORIGIN);
    ctx.snapshot.cors.decorate(origin, |name, value| {
        if fields.is_ok() && !is_preflight {
            fields = answer.append_header(name, value).map(|_| ());
        }
    });
    fields?;
    let exposed = ctx.snapshot.settings.server.expose_headers;
    if exposed.origin {
        answer.insert_header("x-llm-proxy-origin", ctx.outcome.origin.as_str())?;
    }
    let served = &ctx.outcome.served;
    if exposed.provider
        && let Some(provider) = &served.provider
    {
        insert_text(answer, "x-llm-proxy-provider", provider)?;
    }
    if exposed.model
        && let Some(model) = &served.model
    {
        insert_text(answer, "x-llm-proxy-model", model)?;
    }
    if exposed.attempts && served.attempts > 0 {
        answer.insert_header("x-llm-proxy-attempts", served.attempts)?;
    }
    if exposed.attempts && !served.paused.is_zero() {
        let millis = u64::try_from(served.paused.as_millis()).unwrap_or(u64::MAX);
        answer.insert_header("x-llm-proxy-waited-ms", millis)?;
    }
    if exposed.cost
        && let Some(total) = ctx.bill.total
    {
        insert_text(answer, "x-llm-proxy-cost-usd", &total.cost.to_string())?;
    }
    if exposed.timing {
        timing(ctx, answer, now)?;
    }
    if exposed.ratelimit {
        let rates = ctx.outcome.rates;
        if let Some(requests) = rates.requests {
            answer.insert_header("x-ratelimit-limit-requests", requests.limit)?;
            answer.insert_header("x-ratelimit-remaining-requests", requests.remaining)?;
            insert_text(answer, "x-ratelimit-reset-requests", &requests.reset_text())?;
        }
        if let Some(tokens) = rates.tokens {
            answer.insert_header("x-ratelimit-limit-tokens", tokens.limit)?;
            answer.insert_header("x-ratelimit-remaining-tokens", tokens.remaining)?;
            insert_text(answer, "x-ratelimit-reset-tokens", &tokens.reset_text())?;
        }
    }
    ctx.cache.decorate(exposed.cache, exposed.cache_key, answer)
}

fn timing(ctx: &RequestCtx, answer: &mut ResponseHeader, now: Timestamp) -> pingora_core::Result<()> {
    insert_text(
        answer,
        "x-proxy-received-at",
        &ctx.arrival.received_at.to_rfc3339(),
    )?;
    let served = &ctx.outcome.served;
    if served.attempts == 0 {
        return Ok(());
    }
    let first = now.to_rfc3339();
    insert_text(answer, "x-proxy-first-response-at", &first)?;
    insert_text(answer, "x-proxy-final-response-at", &first)?;
    if let Some(started) = served.request_started_at {
        answer.insert_header("x-upstream-request-start", nanoseconds(started))?;
    }
    if let Some(head_at) = served.head_at {
        answer.insert_header("x-upstream-request-stop", nanoseconds(head_at))?;
    }
    Ok(())
}

fn nanoseconds(time: Timestamp) -> i64 {
    time.as_micros().saturating_mul(1000)
}

/// Names come from requests and configuration: what cannot stand in a field is left out.
fn insert_text(answer: &mut ResponseHeader, name: &'static str, text: &str) -> pingora_core::Result<()> {
    match HeaderValue::from_str(text) {
        Ok(value) => answer.insert_header(name, value),
        Err(_) => Ok(()),
    }
}
