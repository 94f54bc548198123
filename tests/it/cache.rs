//! The HTTP cache: what is stored, what is found again, by whom, and how it is thrown away.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Answer, Request, chat, chat_streamed};
use crate::provider::{Provider, Reply, chat_chunks};
use crate::wait::wait_until;

const FILE: &str = "/v1/files/file-fake";

/// An edge whose token may read stateful paths, and a provider whose file may be kept.
fn start(over: Value) -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    provider.on_path(FILE, storable());
    let edge = TestEdge::plan(&provider).with(over).start();
    let user = someone(&edge);
    (provider, edge, user)
}

fn storable() -> Reply {
    Reply::json(200, &json!({"id": "file-fake"})).header("Cache-Control", "public, max-age=60")
}

fn someone(edge: &TestEdge) -> TokenUser {
    edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    )
}

fn verdict(answer: &Answer) -> &str {
    answer.header("x-proxy-cache").unwrap_or("")
}

fn opted_in(user: &TokenUser, body: &Value) -> Answer {
    let request = Request::new("POST", "/v1/chat/completions").header("Cache-Control", "public, max-age=60");
    user.send(request.json(body)).expect(200)
}

#[test]
fn storable_answer_is_stored_and_then_found() {
    let (provider, _edge, user) = start(json!({}));
    let first = user.get(FILE).expect(200);
    assert_eq!(verdict(&first), "stored");
    assert!(
        first
            .header("cache-status")
            .is_some_and(|s| s.contains("llm-proxy; stored; fwd=uri-miss")),
        "{:?}",
        first.headers
    );
    let second = user.with("X-Request-ID", "mine-2").get(FILE).expect(200);
    assert_eq!(verdict(&second), "hit");
    assert!(
        second
            .header("cache-status")
            .is_some_and(|s| s.contains("llm-proxy; hit"))
    );
    assert!(
        second
            .header("age")
            .and_then(|age| age.parse::<u64>().ok())
            .is_some_and(|age| age < 5)
    );
    assert_eq!(second.header("x-request-id"), Some("mine-2"));
    assert_eq!(first.body, second.body);
    assert_eq!(provider.count(), 1);
}

#[test]
fn answers_that_may_not_be_shared_are_misses() {
    let (provider, _edge, user) = start(json!({}));
    for directives in [
        "max-age=60",
        "private, max-age=60",
        "no-store",
        "public, no-store, max-age=60",
        "",
    ] {
        provider.forget_scripts();
        let reply = Reply::json(200, &json!({"id": "x"}));
        provider.on_path(
            FILE,
            if directives.is_empty() {
                reply
            } else {
                reply.header("Cache-Control", directives)
            },
        );
        let before = provider.count();
        assert_eq!(verdict(&user.get(FILE).expect(200)), "miss", "`{directives}`");
        assert_eq!(verdict(&user.get(FILE).expect(200)), "miss", "`{directives}`");
        assert_eq!(provider.count(), before + 2, "`{directives}`");
    }
}

#[test]
fn shared_max_age_is_enough_and_errors_are_not_kept() {
    let (provider, _edge, user) = start(json!({}));
    provider.on_path(
        FILE,
        Reply::json(200, &json!({"id": "x"})).header("Cache-Control", "s-maxage=60"),
    );
    user.get(FILE).expect(200);
    assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
    provider.on_path(
        "/v1/files/gone",
        Reply::openai_error(404, "x", "y").header("Cache-Control", "public, max-age=60"),
    );
    user.get("/v1/files/gone").expect(404);
    user.get("/v1/files/gone").expect(404);
    assert_eq!(provider.count(), 3);
}

#[test]
fn entry_ends_with_its_age() {
    let (provider, _edge, user) = start(json!({}));
    provider.on_path(
        FILE,
        Reply::json(200, &json!({"id": "x"})).header("Cache-Control", "public, max-age=1"),
    );
    user.get(FILE).expect(200);
    assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
    let ended = crate::wait::wait_until(std::time::Duration::from_secs(4), || {
        verdict(&user.get(FILE)) != "hit"
    });
    assert!(ended && provider.count() >= 2);
}

