//! The finer rules of the HTTP cache: variants, asking whether what is kept still holds, what ends it, and the operator's
//! own rules.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Answer, Request, chat};
use crate::provider::{Provider, Reply};
use crate::wait::wait_until;

const FILE: &str = "/v1/files/file-fake";
const SOON: Duration = Duration::from_secs(10);

fn start(over: Value) -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider).with(over).start();
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    (provider, edge, user)
}

fn verdict(answer: &Answer) -> &str {
    answer.header("x-proxy-cache").unwrap_or("")
}

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or("")
}

/// Answers in the language that is asked for.
fn speaks_languages(provider: &Provider, vary: &'static str) {
    provider.on(move |seen| {
        let language = seen.header("accept-language").unwrap_or("none").to_owned();
        Some(
            Reply::json(200, &json!({"language": language}))
                .header("Cache-Control", "public, max-age=60")
                .header("Vary", vary),
        )
    });
}

#[test]
fn variants_are_kept_side_by_side() {
    let (provider, edge, user) = start(json!({}));
    speaks_languages(&provider, "Accept-Language");
    let speaking = |language: &str| user.with("Accept-Language", language).get(FILE).expect(200);
    for language in ["de", "en"] {
        let first = speaking(language);
        assert_eq!(verdict(&first), "stored");
        let expected = if language == "de" { "uri-miss" } else { "vary-miss" };
        assert_eq!(status(&first), format!("llm-proxy; stored; fwd={expected}"));
    }
    for language in ["de", "en", "de"] {
        let again = speaking(language);
        assert_eq!(
            (verdict(&again), again.json()["language"].as_str()),
            ("hit", Some(language))
        );
    }
    assert_eq!(
        verdict(&user.get(FILE).expect(200)),
        "stored",
        "nothing said is one too"
    );
    assert_eq!(provider.count(), 3);
    let purged = edge
        .admin()
        .post("/manage/cache/purge", json!({"method": "GET", "url": FILE}))
        .expect(200);
    assert_eq!(purged.json(), json!({"deleted": true}));
    for language in ["de", "en"] {
        assert_eq!(
            verdict(&speaking(language)),
            "stored",
            "all variants were dropped"
        );
    }
}

#[test]
fn the_credential_and_other_fields_of_ours_make_no_variants() {
    let (provider, edge, user) = start(json!({}));
    speaks_languages(&provider, "Authorization, Host");
    assert_eq!(verdict(&user.get(FILE).expect(200)), "stored");
    let colleague = edge.token_of(
        &crate::edge::Project {
            id: user.project_id.clone(),
        },
        json!({}),
    );
    assert_eq!(verdict(&colleague.get(FILE).expect(200)), "hit");
    assert_eq!(provider.count(), 1);
}

#[test]
fn an_answer_that_varies_by_anything_is_not_kept() {
    let (provider, _edge, user) = start(json!({}));
    speaks_languages(&provider, "Accept-Language, *");
    assert_eq!(verdict(&user.get(FILE).expect(200)), "miss");
    assert_eq!(verdict(&user.get(FILE).expect(200)), "miss");
    assert_eq!(provider.count(), 2);
}

#[test]
fn an_encoded_answer_is_kept_for_who_takes_that_encoding() {
    let (provider, _edge, user) = start(json!({}));
    provider.on(|seen| {
        let reply = Reply::status(200)
            .header("Cache-Control", "public, max-age=60")
            .header("Vary", "Accept-Encoding");
        Some(match seen.header("accept-encoding") {
            Some("gzip") => reply.header("Content-Encoding", "gzip").body("not really gzip"),
            _ => reply.body("plain"),
        })
    });
    let zipped = user.with("Accept-Encoding", "gzip");
    for expected in ["stored", "hit"] {
        let answer = zipped.get(FILE).expect(200);
        assert_eq!(
            (
                verdict(&answer),
                answer.header("content-encoding"),
                answer.text().as_str()
            ),
            (expected, Some("gzip"), "not really gzip")
        );
        let answer = user.get(FILE).expect(200);
        assert_eq!(
            (
                verdict(&answer),
                answer.header("content-encoding"),
                answer.text().as_str()
            ),
            (expected, None, "plain")
        );
    }
}

/// A file with an `ETag`, fresh for a second, that stays as it is: 304 to who has it.
fn unchanging(provider: &Provider, cache_control: &'static str) {
    provider.on(move |seen| {
        if seen.path() != FILE {
            return None;
        }
        let reply = if seen.header("if-none-match") == Some("\"v1\"") {
            Reply::status(304)
        } else {
            Reply::json(200, &json!({"id": "file-fake"}))
                .header("X-From", "the body")
                .header("Last-Modified", "Sat, 31 Jan 2026 12:00:00 GMT")
        };
        Some(
            reply
                .header("ETag", "\"v1\"")
                .header("Cache-Control", cache_control)
                .header("X-Round", &seen.connection.to_string()),
        )
    });
}

