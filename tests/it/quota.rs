//! `max_requests`: exact under any concurrency, across failures, across kill -9.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::edge::TestEdge;
use crate::for_both_stores;
use crate::http::Client;
use crate::provider::{Provider, Refusing, Reply};

for_both_stores! {
    fn sixty_parallel_requests_on_twenty_pass_exactly_twenty(store) {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider).on(store).start();
        let user = edge.token(json!({"max_requests": 20}));
        let passed = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..60).map(|_| scope.spawn(|| user.chat("gpt-a"))).collect();
            calls.into_iter().map(|call| call.join().expect("a call")).filter(|answer| match answer.status {
                200 => true,
                _ => {
                    drop(answer.clone().refused(429, "token_quota_exceeded"));
                    false
                }
            }).count()
        });
        assert_eq!((passed, provider.count()), (20, 20));
        assert_eq!(edge.admin().read_token(&user.id)["request_count"], 20);
    }

    fn used_up_quota_is_terminal_and_says_so(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let user = edge.token(json!({"max_requests": 1}));
        user.chat("gpt-a").expect(200);
        let refused = user.chat("gpt-a").refused(429, "token_quota_exceeded");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert_eq!(refused.json()["error"]["type"], "insufficient_quota");
        let refused = user.as_anthropic().message("claude-a");
        refused.refused_as_anthropic(429, "token_quota_exceeded", "rate_limit_error");
        user.get("/v1/models").expect(200);
    }

    fn raised_and_lowered_quota_holds_for_the_next_request(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let user = edge.token(json!({"max_requests": 2}));
        (0..2).for_each(|_| drop(user.chat("gpt-a").expect(200)));
        user.chat("gpt-a").refused(429, "token_quota_exceeded");
        edge.admin().change_token(&user.id, json!({"max_requests": 4})).expect(200);
        user.chat("gpt-a").expect(200);
        edge.admin().change_token(&user.id, json!({"max_requests": 3})).expect(200);
        user.chat("gpt-a").refused(429, "token_quota_exceeded");
        edge.admin().change_token(&user.id, json!({"max_requests": 0})).expect(200);
        (0..3).for_each(|_| drop(user.chat("gpt-a").expect(200)));
    }

    fn limit_set_on_a_used_token_counts_what_it_used(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let user = edge.token(json!({}));
        (0..5).for_each(|_| drop(user.chat("gpt-a").expect(200)));
        edge.admin().change_token(&user.id, json!({"max_requests": 6})).expect(200);
        user.chat("gpt-a").expect(200);
        user.chat("gpt-a").refused(429, "token_quota_exceeded");
    }

    fn grant_comes_back_when_no_connection_was_made(store) {
        let provider = Provider::start();
        let refusing = Refusing::start();
        let models = json!({
            "models": {"nowhere": {"targets": [{"provider": "gone", "model": "gpt-a"}]}},
            "providers": {"gone": {"base_url": refusing.url(), "api_key": "sk-gone-gone-gone-gone", "dialect": "openai"}},
            "router": {"retries": 0, "cooldown": {"failures": 1000}},
            "default_provider": "openai",
        });
        let edge = TestEdge::plan(&provider).with(models).on(store).start();
        let user = edge.token(json!({"max_requests": 1}));
        (0..3).for_each(|_| drop(user.chat("nowhere").refused(502, "upstream_unreachable")));
        user.chat("gpt-a").expect(200);
        user.chat("gpt-a").refused(429, "token_quota_exceeded");
    }

    fn grant_stays_spent_once_a_byte_was_written(store) {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider).with(json!({"router": {"retries": 0}})).on(store).start();
        let user = edge.token(json!({"max_requests": 2}));
        provider.next(Reply::openai_error(500, "server_error", "broken"));
        user.chat("gpt-a").expect(500);
        provider.next(Reply::raw("garbage"));
        user.chat("gpt-a").expect(502);
        user.chat("gpt-a").refused(429, "token_quota_exceeded");
        assert_eq!(provider.count(), 2);
    }

    fn refusals_before_the_quota_cost_nothing(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let user = edge.token(json!({"max_requests": 1, "allowed_models": ["gpt-a"]}));
        (0..3).for_each(|_| drop(user.chat("gpt-b").refused(403, "model_not_allowed")));
        user.chat("gpt-a").expect(200);
    }

    fn kill_half_way_never_grants_twice(store) {
        let provider = Provider::start();
        provider.on_model("gpt-a", Reply::json(200, &json!({"ok": true})).head_after(Duration::from_millis(60)));
        let mut edge = TestEdge::plan(&provider).on(store).start();
        let user = edge.token(json!({"max_requests": 20}));
        let address = Mutex::new(edge.proxy);
        let (stop, used_up) = (AtomicBool::new(false), AtomicUsize::new(0));
        const CLIENTS: usize = 6;
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let there = Client::new(*address.lock().expect("the address"));
                        let request = there.with("Authorization", &format!("Bearer {}", user.secret));
                        let chat = crate::http::Request::new("POST", "/v1/chat/completions").json(&crate::http::chat("gpt-a"));
                        match request.try_send(chat).map(|answer| answer.status) {
                            Some(429) => {
                                used_up.fetch_add(1, Ordering::Relaxed);
                                return;
                            }
                            Some(_) => {}
                            None => std::thread::sleep(Duration::from_millis(5)),
                        }
                    }
                });
            }
            provider.wait_for_requests(9);
            edge.kill();
            edge.start_again();
            *address.lock().expect("the address") = edge.proxy;
            let from = Instant::now();
            while used_up.load(Ordering::Relaxed) < CLIENTS && from.elapsed() < Duration::from_secs(15) {
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let reached = provider.count();
        assert!(reached <= 20, "{reached} of 20 reached the provider");
        assert!(reached >= 20 - CLIENTS, "{reached} of 20 reached the provider: more was lost than was in flight");
    }
}