#[test]
fn post_without_opt_in_is_not_looked_up() {
    let (provider, _edge, user) = start(json!({}));
    provider.always(Reply::json(200, &json!({"id": "x"})).header("Cache-Control", "public, max-age=60"));
    assert_eq!(verdict(&user.chat("gpt-a").expect(200)), "bypass");
    assert_eq!(verdict(&user.chat("gpt-a").expect(200)), "bypass");
    assert_eq!(provider.count(), 2);
}

#[test]
fn post_with_opt_in_is_stored_by_its_body() {
    let (provider, _edge, user) = start(json!({}));
    let first = opted_in(&user, &chat("gpt-a"));
    assert_eq!(verdict(&first), "stored");
    assert!(
        first
            .header("cache-status")
            .is_some_and(|s| s.contains("detail=forced")),
        "{:?}",
        first.headers
    );
    assert_eq!(verdict(&opted_in(&user, &chat("gpt-a"))), "hit");
    assert_eq!(verdict(&opted_in(&user, &chat("gpt-b"))), "stored");
    assert_eq!(provider.count(), 2);
    let other_order =
        "{\"messages\": [{\"content\": \"hello\", \"role\": \"user\"}],   \"model\": \"gpt-a\"}";
    let request = Request::new("POST", "/v1/chat/completions").header("Cache-Control", "public, max-age=60");
    assert_eq!(
        verdict(&user.send(request.bytes(other_order)).expect(200)),
        "hit",
        "the body counts in canonical form"
    );
}

#[test]
fn opt_in_without_a_number_uses_the_default_age() {
    let (provider, _edge, user) = start(json!({}));
    let ask = || {
        user.send(
            Request::new("POST", "/v1/chat/completions")
                .header("Cache-Control", "public")
                .json(&chat("gpt-a")),
        )
    };
    assert_eq!(verdict(&ask().expect(200)), "stored");
    assert_eq!(verdict(&ask().expect(200)), "hit");
    assert_eq!(provider.count(), 1);
}

#[test]
fn opted_in_answer_that_forbids_it_is_not_stored() {
    let (provider, _edge, user) = start(json!({}));
    for directives in ["no-store", "private"] {
        provider.always(Reply::json(200, &json!({"id": "x"})).header("Cache-Control", directives));
        assert_eq!(verdict(&opted_in(&user, &chat("gpt-a"))), "miss", "{directives}");
    }
    provider.always(Reply::json(200, &json!({"id": "x"})).header("Vary", "*"));
    assert_eq!(verdict(&opted_in(&user, &chat("gpt-a"))), "miss");
    assert_eq!(provider.count(), 3);
}

#[test]
fn one_projects_entry_is_not_found_by_another() {
    let (provider, edge, user) = start(json!({}));
    user.get(FILE).expect(200);
    let stranger = someone(&edge);
    assert_eq!(verdict(&stranger.get(FILE).expect(200)), "stored");
    assert_eq!(provider.count(), 2);
    let colleague = edge.token_of(
        &crate::edge::Project {
            id: user.project_id.clone(),
        },
        json!({}),
    );
    assert_eq!(verdict(&colleague.get(FILE).expect(200)), "hit");
}

#[test]
fn query_and_internal_headers_make_the_key_right() {
    let (provider, _edge, user) = start(json!({}));
    user.get(&format!("{FILE}?b=2&a=1")).expect(200);
    assert_eq!(
        verdict(&user.get(&format!("{FILE}?a=1&b=2")).expect(200)),
        "hit",
        "sorted"
    );
    assert_eq!(verdict(&user.get(&format!("{FILE}?a=1")).expect(200)), "stored");
    opted_in(&user, &chat("gpt-a"));
    let poisoned = Request::new("POST", "/v1/chat/completions")
        .header("Cache-Control", "public, max-age=60")
        .header("X-Body-Hash", "00");
    assert_eq!(
        verdict(&user.send(poisoned.json(&chat("gpt-b"))).expect(200)),
        "stored"
    );
    assert_eq!(verdict(&opted_in(&user, &chat("gpt-b"))), "hit");
    assert_eq!(provider.count(), 4);
}

