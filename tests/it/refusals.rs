//! Each refusal of the data plane: its status, code and dialect, and which of two comes first.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::TestEdge;
use crate::http::{Connection, End, Request, chat, message};
use crate::provider::Provider;

const CHAT: &str = "/v1/chat/completions";

fn edge_with(over: Value) -> (Provider, TestEdge) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider).with(over).start();
    (provider, edge)
}

/// Sends bytes and reads one answer from a connection that must then close.
fn raw_exchange(edge: &TestEdge, bytes: &[u8]) -> crate::http::Answer {
    let mut connection = Connection::open(edge.proxy);
    connection.send_raw(bytes).expect("send");
    let answer = connection.read_answer("GET", Instant::now()).expect("an answer");
    assert!(
        connection.is_closed_within(Duration::from_secs(3)),
        "the connection stays open"
    );
    answer
}

#[test]
fn malformed_heads_are_refused_in_json_and_the_connection_closes() {
    let (_provider, edge) = edge_with(json!({}));
    for bytes in [
        &b"this is no HTTP at all\r\n\r\n"[..],
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\nabcd",
    ] {
        raw_exchange(&edge, bytes).refused(400, "malformed_request");
    }
}

#[test]
fn slow_head_is_refused_with_408() {
    let (_provider, edge) = edge_with(json!({"server": {"header_timeout": "400ms"}}));
    let mut connection = Connection::open(edge.proxy);
    let from = Instant::now();
    // Drips: the deadline is for the whole head, not for the silence.
    for byte in b"GET /v1/mod" {
        if connection.send_raw(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let answer = connection.read_answer("GET", from).expect("an answer");
    assert!(answer.elapsed < Duration::from_secs(2), "{:?}", answer.elapsed);
    answer.refused(408, "header_timeout");
}

#[test]
fn oversized_head_is_refused_with_431() {
    let (_provider, edge) = edge_with(json!({"server": {"max_header_size": "8KiB", "max_headers": 20}}));
    let long = format!(
        "GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n",
        "x".repeat(10_000)
    );
    raw_exchange(&edge, long.as_bytes()).refused(431, "header_too_large");
    let many = "X-Many: y\r\n".repeat(30);
    let many = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    raw_exchange(&edge, many.as_bytes()).refused(431, "header_too_large");
}

#[test]
fn preflight_is_answered_without_a_key() {
    let (provider, edge) = edge_with(json!({}));
    let preflight = Request::new("OPTIONS", CHAT)
        .header("Origin", "https://app.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization, content-type");
    let answer = edge.anonymous().send(preflight).expect(204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert!(
        answer
            .header("access-control-allow-methods")
            .is_some_and(|m| m.contains("POST"))
    );
    assert!(
        answer
            .header("access-control-allow-headers")
            .is_some_and(|h| h.contains("authorization"))
    );
    assert_eq!(answer.header("access-control-max-age"), Some("86400"));
    assert_eq!(provider.count(), 0);
}

#[test]
fn path_and_method_are_refused_before_the_credential() {
    let (_provider, edge) = edge_with(json!({}));
    edge.anonymous()
        .post("/v1/no/such/thing", chat("gpt-a"))
        .refused(404, "endpoint_not_found");
    let answer = edge.anonymous().delete(CHAT).refused(405, "method_not_allowed");
    assert!(
        answer.header("allow").is_some_and(|allow| allow.contains("POST")),
        "{:?}",
        answer.headers
    );
}

#[test]
fn global_rate_is_refused_before_the_credential() {
    let (_provider, edge) = edge_with(json!({"limits": {"global": {"rpm": 1}}}));
    let wrong = edge
        .anonymous()
        .with("Authorization", "Bearer sk-nobody-knows-this-one");
    wrong.chat("gpt-a").refused(401, "token_not_found");
    wrong.chat("gpt-a").refused(429, "rate_limit_exceeded");
    edge.anonymous().delete(CHAT).refused(405, "method_not_allowed");
}

#[test]
fn missing_and_unfit_credentials_are_invalid_tokens() {
    let (provider, edge) = edge_with(json!({}));
    edge.anonymous().chat("gpt-a").refused(401, "invalid_token");
    edge.anonymous()
        .with("Authorization", "Basic dXNlcjpwYXNz")
        .chat("gpt-a")
        .refused(401, "invalid_token");
    edge.anonymous()
        .with("Authorization", "Bearer short")
        .chat("gpt-a")
        .refused(401, "invalid_token");
    let long = format!("Bearer {}", "x".repeat(513));
    edge.anonymous()
        .with("Authorization", &long)
        .chat("gpt-a")
        .refused(401, "invalid_token");
    edge.anonymous()
        .with("Authorization", "Bearer sk-nobody-knows-this-one")
        .chat("gpt-a")
        .refused(401, "token_not_found");
    assert_eq!(provider.count(), 0);
}

#[test]
fn state_of_token_and_project_is_told_apart() {
    let (provider, edge) = edge_with(json!({}));
    let user = edge.token(json!({}));
    edge.admin()
        .change_token(&user.id, json!({"is_active": false}))
        .expect(200);
    user.chat("gpt-a").refused(401, "token_inactive");
    edge.admin()
        .change_token(&user.id, json!({"is_active": true}))
        .expect(200);
    user.chat("gpt-a").expect(200);
    edge.admin()
        .change_project(&user.project_id, json!({"is_active": false}))
        .expect(200);
    user.chat("gpt-a").refused(403, "project_inactive");
    assert_eq!(provider.count(), 1);
}

#[test]
fn address_outside_the_tokens_list_is_refused() {
    let (_provider, edge) = edge_with(json!({}));
    edge.token(json!({"allowed_ips": ["203.0.113.0/24"]}))
        .chat("gpt-a")
        .refused(403, "ip_not_allowed");
    edge.token(json!({"allowed_ips": ["127.0.0.0/8"]}))
        .chat("gpt-a")
        .expect(200);
}

#[test]
fn endpoint_outside_the_tokens_list_is_refused() {
    let (_provider, edge) = edge_with(json!({}));
    let user = edge.token(json!({"allowed_endpoints": ["/v1/embeddings"]}));
    user.chat("gpt-a").refused(403, "endpoint_not_allowed");
    user.post("/v1/embeddings", json!({"model": "e", "input": "x"}))
        .expect(200);
}

#[test]
fn origins_and_required_headers_are_the_providers_rules() {
    let rules = json!({"allowed_origins": ["https://app.example"], "required_headers": ["origin", "x-team"]});
    let (provider, edge) = edge_with(json!({"providers": {"openai": rules}}));
    let user = edge.token(json!({}));
    user.chat("gpt-a").refused(400, "origin_required");
    user.with("Origin", "https://other.example")
        .with("X-Team", "a")
        .chat("gpt-a")
        .refused(403, "origin_not_allowed");
    user.with("Origin", "https://app.example")
        .chat("gpt-a")
        .refused(400, "header_required");
    assert_eq!(provider.count(), 0);
    user.with("Origin", "https://app.example")
        .with("X-Team", "a")
        .chat("gpt-a")
        .expect(200);
}

#[test]
fn declared_length_above_the_limit_is_refused_without_the_body() {
    let (provider, edge) = edge_with(json!({"server": {"max_request_size": "1KiB"}}));
    let user = edge.token(json!({}));
    let request = user.sign(Request::new("POST", CHAT).header("Content-Length", "5000"));
    let mut connection = Connection::open(edge.proxy);
    connection.send_raw(&request.head(edge.proxy)).expect("send");
    let answer = connection.read_answer("POST", Instant::now()).expect("an answer");
    let answer = answer.refused(413, "request_too_large");
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("1024") || m.contains("1KiB") || m.contains("1 KiB")),
        "it says the limit"
    );
    assert_eq!(provider.count(), 0);
}

#[test]
fn undeclared_length_above_the_limit_is_refused_while_reading() {
    let (provider, edge) = edge_with(json!({"server": {"max_request_size": "64KiB"}}));
    let user = edge.token(json!({}));
    let body = format!("{{\"model\": \"gpt-a\", \"pad\": \"{}\"}}", "x".repeat(200_000));
    user.send(Request::new("POST", CHAT).chunked(body, 8192))
        .refused(413, "request_too_large");
    assert_eq!(provider.count(), 0);
}

#[test]
fn inspected_bodies_have_a_limit_of_their_own() {
    let (_provider, edge) = edge_with(json!({"server": {"max_inspected_size": "16KiB"}}));
    let user = edge.token(json!({}));
    let body = format!("{{\"model\": \"gpt-a\", \"pad\": \"{}\"}}", "x".repeat(40_000));
    user.send(Request::new("POST", CHAT).bytes(body))
        .refused(413, "request_too_large");
}

#[test]
fn body_that_stops_is_refused_with_408() {
    let (provider, edge) = edge_with(json!({"server": {"body_timeout": "300ms"}}));
    let user = edge.token(json!({}));
    let request = user.sign(Request::new("POST", CHAT).header("Content-Length", "500"));
    let mut connection = Connection::open(edge.proxy);
    connection.send_raw(&request.head(edge.proxy)).expect("send");
    connection.send_raw(b"{\"model\": ").expect("send");
    connection
        .read_answer("POST", Instant::now())
        .expect("an answer")
        .refused(408, "body_timeout");
    assert_eq!(provider.count(), 0);
}

#[test]
fn bodies_that_cannot_be_understood_are_invalid_json() {
    let (provider, edge) = edge_with(json!({}));
    let user = edge.token(json!({}));
    for body in [
        "{\"model\": \"gpt-a\"",
        "no json",
        "[1, 2]",
        "{\"model\": \"a\", \"model\": \"b\"}",
        "{\"model\": \"a\", \"mod\\u0065l\": \"b\"}",
        "{\"model\": \"a\", \"stream\": true, \"stream\": false}",
        "",
    ] {
        user.send(Request::new("POST", CHAT).bytes(body))
            .refused(400, "invalid_json");
    }
    assert_eq!(provider.count(), 0);
}

#[test]
fn json_is_understood_whatever_its_content_type() {
    let (_provider, edge) = edge_with(json!({}));
    let user = edge.token(json!({"allowed_models": ["gpt-b"]}));
    for kind in [
        "application/json; charset=utf-8",
        "text/plain",
        "application/octet-stream",
    ] {
        let request = Request::new("POST", CHAT)
            .header("Content-Type", kind)
            .bytes(chat("gpt-a").to_string());
        user.send(request).refused(403, "model_not_allowed");
    }
    let missing = user
        .post(CHAT, json!({"messages": []}))
        .refused(400, "invalid_json");
    assert_eq!(missing.json()["error"]["param"], "model");
}

#[test]
fn encoded_request_bodies_are_refused() {
    let (provider, edge) = edge_with(json!({}));
    let user = edge.token(json!({}));
    let request = Request::new("POST", CHAT)
        .header("Content-Encoding", "gzip")
        .bytes("\u{1f}zzzz");
    let answer = user.send(request).refused(400, "unsupported_value");
    assert_eq!(answer.json()["error"]["param"], "content-encoding");
    assert_eq!(provider.count(), 0);
    let request = Request::new("POST", CHAT)
        .header("Content-Encoding", "identity")
        .json(&chat("gpt-a"));
    user.send(request).expect(200);
}

#[test]
fn models_outside_the_list_and_unknown_ones_are_refused() {
    let (_provider, edge) = edge_with(json!({
        "unknown_models": "reject",
        "models": {"house-large": {"targets": [{"provider": "openai", "model": "gpt-a"}]},
                   "house-small": {"targets": [{"provider": "openai", "model": "gpt-b"}]}},
    }));
    let user = edge.token(json!({"allowed_models": ["house-*"]}));
    user.chat("gpt-a").refused(403, "model_not_allowed");
    let unknown = user.chat("house-larg").refused(404, "model_not_found");
    assert_eq!(unknown.json()["error"]["param"], "model");
    assert!(
        unknown.text().contains("house-large"),
        "names the nearest: {}",
        unknown.text()
    );
    user.chat("house-large").expect(200);
}

#[test]
fn parameters_outside_the_providers_list_are_refused() {
    let rules = json!({"param_whitelist": {"model": ["gpt-*"], "service_tier": ["auto"]}});
    let (provider, edge) = edge_with(json!({"providers": {"openai": rules}}));
    let user = edge.token(json!({}));
    user.chat("o-1").refused(400, "param_not_allowed");
    let mut body = chat("gpt-a");
    body["service_tier"] = json!("priority");
    let answer = user.post(CHAT, body).refused(400, "param_not_allowed");
    assert!(answer.text().contains("service_tier"), "{}", answer.text());
    assert_eq!(provider.count(), 0);
    user.chat("gpt-a").expect(200);
}

#[test]
fn stateful_paths_need_a_key_of_the_project() {
    let (provider, edge) = edge_with(json!({}));
    edge.token(json!({}))
        .get("/v1/files")
        .refused(403, "endpoint_not_allowed");
    assert_eq!(provider.count(), 0);
    let own = edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"}));
    edge.token_of(&own, json!({})).get("/v1/files").expect(200);
    assert_eq!(
        provider.last().header("authorization"),
        Some("Bearer sk-own-key-of-the-project-4242")
    );
}

#[test]
fn stateful_paths_pass_where_the_provider_shares_its_state() {
    let (_provider, edge) = edge_with(json!({"providers": {"openai": {"shared_state": "allow"}}}));
    edge.token(json!({})).get("/v1/files").expect(200);
}

#[test]
fn paths_that_are_not_in_normal_form_are_refused() {
    let (provider, edge) = edge_with(json!({}));
    let user = edge.token(json!({"allowed_endpoints": ["/v1/embeddings"]}));
    for path in [
        "/v1/embeddings/../chat/completions",
        "/v1//chat/completions",
        "/v1/embeddings/%2e%2e/chat/completions",
        "/v1/./chat/completions",
    ] {
        let answer = user.post(path, chat("gpt-a"));
        assert!((400..=404).contains(&answer.status), "{path}: {}", answer.status);
    }
    assert_eq!(provider.count(), 0);
}

#[test]
fn missing_provider_key_is_an_upstream_auth_error_and_sends_nothing() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({
            "default_provider": "anthropic",
            "providers": {"openai": {"api_key": null}},
        }))
        .start();
    let with_key = edge.project(json!({"providers": {"openai": "sk-own-key-of-the-project-4242"}}));
    let user = edge.token_of(&with_key, json!({}));
    user.chat("gpt-a").expect(200);
    let other = edge.project(json!({"providers": {"anthropic": "sk-ant-own-key-of-the-project"}}));
    let answer = edge
        .token_of(&other, json!({}))
        .chat("gpt-a")
        .refused(502, "upstream_auth_error");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(provider.count(), 1);
}

