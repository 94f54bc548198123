//! What each listener serves, to whom, and what every answer carries.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::edge::{MANAGEMENT_TOKEN, TestEdge};
use crate::http::{Connection, Request, chat};
use crate::provider::Provider;
use crate::wait::wait_until;

const HEALTH_PATHS: [&str; 6] = [
    "/health",
    "/ready",
    "/live",
    "/health/liveliness",
    "/health/liveness",
    "/health/readiness",
];

#[test]
fn health_paths_answer_on_both_listeners_without_a_key() {
    let edge = TestEdge::start(&Provider::start());
    for path in HEALTH_PATHS {
        for listener in [edge.anonymous(), edge.sidecar()] {
            let answer = listener.get(path).expect(200);
            assert!(answer.json()["status"].is_string(), "{path}: {}", answer.text());
        }
    }
}

#[test]
fn health_tells_version_and_time_on_the_sidecar_alone() {
    let edge = TestEdge::start(&Provider::start());
    let inside = edge.sidecar().get("/health").expect(200).json();
    assert_eq!(inside["status"], "ok");
    assert!(
        inside["version"].is_string() && inside["timestamp"].is_string(),
        "{inside}"
    );
    let outside = edge.anonymous().get("/health").expect(200).json();
    assert_eq!(outside["status"], "ok");
    assert!(outside.get("version").is_none(), "{outside}");
    assert_eq!(
        edge.sidecar().get("/live").expect(200).json(),
        json!({"status": "alive"})
    );
    assert_eq!(edge.sidecar().get("/ready").expect(200).json()["status"], "ready");
}

#[test]
fn root_answers_without_a_key() {
    let edge = TestEdge::start(&Provider::start());
    edge.anonymous().get("/").expect(200);
    edge.anonymous().send(Request::new("HEAD", "/")).expect(200);
}

#[test]
fn unknown_path_is_404_on_both_listeners() {
    let edge = TestEdge::start(&Provider::start());
    edge.anonymous()
        .get("/no/such/path")
        .refused(404, "endpoint_not_found");
    edge.sidecar().get("/no/such/path").expect(404);
}

#[test]
fn sidecar_never_serves_provider_traffic() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let at_sidecar = crate::http::Client {
        address: edge.management,
        ..(*user).clone()
    };
    at_sidecar.chat("gpt-a").expect(404);
    assert_eq!(provider.count(), 0);
}

#[test]
fn sane_request_id_comes_back_and_a_bad_one_is_replaced() {
    let edge = TestEdge::start(&Provider::start());
    let user = edge.token(json!({}));
    for client in [edge.anonymous(), edge.sidecar(), (*user).clone()] {
        let mine = client.with("X-Request-ID", "my.id_1-2").get("/v1/models");
        assert_eq!(
            mine.header("x-request-id"),
            Some("my.id_1-2"),
            "status {}",
            mine.status
        );
        let other = client.with("X-Request-ID", "no spaces allowed").get("/v1/models");
        let id = other.header("x-request-id").expect("a new id").to_owned();
        assert!(id != "no spaces allowed" && !id.is_empty());
        let long = "x".repeat(129);
        assert_ne!(
            client
                .with("X-Request-ID", &long)
                .get("/v1/models")
                .header("x-request-id"),
            Some(long.as_str())
        );
    }
    assert!(
        edge.admin()
            .get("/manage/projects")
            .header("x-correlation-id")
            .is_some()
    );
}

