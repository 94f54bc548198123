//! What is tried again, where, how often and after which pause; keys that take turns; places and paces at a provider.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Connection, Request, chat, chat_streamed};
use crate::provider::{Gate, Provider, Refusing, Reply, chat_chunks};

fn one(provider: &Provider, over: Value) -> (TestEdge, TokenUser) {
    let edge = TestEdge::plan(provider).with(over).start();
    let user = edge.token(json!({}));
    (edge, user)
}

/// A model `m` at two providers, in this order.
fn two(router: Value, model: Value) -> (Provider, Provider, TestEdge, TokenUser) {
    let (first, second) = (Provider::start(), Provider::start());
    let mut m = json!({"strategy": "priority", "targets": [
        {"provider": "openai", "model": "a"}, {"provider": "second", "model": "b", "priority": 1},
    ]});
    m.as_object_mut()
        .unwrap()
        .extend(model.as_object().unwrap().clone());
    let edge = TestEdge::plan(&first)
        .with(json!({
            "router": router,
            "providers": {
                "openai": {"base_url": first.url()},
                "second": {"dialect": "openai", "base_url": second.url(), "api_key": "sk-second-second-second"},
            },
            "models": {"m": m},
        }))
        .start();
    let user = edge.token(json!({}));
    (first, second, edge, user)
}

fn money() -> Reply {
    Reply::openai_error(429, "insufficient_quota", "insufficient_quota")
}

fn limited() -> Reply {
    Reply::openai_error(429, "requests", "rate_limit_exceeded")
}

fn broken() -> Reply {
    Reply::openai_error(500, "server_error", "boom")
}

fn attempts(answer: &crate::http::Answer) -> u32 {
    answer
        .header("x-llm-proxy-attempts")
        .map_or(0, |count| count.parse().unwrap())
}

fn newest_record(edge: &TestEdge) -> Value {
    edge.admin().get("/manage/usage/records").expect(200).json()[0].clone()
}

fn keys_of_openai(edge: &TestEdge) -> Value {
    let shown = edge.admin().get("/manage/providers").expect(200).json();
    let openai = shown
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "openai");
    openai.unwrap()["keys"].clone()
}

#[test]
fn one_target_is_tried_again_after_pauses_that_double() {
    let provider = Provider::start();
    let router = json!({"retries": 2, "retry_base_delay": "200ms", "retry_max_delay": "300ms"});
    let (edge, user) = one(&provider, json!({"router": router}));
    provider.next(broken());
    let answer = user.chat("gpt-a").expect(200);
    assert_eq!((attempts(&answer), provider.count()), (2, 2));
    let waited: u64 = answer.header("x-llm-proxy-waited-ms").unwrap().parse().unwrap();
    assert!((100..=200).contains(&waited), "{waited}");
    assert!(answer.elapsed >= Duration::from_millis(100));
    // the last answer of the provider is the client's
    for code in ["one", "two", "three"] {
        provider.next(Reply::openai_error(503, "server_error", code).header("x-kept", code));
    }
    let answer = user.chat("gpt-a").expect(503);
    assert_eq!(answer.header("x-kept"), Some("three"));
    assert_eq!(answer.header("x-llm-proxy-origin"), Some("upstream"));
    assert!(answer.text().contains("three") && attempts(&answer) == 3);
    edge.wait_for_log("openai/gpt-a installation status 503");
    let metrics = edge.sidecar().get("/metrics/prometheus").text();
    assert!(
        metrics.contains("llm_proxy_upstream_failures_total{cause=\"status\",provider=\"openai\"} 4"),
        "{metrics}"
    );
}

#[test]
fn what_is_the_clients_own_is_never_tried_again() {
    let provider = Provider::start();
    let (_edge, user) = one(&provider, json!({"router": {"retry_base_delay": "10ms"}}));
    for status in [400, 404, 409, 413, 422] {
        let before = provider.count();
        provider.next(Reply::openai_error(status, "invalid_request_error", "no"));
        assert_eq!(attempts(&user.chat("gpt-a").expect(status)), 1);
        assert_eq!(provider.count(), before + 1, "{status}");
    }
}