#[test]
fn earlier_refusals_win_over_later_ones() {
    let (_provider, edge) = edge_with(json!({
        "server": {"max_request_size": "1KiB"},
        "providers": {"openai": {"allowed_origins": ["https://app.example"]}},
    }));
    let bad_origin = edge.anonymous().with("Origin", "https://other.example");
    bad_origin.chat("gpt-a").refused(401, "invalid_token");
    let limited =
        edge.token(json!({"allowed_ips": ["203.0.113.0/24"], "allowed_endpoints": ["/v1/embeddings"]}));
    limited.chat("gpt-a").refused(403, "ip_not_allowed");
    edge.admin()
        .change_project(&limited.project_id, json!({"is_active": false}))
        .expect(200);
    limited.chat("gpt-a").refused(403, "project_inactive");
    let user = edge.token(json!({"allowed_models": ["none"]}));
    let long = "x".repeat(5000);
    user.with("Origin", "https://other.example")
        .send(Request::new("POST", CHAT).bytes(long.clone()))
        .refused(403, "origin_not_allowed");
    user.send(Request::new("POST", CHAT).bytes(long))
        .refused(413, "request_too_large");
    user.send(Request::new("POST", CHAT).bytes("{"))
        .refused(400, "invalid_json");
    user.chat("gpt-a").refused(403, "model_not_allowed");
}

