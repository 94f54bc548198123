//! Error bodies of both dialects: renders our refusals, reads the providers' answers.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::domain::{Denial, Dialect};

/// Largest provider error body that is read; a larger one counts as unreadable.
pub const MAX_ERROR_BODY_BYTES: usize = 256 * 1024;

/// Renders a refusal as the client's dialect writes errors.
///
/// Anthropic's error object has no `param` and `code`; clients of that dialect find the code in
/// `X-LLM-Proxy-Error-Code`.
pub fn render_denial(client: Dialect, denial: &Denial, request_id: &str) -> Bytes {
    let mut error = Map::new();
    let anthropic = client == Dialect::Anthropic;
    if anthropic {
        error.insert("type".into(), denial.code.anthropic_type().into());
        error.insert("message".into(), denial.message.as_str().into());
    } else {
        error.insert("message".into(), denial.message.as_str().into());
        error.insert("type".into(), denial.code.openai_type().into());
        error.insert("param".into(), denial.param.as_deref().into());
        error.insert("code".into(), denial.code.as_str().into());
    }
    if let Some(budget) = denial.budget {
        error.insert("left_usd".into(), budget.left.as_usd().into());
        let resets_at = budget.resets_at.map(|at| at.to_string());
        error.insert("resets_at".into(), resets_at.into());
    }
    let body = if anthropic {
        json!({"type": "error", "error": error, "request_id": request_id})
    } else {
        json!({"error": error})
    };
    body.to_string().into()
}

/// What a provider's error is about, as far as the proxy acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamErrorKind {
    /// Our key is wrong, missing or not allowed: the client must not see it as its own.
    OurKey,
    /// The account has no money or its spend limit is reached: retrying this target is of no use.
    Money,
    /// The prompt is too long for the model.
    ContextLength,
    /// A content filter refused.
    ContentFilter,
    /// A rate limit of the provider.
    RateLimited,
    /// Anything else: the provider's business with the client.
    Other,
}

/// The error object of a provider's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamError {
    /// `type`.
    pub kind: Option<String>,
    /// `code`; numbers as text.
    pub code: Option<String>,
    /// `message`.
    pub message: Option<String>,
    /// `param`.
    pub param: Option<String>,
}

/// Reads the error object of `dialect` from a body; none if it is none.
pub fn read_upstream_error(dialect: Dialect, body: &[u8]) -> Option<UpstreamError> {
    if body.len() > MAX_ERROR_BODY_BYTES {
        return None;
    }
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    if dialect == Dialect::Anthropic && envelope.kind.as_ref().and_then(Value::as_str) != Some("error") {
        return None;
    }
    let Value::Object(error) = envelope.error? else {
        return None;
    };
    let text = |name: &str| match error.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    Some(UpstreamError {
        kind: text("type"),
        code: text("code"),
        message: text("message"),
        param: text("param"),
    })
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: Option<Value>,
    error: Option<Value>,
}

/// Says what an error answer is about. `body` may be any bytes, also none, HTML or a cut piece.
pub fn classify_upstream_error(dialect: Dialect, status: u16, body: &[u8]) -> UpstreamErrorKind {
    if status == 401 {
        return UpstreamErrorKind::OurKey;
    }
    let Some(error) = read_upstream_error(dialect, body) else {
        return match status {
            402 => UpstreamErrorKind::Money,
            403 => UpstreamErrorKind::OurKey,
            // some endpoints wrap their error into an array or a text of their own
            429 => UpstreamErrorKind::RateLimited,
            _ => UpstreamErrorKind::Other,
        };
    };
    let is = |words: &[&str]| {
        [&error.kind, &error.code]
            .into_iter()
            .flatten()
            .any(|word| words.contains(&word.as_str()))
    };
    match status {
        403 if is(OUR_KEY) => UpstreamErrorKind::OurKey,
        402 => UpstreamErrorKind::Money,
        _ if is(MONEY) || says_spend_limit(dialect, status, &error) => UpstreamErrorKind::Money,
        // whatever the status: who asks elsewhere goes around the filter
        _ if is(CONTENT_FILTER) => UpstreamErrorKind::ContentFilter,
        429 => UpstreamErrorKind::RateLimited,
        400 | 413 | 422 if is(&["context_length_exceeded"]) || says_too_long(&error) => {
            UpstreamErrorKind::ContextLength
        }
        _ => UpstreamErrorKind::Other,
    }
}

/// Whether an error that came inside a good answer is the provider's own trouble, which another may not have: `data` is an
/// error object of either dialect, or that of a Responses event.
pub fn is_providers_trouble(data: &[u8]) -> bool {
    if data.len() > MAX_ERROR_BODY_BYTES {
        return false;
    }
    let Ok(Value::Object(envelope)) = serde_json::from_slice::<Value>(data) else {
        return false;
    };
    let error = match envelope.get("error") {
        Some(Value::Object(error)) => error,
        _ if envelope.get("type").and_then(Value::as_str) == Some("error") => &envelope,
        _ => return false,
    };
    let is_filtered = ["type", "code"].iter().any(|name| {
        let word = error.get(*name).and_then(Value::as_str);
        word.is_some_and(|word| CONTENT_FILTER.contains(&word))
    });
    if is_filtered {
        return false;
    }
    ["type", "code", "status"]
        .iter()
        .any(|name| match error.get(*name) {
            Some(Value::String(word)) => TROUBLE.contains(&word.as_str()) || MONEY.contains(&word.as_str()),
            Some(Value::Number(number)) => number
                .as_u64()
                .is_some_and(|status| matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 529)),
            _ => false,
        })
}

const TROUBLE: &[&str] = &[
    "api_error",
    "engine_overloaded",
    "internal_error",
    "internal_server_error",
    "overloaded",
    "overloaded_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "server_error",
    "server_is_overloaded",
    "service_unavailable",
    "service_unavailable_error",
    "slow_down",
    "timeout_error",
    "429",
    "500",
    "502",
    "503",
    "504",
    "529",
];

const OUR_KEY: &[&str] = &["authentication_error", "invalid_api_key", "account_deactivated"];

const MONEY: &[&str] = &[
    "insufficient_quota",
    "billing_error",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_not_active",
];

const CONTENT_FILTER: &[&str] = &["content_filter", "content_policy_violation"];

/// Anthropic tells an account's own spend limit and an empty balance as a 400 with a text about it.
fn says_spend_limit(dialect: Dialect, status: u16, error: &UpstreamError) -> bool {
    dialect == Dialect::Anthropic
        && status == 400
        && error.kind.as_deref() == Some("invalid_request_error")
        && message_contains(error, &["usage limits", "credit balance is too low"])
}

/// Providers without a code for it say it in words.
fn says_too_long(error: &UpstreamError) -> bool {
    message_contains(
        error,
        &[
            "prompt is too long",
            "maximum context length",
            "exceed context limit",
            "exceeds the context window",
        ],
    )
}

fn message_contains(error: &UpstreamError, parts: &[&str]) -> bool {
    let Some(message) = &error.message else {
        return false;
    };
    let message = message.to_ascii_lowercase();
    parts.iter().any(|part| message.contains(part))
}

#[cfg(test)]
mod tests;