#[test]
fn a_provider_that_says_when_is_waited_for_as_long_as_that_is_not_too_long() {
    let provider = Provider::start();
    let router = json!({"retry_base_delay": "5s", "retry_max_delay": "5s", "max_wait": "1500ms"});
    let (edge, user) = one(&provider, json!({"router": router}));
    provider.next(limited().header("retry-after-ms", "300"));
    let answer = user.chat("gpt-a").expect(200);
    assert!(
        attempts(&answer) == 2
            && answer.elapsed >= Duration::from_millis(300)
            && answer.elapsed < Duration::from_secs(2)
    );
    // too long: the provider's own answer, and who comes next is told how long
    provider.next(limited().header("Retry-After", "30"));
    let answer = user.chat("gpt-a").expect(429);
    assert_eq!((attempts(&answer), answer.header("retry-after")), (1, Some("30")));
    let before = provider.count();
    let refused = user.chat("gpt-a").refused(503, "circuit_open");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((28..=30).contains(&after), "{after}");
    assert_eq!(provider.count(), before);
    let keys = keys_of_openai(&edge);
    assert_eq!(keys[0]["state"], "rate_limited", "{keys}");
}

#[test]
fn many_who_wait_for_one_provider_come_back_one_by_one_and_all_are_served() {
    let provider = Provider::start();
    let (edge, user) = one(
        &provider,
        json!({"router": {"max_wait": "10s", "retry_base_delay": "50ms"}}),
    );
    for _ in 0..8 {
        // all are on their way before the first is told
        let told = limited().header("retry-after-ms", "400");
        provider.next(told.head_after(Duration::from_millis(500)));
    }
    let address = edge.anonymous();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let user = user.at(&address);
            scope.spawn(move || {
                user.chat("gpt-a").expect(200);
            });
        }
    });
}

#[test]
fn the_next_target_answers_at_once_and_nobody_elses_key_goes_there() {
    let (first, second, edge, user) = two(json!({"retry_base_delay": "5s"}), json!({}));
    for reply in [
        broken(),
        limited(),
        Reply::status(503).header("Retry-After", "1"),
        Reply::reset(),
    ] {
        first.next(reply);
        let answer = user.chat("m").expect(200);
        assert_eq!(
            (attempts(&answer), answer.header("x-llm-proxy-provider")),
            (2, Some("second"))
        );
        assert!(answer.elapsed < Duration::from_secs(3));
        std::thread::sleep(Duration::from_millis(1100));
    }
    for seen in second.seen() {
        assert_eq!(
            seen.header("authorization"),
            Some("Bearer sk-second-second-second")
        );
        assert_eq!(seen.model(), "b");
    }
    let record = newest_record(&edge);
    assert_eq!(
        (&record["provider"], &record["attempts"].as_array().unwrap().len()),
        (&json!("second"), &2)
    );
}

#[test]
fn keys_take_turns_and_a_refused_or_penniless_one_is_left_alone() {
    let provider = Provider::start();
    let keys =
        json!([{"id": "one", "key": "sk-one-one-one-one"}, {"id": "two", "key": "sk-two-two-two-two"}]);
    let over = json!({
        "providers": {"openai": {"base_url": provider.url(), "api_key": null, "api_keys": keys}},
        "router": {"cooldown": {"failures": 3, "duration": "1s", "max": "60s"}},
    });
    let (edge, user) = one(&provider, over);
    let asked = |key: &str| {
        let field = format!("Bearer sk-{key}-{key}-{key}-{key}");
        provider
            .seen()
            .iter()
            .filter(|seen| seen.header("authorization") == Some(&field))
            .count()
    };
    for _ in 0..6 {
        user.chat("gpt-a").expect(200);
    }
    assert_eq!((asked("one"), asked("two")), (3, 3));
    // revoked in mid-traffic
    provider.on(|seen| {
        (seen.header("authorization") == Some("Bearer sk-one-one-one-one"))
            .then(|| Reply::openai_error(401, "invalid_request_error", "invalid_api_key"))
    });
    for _ in 0..6 {
        user.chat("gpt-a").expect(200);
    }
    assert_eq!((asked("one"), asked("two")), (4, 9), "it was refused once");
    edge.wait_for_log("does not take the key `one`");
    let keys = keys_of_openai(&edge);
    assert_eq!(
        (&keys[0]["state"], &keys[1]["state"]),
        (&json!("refused"), &json!("ok"))
    );
    assert!(!keys.to_string().contains("sk-one"));
    // it comes back by itself
    provider.forget_scripts();
    std::thread::sleep(Duration::from_millis(1200));
    for _ in 0..4 {
        user.chat("gpt-a").expect(200);
    }
    assert!(asked("one") >= 5, "{}", asked("one"));
    // no money: for `cooldown.max`
    provider.on(|seen| (seen.header("authorization") == Some("Bearer sk-two-two-two-two")).then(money));
    let before = asked("two");
    for _ in 0..6 {
        user.chat("gpt-a").expect(200);
    }
    assert_eq!(asked("two"), before + 1);
    let record = newest_record(&edge);
    assert_eq!(
        record["attempts"].as_array().unwrap().last().unwrap()["key_id"],
        "one",
        "{record}"
    );
    // a reload forgets nothing of it
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
    user.chat("gpt-a").expect(200);
    assert_eq!(asked("two"), before + 1);
}

