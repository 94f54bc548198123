//! Which provider a request goes to, under which name, and what happens when that one fails.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Request, chat};
use crate::provider::{Provider, Refusing, Reply};
use crate::wait::wait_until;

fn start(provider: &Provider, over: Value) -> (TestEdge, TokenUser) {
    let edge = TestEdge::plan(provider).with(over).start();
    let user = edge.token(json!({}));
    (edge, user)
}

fn target(provider: &str, model: &str) -> Value {
    json!({"provider": provider, "model": model})
}

#[test]
fn public_name_becomes_the_providers_and_nothing_else_changes() {
    let provider = Provider::start();
    let (_edge, user) = start(
        &provider,
        json!({"models": {"public": {"targets": [target("openai", "gpt-a")]}}}),
    );
    let body = "{ \"x\" : \"public\", \"model\"  :\"public\" ,\"messages\": [ ] }";
    user.send(Request::new("POST", "/v1/chat/completions").bytes(body))
        .expect(200);
    let seen = String::from_utf8_lossy(&provider.last().body).into_owned();
    assert_eq!(
        seen,
        "{ \"x\" : \"public\", \"model\"  :\"gpt-a\" ,\"messages\": [ ] }"
    );
    let length = provider.last().header("content-length").map(str::to_owned);
    assert!(length.is_none_or(|length| length == seen.len().to_string()));
}

#[test]
fn multipart_forms_are_renamed_in_their_model_part_alone() {
    let provider = Provider::start();
    let (_edge, user) = start(
        &provider,
        json!({"models": {"ears": {"targets": [target("openai", "whisper-1")]}}}),
    );
    let form = |model: &str| {
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nears\r\n--b--\r\n"
        )
    };
    let request = Request::new("POST", "/v1/audio/transcriptions")
        .header("Content-Type", "multipart/form-data; boundary=b");
    user.send(request.bytes(form("ears"))).expect(200);
    assert_eq!(String::from_utf8_lossy(&provider.last().body), form("whisper-1"));
}

#[test]
fn weights_share_the_requests() {
    let (heavy, light) = (Provider::start(), Provider::start());
    let models = json!({"models": {"m": {"strategy": "weighted", "targets": [
        {"provider": "openai", "model": "a", "weight": 3}, {"provider": "second", "model": "b", "weight": 1}]}},
        "providers": {"second": {"base_url": light.url(), "api_key": "sk-second-second-second"}}, "default_provider": "openai"});
    let (_edge, user) = start(&heavy, models);
    for _ in 0..10 {
        std::thread::scope(|scope| (0..20).for_each(|_| drop(scope.spawn(|| user.chat("m").expect(200)))));
    }
    assert_eq!(heavy.count() + light.count(), 200);
    assert!(
        (120..=180).contains(&heavy.count()),
        "{} of 200 for weight 3 of 4",
        heavy.count()
    );
    assert!(
        heavy.seen().iter().all(|seen| seen.model() == "a")
            && light.seen().iter().all(|seen| seen.model() == "b")
    );
    assert_eq!(
        light.last().header("authorization"),
        Some("Bearer sk-second-second-second")
    );
}

#[test]
fn lowest_priority_number_is_tried_first_and_the_next_on_connect_failure() {
    let (backup, gone) = (Provider::start(), Refusing::start());
    let models = json!({"models": {"m": {"strategy": "priority", "targets": [
        {"provider": "openai", "model": "b", "priority": 1}, {"provider": "gone", "model": "a", "priority": 0}]}},
        "providers": {"gone": {"base_url": gone.url(), "api_key": "sk-gone-gone-gone-gone"}}, "default_provider": "openai"});
    let (_edge, user) = start(&backup, models);
    let answer = user.chat("m").expect(200);
    assert_eq!(answer.header("x-llm-proxy-attempts"), Some("2"));
    assert_eq!(answer.header("x-llm-proxy-provider"), Some("openai"));
    assert_eq!(backup.last().model(), "b");
    assert!(
        crate::http::find(&backup.last().raw_head, b"sk-gone").is_none(),
        "no credential of the other provider"
    );
}