#[test]
fn anthropic_clients_are_refused_in_their_dialect() {
    let (_provider, edge) = edge_with(json!({"server": {"max_inspected_size": "4KiB"}}));
    let nobody = edge.anonymous();
    nobody
        .post("/v1/messages", message("claude-a"))
        .refused_as_anthropic(401, "invalid_token", "authentication_error");
    let versioned = nobody.with("anthropic-version", "2023-06-01");
    versioned
        .get("/v1/no/such")
        .refused_as_anthropic(404, "endpoint_not_found", "not_found_error");
    versioned
        .delete("/v1/messages")
        .refused_as_anthropic(405, "method_not_allowed", "invalid_request_error");
    let user = edge.token(json!({"allowed_models": ["claude-*"], "allowed_endpoints": ["/v1/messages"]}));
    user.as_anthropic()
        .message("gpt-a")
        .refused_as_anthropic(403, "model_not_allowed", "permission_error");
    let large = json!({"model": "claude-a", "pad": "x".repeat(9000)});
    user.as_anthropic()
        .post("/v1/messages", large)
        .refused_as_anthropic(413, "request_too_large", "request_too_large");
    user.as_anthropic().message("claude-a").expect(200);
}

#[test]
fn refusals_keep_the_connection_usable_or_close_it_cleanly() {
    let (_provider, edge) = edge_with(json!({}));
    let user = edge.token(json!({"allowed_models": ["gpt-a"]}));
    let mut connection = Connection::open(edge.proxy);
    let refused = user.sign(Request::new("POST", CHAT).json(&chat("gpt-b")));
    let answer = connection.exchange(&refused).refused(403, "model_not_allowed");
    assert_ne!(answer.end, End::Cut);
    let allowed = user.sign(Request::new("POST", CHAT).json(&chat("gpt-a")));
    connection.exchange(&allowed).expect(200);
}