#[test]
fn when_every_key_is_refused_or_penniless_the_client_is_told() {
    let (first, second, _edge, user) = two(json!({}), json!({}));
    first.always(Reply::openai_error(401, "x", "invalid_api_key"));
    second.always(Reply::openai_error(401, "x", "invalid_api_key"));
    let refused = user.chat("m").refused(502, "upstream_auth_error");
    assert_eq!(
        (attempts(&refused), refused.header("x-should-retry")),
        (2, Some("false"))
    );
    let provider = Provider::start();
    let (_edge, user) = one(&provider, json!({}));
    provider.always(money());
    let answer = user.chat("gpt-a").expect(429);
    assert!(answer.text().contains("insufficient_quota") && attempts(&answer) == 1);
    provider.forget_scripts();
    user.chat("gpt-a").expect(200);
}

#[test]
fn a_projects_own_key_at_its_rate_is_nobody_elses_affair() {
    let provider = Provider::start();
    let (edge, user) = one(&provider, json!({"router": {"max_wait": "100ms"}}));
    let project = edge.project(json!({"name": "own", "api_key": "sk-own-own-own-own"}));
    let own = edge.token_of(&project, json!({}));
    provider.next(limited().header("Retry-After", "60"));
    own.chat("gpt-a").expect(429);
    own.chat("gpt-a").refused(503, "circuit_open");
    user.chat("gpt-a").expect(200);
}

#[test]
fn fallbacks_answer_for_a_model_that_cannot_and_for_prompts_that_are_too_long() {
    let (first, second) = (Provider::start(), Provider::start());
    let target = |provider: &str, model: &str| json!([{"provider": provider, "model": model}]);
    let edge = TestEdge::plan(&first)
        .with(json!({
            "providers": {
                "openai": {"base_url": first.url()},
                "second": {"dialect": "openai", "base_url": second.url(), "api_key": "sk-second-second-second"},
            },
            "models": {
                "m": {"targets": target("openai", "a"), "fallbacks": ["small", "large"], "context_window": 8000},
                "small": {"targets": target("openai", "s"), "context_window": 4000},
                "large": {"targets": target("second", "l"), "context_window": 100_000},
            },
            "prices": {"overrides": {
                "m": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
                "large": {"input_usd_per_mtok": 1_000, "output_usd_per_mtok": 1_000},
            }},
        }))
        .start();
    let user = edge.token(json!({"allowed_models": ["m"]}));
    let too_long = || Reply::openai_error(400, "invalid_request_error", "context_length_exceeded");
    first.next(too_long());
    let answer = user.chat("m").expect(200);
    assert_eq!(
        answer.header("x-llm-proxy-model"),
        Some("l"),
        "the small one is not asked"
    );
    assert_eq!(first.count(), 1);
    let record = edge.record_of(&user);
    assert!(
        record["cost_usd"].as_f64().unwrap() > 0.0,
        "paid at the price of who answered: {record}"
    );
    first.always(broken());
    assert_eq!(user.chat("m").expect(200).header("x-llm-proxy-model"), Some("l"));
    first.forget_scripts();
    // nobody reads more than the largest
    second.next(too_long());
    let other = edge.token(json!({}));
    let answer = other.chat("large").expect(400);
    assert!(answer.text().contains("context_length_exceeded") && attempts(&answer) == 1);
}