#[test]
fn nobody_left_is_upstream_unreachable() {
    let (provider, gone) = (Provider::start(), Refusing::start());
    let (_edge, user) = start(
        &provider,
        json!({"providers": {"openai": {"base_url": gone.url()}}}),
    );
    let answer = user.chat("gpt-a").refused(502, "upstream_unreachable");
    assert_eq!(answer.json()["error"]["type"], "upstream_error");
    user.as_anthropic().message("claude-a").expect(200);
}

#[test]
fn provider_that_speaks_no_http_is_a_protocol_error() {
    let provider = Provider::start();
    provider.always(Reply::raw("this is no HTTP\r\n\r\n"));
    let (_edge, user) = start(&provider, json!({"router": {"retries": 0}}));
    user.chat("gpt-a").refused(502, "upstream_protocol_error");
    provider.forget_scripts();
    provider.always(Reply::raw(format!(
        "HTTP/1.1 200 OK\r\nX: {}\r\n\r\n",
        "y".repeat(2_000_000)
    )));
    user.chat("gpt-a").refused(502, "upstream_protocol_error");
}

#[test]
fn provider_and_model_can_be_named_together() {
    let (first, second) = (Provider::start(), Provider::start());
    let providers = json!({"providers": {"second": {"base_url": second.url(), "api_key": "sk-second-second-second"}}, "default_provider": "openai"});
    let (edge, user) = start(&first, providers);
    user.chat("second/llama-3").expect(200);
    assert_eq!(second.last().model(), "llama-3");
    assert_eq!(first.count(), 0);
    let narrow = edge.token(json!({"allowed_models": ["llama-*"]}));
    narrow.chat("second/llama-3").expect(200);
    narrow.chat("second/other").refused(403, "model_not_allowed");
    let narrow = edge.token(json!({"allowed_models": ["second/*"]}));
    narrow.chat("second/llama-3").expect(200);
    narrow.chat("llama-3").refused(403, "model_not_allowed");
}

#[test]
fn unknown_models_pass_to_the_default_provider_or_are_rejected() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider, json!({}));
    user.chat("brand-new-model").expect(200);
    assert_eq!(provider.last().model(), "brand-new-model");
    let (_edge, user) = start(&provider, json!({"unknown_models": "reject"}));
    let answer = user.chat("brand-new-model").refused(404, "model_not_found");
    assert_eq!(answer.json()["error"]["param"], "model");
}

#[test]
fn model_list_shows_public_names_and_the_default_providers_own() {
    let provider = Provider::start();
    let (edge, user) = start(
        &provider,
        json!({"models": {"public": {"targets": [target("openai", "gpt-a")]}}}),
    );
    let ids = |user: &TokenUser| -> Vec<String> {
        let list = user.get("/v1/models").expect(200).json();
        assert_eq!(list["object"], "list");
        list["data"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|model| crate::edge::text(model, "id"))
            .collect()
    };
    let all = ids(&user);
    assert!(
        ["public", "gpt-a", "gpt-b", "o-c"]
            .iter()
            .all(|id| all.iter().any(|have| have == id)),
        "{all:?}"
    );
    assert_eq!(provider.count(), 1);
    ids(&user);
    assert_eq!(provider.count(), 1, "the list is kept");
    let narrow = edge.token(json!({"allowed_models": ["gpt-*"]}));
    let mut some = ids(&narrow);
    some.sort();
    assert_eq!(some, ["gpt-a", "gpt-b"]);
    assert_eq!(user.get("/v1/models/public").expect(200).json()["id"], "public");
    narrow.get("/v1/models/public").expect(404);
    user.get("/v1/models/no-such-model")
        .refused(404, "model_not_found");
}

