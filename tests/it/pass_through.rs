//! What passes unchanged in one dialect, and the named changes to heads.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::edge::{OPENAI_KEY, TestEdge};
use crate::http::{Client, End, Request, chat};
use crate::provider::{Provider, Reply};

const MIB: usize = 1024 * 1024;

/// Bytes without a pattern that a wrong offset would hide.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

#[test]
fn request_body_goes_upstream_byte_for_byte() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let body = "{ \"messages\" :[{\"role\":\"user\",\"content\":\"h\\u00e9llo \\ud83d\\ude00 1.0e5\"}],\n\t\"model\":\"gpt-a\" , \"x\":1.50, \"big\":12345678901234567890 }";
    user.send(Request::new("POST", "/v1/chat/completions").bytes(body))
        .expect(200);
    assert_eq!(String::from_utf8_lossy(&provider.last().body), body);
    user.send(Request::new("POST", "/v1/chat/completions").chunked(body, 7))
        .expect(200);
    assert_eq!(String::from_utf8_lossy(&provider.last().body), body);
}

#[test]
fn answer_body_comes_back_byte_for_byte() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let body = "{ \"id\":\"x\",\n \"usage\": {\"prompt_tokens\":1 , \"completion_tokens\":2}, \"n\":1.50 }";
    provider.next(
        Reply::status(200)
            .header("Content-Type", "application/json")
            .body(body),
    );
    let answer = user.chat("gpt-a").expect(200);
    assert_eq!(answer.text(), body);
    assert_eq!(answer.header("x-llm-proxy-origin"), Some("upstream"));
}

#[test]
fn query_string_stays_identical() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let target = "/v1/chat/completions?b=2&a=1&a=%2F+x&empty=&flag&%41=%e4";
    user.post(target, chat("gpt-a")).expect(200);
    assert_eq!(provider.last().target, target);
}

#[test]
fn every_inference_path_reaches_the_provider() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    for (path, body) in [
        ("/v1/completions", json!({"model": "m", "prompt": "x"})),
        ("/v1/responses", json!({"model": "m", "input": "x"})),
        ("/v1/embeddings", json!({"model": "m", "input": "x"})),
        ("/v1/moderations", json!({"model": "m", "input": "x"})),
        ("/v1/images/generations", json!({"model": "m", "prompt": "x"})),
        (
            "/v1/audio/speech",
            json!({"model": "m", "input": "x", "voice": "v"}),
        ),
    ] {
        user.post(path, body).expect(200);
        assert_eq!(provider.last().target, path);
    }
    user.as_anthropic().message("claude-a").expect(200);
    assert_eq!(provider.last().target, "/v1/messages");
}

#[test]
fn binary_answers_pass_unchanged() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let audio = noise(300_000);
    provider.next(
        Reply::status(200)
            .header("Content-Type", "audio/mpeg")
            .body(audio.clone()),
    );
    let answer = user
        .post(
            "/v1/audio/speech",
            json!({"model": "tts", "input": "x", "voice": "v"}),
        )
        .expect(200);
    assert!(answer.body == audio);
    assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
}

#[test]
fn multipart_uploads_pass_unchanged() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({"allowed_models": ["whisper-*"]}));
    let form = |model: &str| {
        let mut body =
            format!("--b0undary\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n")
                .into_bytes();
        body.extend_from_slice(b"--b0undary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\nContent-Type: audio/mpeg\r\n\r\n");
        body.extend_from_slice(&noise(50_000));
        body.extend_from_slice(b"\r\n--b0undary--\r\n");
        body
    };
    let send = |body: Vec<u8>| {
        let request = Request::new("POST", "/v1/audio/transcriptions");
        user.send(
            request
                .header("Content-Type", "multipart/form-data; boundary=b0undary")
                .bytes(body),
        )
    };
    send(form("whisper-1")).expect(200);
    assert!(*provider.last().body == form("whisper-1"));
    assert_eq!(
        provider.last().header("content-type"),
        Some("multipart/form-data; boundary=b0undary")
    );
    send(form("other")).refused(403, "model_not_allowed");
    let twice = [
        &b"--b0undary\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n"[..],
        &form("whisper-1"),
    ]
    .concat();
    send(twice).refused(400, "invalid_json");
    assert_eq!(provider.count(), 1);
}

