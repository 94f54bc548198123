//! Budgets: reserved before a request leaves, settled with what it cost, exact under any concurrency and across kill -9.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{MANAGEMENT_TOKEN, Plan, Store, TestEdge, TokenUser};
use crate::for_both_stores;
use crate::http::{Answer, Request};
use crate::mutate::Mutator;
use crate::provider::{Gate, Provider, Refusing, Reply, chat_chunks};
use crate::wait::wait_until;

const CHAT: &str = "/v1/chat/completions";
const SOON: Duration = Duration::from_secs(20);

/// A token of an answer costs a tenth of a cent, the prompt nothing: the usual answer of four costs 0.4 cents.
fn plan(provider: &Provider) -> Plan {
    let price = |output: u32| json!({"input_usd_per_mtok": 0, "output_usd_per_mtok": output});
    TestEdge::plan(provider).with(json!({"prices": {"overrides": {
        "gpt-a": price(1000), "claude-a": price(1000), "gpt-b": price(500), "text-embedding-a": {"input_usd_per_mtok": 1000},
    }}}))
}

fn start(provider: &Provider, store: &Store) -> TestEdge {
    plan(provider).on(store).start()
}

fn limited(edge: &TestEdge, usd: f64, period: &str) -> TokenUser {
    edge.token(json!({"budget": {"usd": usd, "period": period}}))
}

fn ask(user: &TokenUser, max_tokens: u64) -> Answer {
    user.post(CHAT, declared("gpt-a", max_tokens))
}

fn declared(model: &str, max_tokens: u64) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    json!({"model": model, "max_tokens": max_tokens, "messages": messages})
}

#[track_caller]
fn is_usd(value: &Value, usd: f64) {
    let found = value.as_f64().expect("a number");
    assert!((found - usd).abs() < 1e-9, "{found} is not {usd}");
}

#[track_caller]
fn exceeded(answer: Answer, left: f64) -> Answer {
    let refused = answer.refused(429, "budget_exceeded");
    is_usd(&refused.json()["error"]["left_usd"], left);
    refused
}

fn spent(edge: &TestEdge, user: &TokenUser) -> f64 {
    edge.admin().read_token(&user.id)["spend_usd"]
        .as_f64()
        .expect("money")
}

fn records_of(edge: &TestEdge, user: &TokenUser) -> Vec<Value> {
    let path = format!("/manage/usage/records?page_size=100&token_id={}", user.id);
    edge.admin()
        .get(&path)
        .expect(200)
        .json()
        .as_array()
        .expect("records")
        .clone()
}