#[test]
fn what_is_not_fresh_any_more_is_asked_about() {
    let (provider, edge, user) = start(json!({}));
    unchanging(&provider, "public, max-age=2");
    let first = user.get(FILE).expect(200);
    assert_eq!(verdict(&first), "stored");
    assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
    let mut again = None;
    assert!(wait_until(SOON, || {
        let answer = user.get(FILE).expect(200);
        let asked = verdict(&answer) != "hit";
        again = Some(answer);
        asked
    }));
    let again = again.expect("an answer");
    let seen = provider.last();
    assert_eq!(
        (seen.header("if-none-match"), seen.header("if-modified-since")),
        (Some("\"v1\""), Some("Sat, 31 Jan 2026 12:00:00 GMT"))
    );
    assert_eq!(
        (verdict(&again), status(&again)),
        ("stored", "llm-proxy; stored; fwd=stale; fwd-status=304")
    );
    assert_eq!(again.body, first.body);
    assert_eq!(
        (again.header("x-from"), again.header("age")),
        (Some("the body"), Some("0"))
    );
    let then = user.get(FILE).expect(200);
    assert_eq!(verdict(&then), "hit", "it is fresh again");
    assert_eq!(then.body, first.body);
    assert_eq!(provider.count(), 2);
    // the provider was asked: it counts
    let counted = wait_until(SOON, || edge.admin().read_token(&user.id)["request_count"] == 2);
    assert!(counted, "{}", edge.admin().read_token(&user.id));
}

#[test]
fn what_must_always_be_asked_about_is_kept_all_the_same() {
    let (provider, _edge, user) = start(json!({}));
    unchanging(&provider, "public, no-cache");
    assert_eq!(verdict(&user.get(FILE).expect(200)), "stored");
    for asked in 1..4 {
        let answer = user.get(FILE).expect(200);
        assert_eq!(status(&answer), "llm-proxy; stored; fwd=stale; fwd-status=304");
        assert_eq!(answer.json()["id"], "file-fake");
        assert_eq!(provider.count(), 1 + asked);
    }
}

#[test]
fn no_cache_asks_whether_what_is_kept_still_holds() {
    let (provider, _edge, user) = start(json!({}));
    unchanging(&provider, "public, max-age=60");
    user.get(FILE).expect(200);
    let asked = user.with("Cache-Control", "no-cache").get(FILE).expect(200);
    assert_eq!(status(&asked), "llm-proxy; stored; fwd=request; fwd-status=304");
    assert_eq!(asked.json()["id"], "file-fake");
    // a client that has it hears so, whoever was asked
    let has_it = user
        .with("Cache-Control", "no-cache")
        .with("If-None-Match", "\"v1\"")
        .get(FILE)
        .expect(304);
    assert!(has_it.body.is_empty());
    let other = user
        .with("Cache-Control", "no-cache")
        .with("If-None-Match", "\"v0\"")
        .get(FILE)
        .expect(200);
    assert_eq!(other.json()["id"], "file-fake");
    assert_eq!(
        provider.last().header("if-none-match"),
        Some("\"v1\""),
        "ours, not the client's"
    );
}

#[test]
fn a_changed_answer_takes_the_place_of_the_old_one() {
    let (provider, _edge, user) = start(json!({}));
    let version = |n: u32| {
        Reply::json(200, &json!({"version": n}))
            .header("Cache-Control", "public, no-cache")
            .header("ETag", &format!("\"v{n}\""))
    };
    provider.next(version(1));
    user.get(FILE).expect(200);
    provider.next(version(2));
    assert_eq!(user.get(FILE).expect(200).json()["version"], 2);
    provider.next(Reply::status(304));
    assert_eq!(user.get(FILE).expect(200).json()["version"], 2);
    assert_eq!(provider.last().header("if-none-match"), Some("\"v2\""));
}

#[test]
fn nothing_stale_is_served_when_the_provider_fails() {
    let (provider, _edge, user) = start(json!({"router": {"retries": 0}}));
    unchanging(&provider, "public, no-cache");
    user.get(FILE).expect(200);
    provider.next(Reply::openai_error(500, "server_error", "x"));
    user.get(FILE).expect(500);
    provider.next(Reply::close());
    assert_eq!(user.get(FILE).status, 502);
    assert_eq!(user.get(FILE).expect(200).json()["id"], "file-fake");
}

#[test]
fn a_304_that_forbids_to_keep_the_answer_ends_it() {
    let (provider, _edge, user) = start(json!({}));
    unchanging(&provider, "public, no-cache");
    user.get(FILE).expect(200);
    provider.next(Reply::status(304).header("Cache-Control", "no-store"));
    let answer = user.get(FILE).expect(200);
    assert_eq!(
        (verdict(&answer), answer.json()["id"].as_str()),
        ("miss", Some("file-fake"))
    );
    assert_eq!(verdict(&user.get(FILE).expect(200)), "stored");
    assert_eq!(provider.last().header("if-none-match"), None);
}

#[test]
fn a_304_to_the_clients_own_question_is_its_own() {
    let (provider, _edge, user) = start(json!({"cache": {"enabled": false}}));
    unchanging(&provider, "public, max-age=60");
    let answer = user.with("If-None-Match", "\"v1\"").get(FILE).expect(304);
    assert_eq!(verdict(&answer), "bypass");
}