#[test]
fn model_list_holds_public_names_alone_when_others_are_rejected_or_unreachable() {
    let provider = Provider::start();
    let over =
        json!({"unknown_models": "reject", "models": {"public": {"targets": [target("openai", "gpt-a")]}}});
    let (_edge, user) = start(&provider, over);
    let answer = user.get("/v1/models").expect(200);
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer.header("x-proxy-cache"), Some("bypass"));
    assert_eq!(provider.count(), 0);
    let gone = Refusing::start();
    let over = json!({"providers": {"openai": {"base_url": gone.url()}}, "models": {"public": {"targets": [target("openai", "gpt-a")]}}});
    let (_edge, user) = start(&provider, over);
    assert_eq!(
        user.get("/v1/models").expect(200).json()["data"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[test]
fn kept_model_list_tells_so_and_can_be_purged() {
    let provider = Provider::start();
    let (edge, user) = start(&provider, json!({}));
    assert_eq!(
        user.get("/v1/models").expect(200).header("x-proxy-cache"),
        Some("miss")
    );
    assert_eq!(
        user.get("/v1/models").expect(200).header("x-proxy-cache"),
        Some("hit")
    );
    edge.admin()
        .post(
            "/manage/cache/purge",
            json!({"method": "GET", "url": "/v1/models"}),
        )
        .expect(200);
    assert_eq!(
        user.get("/v1/models").expect(200).header("x-proxy-cache"),
        Some("miss")
    );
    assert_eq!(provider.count(), 2);
}

#[test]
fn anthropic_clients_see_the_list_in_their_dialect() {
    let provider = Provider::start();
    let (_edge, user) = start(
        &provider,
        json!({"models": {"public": {"targets": [target("anthropic", "claude-a")]}}}),
    );
    let list = user.as_anthropic().get("/v1/models").expect(200).json();
    let first = &list["data"][0];
    assert_eq!(first["type"], "model", "{list}");
    assert!(
        first["id"].is_string() && first["display_name"].is_string(),
        "{list}"
    );
    assert!(list.get("has_more").is_some(), "{list}");
}

#[test]
fn model_of_another_dialect_is_refused_with_the_way_to_it() {
    let provider = Provider::start();
    let (_edge, user) = start(
        &provider,
        json!({"models": {"house-claude": {"targets": [target("anthropic", "claude-a")]}}}),
    );
    let answer = user.chat("house-claude").refused(400, "unsupported_value");
    assert_eq!(answer.json()["error"]["param"], "model");
    assert_eq!(
        answer.json()["error"]["message"],
        "model `house-claude` is served in the anthropic dialect: use /v1/messages"
    );
    user.as_anthropic().message("house-claude").expect(200);
    assert_eq!(provider.last().model(), "claude-a");
}

#[test]
fn messages_go_to_the_provider_of_their_dialect() {
    let (openai, anthropic) = (Provider::start(), Provider::start());
    let (_edge, user) = start(
        &openai,
        json!({"providers": {"anthropic": {"base_url": anthropic.url()}}}),
    );
    user.as_anthropic().message("claude-a").expect(200);
    user.as_anthropic()
        .post("/v1/messages/count_tokens", crate::http::message("claude-a"))
        .expect(200);
    user.chat("gpt-a").expect(200);
    assert_eq!((openai.count(), anthropic.count()), (1, 2));
}

#[test]
fn path_of_the_base_url_counts_and_a_trailing_v1_is_not_doubled() {
    let provider = Provider::start();
    for (suffix, expected) in [
        ("/v1", "/v1/chat/completions"),
        ("/openai", "/openai/v1/chat/completions"),
        ("/api/v1", "/api/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
    ] {
        let base = format!("{}{suffix}", provider.url());
        provider.always(Reply::json(200, &json!({"id": "x"})));
        let (_edge, user) = start(&provider, json!({"providers": {"openai": {"base_url": base}}}));
        user.chat("gpt-a").expect(200);
        assert_eq!(provider.last().target, expected, "base URL ends in {suffix}");
    }
}

#[test]
fn close_on_a_reused_connection_is_tried_once_more() {
    let provider = Provider::start();
    let (edge, user) = start(&provider, json!({}));
    user.chat("gpt-a").expect(200);
    // the client has its answer a moment before the connection is back among the idle ones
    assert!(wait_until(Duration::from_secs(5), || {
        let providers = edge.admin().get("/manage/providers").expect(200).json();
        providers
            .as_array()
            .is_some_and(|list| list.iter().all(|one| one["in_flight"] == 0))
    }));
    provider.next(Reply::close());
    let answer = user.chat("gpt-a").expect(200);
    assert_eq!(provider.count(), 3);
    assert_eq!(answer.header("x-llm-proxy-attempts"), Some("2"));
}

#[test]
fn idle_connection_that_the_provider_closed_is_no_error() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider, json!({}));
    for _ in 0..5 {
        provider.next(Reply::json(200, &json!({"id": "x"})).then_close());
        user.chat("gpt-a").expect(200);
    }
    assert_eq!(provider.count(), 5);
}

#[test]
fn connections_to_the_provider_are_reused() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider, json!({}));
    (0..10).for_each(|_| drop(user.chat("gpt-a").expect(200)));
    (0..3).for_each(|_| assert!(user.chat_stream("gpt-a").finish().is_done()));
    let used: std::collections::BTreeSet<u64> = provider.seen().iter().map(|seen| seen.connection).collect();
    assert!(
        used.len() <= 4,
        "{} connections for 13 requests in line",
        used.len()
    );
}

