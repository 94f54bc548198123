//! What requests used and cost: metered, priced, recorded, and read back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{MANAGEMENT_TOKEN, Store, TestEdge, TokenUser};
use crate::for_both_stores;
use crate::http::{Connection, Request, chat, chat_streamed};
use crate::provider::{Gate, Provider, Reply, chat_chunks, message_events};
use crate::servers::Postgres;
use crate::wait::{is_long_run, wait_until};

const CHAT: &str = "/v1/chat/completions";
const SOON: Duration = Duration::from_secs(20);

/// A million tokens of `gpt-a` cost 2 dollars to read and 10 to write.
fn prices() -> Value {
    json!({"prices": {"overrides": {
        "gpt-a": {"input_usd_per_mtok": 2, "output_usd_per_mtok": 10, "cache_read_usd_per_mtok": 0.5},
        "claude-a": {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15,
            "cache_read_usd_per_mtok": 0.3, "cache_write_usd_per_mtok": 3.75, "cache_write_1h_usd_per_mtok": 6},
    }}})
}

fn start(over: Value) -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider).with(prices()).with(over).start();
    let user = edge.token(json!({}));
    (provider, edge, user)
}

fn records(edge: &TestEdge, query: &str) -> Vec<Value> {
    let answer = edge
        .admin()
        .get(&format!("/manage/usage/records?{query}"))
        .expect(200);
    answer.json().as_array().expect("an array").clone()
}

fn tokens(record: &Value) -> (u64, u64) {
    let number = |name: &str| record[name].as_u64().unwrap_or(u64::MAX);
    (number("prompt_tokens"), number("completion_tokens"))
}

#[track_caller]
fn costs(value: &Value, usd: f64) {
    let found = value.as_f64().expect("a number");
    assert!((found - usd).abs() < 1e-12, "{found} is not {usd}");
}

for_both_stores! {
    fn a_request_is_a_record_with_its_tokens_and_cost(store) {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider).with(prices()).on(store).start();
        let user = edge.token(json!({}));
        user.with("X-Request-ID", "mine").chat("gpt-a").expect(200);
        // strict: it is there when the answer is
        let found = records(&edge, &format!("token_id={}", user.id));
        assert_eq!(found.len(), 1, "{found:#?}");
        let record = &found[0];
        assert_eq!(tokens(record), (9, 4));
        costs(&record["cost_usd"], 0.000_058);
        for (name, value) in [
            ("request_id", json!("mine")),
            ("model", json!("gpt-a")),
            ("provider", json!("openai")),
            ("endpoint", json!(CHAT)),
            ("status", json!(200)),
            ("estimated", json!(false)),
            ("cut", json!(false)),
        ] {
            assert_eq!(record[name], value, "{name}");
        }
        assert_eq!(record["attempts"].as_array().map(Vec::len), Some(1));
        assert_eq!(record["attempts"][0]["key_id"], "installation");
        assert!(record["duration_ms"].as_f64().is_some_and(|millis| millis > 0.0));
        costs(&edge.admin().read_token(&user.id)["spend_usd"], 0.000_058);
        let project = edge.admin().get(&format!("/manage/projects/{}", user.project_id));
        costs(&project.expect(200).json()["spend_usd"], 0.000_058);
        // ten requests with one id are ten records
        for _ in 0..9 {
            user.with("X-Request-ID", "mine").chat("gpt-a").expect(200);
        }
        let same = records(&edge, "request_id=mine&page_size=100");
        assert_eq!(same.len(), 10);
        costs(&edge.admin().read_token(&user.id)["spend_usd"], 0.000_58);
        let listed = edge.admin().get("/manage/tokens").expect(200).json();
        let row = listed.as_array().and_then(|rows| rows.iter().find(|row| row["id"] == user.id.as_str()));
        costs(&row.expect("the token")["spend_usd"], 0.000_58);
    }
}