for_both_stores! {
    fn spent_money_is_terminal_and_says_what_is_left(store) {
        let provider = Provider::start();
        let edge = start(&provider, store);
        let user = limited(&edge, 0.010, "total");
        ask(&user, 4).expect(200);
        ask(&user, 4).expect(200);
        let refused = exceeded(ask(&user, 4), 0.002);
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        let error = &refused.json()["error"];
        assert_eq!((&error["type"], &error["resets_at"]), (&json!("insufficient_quota"), &json!(null)));
        assert!(error["message"].as_str().is_some_and(|text| text.contains("max_tokens")), "{error}");
        // the larger of both, times n
        for body in [
            json!({"model": "gpt-a", "max_tokens": 1, "max_completion_tokens": 4, "messages": []}),
            json!({"model": "gpt-a", "max_tokens": 2, "n": 2, "messages": []}),
        ] {
            exceeded(user.post(CHAT, body), 0.002);
        }
        let refused = user.as_anthropic().post("/v1/messages", declared("claude-a", 3));
        refused.refused_as_anthropic(429, "budget_exceeded", "rate_limit_error");
        assert_eq!(provider.count(), 2, "what is refused does not leave");
        // fits, and costs more than it said
        ask(&user, 2).expect(200);
        exceeded(ask(&user, 1), 0.0);
        exceeded(user.chat("gpt-a"), 0.0);
        assert!((spent(&edge, &user) - 0.012).abs() < 1e-9);
        // models, counting and hits are free
        user.get("/v1/models").expect(200);
    }

    fn what_declares_nothing_passes_while_anything_is_left(store) {
        let provider = Provider::start();
        let edge = start(&provider, store);
        let user = limited(&edge, 0.009, "month");
        for _ in 0..3 {
            user.chat("gpt-a").expect(200);
        }
        let refused = exceeded(user.chat("gpt-a"), 0.0);
        let resets_at = refused.json()["error"]["resets_at"].as_str().expect("a time").to_owned();
        assert!(resets_at.ends_with("-01T00:00:00Z"), "{resets_at}");
        assert!((spent(&edge, &user) - 0.012).abs() < 1e-9, "one request above the cap, no more");
    }

    fn running_requests_stand_in_the_way_only_until_they_end(store) {
        let provider = Provider::start();
        let edge = start(&provider, store);
        for running in [declared("gpt-a", 8), json!({"model": "gpt-a", "messages": []})] {
            let user = limited(&edge, 0.010, "week");
            let gate = Gate::new();
            let usage = json!({"usage": {"prompt_tokens": 5, "completion_tokens": 4}});
            provider.next(Reply::json(200, &usage).head_behind(&gate));
            let before = provider.count();
            std::thread::scope(|scope| {
                let first = scope.spawn(|| user.post(CHAT, running));
                provider.wait_for_requests(before + 1);
                let waiting = ask(&user, 6).refused(429, "rate_limit_exceeded");
                assert_eq!(waiting.header("retry-after"), Some("1"));
                assert_eq!(waiting.header("x-should-retry"), None);
                exceeded(ask(&user, 11), 0.010);
                gate.open();
                first.join().expect("a call").expect(200);
            });
            ask(&user, 6).expect(200);
        }
    }

    fn first_requests_at_once_share_what_is_there(store) {
        let provider = Provider::start();
        provider.always(Reply::json(200, &json!({"usage": {"prompt_tokens": 1, "completion_tokens": 4}}))
            .head_after(Duration::from_millis(20)));
        let edge = start(&provider, store);
        let project = edge.project(json!({"budget": {"usd": 0.020, "period": "day"}}));
        let users: Vec<TokenUser> = (0..4).map(|_| edge.token_of(&project, json!({}))).collect();
        let passed = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..40).map(|n| scope.spawn({ let user = &users[n % 4]; move || ask(user, 4) })).collect();
            let answers = calls.into_iter().map(|call| call.join().expect("a call"));
            answers.filter(|answer| answer.status == 200).count()
        });
        assert_eq!((passed, provider.count()), (5, 5));
        exceeded(ask(&users[0], 4), 0.0);
        let project = edge.admin().get(&format!("/manage/projects/{}", project.id)).expect(200).json();
        is_usd(&project["spend_usd"], 0.020);
        is_usd(&project["budget"]["usd"], 0.020);
    }

    fn what_a_killed_process_had_reserved_is_charged_once(store) {
        let provider = Provider::start();
        let mut edge = start(&provider, store);
        let user = limited(&edge, 0.050, "day");
        ask(&user, 4).expect(200);
        provider.next(Reply::hang());
        let before = provider.count();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                let request = Request::new("POST", CHAT).json(&declared("gpt-a", 30));
                user.with("X-Request-ID", "killed").try_send(request)
            });
            provider.wait_for_requests(before + 1);
            edge.kill();
            drop(call.join().expect("a call"));
        });
        for _ in 0..2 {
            edge.start_again();
            let user = user.at(&edge.anonymous());
            let records = records_of(&edge, &user);
            let dead: Vec<&Value> = records.iter().filter(|record| record["request_id"] == "killed").collect();
            assert_eq!((records.len(), dead.len()), (2, 1), "{records:#?}");
            assert_eq!((&dead[0]["estimated"], &dead[0]["cut"]), (&json!(true), &json!(true)));
            is_usd(&dead[0]["cost_usd"], 0.030);
            is_usd(&dead[0]["attempts"][0]["cost_usd"], 0.030);
            exceeded(ask(&user, 17), 0.016);
            edge.kill();
        }
        edge.start_again();
        let user = user.at(&edge.anonymous());
        ask(&user, 16).expect(200);
        assert!((spent(&edge, &user) - 0.038).abs() < 1e-9);
    }

    fn what_was_spent_is_known_after_a_restart_and_a_changed_budget_holds_at_once(store) {
        let provider = Provider::start();
        let mut edge = start(&provider, store);
        let user = edge.token(json!({}));
        for _ in 0..3 {
            ask(&user, 4).expect(200);
        }
        let change = |edge: &TestEdge, budget: Value| {
            edge.admin().change_token(&user.id, json!({"budget": budget})).expect(200);
        };
        change(&edge, json!({"usd": 0.013, "period": "total"}));
        exceeded(ask(&user, 2), 0.001);
        edge.stop();
        edge.start_again();
        let user = user.at(&edge.anonymous());
        exceeded(ask(&user, 2), 0.001);
        edge.admin().change_token(&user.id, json!({"budget": {"usd": 0.015}})).expect(200);
        ask(&user, 3).expect(200);
        edge.admin().change_token(&user.id, json!({"budget": {"usd": 0, "period": "day"}})).expect(200);
        exceeded(user.chat("gpt-a"), 0.0);
        edge.admin().change_token(&user.id, json!({"budget": null})).expect(200);
        user.chat("gpt-a").expect(200);
    }

    fn whatever_the_order_the_cap_holds_and_the_ledger_says_what_the_provider_counts(store) {
        let provider = Provider::start();
        // what an answer uses is what its prompt says
        provider.on(|seen| {
            let body = seen.json();
            let tokens: u64 = body["messages"][0]["content"].as_str()?.parse().ok()?;
            let usage = json!({"usage": {"prompt_tokens": 1, "completion_tokens": tokens}});
            Some(Reply::json(200, &usage).head_after(Duration::from_millis(tokens % 7)))
        });
        let edge = start(&provider, store);
        for (round, only_declared) in [true, true, false].into_iter().enumerate() {
            let cap = 0.2 + 0.1 * round as f64;
            let user = limited(&edge, cap, "day");
            let costs: Mutex<Vec<u64>> = Mutex::default();
            std::thread::scope(|scope| {
                for client in 0..6 {
                    let (user, costs) = (&user, &costs);
                    scope.spawn(move || {
                        let mut moves = Mutator::new(round as u64 * 100 + client);
                        for _ in 0..25 {
                            let bound = 1 + moves.below(60);
                            let uses = moves.below(bound + 1);
                            let mut body = declared("gpt-a", bound as u64);
                            body["messages"][0]["content"] = json!(uses.to_string());
                            if !only_declared && moves.below(3) == 0 {
                                body.as_object_mut().expect("a body").remove("max_tokens");
                            }
                            if user.post(CHAT, body).status == 200 {
                                costs.lock().expect("costs").push(uses as u64);
                            }
                        }
                    });
                }
            });
            let costs = costs.into_inner().expect("costs");
            let counted = costs.iter().sum::<u64>() as f64 * 0.001;
            let in_ledger = spent(&edge, &user);
            assert!((counted - in_ledger).abs() < 1e-9, "{counted} counted, {in_ledger} recorded");
            let most = if only_declared { cap } else { cap + 0.060 };
            assert!(in_ledger <= most + 1e-9, "{in_ledger} spent of {cap}");
            assert!(in_ledger > cap * 0.5, "too little was spent to mean anything: {in_ledger} of {cap}");
            let records = records_of(&edge, &user);
            assert_eq!(records.len(), costs.len());
        }
    }
}