#[test]
fn target_that_keeps_failing_is_left_alone_for_a_while() {
    let (provider, gone) = (Provider::start(), Refusing::start());
    let over = json!({
        "providers": {"gone": {"base_url": gone.url(), "api_key": "sk-gone-gone-gone-gone"}}, "default_provider": "openai",
        "models": {"m": {"targets": [target("gone", "a")]}},
        "router": {"retries": 0, "cooldown": {"failures": 3, "duration": "1s"}},
    });
    let (edge, user) = start(&provider, over);
    (0..3).for_each(|_| drop(user.chat("m").refused(502, "upstream_unreachable")));
    let open = user.chat("m").refused(503, "circuit_open");
    assert!(open.header("retry-after").is_some());
    user.chat("gpt-a").expect(200);
    assert!(
        edge.admin()
            .get("/manage/providers")
            .expect(200)
            .text()
            .contains("gone")
    );
    let probed = crate::wait::wait_until(Duration::from_secs(4), || user.chat("m").status == 502);
    assert!(probed, "after its time one request is let through");
}

#[test]
fn provider_that_is_refused_by_rules_is_skipped() {
    let (strict, open) = (Provider::start(), Provider::start());
    let over = json!({
        "providers": {"openai": {"allowed_origins": ["https://a.example"]}, "open": {"base_url": open.url(), "api_key": "sk-open-open-open-open"}},
        "default_provider": "openai",
        "models": {"m": {"strategy": "priority", "targets": [{"provider": "openai", "model": "a", "priority": 0}, {"provider": "open", "model": "b", "priority": 1}]}},
    });
    let (_edge, user) = start(&strict, over);
    user.with("Origin", "https://b.example")
        .post("/v1/chat/completions", chat("m"))
        .expect(200);
    assert_eq!((strict.count(), open.count()), (0, 1));
}

#[test]
fn one_of_the_built_in_providers_can_be_removed() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"providers": {"anthropic": crate::edge::NULL}}))
        .start();
    let user = edge.token(json!({}));
    user.as_anthropic().message("claude-a").refused_as_anthropic(
        400,
        "unsupported_value",
        "invalid_request_error",
    );
}