#[test]
fn own_paths_on_the_proxy_listener_are_for_local_peers_with_a_bearer() {
    let edge = TestEdge::start(&Provider::start());
    let bearer = edge
        .anonymous()
        .with("Authorization", &format!("Bearer {MANAGEMENT_TOKEN}"));
    bearer.get("/manage/projects").expect(200);
    bearer.get("/metrics").expect(200);
    let refusal = edge.anonymous().get("/metrics").expect(401);
    assert!(
        refusal.text().contains(&edge.management.to_string()),
        "{}",
        refusal.text()
    );
    edge.anonymous().get("/manage/projects").expect(401);
    for (name, value) in [
        ("X-Forwarded-For", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 somebody"),
        ("CF-Ray", "1"),
    ] {
        bearer
            .with(name, value)
            .get("/manage/projects")
            .refused(404, "endpoint_not_found");
    }
    bearer
        .with("Host", "llm.example.org")
        .get("/manage/projects")
        .refused(404, "endpoint_not_found");
    bearer
        .with("Host", "localhost")
        .get("/manage/projects")
        .expect(200);
}

#[test]
fn own_paths_on_the_proxy_listener_can_be_off_or_open_to_all() {
    let provider = Provider::start();
    let off = TestEdge::plan(&provider)
        .with(json!({"management": {"on_proxy_listener": "off"}}))
        .start();
    let bearer = off
        .anonymous()
        .with("Authorization", &format!("Bearer {MANAGEMENT_TOKEN}"));
    bearer.get("/manage/projects").refused(404, "endpoint_not_found");
    let all = TestEdge::plan(&provider)
        .with(json!({"management": {"on_proxy_listener": "all"}}))
        .start();
    let bearer = all
        .anonymous()
        .with("Authorization", &format!("Bearer {MANAGEMENT_TOKEN}"));
    bearer
        .with("X-Forwarded-For", "203.0.113.7")
        .get("/manage/projects")
        .expect(200);
    all.anonymous().get("/manage/projects").expect(401);
}

#[test]
fn own_paths_are_not_local_behind_trusted_proxies() {
    let plan = TestEdge::plan(&Provider::start());
    let edge = plan
        .with(json!({"server": {"trusted_proxies": ["127.0.0.1/32"]}}))
        .start();
    let bearer = edge
        .anonymous()
        .with("Authorization", &format!("Bearer {MANAGEMENT_TOKEN}"));
    bearer.get("/manage/projects").refused(404, "endpoint_not_found");
}

#[test]
fn handed_over_bodies_work_like_on_the_sidecar() {
    let edge = TestEdge::start(&Provider::start());
    let bearer = edge
        .anonymous()
        .with("Authorization", &format!("Bearer {MANAGEMENT_TOKEN}"));
    bearer
        .post(
            "/manage/projects",
            json!({"name": "made through the proxy listener"}),
        )
        .expect(201);
    let listed = edge.admin().get("/manage/projects").expect(200).json();
    assert_eq!(listed[0]["name"], "made through the proxy listener");
}

#[test]
fn proxy_listener_alone_serves_everything_when_the_sidecar_is_off() {
    let edge = TestEdge::plan(&Provider::start())
        .with(json!({"management": {"listen": ""}}))
        .start();
    let bearer = edge
        .anonymous()
        .with("Authorization", &format!("Bearer {MANAGEMENT_TOKEN}"));
    bearer.get("/manage/projects").expect(200);
}

#[test]
fn metrics_need_no_bearer_on_a_loopback_sidecar() {
    let edge = TestEdge::start(&Provider::start());
    let user = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    let counters = edge.sidecar().get("/metrics").expect(200).json();
    for name in [
        "uptime_seconds",
        "request_count",
        "error_count",
        "cache_hits",
        "cache_misses",
        "cache_bypass",
        "cache_stores",
    ] {
        assert!(counters[name].is_number(), "{name} in {counters}");
    }
    // a request is counted when it is over, which is a moment after its answer
    assert!(wait_until(Duration::from_secs(5), || {
        let text = edge.sidecar().get("/metrics/prometheus").expect(200).text();
        text.contains("llm_proxy_requests_total")
    }));
    let text = edge.sidecar().get("/metrics/prometheus").expect(200);
    assert!(
        text.header("content-type")
            .is_some_and(|t| t.starts_with("text/plain"))
    );
    for name in [
        "llm_proxy_requests_total",
        "llm_proxy_uptime_seconds",
        "llm_proxy_build_info",
        "llm_proxy_request_duration_seconds",
    ] {
        assert!(text.text().contains(name), "{name} in {}", text.text());
    }
    let asked = edge
        .sidecar()
        .with("Accept", "text/plain;version=0.0.4")
        .get("/metrics")
        .expect(200);
    assert!(asked.text().contains("# TYPE"), "{}", asked.text());
}

#[test]
fn metrics_can_be_moved_and_switched_off() {
    let provider = Provider::start();
    let moved = TestEdge::plan(&provider)
        .with(json!({"management": {"metrics": {"path": "/stats"}}}))
        .start();
    moved.sidecar().get("/stats").expect(200);
    moved.sidecar().get("/stats/prometheus").expect(200);
    moved.sidecar().get("/metrics").expect(404);
    let off = TestEdge::plan(&provider).env("ENABLE_METRICS", "false").start();
    off.sidecar().get("/metrics").expect(404);
}

#[test]
fn wrong_management_bearer_waits_and_the_right_one_never() {
    let edge = TestEdge::start(&Provider::start());
    let missing = edge.sidecar().get("/manage/projects").expect(401);
    assert_eq!(missing.json()["error"], "missing or invalid Authorization header");
    assert!(
        missing.elapsed < Duration::from_millis(200),
        "a missing header does not wait: {:?}",
        missing.elapsed
    );
    let wrong = edge
        .sidecar()
        .with("Authorization", "Bearer wrong-bearer-wrong-bearer");
    let first = wrong.get("/manage/projects").expect(401);
    assert_eq!(first.json()["error"], "invalid management token");
    assert!(first.elapsed >= Duration::from_millis(245), "{:?}", first.elapsed);
    let second = wrong.get("/manage/projects").expect(401);
    assert!(
        second.elapsed >= Duration::from_millis(490),
        "doubled: {:?}",
        second.elapsed
    );
    let from = Instant::now();
    edge.admin().get("/manage/projects").expect(200);
    assert!(
        from.elapsed() < Duration::from_millis(200),
        "a right one is answered at once"
    );
    let lower = edge
        .sidecar()
        .with("Authorization", &format!("bearer {MANAGEMENT_TOKEN}"));
    lower.get("/manage/projects").expect(200);
}

#[test]
fn roles_limit_what_other_management_bearers_may_do() {
    let tokens = json!([
        {"name": "watcher", "token": "viewer-bearer-of-the-bench-01", "role": "viewer"},
        {"name": "scraper", "token": "metrics-bearer-of-the-bench-02", "role": "metrics"},
        {"name": "second", "token": "second-admin-of-the-bench-0003", "role": "admin"},
    ]);
    let edge = TestEdge::plan(&Provider::start())
        .with(json!({"management": {"tokens": tokens}}))
        .start();
    let with = |bearer: &str| edge.sidecar().with("Authorization", &format!("Bearer {bearer}"));
    let viewer = with("viewer-bearer-of-the-bench-01");
    viewer.get("/manage/projects").expect(200);
    let refusal = viewer.post("/manage/projects", json!({"name": "x"})).expect(403);
    assert_eq!(refusal.json()["code"], "forbidden");
    viewer.get("/manage/audit").expect(403);
    let scraper = with("metrics-bearer-of-the-bench-02");
    scraper.get("/metrics").expect(200);
    scraper.get("/manage/projects").expect(403);
    with("second-admin-of-the-bench-0003")
        .post("/manage/projects", json!({"name": "x"}))
        .expect(201);
}

#[test]
fn configured_prefixes_are_stripped_before_routing() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    user.post("/api/litellm/v1/chat/completions?a=b", chat("gpt-a"))
        .expect(200);
    assert_eq!(provider.last().target, "/v1/chat/completions?a=b");
}

