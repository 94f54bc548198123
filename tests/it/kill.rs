//! kill -9 at random moments under load: no token is granted more than it may have, no request that a client saw finished
//! is missing from its count, and the database is sound. Fifty kills on each store in `make test-long`.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::edge::{Store, TestEdge, TokenUser};
use crate::for_both_stores;
use crate::http::{Client, Request, chat};
use crate::mutate::Mutator;
use crate::provider::{Provider, Reply};
use crate::wait::is_long_run;

const CLIENTS: usize = 6;
const MAX_REQUESTS: usize = 25;

for_both_stores! {
    fn kills_at_random_moments_grant_nothing_twice_and_forget_nothing_finished(store) {
        let kills = if is_long_run() { 50 } else { 4 };
        let provider = Provider::start();
        provider.always(Reply::json(200, &json!({"ok": true})).head_after(Duration::from_millis(5)));
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
        assert!(finished.values().sum::<usize>() > 20 * kills, "too little load to mean anything");
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