#[test]
fn words_that_do_not_come_in_time_come_from_another_target() {
    // `models.m.timeouts.first_token`
    let (first, second, edge, user) = two(json!({}), json!({"timeouts": {"first_token": "300ms"}}));
    let opening = chat_chunks("a")[..1].to_vec();
    let silent: Vec<String> = opening.iter().cloned().chain(chat_chunks("a")).collect();
    for reply in [
        Reply::hang(),
        Reply::events(&silent).hang_after(1),
        Reply::events(&silent).cut_after(1),
        Reply::events(&silent).hang_after(0),
    ] {
        first.next(reply);
        let rest = user.chat_stream("m").finish();
        assert!(rest.is_done(), "{rest:?}");
        first.wait_until_idle();
    }
    assert_eq!(second.count(), 4);
    // a plain answer takes its time
    first.next(Reply::json(200, &json!({"choices": []})).head_after(Duration::from_millis(600)));
    let answer = user.chat("m").expect(200);
    assert_eq!(answer.header("x-llm-proxy-provider"), Some("openai"));
    assert!(edge.logs().contains("first_token_timeout"));
}

#[test]
fn what_may_have_been_taken_is_tried_again_as_the_operator_says() {
    for (word, single, stateful) in [("never", 502, 502), ("auto", 502, 502), ("always", 200, 502)] {
        let provider = Provider::start();
        let over = json!({
            "router": {"retry_ambiguous": word, "retry_base_delay": "20ms"},
            "providers": {"openai": {"shared_state": "allow", "timeouts": {"response_header": "400ms"}}},
        });
        let (_edge, user) = one(&provider, over);
        provider.next(Reply::reset());
        assert_eq!(user.chat("gpt-a").status, single, "{word}");
        let late = Reply::json(200, &json!({})).head_after(Duration::from_secs(2));
        provider.next(late);
        assert_eq!(user.chat("gpt-a").status == 200, word == "always", "{word}");
        provider.next(Reply::reset());
        let answer = user.post("/v1/threads", json!({}));
        assert_eq!(answer.status, stateful, "{word}");
    }
}

#[test]
fn a_dead_target_gets_no_more_further_attempts_than_its_budget() {
    let provider = Provider::start();
    let router = json!({"retries": 9, "retry_base_delay": "1ms", "retry_max_delay": "1ms", "retry_budget": 0.5, "cooldown": {"failures": 1_000}});
    let (_edge, user) = one(&provider, json!({"router": router}));
    provider.always(broken());
    for _ in 0..20 {
        user.chat("gpt-a").expect(500);
    }
    let further = provider.count() - 20;
    assert!((15..=20).contains(&further), "{further}: ten, and half of twenty");
}

#[test]
fn the_clients_own_patience_and_attempts_count() {
    let provider = Provider::start();
    let (_edge, user) = one(
        &provider,
        json!({"router": {"retries": 2, "retry_base_delay": "10ms"}}),
    );
    provider.always(broken());
    let ask = |fields: &[(&str, &str)]| {
        let request = Request::new("POST", "/v1/chat/completions").json(&chat("gpt-a"));
        let request = fields
            .iter()
            .fold(request, |request, (name, value)| request.header(name, value));
        user.send(request)
    };
    for (count, expected) in [("0", 3), ("1", 2), ("2", 1), ("7", 1)] {
        assert_eq!(
            attempts(&ask(&[("x-stainless-retry-count", count)]).expect(500)),
            expected
        );
    }
    provider.forget_scripts();
    provider.next(Reply::hang());
    let from = Instant::now();
    ask(&[("x-stainless-read-timeout", "0.5")]).refused(504, "request_timeout");
    assert!(from.elapsed() < Duration::from_secs(3));
}

#[test]
fn places_at_a_provider_are_waited_for_and_then_the_next_target_answers() {
    let (first, second) = (Provider::start(), Provider::start());
    let edge = TestEdge::plan(&first)
        .with(json!({
            // who finds no place has not asked anybody: the next target needs no retry
            "router": {"max_wait": "700ms", "retries": 0},
            "providers": {
                "openai": {"base_url": first.url(), "max_concurrency": 1, "max_queue": 1},
                "second": {"dialect": "openai", "base_url": second.url(), "api_key": "sk-second-second-second"},
            },
            "models": {"m": {"strategy": "priority", "targets": [
                {"provider": "openai", "model": "a"}, {"provider": "second", "model": "b", "priority": 1},
            ]}},
        }))
        .start();
    let user = edge.token(json!({}));
    let gate = Gate::new();
    first.next(Reply::json(200, &json!({"choices": []})).head_behind(&gate));
    let address = edge.anonymous();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| user.at(&address).chat("m").expect(200));
        first.wait_for_requests(1);
        let queued = scope.spawn(|| user.at(&address).chat("m").expect(200));
        std::thread::sleep(Duration::from_millis(200));
        // the queue is full: the next target at once
        let answer = user.chat("m").expect(200);
        assert_eq!(answer.header("x-llm-proxy-provider"), Some("second"));
        assert!(answer.elapsed < Duration::from_millis(600));
        // it waited for `max_wait`
        let queued = queued.join().unwrap();
        assert_eq!(queued.header("x-llm-proxy-provider"), Some("second"));
        assert!(queued.elapsed >= Duration::from_millis(650));
        gate.open();
        running.join().unwrap();
    });
    assert_eq!(first.most_in_flight(), 1);
    // who waits gets the place when it is free
    let gate = Gate::new();
    first.next(Reply::json(200, &json!({"choices": []})).head_behind(&gate));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| user.at(&address).chat("openai/x").expect(200));
        first.wait_for_requests(2);
        let queued = scope.spawn(|| user.at(&address).chat("openai/x").expect(200));
        std::thread::sleep(Duration::from_millis(200));
        user.chat("openai/x").refused(503, "overloaded");
        gate.open();
        running.join().unwrap();
        queued.join().unwrap();
    });
}