#[test]
fn several_addresses_can_be_listened_on() {
    let plan = TestEdge::plan(&Provider::start());
    let edge = plan
        .with(json!({"server": {"listen": ["127.0.0.1:0", "127.0.0.1:0"]}}))
        .start();
    let file = std::fs::read_to_string(edge.state_dir().join("listening.json")).expect("the listening file");
    let ports: serde_json::Value = serde_json::from_str(&file).expect("JSON");
    let addresses = ports["proxy"].as_array().expect("a list");
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        let address = address.as_str().and_then(|a| a.parse().ok()).expect("an address");
        crate::http::Client::new(address).get("/health").expect(200);
    }
}

#[test]
fn pipelined_request_is_answered_second_or_the_connection_closes() {
    let edge = TestEdge::start(&Provider::start());
    let user = edge.token(json!({}));
    let request = user.sign(Request::new("POST", "/v1/chat/completions").json(&chat("gpt-a")));
    let mut bytes = request.head(edge.proxy);
    bytes.extend_from_slice(chat("gpt-a").to_string().as_bytes());
    let twice = [bytes.clone(), bytes].concat();
    let mut connection = Connection::open(edge.proxy);
    connection.send_raw(&twice).expect("two requests");
    let first = connection
        .read_answer("POST", Instant::now())
        .expect("the first answer");
    first.expect(200);
    if let Some(second) = connection.read_answer("POST", Instant::now()) {
        second.expect(200);
    }
}

#[test]
fn one_connection_serves_many_requests() {
    let edge = TestEdge::start(&Provider::start());
    let user = edge.token(json!({}));
    let mut connection = Connection::open(edge.proxy);
    for _ in 0..5 {
        let request = user.sign(Request::new("POST", "/v1/chat/completions").json(&chat("gpt-a")));
        connection.exchange(&request).expect(200);
    }
    connection
        .exchange(&user.sign(Request::new("GET", "/no/such")))
        .refused(404, "endpoint_not_found");
    connection
        .exchange(&user.sign(Request::new("GET", "/v1/models")))
        .expect(200);
}

#[test]
fn providers_and_models_are_shown_to_operators() {
    let model = json!({"models": {"public": {"targets": [{"provider": "openai", "model": "gpt-a"}]}}});
    let edge = TestEdge::plan(&Provider::start()).with(model).start();
    let providers = edge.admin().get("/manage/providers").expect(200).text();
    assert!(
        providers.contains("openai") && providers.contains("anthropic"),
        "{providers}"
    );
    assert!(
        edge.admin()
            .get("/manage/models")
            .expect(200)
            .text()
            .contains("public")
    );
    let config = edge.admin().get("/manage/config").expect(200).text();
    assert!(config.contains("request_timeout"), "{config}");
    assert!(!config.contains(MANAGEMENT_TOKEN) && !config.contains(crate::edge::OPENAI_KEY));
}
