//! Error bodies of both dialects: renders our refusals, reads the providers' answers.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::domain::{Denial, Dialect};

/// Largest provider error body that is read; a larger one counts as unreadable.
pub const MAX_ERROR_BODY_BYTES: usize = 256 * 1024;

/// Renders a refusal as the client's dialect writes errors.
///
/// `extras` are further members of the error object (`left_usd`, `resets_at`, …). Anthropic's error
/// object has no `param` and `code`; clients of that dialect find the code in
/// `X-LLM-Proxy-Error-Code`.
pub fn render_denial(client: Dialect, denial: &Denial, request_id: &str, extras: &[(&str, Value)]) -> Bytes {
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
    for (name, value) in extras {
        error.insert((*name).to_owned(), value.clone());
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
        429 => UpstreamErrorKind::RateLimited,
        400 | 403 | 422 if is(CONTENT_FILTER) => UpstreamErrorKind::ContentFilter,
        400 | 413 | 422 if is(&["context_length_exceeded"]) || says_too_long(&error) => {
            UpstreamErrorKind::ContextLength
        }
        _ => UpstreamErrorKind::Other,
    }
}

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
mod tests {
    use super::*;
    use crate::domain::DenialCode;

    #[test]
    fn a_refusal_is_written_in_the_dialect_of_the_client() {
        let denial = Denial::new(DenialCode::ModelNotFound, "no model `x\"`").with_param("model");
        for client in [Dialect::OpenAi, Dialect::Azure, Dialect::Demo] {
            assert_eq!(
                render_denial(client, &denial, "r1", &[]),
                r#"{"error":{"message":"no model `x\"`","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
            );
        }
        assert_eq!(
            render_denial(Dialect::Anthropic, &denial, "r1", &[("nearest", json!(["y"]))]),
            r#"{"type":"error","error":{"type":"not_found_error","message":"no model `x\"`","nearest":["y"]},"request_id":"r1"}"#
        );
        let plain = Denial::new(DenialCode::Draining, "later");
        let body: Value = serde_json::from_slice(&render_denial(
            Dialect::OpenAi,
            &plain,
            "r",
            &[("left_usd", json!(1.5))],
        ))
        .expect("json");
        assert_eq!(body["error"]["param"], Value::Null);
        assert_eq!(body["error"]["left_usd"], json!(1.5));
    }

    fn openai(kind: &str, code: Value) -> String {
        json!({"error": {"message": "m", "type": kind, "param": null, "code": code}}).to_string()
    }

    fn anthropic(kind: &str, message: &str) -> String {
        json!({"type": "error", "error": {"type": kind, "message": message}}).to_string()
    }

    #[test]
    fn errors_about_our_key_are_told_from_those_of_the_client() {
        use UpstreamErrorKind::{Other, OurKey};
        for (dialect, status, body, expected) in [
            (
                Dialect::OpenAi,
                401,
                openai("invalid_request_error", "invalid_api_key".into()),
                OurKey,
            ),
            (Dialect::OpenAi, 401, String::new(), OurKey),
            (
                Dialect::OpenAi,
                403,
                openai("x", "invalid_api_key".into()),
                OurKey,
            ),
            (
                Dialect::OpenAi,
                403,
                openai("authentication_error", Value::Null),
                OurKey,
            ),
            (
                Dialect::OpenAi,
                403,
                openai("x", "account_deactivated".into()),
                OurKey,
            ),
            (
                Dialect::OpenAi,
                403,
                openai("permission_error", "unsupported_country".into()),
                Other,
            ),
            (Dialect::OpenAi, 403, "<html>denied</html>".into(), OurKey),
            (Dialect::OpenAi, 403, r#"{"error":"denied"}"#.into(), OurKey),
            (Dialect::OpenAi, 403, String::new(), OurKey),
            (
                Dialect::OpenAi,
                403,
                format!("[{}]", openai("permission_error", Value::Null)),
                OurKey,
            ),
            (Dialect::Anthropic, 403, anthropic("permission_error", "m"), Other),
            (
                Dialect::Anthropic,
                403,
                anthropic("authentication_error", "m"),
                OurKey,
            ),
            (
                Dialect::Anthropic,
                403,
                openai("permission_error", Value::Null),
                OurKey,
            ),
            (
                Dialect::OpenAi,
                404,
                openai("invalid_request_error", "model_not_found".into()),
                Other,
            ),
            (Dialect::OpenAi, 500, "<html>".into(), Other),
        ] {
            assert_eq!(
                classify_upstream_error(dialect, status, body.as_bytes()),
                expected,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn other_errors_are_classified() {
        use UpstreamErrorKind::{ContentFilter, ContextLength, Money, Other, RateLimited};
        for (dialect, status, body, expected) in [
            (
                Dialect::OpenAi,
                429,
                openai("insufficient_quota", "insufficient_quota".into()),
                Money,
            ),
            (
                Dialect::OpenAi,
                429,
                openai("tokens", "rate_limit_exceeded".into()),
                RateLimited,
            ),
            (Dialect::Azure, 429, openai("x", json!(429)), RateLimited),
            (Dialect::OpenAi, 429, "slow down".into(), RateLimited),
            (Dialect::OpenAi, 402, String::new(), Money),
            (Dialect::Anthropic, 402, anthropic("billing_error", "m"), Money),
            (
                Dialect::Anthropic,
                400,
                anthropic(
                    "invalid_request_error",
                    "You have reached your specified API usage limits.",
                ),
                Money,
            ),
            (
                Dialect::Anthropic,
                400,
                anthropic("invalid_request_error", "prompt is too long: 9 > 8"),
                ContextLength,
            ),
            (
                Dialect::OpenAi,
                400,
                openai("x", "context_length_exceeded".into()),
                ContextLength,
            ),
            (
                Dialect::Azure,
                400,
                openai("x", "content_filter".into()),
                ContentFilter,
            ),
            (
                Dialect::OpenAi,
                400,
                openai("x", "content_policy_violation".into()),
                ContentFilter,
            ),
            (
                Dialect::OpenAi,
                400,
                openai("invalid_request_error", Value::Null),
                Other,
            ),
            (Dialect::Anthropic, 529, anthropic("overloaded_error", "m"), Other),
        ] {
            assert_eq!(
                classify_upstream_error(dialect, status, body.as_bytes()),
                expected,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn numbers_as_codes_are_read_as_text_and_big_bodies_not_at_all() {
        let read = read_upstream_error(Dialect::Azure, openai("x", json!(404)).as_bytes()).expect("an error");
        assert_eq!(read.code.as_deref(), Some("404"));
        let big = openai(&"x".repeat(MAX_ERROR_BODY_BYTES), Value::Null);
        assert_eq!(read_upstream_error(Dialect::OpenAi, big.as_bytes()), None);
    }
}