#[test]
fn twenty_mebibytes_go_up_and_down_hash_identical_with_length() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    let (up, down) = (noise(20 * MIB), noise(20 * MIB + 1));
    provider.next(
        Reply::status(200)
            .header("Content-Type", "application/octet-stream")
            .body(down.clone()),
    );
    let request = Request::new("POST", "/v1/files").header("Content-Type", "multipart/form-data; boundary=x");
    let answer = user.send(request.bytes(up.clone())).expect(200);
    assert_eq!(hash(&provider.last().body), hash(&up));
    assert_eq!(hash(&answer.body), hash(&down));
    assert_eq!(answer.end, End::Length);
}

#[test]
fn twenty_mebibytes_go_up_and_down_hash_identical_chunked() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    let (up, down) = (noise(20 * MIB + 3), noise(20 * MIB));
    let pieces = down.chunks(100_003).map(<[u8]>::to_vec).collect();
    provider.next(
        Reply::status(200)
            .header("Content-Type", "application/octet-stream")
            .chunked()
            .pieces(pieces),
    );
    let answer = user
        .send(Request::new("POST", "/v1/files").chunked(up.clone(), 65_537))
        .expect(200);
    assert_eq!(hash(&provider.last().body), hash(&up));
    assert_eq!(hash(&answer.body), hash(&down));
    assert_eq!(answer.end, End::LastChunk);
}

#[test]
fn large_inspected_body_goes_up_hash_identical() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let body = format!("{{\"pad\": \"{}\", \"model\": \"gpt-a\"}}", "x".repeat(20 * MIB)).into_bytes();
    user.send(Request::new("POST", "/v1/chat/completions").bytes(body.clone()))
        .expect(200);
    assert_eq!(hash(&provider.last().body), hash(&body));
    user.send(Request::new("POST", "/v1/chat/completions").chunked(body.clone(), 50_000))
        .expect(200);
    assert_eq!(hash(&provider.last().body), hash(&body));
}

#[test]
fn uploads_that_need_no_inspection_are_not_held() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    user.get("/v1/files").expect(200);
    let before = edge.resident_kib();
    let body = noise(48 * MIB);
    let slow = Reply::status(200)
        .header("Content-Type", "application/octet-stream")
        .body(noise(48 * MIB));
    provider.next(slow);
    user.send(Request::new("POST", "/v1/files").bytes(body))
        .expect(200);
    let grown = edge.peak_kib().saturating_sub(before);
    assert!(
        grown < 24 * 1024,
        "memory grew by {grown} KiB for 48 MiB each way"
    );
}

#[test]
fn headers_that_are_ours_or_private_never_go_upstream() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let dropped = [
        ("Cookie", "a=b"),
        ("Forwarded", "for=1.2.3.4"),
        ("Via", "1.1 x"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Anything", "x"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-Client-IP", "1.2.3.4"),
        ("True-Client-IP", "1.2.3.4"),
        ("X-Original-Forwarded-For", "1.2.3.4"),
        ("CF-Connecting-IP", "1.2.3.4"),
        ("Fly-Region", "x"),
        ("Fastly-Client-IP", "1.2.3.4"),
        ("Proxy-Authorization", "Basic x"),
        ("X-LLM-Proxy-Debug", "1"),
        ("X-Body-Hash", "abc"),
        ("TE", "trailers"),
        ("Keep-Alive", "timeout=5"),
        ("OpenAI-Organization", "org-theirs"),
        ("OpenAI-Project", "proj-theirs"),
        ("x-goog-user-project", "p"),
        ("X-Hop", "1"),
    ];
    let mut client: Client = (*user).clone().with("Connection", "keep-alive, X-Hop");
    for (name, value) in dropped {
        client = client.with(name, value);
    }
    client
        .with("User-Agent", "bench/1")
        .with("X-Custom", "kept")
        .with("OpenAI-Beta", "assistants=v2")
        .with("Idempotency-Key", "k1")
        .chat("gpt-a")
        .expect(200);
    let seen = provider.last();
    for (name, _) in dropped {
        assert_eq!(seen.header(name), None, "{name} went upstream");
    }
    assert!(
        crate::http::find(&seen.raw_head, user.secret.as_bytes()).is_none(),
        "the client's credential went upstream"
    );
    assert_eq!(
        seen.header("authorization"),
        Some(format!("Bearer {OPENAI_KEY}").as_str())
    );
    assert_eq!(seen.header("host"), Some(provider.address().to_string().as_str()));
    assert_eq!(seen.header("x-proxy"), Some("llm-proxy"));
    assert!(seen.header("x-request-id").is_some());
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    for (name, value) in [
        ("user-agent", "bench/1"),
        ("x-custom", "kept"),
        ("openai-beta", "assistants=v2"),
        ("idempotency-key", "k1"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name} passes");
    }
}

