//! Error bodies of both dialects, good and odd.

use super::*;
use crate::domain::{DenialCode, NanoUsd, Timestamp};

#[test]
fn a_refusal_is_written_in_the_dialect_of_the_client() {
    let denial = Denial::new(DenialCode::ModelNotFound, "no model `x\"`").with_param("model");
    for client in [Dialect::OpenAi, Dialect::Azure, Dialect::Demo] {
        assert_eq!(
            render_denial(client, &denial, "r1"),
            r#"{"error":{"message":"no model `x\"`","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
        );
    }
    assert_eq!(
        render_denial(Dialect::Anthropic, &denial, "r1"),
        r#"{"type":"error","error":{"type":"not_found_error","message":"no model `x\"`"},"request_id":"r1"}"#
    );
}

#[test]
fn a_budget_says_what_is_left_and_until_when() {
    let left = NanoUsd::from_nanos(1_500_000_000);
    let spent = |resets_at| Denial::new(DenialCode::BudgetExceeded, "spent").with_budget(left, resets_at);
    assert_eq!(
        render_denial(Dialect::OpenAi, &spent(Some(Timestamp::EPOCH)), "r"),
        r#"{"error":{"message":"spent","type":"insufficient_quota","param":null,"code":"budget_exceeded","left_usd":1.5,"resets_at":"1970-01-01T00:00:00Z"}}"#
    );
    assert_eq!(
        render_denial(Dialect::Anthropic, &spent(None), "r"),
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"spent","left_usd":1.5,"resets_at":null},"request_id":"r"}"#
    );
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

#[test]
fn trouble_of_a_provider_is_told_from_what_is_said_of_the_request() {
    for (data, expected) in [
        (r#"{"error":{"type":"server_error","code":null}}"#, true),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
            true,
        ),
        (
            r#"{"type":"error","code":"rate_limit_exceeded","message":"m","sequence_number":0}"#,
            true,
        ),
        (r#"{"error":{"code":503}}"#, true),
        (r#"{"error":{"type":"insufficient_quota"}}"#, true),
        (
            r#"{"error":{"type":"server_error","code":"content_filter"}}"#,
            false,
        ),
        (r#"{"error":{"type":"invalid_request_error","code":"x"}}"#, false),
        (r#"{"error":{"code":400}}"#, false),
        (r#"{"error":null,"type":"response"}"#, false),
        (r#"{"choices":[]}"#, false),
        ("<html>", false),
    ] {
        assert_eq!(is_providers_trouble(data.as_bytes()), expected, "{data}");
    }
    assert_eq!(
        classify_upstream_error(
            Dialect::OpenAi,
            500,
            openai("server_error", "content_filter".into()).as_bytes()
        ),
        UpstreamErrorKind::ContentFilter
    );
}