#[test]
fn streams_tell_their_usage_and_clients_see_it_only_if_they_asked() {
    let (provider, edge, user) = start(json!({}));
    let quiet = user.post(CHAT, chat_streamed("gpt-a")).expect(200);
    assert!(!quiet.text().contains("usage"), "{}", quiet.text());
    assert!(quiet.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(provider.last().json()["stream_options"]["include_usage"], true);
    assert_eq!(tokens(&edge.record_of(&user)), (9, 4));
    let curious = edge.token(json!({}));
    let mut body = chat_streamed("gpt-a");
    body["stream_options"] = json!({"include_usage": true});
    assert!(
        curious
            .post(CHAT, body.clone())
            .expect(200)
            .text()
            .contains("\"usage\"")
    );
    assert_eq!(tokens(&edge.record_of(&curious)), (9, 4));
    let declining = edge.token(json!({}));
    body["stream_options"]["include_usage"] = json!(false);
    assert!(!declining.post(CHAT, body).expect(200).text().contains("usage"));
    assert_eq!(tokens(&edge.record_of(&declining)), (9, 4));
}

#[test]
fn a_provider_that_refuses_to_be_asked_is_asked_again_without_it() {
    for (setting, asked) in [("auto", 2), ("never", 1)] {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider)
            .with(prices())
            .with(json!({"router": {"retries": 0}, "providers": {"openai": {"include_usage": setting}}}))
            .start();
        let user = edge.token(json!({"max_requests": 2}));
        provider.on(|seen| {
            let asks = seen.json()["stream_options"].is_object();
            Some(if asks {
                Reply::json(
                    400,
                    &json!({"error": {"message": "Unrecognized request argument: stream_options"}}),
                )
            } else {
                Reply::events(&chat_chunks("m"))
            })
        });
        user.post(CHAT, chat_streamed("gpt-a")).expect(200);
        assert_eq!(provider.count(), asked, "{setting}");
        user.post(CHAT, chat_streamed("gpt-a")).expect(200);
        assert_eq!(provider.count(), asked + 1, "{setting}: it is remembered");
        let found = records(&edge, &format!("token_id={}", user.id));
        assert_eq!(found.len(), 2);
        let (prompt, completion) = tokens(&found[0]);
        assert!(prompt > 0 && completion == 4, "counted here: {}", found[0]);
        assert_eq!(found[0]["estimated"], true);
        // what the client itself asked for is its own affair
        let mut body = chat_streamed("gpt-a");
        body["stream_options"] = json!({"include_usage": true});
        edge.token(json!({})).post(CHAT, body).expect(400);
    }
}

#[test]
fn anthropics_counts_are_cumulative_and_its_cache_is_priced_apart() {
    let (provider, edge, user) = start(json!({}));
    provider.next(Reply::json(
        200,
        &json!({"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 100, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 300,
                "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100}, "output_tokens": 10}}),
    ));
    user.message("claude-a").expect(200);
    let record_of_plain = edge.record_of(&user);
    assert_eq!(tokens(&record_of_plain), (1400, 10));
    assert_eq!(
        (
            &record_of_plain["cache_read_tokens"],
            &record_of_plain["cache_write_tokens"]
        ),
        (&json!(1000), &json!(300))
    );
    // 100 × 3 + 1000 × 0.3 + 200 × 3.75 + 100 × 6 + 10 × 15 millionths
    costs(&record_of_plain["cost_usd"], 0.002_1);
    let streaming = edge.token(json!({}));
    streaming
        .as_anthropic()
        .stream("/v1/messages", json!({"model": "claude-a", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "hi"}]}))
        .finish();
    assert_eq!(tokens(&edge.record_of(&streaming)), (9, 4));
}