#[test]
fn the_rate_of_a_key_is_kept_here_and_shared_fairly_between_tokens() {
    let provider = Provider::start();
    let keys =
        json!([{"id": "slow", "key": "sk-slow-slow-slow-slow", "limits": {"rpm": 120, "tpm": 1_000_000}}]);
    let over = json!({
        "providers": {"openai": {"base_url": provider.url(), "api_key": null, "api_keys": keys}},
        "router": {"max_wait": "20s"},
    });
    let (edge, user) = one(&provider, over);
    let other = edge.token(json!({}));
    // at once as many as a minute allows, then two a second
    for _ in 0..120 {
        user.chat("gpt-a").expect(200);
    }
    let address = edge.anonymous();
    let from = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            let user = user.at(&address);
            scope.spawn(move || user.chat("gpt-a").expect(200));
        }
        std::thread::sleep(Duration::from_millis(300));
        let answer = other.at(&address).chat("gpt-a").expect(200);
        assert!(
            answer.elapsed < Duration::from_millis(3_500),
            "it does not stand behind all of the other's: {:?}",
            answer.elapsed
        );
        assert!(answer.header("x-llm-proxy-waited-ms").is_some());
    });
    assert!(from.elapsed() > Duration::from_secs(2), "{:?}", from.elapsed());
    // what would take too long is said at once or in time
    let mut edge = edge;
    edge.save_config(json!({"router": {"max_wait": "200ms"}}));
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..16)
            .map(|_| {
                let user = user.at(&address);
                scope.spawn(move || user.chat("gpt-a").status)
            })
            .collect();
        let statuses: Vec<u16> = asked.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(
            statuses.contains(&503) && statuses.iter().all(|status| matches!(status, 200 | 503)),
            "{statuses:?}"
        );
    });
}

#[test]
fn a_refused_connection_is_tried_again_and_told_in_the_end() {
    let gone = Refusing::start();
    let provider = Provider::start();
    let (_edge, user) = one(
        &provider,
        json!({"providers": {"openai": {"base_url": gone.url()}}, "router": {"retry_base_delay": "20ms"}}),
    );
    let refused = user.chat("gpt-a").refused(502, "upstream_unreachable");
    assert_eq!(attempts(&refused), 3);
}

#[test]
fn a_stream_that_was_shown_is_never_begun_again() {
    let (first, second, _edge, user) = two(json!({}), json!({"timeouts": {"first_token": "5s"}}));
    first.next(
        Reply::events(&chat_chunks("a"))
            .every(Duration::from_millis(20))
            .cut_after(3),
    );
    let rest = user.stream("/v1/chat/completions", chat_streamed("m")).finish();
    assert!(!rest.is_done());
    assert_eq!(second.count(), 0);
}

#[test]
fn a_client_that_leaves_while_an_error_is_read_closes_the_call() {
    let provider = Provider::start();
    let (_edge, user) = one(&provider, json!({}));
    let halves = vec![b"{\"error\":".to_vec(), b"{}}".to_vec()];
    provider.next(Reply::status(500).pieces(halves).hang_after(1));
    let request = Request::new("POST", "/v1/chat/completions").json(&chat("gpt-a"));
    let mut connection = Connection::open(user.address);
    connection.send(&user.sign(request));
    provider.wait_for_requests(1);
    std::thread::sleep(Duration::from_millis(300));
    drop(connection);
    provider.wait_until_left(0, Duration::from_secs(3));
}