#[test]
fn the_budget_of_the_installation_and_defaults_hold_for_everybody() {
    let provider = Provider::start();
    let budgets = json!({"budgets": {
        "installation": {"usd": 0.020, "period": "day"},
        "default_project": {"usd": 0.012, "period": "week"},
        "default_token": {"usd": 0.008},
    }});
    let mut edge = plan(&provider).with(budgets).start();
    let project = edge.project(json!({}));
    let (one, two) = (
        edge.token_of(&project, json!({})),
        edge.token_of(&project, json!({})),
    );
    ask(&one, 4).expect(200);
    ask(&one, 4).expect(200);
    let refused = exceeded(ask(&one, 4), 0.0);
    assert!(refused.text().contains("this token"), "{}", refused.text());
    ask(&two, 4).expect(200);
    let refused = exceeded(ask(&two, 1), 0.0);
    assert!(refused.text().contains("this project"), "{}", refused.text());
    let other = edge.token(json!({"budget": {"usd": 5, "period": "day"}}));
    ask(&other, 4).expect(200);
    ask(&other, 4).expect(200);
    let refused = exceeded(ask(&other, 1), 0.0);
    assert!(refused.text().contains("this proxy"), "{}", refused.text());
    // live
    edge.save_config(json!({"budgets": null}));
    assert!(wait_until(SOON, || ask(&one, 4).status == 200));
    ask(&one, 4).expect(200);
}

#[test]
fn the_profile_of_the_environment_is_a_budget_of_the_installation() {
    let provider = Provider::start();
    let edge = plan(&provider).env("BUDGET_PROFILE", "test").start();
    let user = edge.token(json!({}));
    let refused = exceeded(ask(&user, 15_001), 15.0);
    assert!(refused.text().contains("this month"), "{}", refused.text());
    ask(&user, 15_000).expect(200);
}