#[test]
fn a_stream_that_is_cut_or_left_is_charged_for_what_was_delivered_never_zero() {
    let (provider, edge, _) = start(json!({"router": {"retries": 0}}));
    let anthropic = json!({"model": "claude-a", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    // the words of each stream, by the events that have been delivered
    let dialects = [
        (CHAT, chat_streamed("gpt-a"), chat_chunks("m")),
        ("/v1/messages", anthropic, message_events("m")),
    ];
    for (path, body, events) in dialects {
        for index in 1..events.len() - 1 {
            let words = events[..index]
                .iter()
                .filter(|event| {
                    event.contains("hello")
                        || event.contains(" from")
                        || event.contains(" the")
                        || event.contains(" provider")
                })
                .filter(|event| event.contains("delta"))
                .count() as u64;
            for left_by_client in [false, true] {
                let user = edge.token(json!({}));
                let gate = Gate::new();
                let reply = Reply::events(&events);
                provider.next(if left_by_client {
                    reply.piece_behind(index, &gate)
                } else {
                    reply.cut_after(index)
                });
                let request = user.sign(Request::new("POST", path).json(&body));
                let mut stream = Connection::open(user.address).stream(&request);
                if left_by_client {
                    for _ in 0..index {
                        stream.next_event();
                    }
                    stream.abort();
                } else {
                    stream.finish();
                }
                let record = edge.record_of(&user);
                let (prompt, completion) = tokens(&record);
                let told = path == "/v1/messages";
                assert!(prompt > 0, "{path} {index} {record}");
                if told {
                    assert_eq!(prompt, 9, "the provider said so");
                }
                let finished = events[..index]
                    .iter()
                    .any(|event| event.contains("message_delta"));
                let expected = if finished {
                    4
                } else {
                    words.max(if told { 4 } else { 0 })
                };
                assert_eq!(completion, expected, "{path} {index} {record}");
                assert_eq!(
                    (&record["cut"], &record["estimated"]),
                    (&json!(true), &json!(!finished)),
                    "{path} {index}"
                );
                assert!(record["cost_usd"].as_f64().is_some_and(|cost| cost > 0.0));
                gate.open();
            }
        }
    }
}

#[test]
fn attempts_are_recorded_each_and_refusals_cost_nothing() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(prices())
        .with(json!({"models": {"gpt-a": {"strategy": "priority", "targets": [
            {"provider": "openai", "model": "first", "priority": 0},
            {"provider": "openai", "model": "second", "priority": 1}]}}}))
        .start();
    let user = edge.token(json!({}));
    provider.next(Reply::openai_error(500, "server_error", "x"));
    user.chat("gpt-a").expect(200);
    let found = edge.record_of(&user);
    let attempts = found["attempts"].as_array().expect("attempts");
    let seen: Vec<_> = attempts
        .iter()
        .map(|attempt| (&attempt["model"], &attempt["status"]))
        .collect();
    assert_eq!(
        seen,
        [(&json!("first"), &json!(500)), (&json!("second"), &json!(200))]
    );
    assert_eq!(
        (tokens(&found), &found["served_model"]),
        ((9, 4), &json!("second"))
    );
    costs(&attempts[0]["cost_usd"], 0.0);

    let refused = edge.token(json!({}));
    provider.next(Reply::openai_error(400, "invalid_request_error", "x"));
    refused.chat("other").expect(400);
    let found = edge.record_of(&refused);
    assert_eq!(
        (tokens(&found), &found["status"], &found["estimated"]),
        ((0, 0), &json!(400), &json!(false))
    );
    // what never reached a provider is no record
    let stranger = edge.token(json!({"allowed_models": ["x"]}));
    stranger.chat("gpt-a").expect(403);
    assert!(records(&edge, &format!("token_id={}", stranger.id)).is_empty());
}

#[test]
fn a_request_that_got_no_answer_is_charged_for_its_input() {
    let (provider, edge, user) =
        start(json!({"router": {"retries": 0}, "server": {"request_timeout": "1s"}}));
    provider.next(Reply::hang());
    user.chat("gpt-a").refused(504, "request_timeout");
    let found = edge.record_of(&user);
    let (prompt, completion) = tokens(&found);
    assert!(prompt > 0 && completion == 0, "{found}");
    assert_eq!(found["estimated"], true);
}

#[test]
fn hits_of_the_cache_are_no_records() {
    let (_provider, edge, user) = start(json!({}));
    let ask = || {
        let request = Request::new("POST", CHAT).header("Cache-Control", "public, max-age=60");
        user.send(request.json(&chat("gpt-a"))).expect(200)
    };
    ask();
    assert_eq!(ask().header("x-proxy-cache"), Some("hit"));
    assert_eq!(tokens(&edge.record_of(&user)), (9, 4));
}

for_both_stores! {
    fn sums_add_up_by_every_group(store) {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider).with(prices()).on(store).start();
        let (one, two) = (edge.token(json!({})), edge.token(json!({})));
        for _ in 0..3 {
            one.chat("gpt-a").expect(200);
        }
        two.chat("gpt-b").expect(200);
        two.message("claude-a").expect(200);
        let sums = |query: &str| {
            let answer = edge.admin().get(&format!("/manage/usage?{query}")).expect(200).json();
            answer["data"].as_array().expect("data").clone()
        };
        let all = sums("");
        assert_eq!((all.len(), &all[0]["requests"], &all[0]["prompt_tokens"]), (1, &json!(5), &json!(45)));
        costs(&all[0]["cost_usd"], 3.0 * 0.000_058 + 0.000_087);
        let by_model = sums("group_by=model");
        let names: Vec<_> = by_model.iter().map(|line| line["model"].as_str().unwrap_or("")).collect();
        assert_eq!(names, ["claude-a", "gpt-a", "gpt-b"]);
        assert_eq!(by_model[1]["completion_tokens"], 12);
        let by_token = sums("group_by=token,provider");
        let line = by_token.iter().find(|line| line["token"] == one.id.as_str()).expect("the token");
        assert_eq!((&line["requests"], &line["provider"]), (&json!(3), &json!("openai")));
        assert_eq!(by_token.len(), 3);
        assert_eq!(sums("group_by=project&group_by=day").len(), 2);
        assert!(sums("end_time=2020-01-01T00:00:00Z").is_empty());
        assert_eq!(sums("start_time=2020-01-01T00:00:00Z")[0]["requests"], 5);
        let table = edge.admin().get("/manage/usage?group_by=model&format=csv").expect(200);
        assert_eq!(table.header("content-type"), Some("text/csv; charset=utf-8"));
        assert!(table.text().starts_with("model,requests,prompt_tokens"), "{}", table.text());
        assert_eq!(table.text().lines().count(), 4);
        for (query, word) in [("group_by=colour", "colour"), ("format=xml", "xml"), ("start_time=now", "start_time")] {
            let refused = edge.admin().get(&format!("/manage/usage?{query}")).expect(400);
            assert!(refused.text().contains(word), "{}", refused.text());
        }
        // the same at the command line
        let base = format!("http://{}", edge.sidecar().address);
        let ask = |arguments: &[&str]| {
            let access = ["--manage-api-base-url", &base, "--management-token", MANAGEMENT_TOKEN];
            edge.run(&[arguments, &access].concat())
        };
        let shown = ask(&["manage", "usage", "--group-by", "model,day"]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.status.success() && text.contains("gpt-a") && text.contains("Requests"), "{shown:?}");
        let listed = ask(&["manage", "usage", "--records", "--token-id", &two.id, "--json"]);
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        assert_eq!(listed.as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn numbers_for_operators_say_the_same() {
    let (_provider, edge, user) = start(json!({}));
    user.chat("gpt-a").expect(200);
    let text = || edge.sidecar().get("/metrics/prometheus").expect(200).text();
    let counted = wait_until(SOON, || {
        let text = text();
        text.lines()
            .any(|line| line.starts_with("llm_proxy_tokens_total{kind=\"prompt\"") && line.ends_with(" 9"))
            && text
                .lines()
                .any(|line| line.starts_with("llm_proxy_cost_usd_total{") && line.contains("0.000058"))
            && text
                .lines()
                .any(|line| line == "llm_proxy_ledger_records_total 1")
    });
    assert!(counted, "{}", text());
}

#[test]
fn prices_come_from_the_table_the_overrides_or_a_file_and_unknown_ones_are_refused() {
    let provider = Provider::start();
    let mut edge = TestEdge::plan(&provider)
        .with(json!({"prices": {"unknown": "refuse", "overrides": {"long": {
            "input_usd_per_mtok": 1, "output_usd_per_mtok": 1,
            "tiers": [{"above_tokens": 8, "input_usd_per_mtok": 100, "output_usd_per_mtok": 1000,
                "cache_read_usd_per_mtok": 1, "cache_write_usd_per_mtok": 1, "cache_write_1h_usd_per_mtok": 1}]}}}}))
        .start();
    let spent = |edge: &TestEdge, model: &str| {
        let user = edge.token(json!({}));
        user.chat(model).expect(200);
        edge.record_of(&user)["cost_usd"].clone()
    };
    costs(&spent(&edge, "gpt-4o"), 0.000_062_5);
    costs(&spent(&edge, "gpt-4o-2031-12-24"), 0.000_062_5);
    costs(&spent(&edge, "long"), 0.004_9);
    let user = edge.token(json!({}));
    let refused = user.chat("no-such-model").refused(400, "price_unknown");
    assert!(refused.text().contains("no-such-model"));
    assert_eq!(provider.count(), 3);
    let file = edge.folder().join("prices.csv");
    let table = |price: &str| {
        format!("provider,model,input_usd_per_mtok,output_usd_per_mtok\nopenai,no-such-model,{price},0\n")
    };
    std::fs::write(&file, table("1000")).expect("a table");
    edge.save_config(json!({"prices": {"file": file}}));
    assert!(wait_until(SOON, || user.chat("no-such-model").status == 200));
    costs(&spent(&edge, "no-such-model"), 0.009);
    std::fs::write(&file, table("2000")).expect("a table");
    assert!(
        wait_until(SOON, || spent(&edge, "no-such-model")
            .as_f64()
            .is_some_and(|cost| cost > 0.017)),
        "the file is read again"
    );
}

#[test]
fn a_store_that_is_away_is_made_up_for_by_the_spool() {
    let mut postgres = Postgres::start();
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(prices())
        .with(json!({"database": {"timeout": "300ms"}, "auth": {"store_timeout": "300ms"}}))
        .on(&Store::Url(postgres.new_database()))
        .start();
    let user = edge.token(json!({}));
    // the news of its own making may come after its first use, and then it is read once more
    for _ in 0..3 {
        user.chat("gpt-a").expect(200);
        std::thread::sleep(Duration::from_millis(200));
    }
    postgres.stop();
    for _ in 0..10 {
        user.chat("gpt-a").expect(200);
    }
    let spool = edge.state_dir().join("ledger-spool.jsonl");
    assert!(spool.exists(), "on disk before the client has its answer");
    postgres.start_again();
    let mut found = Vec::new();
    assert!(
        wait_until(Duration::from_secs(40), || {
            let answer = edge.admin().get(&format!(
                "/manage/usage/records?token_id={}&page_size=100",
                user.id
            ));
            found = answer.json().as_array().cloned().unwrap_or_default();
            found.len() == 13
        }),
        "{} records",
        found.len()
    );
    costs(&edge.admin().read_token(&user.id)["spend_usd"], 13.0 * 0.000_058);
}

/// Ten minutes in `make test-long`.
#[test]
fn a_store_that_stops_under_load_loses_no_record_and_no_known_token() {
    const CLIENTS: usize = 4;
    let away = Duration::from_secs(if is_long_run() { 600 } else { 4 });
    let mut postgres = Postgres::start();
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(prices())
        .with(json!({"database": {"timeout": "300ms"}, "auth": {"store_timeout": "300ms"}}))
        .on(&Store::Url(postgres.new_database()))
        .start();
    // one of them with a budget: it is known, and goes on
    let budgets = [json!({}), json!({"budget": {"usd": 1000, "period": "month"}})];
    let users: Vec<TokenUser> = (0..CLIENTS).map(|n| edge.token(budgets[n % 2].clone())).collect();
    for _ in 0..3 {
        for user in &users {
            user.chat("gpt-a").expect(200);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let stop = AtomicBool::new(false);
    let served: Vec<usize> = std::thread::scope(|scope| {
        let clients: Vec<_> = users
            .iter()
            .map(|user| {
                scope.spawn(|| {
                    let mut served = 3;
                    while !stop.load(Ordering::Relaxed) {
                        user.chat("gpt-a").expect(200);
                        served += 1;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    served
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        postgres.stop();
        std::thread::sleep(away);
        postgres.start_again();
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .collect()
    });
    let total: usize = served.iter().sum();
    let mut counted = 0;
    let there = wait_until(Duration::from_mins(2), || {
        let usage = edge.admin().get("/manage/usage");
        counted = usage.json()["data"][0]["requests"].as_u64().unwrap_or(0) as usize;
        usage.status == 200 && counted >= total
    });
    assert!(there, "{counted} of {total} records");
    assert_eq!((counted, provider.count()), (total, total), "each once");
    let by_token = edge
        .admin()
        .get("/manage/usage?group_by=token")
        .expect(200)
        .json();
    for (user, served) in users.iter().zip(&served) {
        let row = by_token["data"]
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["token"] == *user.id));
        assert_eq!(row.expect("the token")["requests"], *served);
        costs(
            &edge.admin().read_token(&user.id)["spend_usd"],
            *served as f64 * 0.000_058,
        );
    }
    let spool = edge.state_dir().join("ledger-spool.jsonl");
    assert!(
        std::fs::metadata(spool).map_or(true, |file| file.len() == 0),
        "all of it is in the store"
    );
    eprintln!("{total} requests, {away:?} without the store");
}

#[test]
fn the_ledger_obeys_its_settings() {
    let (_provider, mut edge, user) =
        start(json!({"ledger": {"durability": "batched", "fsync": true, "retention": "400d"}}));
    user.chat("gpt-a").expect(200);
    assert_eq!(tokens(&edge.record_of(&user)), (9, 4));
    edge.save_config(json!({"ledger": {"retention": "1s"}}));
    assert!(
        wait_until(Duration::from_secs(90), || records(&edge, "").is_empty()),
        "old records go within seconds"
    );
    let sums = edge.admin().get("/manage/usage").expect(200).json();
    assert_eq!(sums["data"][0]["requests"], 1, "their sums stay");
}

#[test]
fn when_nothing_takes_records_requests_are_refused_or_records_are_dropped() {
    let mut postgres = Postgres::start();
    let provider = Provider::start();
    let mut edge = TestEdge::plan(&provider)
        .with(json!({"database": {"timeout": "300ms"}, "ledger": {"spool_max": "10B", "on_full": "refuse"}}))
        .on(&Store::Url(postgres.new_database()))
        .start();
    let user = edge.token(json!({}));
    // the news of its own making may come after its first use, and then it is read once more
    for _ in 0..3 {
        user.chat("gpt-a").expect(200);
        std::thread::sleep(Duration::from_millis(200));
    }
    postgres.stop();
    // its end waits for its record
    let mut waiting = Connection::open(user.address);
    waiting.send(&user.sign(Request::new("POST", CHAT).json(&chat("gpt-a"))));
    edge.wait_for_log("requests are refused");
    user.chat("gpt-a").refused(503, "store_unavailable");
    edge.save_config(json!({"ledger": {"on_full": "drop"}}));
    waiting
        .read_answer("POST", std::time::Instant::now())
        .expect("an answer")
        .expect(200);
    assert!(wait_until(SOON, || user.chat("gpt-a").status == 200));
    let text = edge.sidecar().get("/metrics/prometheus").expect(200).text();
    assert!(!text.contains("llm_proxy_ledger_lost_total 0\n"), "{text}");
    postgres.start_again();
}

for_both_stores! {
    fn a_stream_that_the_end_of_the_process_cuts_is_recorded(store) {
        let provider = Provider::start();
        let mut edge = TestEdge::plan(&provider)
            .with(prices())
            .with(json!({"server": {"drain_timeout": "500ms"}}))
            .on(store)
            .start();
        let user = edge.token(json!({}));
        let gate = Gate::new();
        provider.next(Reply::events(&chat_chunks("m")).piece_behind(3, &gate));
        let request = user.sign(Request::new("POST", CHAT).json(&chat_streamed("gpt-a")));
        let mut stream = Connection::open(user.address).stream(&request);
        for _ in 0..3 {
            assert!(stream.next_event().is_some());
        }
        edge.stop();
        edge.start_again();
        let found = edge.record_of(&user);
        assert_eq!((tokens(&found).1, &found["cut"], &found["estimated"]), (2, &json!(true), &json!(true)), "{found}");
        gate.open();
    }
}

#[test]
fn an_answer_says_what_it_cost_where_that_is_exposed() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(prices())
        .with(json!({"server": {"expose_headers": ["cost", "provider"]}, "providers": {"demo": {"dialect": "demo"}}}))
        .start();
    let user = edge.token(json!({}));
    let cost = |answer: &crate::http::Answer| answer.header("x-llm-proxy-cost-usd").map(str::to_owned);
    let plain = user.chat("gpt-a").expect(200);
    assert_eq!(cost(&plain).as_deref(), Some("0.000058"));
    assert_eq!(plain.json()["usage"]["prompt_tokens"], 9, "the body is as it was");
    let usage = br#"{"usage":{"prompt_tokens":100000,"completion_tokens":7},"text":"#;
    let pieces: Vec<Vec<u8>> = [&usage[..], b"\"a", b"b\"}"]
        .iter()
        .map(|piece| piece.to_vec())
        .collect();
    let whole: Vec<u8> = pieces.concat();
    for reply in [
        Reply::status(200).pieces(pieces.clone()).chunked(),
        Reply::status(200)
            .pieces(pieces.clone())
            .every(Duration::from_millis(5)),
        Reply::status(200).pieces(pieces).until_close(),
    ] {
        provider.next(reply.header("content-type", "application/json"));
        let answer = user.chat("gpt-a").expect(200);
        assert_eq!(cost(&answer).as_deref(), Some("0.20007"));
        assert_eq!(answer.body, whole);
    }
    // a long one is not held for it
    let long = format!(
        r#"{{"usage":{{"prompt_tokens":1}},"text":"{}"}}"#,
        "x".repeat(3 << 20)
    );
    provider.next(
        Reply::status(200)
            .body(long.clone())
            .header("content-type", "application/json"),
    );
    let answer = user.chat("gpt-a").expect(200);
    assert_eq!((cost(&answer), answer.body.len()), (None, long.len()));
    // a stream does not wait for its end
    let stream = user.post(CHAT, chat_streamed("gpt-a")).expect(200);
    assert_eq!(cost(&stream), None);
    // what broke before its end is a clean refusal
    provider.next(Reply::json(200, &json!({"usage": {}})).cut_at_byte(5));
    let broken = user.chat("gpt-a");
    assert_eq!(broken.status, 502, "{}", broken.text());
    let demo = user.chat("demo/any").expect(200);
    assert_eq!(cost(&demo).as_deref(), Some("0"));
    edge.wait_for_log("\"cost_usd\":0.20007");
    assert_eq!(
        edge.token(json!({}))
            .get("/v1/models")
            .header("x-llm-proxy-cost-usd"),
        None
    );
}