#[test]
fn too_many_requests_at_once_are_overload_and_management_goes_on() {
    let provider = Provider::start();
    let gate = crate::provider::Gate::new();
    provider.always(crate::provider::Reply::json(200, &json!({"ok": true})).head_behind(&gate));
    let edge = TestEdge::plan(&provider)
        .with(json!({"server": {"max_concurrent_requests": 2}}))
        .start();
    let user = edge.token(json!({}));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| user.chat("gpt-a").expect(200));
        }
        provider.wait_for_requests(2);
        let answer = user.chat("gpt-a").refused(503, "overloaded");
        assert!(answer.header("retry-after").is_some());
        edge.admin().get("/manage/projects").expect(200);
        edge.anonymous().get("/health").expect(200);
        gate.open();
    });
    user.chat("gpt-a").expect(200);
}

#[test]
fn stored_response_of_a_shared_account_is_not_read_through_the_body() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let asking = |id: Value| json!({"model": "gpt-a", "input": "x", "previous_response_id": id});
    let answer = user
        .post("/v1/responses", asking(json!("resp_1")))
        .refused(403, "endpoint_not_allowed");
    assert!(
        answer.text().contains("previous_response_id"),
        "{}",
        answer.text()
    );
    assert_eq!(provider.count(), 0);
    user.post("/v1/responses", asking(Value::Null)).expect(200);
    let own = edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"}));
    edge.token_of(&own, json!({}))
        .post("/v1/responses", asking(json!("resp_1")))
        .expect(200);
    assert_eq!(provider.count(), 2);
}