#[test]
fn who_has_a_budget_is_refused_where_there_is_no_price() {
    let provider = Provider::start();
    let mut edge = plan(&provider).start();
    let (limited, free) = (limited(&edge, 5.0, "day"), edge.token(json!({})));
    let unpriced = declared("nobody-knows", 5);
    let refused = limited.post(CHAT, unpriced.clone()).refused(400, "price_unknown");
    assert_eq!(refused.json()["error"]["param"], "model");
    free.post(CHAT, unpriced.clone()).expect(200);
    let picture = json!({"model": "dall-e-3", "prompt": "a cat"});
    limited
        .post("/v1/images/generations", picture.clone())
        .refused(400, "price_unknown");
    free.post("/v1/images/generations", picture).expect(200);
    // what costs nothing needs no price
    limited
        .post("/v1/moderations", json!({"input": "hi", "model": "nobody-knows"}))
        .expect(200);
    // what the provider bills by something else has none
    let own = edge.project(json!({"api_key": "sk-own"}));
    let own = edge.token_of(&own, json!({"budget": {"usd": 5, "period": "day"}}));
    own.post("/v1/batches", json!({"input_file_id": "f"}))
        .refused(400, "price_unknown");
    own.get("/v1/files").expect(200);
    edge.save_config(json!({"prices": {"unknown": "zero"}}));
    assert!(wait_until(SOON, || limited.post(CHAT, unpriced.clone()).status == 200));
}

#[test]
fn embeddings_and_the_demo_provider_are_bounded_by_what_was_sent() {
    let provider = Provider::start();
    let edge = plan(&provider)
        .with(json!({"providers": {"demo": {"dialect": "demo"}}}))
        .start();
    // a token of the prompt costs a tenth of a cent, and there are no more tokens than bytes
    let user = limited(&edge, 0.200, "day");
    let body = json!({"model": "text-embedding-a", "input": "hi"});
    user.post("/v1/embeddings", body).expect(200);
    let long = json!({"model": "text-embedding-a", "input": "hi ".repeat(300)});
    user.post("/v1/embeddings", long).refused(429, "budget_exceeded");
    let demo = user.post(CHAT, declared("demo/any", 1_000_000)).expect(200);
    assert_eq!(demo.header("x-llm-proxy-provider"), Some("demo"));
}

#[test]
fn only_where_bytes_do_not_fit_are_tokens_counted() {
    let provider = Provider::start();
    let edge = plan(&provider)
        .with(json!({"prices": {"overrides": {"gpt-4o": {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000}}}}))
        .start();
    let user = limited(&edge, 1.5, "day");
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(100);
    let body = |text: &str| json!({"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": text}]});
    // 4,500 bytes and a thousand tokens
    user.post(CHAT, body(&text)).expect(200);
    user.post(CHAT, body(&text.repeat(2)))
        .refused(429, "budget_exceeded");
}

#[test]
fn what_comes_to_nothing_is_free_again_and_what_is_broken_off_is_charged() {
    let provider = Provider::start();
    let nobody = Refusing::start();
    let edge = plan(&provider)
        .with(json!({"router": {"retries": 0}, "providers": {"gone": {"base_url": nobody.url(), "api_key": "k"}},
            "prices": {"overrides": {"gone/gpt-a": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 1000},
                "gpt-a": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 1000}}}}))
        .start();
    let user = limited(&edge, 0.010, "day");
    for _ in 0..3 {
        user.post(CHAT, declared("gone/gpt-a", 10))
            .refused(502, "upstream_unreachable");
        provider.next(Reply::openai_error(400, "invalid_request_error", "bad"));
        ask(&user, 10).expect(400);
    }
    provider.next(Reply::events(&chat_chunks("gpt-a")).cut_after(3));
    let mut body = declared("gpt-a", 10);
    body["stream"] = json!(true);
    drop(user.post(CHAT, body));
    assert!(wait_until(SOON, || records_of(&edge, &user)
        .iter()
        .any(|record| record["cut"] == true)));
    let broken_off = spent(&edge, &user);
    assert!(broken_off > 0.0 && broken_off < 0.010, "{broken_off}");
    let left = 0.010 - broken_off;
    exceeded(ask(&user, 10), left);
    ask(&user, (left * 1000.0).round() as u64).expect(200);
}

fn percent(event: &Value) -> u64 {
    let metadata = event["metadata"].as_str().expect("metadata as text");
    let metadata: Value = serde_json::from_str(metadata).expect("metadata as JSON");
    metadata["percent"].as_u64().expect("a percentage")
}