#[test]
fn organization_headers_pass_with_a_key_of_the_project() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    provider.next(Reply::json(200, &json!({"id": "x"})).header("openai-organization", "org-own"));
    let answer = user
        .with("OpenAI-Organization", "org-own")
        .chat("gpt-a")
        .expect(200);
    assert_eq!(provider.last().header("openai-organization"), Some("org-own"));
    assert_eq!(answer.header("openai-organization"), Some("org-own"));
}

#[test]
fn headers_of_the_configuration_are_added() {
    let provider = Provider::start();
    let headers = json!({"providers": {"openai": {"headers": {"X-Team": "edge"}}}});
    let edge = TestEdge::plan(&provider).with(headers).start();
    edge.token(json!({})).chat("gpt-a").expect(200);
    assert_eq!(provider.last().header("x-team"), Some("edge"));
}

#[test]
fn headers_that_are_the_providers_own_never_come_down() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let dropped = [
        ("Set-Cookie", "a=b"),
        ("Server", "provider/1"),
        ("Alt-Svc", "h3=\":443\""),
        ("Strict-Transport-Security", "max-age=1"),
        ("NEL", "{}"),
        ("Report-To", "{}"),
        ("Access-Control-Allow-Origin", "https://provider"),
        ("openai-organization", "org-shared"),
        ("openai-project", "p"),
        ("anthropic-organization-id", "o"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
    ];
    let mut reply = Reply::json(200, &json!({"id": "x"}));
    for (name, value) in dropped {
        reply = reply.header(name, value);
    }
    provider.next(
        reply
            .header("openai-processing-ms", "12")
            .header("x-ratelimit-limit-requests", "777")
            .header("X-Other", "kept"),
    );
    let answer = user.chat("gpt-a").expect(200);
    for (name, _) in dropped {
        assert_eq!(answer.header(name), None, "{name} came down");
    }
    for (name, value) in [
        ("openai-processing-ms", "12"),
        ("x-ratelimit-limit-requests", "777"),
        ("x-other", "kept"),
        ("x-proxy", "llm-proxy"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name} passes");
    }
}

#[test]
fn answer_tells_who_served_it_and_when() {
    let provider = Provider::start();
    let models = json!({"models": {"public": {"targets": [{"provider": "openai", "model": "gpt-a"}]}}});
    let edge = TestEdge::plan(&provider).with(models).start();
    let answer = edge.token(json!({})).chat("public").expect(200);
    for (name, value) in [
        ("origin", "upstream"),
        ("provider", "openai"),
        ("model", "gpt-a"),
        ("attempts", "1"),
    ] {
        assert_eq!(
            answer.header(&format!("x-llm-proxy-{name}")),
            Some(value),
            "{name}"
        );
    }
    for name in ["x-proxy-received-at", "x-proxy-first-response-at"] {
        assert!(answer.header(name).is_some(), "{name} in {:?}", answer.headers);
    }
    assert_eq!(answer.header("x-llm-proxy-cost-usd"), None);
    assert_eq!(answer.header("x-proxy-cache-key"), None);
}

#[test]
fn exposed_headers_can_be_narrowed() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"server": {"expose_headers": ["provider"]}}))
        .start();
    let answer = edge.token(json!({})).chat("gpt-a").expect(200);
    assert_eq!(answer.header("x-llm-proxy-provider"), Some("openai"));
    assert_eq!(answer.header("x-llm-proxy-model"), None);
    assert_eq!(answer.header("x-llm-proxy-attempts"), None);
}