#[test]
fn changing_a_thing_ends_what_was_kept_of_it() {
    let (provider, edge, user) = start(json!({}));
    let other = "/v1/files/other";
    provider.on(|seen| {
        let reply = Reply::json(200, &json!({"id": "x"}));
        Some(if seen.method == "GET" {
            reply.header("Cache-Control", "public, max-age=60")
        } else {
            reply
        })
    });
    let stranger = edge.token_of(&edge.project(json!({"api_key": "sk-another-project"})), json!({}));
    let fill = || {
        user.get(FILE).expect(200);
        user.get(other).expect(200);
        stranger.get(FILE).expect(200);
    };
    for method in ["DELETE", "POST", "PUT", "PATCH"] {
        fill();
        user.send(Request::new(method, FILE).header("Content-Length", "0"))
            .expect(200);
        assert_eq!(verdict(&user.get(FILE).expect(200)), "stored", "{method}");
        assert_eq!(verdict(&user.get(other).expect(200)), "hit", "{method}");
        assert_eq!(verdict(&stranger.get(FILE).expect(200)), "hit", "{method}");
    }
    fill();
    provider.next(Reply::openai_error(404, "x", "y"));
    user.send(Request::new("DELETE", FILE)).expect(404);
    assert_eq!(verdict(&user.get(FILE).expect(200)), "hit", "nothing was changed");
    user.chat("gpt-a").expect(200);
    assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
}

#[test]
fn rules_keep_posts_that_nobody_asked_to_keep() {
    let (provider, edge, user) = start(json!({"cache": {
    "rules": [
        {"endpoint": "/v1/embeddings", "model": "text-*", "ttl": "2s", "scope": "token"},
        {"endpoint": "/v1/chat/completions", "temperature_zero": true},
    ]}}));
    let embed = |user: &TokenUser, model: &str| {
        user.post("/v1/embeddings", json!({"model": model, "input": "x"}))
            .expect(200)
    };
    let first = embed(&user, "text-a");
    assert_eq!(status(&first), "llm-proxy; stored; fwd=uri-miss; detail=rule");
    assert_eq!(verdict(&embed(&user, "text-a")), "hit");
    assert_eq!(verdict(&embed(&user, "other")), "bypass");
    let colleague = edge.token_of(
        &crate::edge::Project {
            id: user.project_id.clone(),
        },
        json!({}),
    );
    assert_eq!(
        verdict(&embed(&colleague, "text-a")),
        "stored",
        "each token has its own"
    );
    assert!(
        wait_until(SOON, || verdict(&embed(&user, "text-a")) == "stored"),
        "it lives two seconds"
    );
    let cold = |user: &TokenUser, temperature: f64| {
        let mut body = chat("gpt-a");
        body["temperature"] = json!(temperature);
        user.post("/v1/chat/completions", body).expect(200)
    };
    assert_eq!(verdict(&cold(&user, 0.0)), "stored");
    assert_eq!(verdict(&cold(&colleague, 0.0)), "hit", "the project shares");
    assert_eq!(verdict(&cold(&user, 0.5)), "bypass");
    assert_eq!(verdict(&user.chat("gpt-a").expect(200)), "bypass");
    let refresh = user.with("Cache-Control", "no-store");
    let mut body = chat("gpt-a");
    body["temperature"] = json!(0);
    assert_eq!(
        verdict(&refresh.post("/v1/chat/completions", body.clone()).expect(200)),
        "bypass"
    );
    provider.next(Reply::json(200, &json!({"id": "x"})).header("Cache-Control", "private"));
    body["seed"] = json!(1);
    assert_eq!(
        verdict(&user.post("/v1/chat/completions", body).expect(200)),
        "miss"
    );
}

#[test]
fn scope_says_who_shares() {
    let (provider, edge, user) = start(json!({"cache": {"scope": "token"}}));
    provider.on_path(
        FILE,
        Reply::json(200, &json!({"id": "x"})).header("Cache-Control", "public, max-age=60"),
    );
    let colleague = edge.token_of(
        &crate::edge::Project {
            id: user.project_id.clone(),
        },
        json!({}),
    );
    assert_eq!(verdict(&user.get(FILE).expect(200)), "stored");
    assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
    assert_eq!(verdict(&colleague.get(FILE).expect(200)), "stored");
    let purged = edge
        .admin()
        .post("/manage/cache/purge", json!({"project_id": user.project_id}))
        .expect(200);
    assert_eq!(purged.json()["deleted"], 2, "a project's purge takes them all");
}

#[test]
fn account_headers_are_part_of_the_question() {
    let (provider, _edge, user) = start(json!({}));
    provider.on_path(
        FILE,
        Reply::json(200, &json!({"id": "x"})).header("Cache-Control", "public, max-age=60"),
    );
    for organization in ["org-a", "org-b"] {
        let user = user.with("OpenAI-Organization", organization);
        assert_eq!(verdict(&user.get(FILE).expect(200)), "stored");
        assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
    }
}