#[test]
fn another_attempt_is_made_only_if_there_is_money_for_it() {
    let (broken, sound) = (Provider::start(), Provider::start());
    broken.always(Reply::close());
    let edge = TestEdge::plan(&sound)
        .with(json!({
            "providers": {"broken": {"base_url": broken.url(), "api_key": "k"}},
            "models": {"m": {"strategy": "priority", "targets": [
                {"provider": "broken", "model": "x", "priority": 0},
                {"provider": "openai", "model": "x", "priority": 1},
            ]}},
            "prices": {"overrides": {"m": {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 0}}},
        }))
        .start();
    // its bound is its bytes
    let body = json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "one two three four"}]});
    let bound = body.to_string().len() as f64 * 0.001;
    let tight = limited(&edge, bound + 0.001, "day");
    tight
        .post(CHAT, body.clone())
        .refused(502, "upstream_protocol_error");
    assert_eq!(
        (broken.count(), sound.count()),
        (1, 0),
        "there is no money for a second one"
    );
    let charged = spent(&edge, &tight);
    assert!(
        charged > 0.0 && charged <= bound,
        "{charged}: the provider may have read it"
    );
    let rich = limited(&edge, 10.0, "day");
    rich.post(CHAT, body).expect(200);
    assert_eq!((broken.count(), sound.count()), (2, 1));
    let record = records_of(&edge, &rich).remove(0);
    let costs: Vec<f64> = record["attempts"]
        .as_array()
        .expect("attempts")
        .iter()
        .map(|attempt| attempt["cost_usd"].as_f64().expect("money"))
        .collect();
    assert_eq!(costs.len(), 2, "{record}");
    is_usd(&record["cost_usd"], costs.iter().sum());
    assert!((spent(&edge, &rich) - costs.iter().sum::<f64>()).abs() < 1e-9);
}

#[test]
fn hits_are_free_and_operators_are_told_when_little_is_left() {
    let provider = Provider::start();
    let edge = plan(&provider).start();
    let user = limited(&edge, 0.020, "day");
    let cached = user.with("Cache-Control", "public, max-age=60");
    for _ in 0..20 {
        cached.post(CHAT, declared("gpt-a", 4)).expect(200);
    }
    assert_eq!(provider.count(), 1);
    for _ in 0..4 {
        ask(&user, 4).expect(200);
    }
    exceeded(ask(&user, 4), 0.0);
    let told = || -> HashMap<u64, usize> {
        let events = edge
            .admin()
            .get("/manage/audit?action=budget.warning")
            .expect(200)
            .json();
        let mut told = HashMap::new();
        for event in events["events"].as_array().or(events.as_array()).expect("events") {
            assert_eq!(event["token_id"], user.id.as_str(), "{event}");
            *told.entry(percent(event)).or_default() += 1;
        }
        told
    };
    let both = HashMap::from([(80, 1), (100, 1)]);
    assert!(wait_until(SOON, || told() == both), "{:?}", told());
    edge.wait_for_log("80 % of a budget are spent");
    let metrics = edge.admin().get("/metrics/prometheus").expect(200).text();
    for line in [
        "llm_proxy_budget_warnings_total{percent=\"80\"} 1",
        "llm_proxy_budget_warnings_total{percent=\"100\"} 1",
        "llm_proxy_budget_reserved_nano_usd 0",
        "llm_proxy_rate_limited_total{scope=\"token\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn the_command_line_gives_budgets_and_tokens_a_minute() {
    let edge = plan(&Provider::start()).start();
    let base = format!("http://{}", edge.sidecar().address);
    let run = |arguments: &[&str]| -> Value {
        let output = edge.run(
            &[
                &["manage"],
                arguments,
                &[
                    "--json",
                    "--management-token",
                    MANAGEMENT_TOKEN,
                    "--manage-api-base-url",
                    &base,
                ],
            ]
            .concat(),
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let made = run(&[
        "project",
        "create",
        "--name",
        "p",
        "--api-key",
        "sk-1",
        "--budget",
        "12.5",
        "--tpm",
        "1000",
    ]);
    assert_eq!(made["budget"], json!({"usd": 12.5, "period": "month"}));
    assert_eq!(made["limits"], json!({"tpm": 1000}));
    let id = made["id"].as_str().expect("an id");
    let token = run(&[
        "token",
        "generate",
        "--project-id",
        id,
        "--budget",
        "0.5",
        "--budget-period",
        "day",
    ]);
    let shown = edge.admin().read_token(token["id"].as_str().expect("an id"));
    assert_eq!(shown["budget"], json!({"usd": 0.5, "period": "day"}));
    let wrong = edge.run(&[
        "manage",
        "token",
        "generate",
        "--project-id",
        id,
        "--budget-period",
        "day",
    ]);
    assert_eq!(wrong.status.code(), Some(2));
}