#[test]
fn directives_of_the_request_are_obeyed() {
    let (provider, _edge, user) = start(json!({}));
    user.with("Cache-Control", "only-if-cached")
        .get(FILE)
        .refused(504, "not_cached");
    assert_eq!(provider.count(), 0);
    assert_eq!(
        verdict(&user.with("Cache-Control", "no-store").get(FILE).expect(200)),
        "bypass"
    );
    assert_eq!(
        verdict(&user.get(FILE).expect(200)),
        "stored",
        "no-store had stored nothing"
    );
    assert_eq!(
        verdict(&user.with("Cache-Control", "only-if-cached").get(FILE).expect(200)),
        "hit"
    );
    assert_ne!(
        verdict(&user.with("Cache-Control", "no-cache").get(FILE).expect(200)),
        "hit"
    );
    assert_eq!(provider.count(), 3);
}

#[test]
fn hits_are_free_and_counted() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({"max_requests": 1, "limits": {"rpm": 1}}));
    assert_eq!(verdict(&opted_in(&user, &chat("gpt-a"))), "stored");
    (0..4).for_each(|_| assert_eq!(verdict(&opted_in(&user, &chat("gpt-a"))), "hit"));
    let counted = crate::wait::wait_until(std::time::Duration::from_secs(8), || {
        edge.admin().read_token(&user.id)["cache_hit_count"] == 4
    });
    let read = edge.admin().read_token(&user.id);
    assert!(counted && read["request_count"] == 1, "{read}");
}

#[test]
fn revoked_token_gets_no_hit() {
    let (_provider, edge, user) = start(json!({}));
    user.get(FILE).expect(200);
    edge.admin().revoke(&user.id);
    let refused = user.get(FILE).refused(401, "token_inactive");
    assert_eq!(refused.header("x-proxy-cache"), None, "refusals carry no verdict");
}

#[test]
fn whole_stream_is_stored_and_replayed() {
    let (provider, _edge, user) = start(json!({}));
    let ask = || {
        let request =
            Request::new("POST", "/v1/chat/completions").header("Cache-Control", "public, max-age=60");
        user.send(request.json(&chat_streamed("gpt-a"))).expect(200)
    };
    let first = ask();
    assert_eq!(verdict(&first), "stored");
    let second = ask();
    assert_eq!(verdict(&second), "hit");
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("content-type"), Some("text/event-stream"));
    assert_eq!(provider.count(), 1);
}

#[test]
fn cut_answers_and_streams_without_end_are_not_kept() {
    let (provider, _edge, user) = start(json!({"router": {"retries": 0}}));
    let ask = || {
        let request =
            Request::new("POST", "/v1/chat/completions").header("Cache-Control", "public, max-age=60");
        user.send(request.json(&chat_streamed("gpt-a"))).expect(200)
    };
    provider.next(Reply::events(&chat_chunks("m")).cut_after(3));
    ask();
    assert_ne!(verdict(&ask()), "hit");
    assert_eq!(verdict(&ask()), "hit");
    let body = vec![b'x'; 1000];
    provider.next(
        Reply::status(200)
            .header("Cache-Control", "public, max-age=60")
            .body(body)
            .cut_at_byte(500),
    );
    user.get("/v1/files/cut").expect(200);
    provider.on_path("/v1/files/cut", storable());
    assert_ne!(verdict(&user.get("/v1/files/cut").expect(200)), "hit");
}

#[test]
fn too_large_answers_are_not_kept() {
    let (provider, _edge, user) = start(json!({"cache": {"max_object_bytes": "10KB"}}));
    let large = Reply::status(200)
        .header("Cache-Control", "public, max-age=60")
        .body(vec![b'x'; 20_000]);
    provider.on_path("/v1/files/large", large.clone());
    provider.on_path("/v1/files/large-chunked", large.chunked());
    for path in ["/v1/files/large", "/v1/files/large-chunked"] {
        assert_eq!(user.get(path).expect(200).body.len(), 20_000);
        assert_ne!(verdict(&user.get(path).expect(200)), "hit");
    }
    assert_eq!(provider.count(), 4);
}

#[test]
fn cookies_are_not_kept() {
    let (provider, _edge, user) = start(json!({}));
    provider.on_path(FILE, storable().header("Set-Cookie", "a=b").header("X-Kept", "1"));
    user.get(FILE).expect(200);
    let hit = user.get(FILE).expect(200);
    assert_eq!(
        (verdict(&hit), hit.header("set-cookie"), hit.header("x-kept")),
        ("hit", None, Some("1"))
    );
}