#[test]
fn browsers_may_read_answers_and_refusals() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({})).with("Origin", "https://app.example");
    let answer = user.chat("gpt-a").expect(200);
    assert!(answer.header("access-control-allow-origin").is_some());
    assert!(
        answer
            .header("access-control-expose-headers")
            .is_some_and(|v| v.to_ascii_lowercase().contains("x-request-id"))
    );
    let refusal = edge
        .anonymous()
        .with("Origin", "https://app.example")
        .chat("gpt-a")
        .refused(401, "invalid_token");
    assert!(refusal.header("access-control-allow-origin").is_some());
}

#[test]
fn provider_errors_pass_unchanged_in_their_dialect() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    for (status, kind, code) in [
        (400, "invalid_request_error", "context_length_exceeded"),
        (403, "permission_error", "access_denied"),
        (404, "invalid_request_error", "model_not_found"),
        (409, "conflict", "conflict"),
        (422, "invalid_request_error", "unprocessable"),
    ] {
        provider.next(Reply::openai_error(status, kind, code));
        let answer = user.chat("gpt-a").expect(status);
        assert_eq!(answer.json()["error"]["code"], code);
        assert_eq!(answer.header("x-llm-proxy-origin"), Some("upstream"));
    }
    provider.next(Reply::anthropic_error(400, "invalid_request_error"));
    let answer = user.as_anthropic().message("claude-a").expect(400);
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
}

#[test]
fn errors_that_providers_want_repeated_pass_in_the_end() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"router": {"retries": 0}}))
        .start();
    let user = edge.token(json!({}));
    for status in [429, 500, 503, 529] {
        provider.next(Reply::openai_error(status, "server_error", "they_say").header("Retry-After", "7"));
        // another model, for what asks to be left alone is
        let answer = user.chat(&format!("gpt-{status}")).expect(status);
        assert_eq!(answer.json()["error"]["code"], "they_say");
        assert_eq!(answer.header("retry-after"), Some("7"));
    }
}

#[test]
fn errors_about_our_key_are_not_the_clients() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    for reply in [
        Reply::openai_error(401, "invalid_request_error", "invalid_api_key"),
        Reply::status(401).body("who are you"),
        Reply::openai_error(403, "invalid_request_error", "account_deactivated"),
        Reply::openai_error(403, "authentication_error", "x"),
        Reply::status(403)
            .header("Content-Type", "text/html")
            .body("<html>blocked</html>"),
    ] {
        provider.always(reply);
        let answer = user.chat("gpt-a").refused(502, "upstream_auth_error");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        provider.forget_scripts();
    }
}

#[test]
fn encoded_answers_pass_unchanged() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    // gzip of "{}" is opaque to us; the bytes must come through with their label.
    let zipped = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0, 0x43, 0xbf, 0xa6, 0xa3, 2, 0, 0, 0,
    ];
    provider.next(
        Reply::status(200)
            .header("Content-Type", "application/json")
            .header("Content-Encoding", "gzip")
            .body(zipped),
    );
    let answer = user.chat("gpt-a").expect(200);
    assert_eq!(answer.body, zipped);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
}

#[test]
fn head_and_framing_of_odd_answers_are_kept_sound() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    provider.next(Reply::status(204));
    let answer = user.delete("/v1/files/file-fake").expect(204);
    assert!(answer.body.is_empty());
    provider.next(
        Reply::status(200)
            .header("Content-Type", "text/plain")
            .until_close()
            .body("until the close"),
    );
    let answer = user.get("/v1/files/file-fake/content").expect(200);
    assert_eq!(answer.text(), "until the close");
    assert!(answer.end.is_whole());
    provider.next(Reply::json(200, &json!({})).header("X-Once", "1"));
    let answer = user.get("/v1/files").expect(200);
    assert_eq!(
        answer.headers.all("content-length").len() + answer.headers.all("transfer-encoding").len(),
        1
    );
}

#[test]
fn early_answer_of_the_provider_reaches_an_uploading_client() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    provider.next(
        Reply::openai_error(400, "invalid_request_error", "no_thanks")
            .before_body()
            .then_close(),
    );
    let answer = user.send(Request::new("POST", "/v1/files").bytes(noise(8 * MIB)));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "no_thanks");
    assert!(answer.elapsed < Duration::from_secs(10));
}

#[test]
fn expectation_of_a_continue_is_met() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let request = Request::new("POST", "/v1/chat/completions")
        .header("Expect", "100-continue")
        .json(&chat("gpt-a"));
    user.send(request).expect(200);
    assert_eq!(provider.last().json()["model"], "gpt-a");
}
