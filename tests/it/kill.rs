//! kill -9 at random moments under load: no token is granted more than it may have, no request that a client saw finished
//! is missing from its count, and the database is sound. Fifty kills on each store in `make test-long`.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{Store, TestEdge, TokenUser};
use crate::for_both_stores;
use crate::http::{Client, Request, chat, chat_streamed};
use crate::mutate::Mutator;
use crate::provider::{Provider, Reply};
use crate::wait::is_long_run;

const CLIENTS: usize = 6;
const MAX_REQUESTS: usize = 25;

for_both_stores! {
    fn kills_at_random_moments_grant_nothing_twice_and_forget_nothing_finished(store) {
        let kills = if is_long_run() { 50 } else { 4 };
        let provider = Provider::start();
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 1});
        provider.always(Reply::json(200, &json!({"usage": usage})).head_after(Duration::from_millis(5)));
        let mut edge = TestEdge::plan(&provider).with(json!({"router": {"retries": 1}})).on(store).start();
        // a model of its own for each token, so that the provider's requests can be told apart
        let users: Vec<(String, TokenUser)> = (0..CLIENTS * kills * 3)
            .map(|index| (format!("gpt-{index}"), edge.token(json!({"max_requests": MAX_REQUESTS}))))
            .collect();
        let address = Mutex::new(edge.proxy);
        let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
        let finished: Mutex<HashMap<&str, usize>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| while let Some((model, user)) = users.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !use_up(model, user, &address, &stop, &finished) {
                        return;
                    }
                });
            }
            let mut moments = Mutator::new(u64::from(std::process::id()));
            for _ in 0..kills {
                std::thread::sleep(Duration::from_millis(50 + moments.below(300) as u64));
                edge.kill();
                edge.start_again();
                *address.lock().expect("the address") = edge.proxy;
            }
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
        });
        let finished = finished.into_inner().expect("the counts");
        let mut reached: HashMap<String, usize> = HashMap::new();
        for seen in provider.seen() {
            *reached.entry(seen.model()).or_default() += 1;
        }
        assert!(finished.values().sum::<usize>() > 8 * kills, "too little load to mean anything");
        for (model, user) in &users[..next.load(Ordering::Relaxed).min(users.len())] {
            let reached = reached.get(model).copied().unwrap_or(0);
            let finished = finished.get(model.as_str()).copied().unwrap_or(0);
            let counted = edge.admin().read_token(&user.id)["request_count"].as_u64().expect("a count") as usize;
            // a retry on a dead connection reaches the provider a second time on the same grant
            assert!(counted <= MAX_REQUESTS, "{model}: {counted} granted");
            assert!(finished <= counted, "{model}: {finished} finished, {counted} counted");
            assert!(reached <= MAX_REQUESTS, "{model}: {reached} reached the provider");
        }
        edge.anonymous().get("/ready").expect(200);
        edge.stop();
        assert_sound(store, &edge);
    }
}

for_both_stores! {
    fn kills_at_random_moments_lose_no_record_of_an_answer_that_was_seen_whole(store) {
        let kills = if is_long_run() { 200 } else { 4 };
        let provider = Provider::start();
        let mut edge = TestEdge::plan(&provider)
            .with(json!({"router": {"retries": 0}, "prices": {"overrides": {"gpt-a": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}}}))
            .on(store)
            .start();
        // with a budget, what a killed process had reserved is charged too
        let user = edge.token(json!({"budget": {"usd": 1000, "period": "month"}}));
        let address = Mutex::new(edge.proxy);
        let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
        let seen_whole: Mutex<Vec<String>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let name = format!("request-{number}");
                    let body = if number % 2 == 0 { chat("gpt-a") } else { chat_streamed("gpt-a") };
                    let there = Client::new(*address.lock().expect("the address"));
                    let client = there
                        .with("Authorization", &format!("Bearer {}", user.secret))
                        .with("X-Request-ID", &name);
                    match client.try_send(Request::new("POST", "/v1/chat/completions").json(&body)) {
                        // what a client takes for the end: all bytes, or the end marker
                        Some(answer) if answer.status == 200
                            && (answer.end.is_whole() || answer.text().contains("data: [DONE]")) =>
                        {
                            seen_whole.lock().expect("the names").push(name);
                        }
                        Some(_) => {}
                        None => std::thread::sleep(Duration::from_millis(5)),
                    }
                });
            }
            let mut moments = Mutator::new(u64::from(std::process::id()));
            for _ in 0..kills {
                std::thread::sleep(Duration::from_millis(30 + moments.below(200) as u64));
                edge.kill();
                edge.start_again();
                *address.lock().expect("the address") = edge.proxy;
            }
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
        });
        let seen_whole = seen_whole.into_inner().expect("the names");
        assert!(seen_whole.len() > 10 * kills, "too little load to mean anything");
        let records = all_records(&edge);
        let mut times: HashMap<&str, usize> = HashMap::new();
        for record in &records {
            *times.entry(record["request_id"].as_str().expect("a name")).or_default() += 1;
        }
        for name in &seen_whole {
            assert_eq!(times.get(name.as_str()), Some(&1), "{name} was seen whole");
        }
        let twice: Vec<_> = times.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        // the sums are those of the records, and the whole ones those of the provider
        let sum = |name: &str| -> u64 { records.iter().map(|record| record[name].as_u64().unwrap_or(0)).sum() };
        let usage = edge.admin().get("/manage/usage").expect(200).json()["data"][0].clone();
        for name in ["prompt_tokens", "completion_tokens"] {
            assert_eq!(usage[name], sum(name), "{name}");
        }
        assert_eq!(usage["requests"], records.len());
        for record in records.iter().filter(|record| record["cut"] == false && record["status"] == 200) {
            assert_eq!((&record["prompt_tokens"], &record["completion_tokens"]), (&json!(9), &json!(4)), "{record}");
        }
        let spent = edge.admin().read_token(&user.id)["spend_usd"].as_f64().expect("money");
        assert!((spent - usage["cost_usd"].as_f64().expect("money")).abs() < 1e-9);
        edge.stop();
        assert_sound(store, &edge);
    }
}

fn all_records(edge: &TestEdge) -> Vec<Value> {
    let mut records = Vec::new();
    for page in 1.. {
        let path = format!("/manage/usage/records?page_size=100&page={page}");
        let more = edge.admin().get(&path).expect(200).json();
        let more = more.as_array().expect("records");
        if more.is_empty() {
            break;
        }
        records.extend(more.iter().cloned());
    }
    records
}

/// Sends until the token is used up; false when it is time to stop.
fn use_up<'a>(
    model: &'a str,
    user: &TokenUser,
    address: &Mutex<std::net::SocketAddr>,
    stop: &AtomicBool,
    finished: &Mutex<HashMap<&'a str, usize>>,
) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let there = Client::new(*address.lock().expect("the address"));
        let request = there.with("Authorization", &format!("Bearer {}", user.secret));
        match request.try_send(Request::new("POST", "/v1/chat/completions").json(&chat(model))) {
            Some(answer) if answer.status == 200 && answer.end.is_whole() => {
                *finished.lock().expect("the counts").entry(model).or_default() += 1;
            }
            Some(answer) if answer.code() == "token_quota_exceeded" => return true,
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// SQLite's own check of the file; PostgreSQL was not killed.
fn assert_sound(store: &Store, edge: &TestEdge) {
    if matches!(store, Store::Sqlite) {
        let database = rusqlite::Connection::open(edge.database_path()).expect("the database");
        let verdict: String = database
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .expect("a verdict");
        assert_eq!(verdict, "ok");
    }
}