#[test]
fn validators_of_the_client_get_a_304_from_the_cache() {
    let (provider, _edge, user) = start(json!({}));
    provider.on_path(FILE, storable().header("ETag", "\"v1\""));
    user.get(FILE).expect(200);
    let answer = user.with("If-None-Match", "\"v1\"").get(FILE).expect(304);
    assert_eq!(verdict(&answer), "conditional-hit");
    assert!(answer.body.is_empty());
    assert_eq!(provider.count(), 1);
}

#[test]
fn cache_that_is_off_is_bypassed() {
    let (provider, _edge, user) = start(json!({"cache": {"enabled": false}}));
    assert_eq!(verdict(&user.get(FILE).expect(200)), "bypass");
    assert_eq!(verdict(&user.get(FILE).expect(200)), "bypass");
    assert_eq!(provider.count(), 2);
}

#[test]
fn purge_by_method_and_url_takes_every_variant() {
    let (provider, edge, user) = start(json!({}));
    let stranger = someone(&edge);
    let keep = format!("{FILE}?keep=1");
    user.get(FILE).expect(200);
    stranger.with("Accept", "application/json").get(FILE).expect(200);
    user.get(&keep).expect(200);
    let purge = || {
        edge.admin()
            .post("/manage/cache/purge", json!({"method": "GET", "url": FILE}))
            .expect(200)
            .json()
    };
    assert_eq!(purge(), json!({"deleted": true}));
    assert_eq!(purge(), json!({"deleted": false}));
    assert_eq!(verdict(&user.get(FILE).expect(200)), "stored");
    assert_eq!(verdict(&stranger.get(FILE).expect(200)), "stored");
    assert_eq!(verdict(&user.get(&keep).expect(200)), "hit");
    assert_eq!(provider.count(), 5);
}

#[test]
fn purge_by_key_prefix_project_and_all_tells_numbers() {
    let (_provider, edge, user) = start(json!({"server": {"expose_headers": ["cache", "cache_key"]}}));
    let stranger = someone(&edge);
    let key = user
        .get(FILE)
        .expect(200)
        .header("x-proxy-cache-key")
        .expect("the key")
        .to_owned();
    user.get(&format!("{FILE}?a=1")).expect(200);
    stranger.get(FILE).expect(200);
    let purge =
        |what: Value| edge.admin().post("/manage/cache/purge", what).expect(200).json()["deleted"].clone();
    assert_eq!(
        purge(json!({"method": "GET", "url": FILE, "prefix": key[..16]})),
        1
    );
    assert_eq!(verdict(&stranger.get(FILE).expect(200)), "hit");
    assert_eq!(purge(json!({"project_id": user.project_id})), 1);
    assert_eq!(verdict(&stranger.get(FILE).expect(200)), "hit");
    assert_eq!(purge(json!({"all": true})), 1);
    assert_eq!(verdict(&stranger.get(FILE).expect(200)), "stored");
}

#[test]
fn refused_purges_say_why() {
    let (_provider, edge, _user) = start(json!({}));
    let said = |body: Value| {
        crate::edge::text(
            &edge.admin().post("/manage/cache/purge", body).expect(400).json(),
            "error",
        )
    };
    assert_eq!(said(json!({})), "method and url are required");
    edge.admin().get("/manage/cache/purge").expect(405);
    edge.admin().get("/manage/cache").expect(200);
}

#[test]
fn counters_of_the_cache_add_up() {
    let (_provider, edge, user) = start(json!({}));
    user.get(FILE).expect(200);
    user.get(FILE).expect(200);
    user.get("/v1/files").expect(200);
    user.chat("gpt-a").expect(200);
    // a request is counted when it is over, which is a moment after its answer
    let mut counted = json!(null);
    assert!(
        wait_until(Duration::from_secs(5), || {
            counted = edge.sidecar().get("/metrics").expect(200).json();
            (&counted["cache_hits"], &counted["cache_stores"]) == (&json!(1), &json!(1))
        }),
        "{counted}"
    );
}
