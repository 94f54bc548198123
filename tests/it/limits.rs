//! Rates and concurrency: exact, with true waiting times, per token, project, address and installation.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::for_both_stores;
use crate::http::{Answer, Request};
use crate::provider::{Gate, Provider, Reply, chat_chunks};
use crate::wait::wait_until;

fn start(over: Value) -> (Provider, TestEdge) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider).with(over).start();
    (provider, edge)
}

/// Sends so many requests at once; counts who passed.
fn burst(user: &TokenUser, count: usize) -> usize {
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| user.chat("gpt-a").status))
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().expect("a call"))
            .filter(|status| *status == 200)
            .count()
    })
}

fn retry_after(answer: &Answer) -> u64 {
    answer
        .header("retry-after")
        .and_then(|value| value.parse().ok())
        .expect("Retry-After in seconds")
}

for_both_stores! {
    fn rate_of_a_token_admits_exactly_its_number_at_once(store) {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider).on(store).start();
        let user = edge.token(json!({"limits": {"rpm": 20}}));
        let from = Instant::now();
        let passed = burst(&user, 40);
        let refilled = from.elapsed().as_secs() as usize / 3 + 1;
        assert!((20..=20 + refilled).contains(&passed), "{passed} of 40 passed in {:?}", from.elapsed());
        assert_eq!(provider.count(), passed, "refused ones never reach the provider");
    }
}

#[test]
fn refusal_by_rate_tells_the_true_waiting_time() {
    let (_provider, edge) = start(json!({}));
    let user = edge.token(json!({"limits": {"rpm": 30}}));
    assert!(burst(&user, 30) == 30);
    let refused = user.chat("gpt-a");
    let from = Instant::now();
    let wait = retry_after(&refused);
    refused.refused(429, "rate_limit_exceeded");
    assert!((1..=2).contains(&wait), "{wait} s for one of 30 rpm");
    let passed = wait_until(Duration::from_secs(wait + 2), || user.chat("gpt-a").status == 200);
    assert!(passed, "not admitted {:?} after the refusal", from.elapsed());
    assert!(
        from.elapsed() <= Duration::from_millis(wait * 1000 + 300),
        "{:?}",
        from.elapsed()
    );
}

#[test]
fn limited_tokens_see_their_rate_in_headers() {
    let (_provider, edge) = start(json!({}));
    let user = edge.token(json!({"limits": {"rpm": 10}}));
    let first = user.chat("gpt-a").expect(200);
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("10"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("9"));
    let reset = first.header("x-ratelimit-reset-requests").expect("a reset");
    assert!(
        reset.ends_with('s') && reset.starts_with(|c: char| c.is_ascii_digit()),
        "as OpenAI writes it: {reset}"
    );
    let second = user.chat("gpt-a").expect(200);
    assert_eq!(second.header("x-ratelimit-remaining-requests"), Some("8"));
    let free = edge.token(json!({})).chat("gpt-a").expect(200);
    assert_eq!(free.header("x-ratelimit-limit-requests"), None);
}

#[test]
fn our_rate_headers_replace_the_providers_of_the_same_name() {
    let (provider, edge) = start(json!({}));
    provider.always(
        Reply::json(200, &json!({}))
            .header("x-ratelimit-limit-requests", "777")
            .header("x-ratelimit-limit-tokens", "888"),
    );
    let answer = edge
        .token(json!({"limits": {"rpm": 10}}))
        .chat("gpt-a")
        .expect(200);
    assert_eq!(answer.headers.all("x-ratelimit-limit-requests"), ["10"]);
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("888"));
}

#[test]
fn rate_of_a_project_is_shared_by_its_tokens() {
    let (_provider, edge) = start(json!({}));
    let project = edge.project(json!({"limits": {"rpm": 6}}));
    let (first, second) = (
        edge.token_of(&project, json!({})),
        edge.token_of(&project, json!({})),
    );
    assert_eq!(burst(&first, 4) + burst(&second, 4), 6);
    let other = edge.token(json!({}));
    assert_eq!(burst(&other, 8), 8);
}

#[test]
fn tighter_of_token_and_project_is_shown_and_holds() {
    let (_provider, edge) = start(json!({}));
    let project = edge.project(json!({"limits": {"rpm": 3}}));
    let user = edge.token_of(&project, json!({"limits": {"rpm": 100}}));
    assert_eq!(
        user.chat("gpt-a")
            .expect(200)
            .header("x-ratelimit-limit-requests"),
        Some("3")
    );
    assert_eq!(burst(&user, 5), 2);
}

#[test]
fn defaults_hold_for_tokens_and_projects_without_limits_of_their_own() {
    let (_provider, edge) =
        start(json!({"limits": {"default_token": {"rpm": 3}, "default_project": {"rpm": 8}}}));
    let project = edge.project(json!({}));
    assert_eq!(burst(&edge.token_of(&project, json!({})), 6), 3);
    let own = edge.token_of(&project, json!({"limits": {"rpm": 50}}));
    assert_eq!(burst(&own, 10), 5, "the project's default still holds");
}

#[test]
fn global_rate_counts_everybody() {
    let (_provider, edge) = start(json!({"limits": {"global": {"rpm": 5}}}));
    let (first, second) = (edge.token(json!({})), edge.token(json!({})));
    assert_eq!(burst(&first, 4) + burst(&second, 4), 5);
    edge.anonymous().get("/health").expect(200);
    edge.admin().get("/manage/projects").expect(200);
}

#[test]
fn rate_per_address_counts_each_address_apart() {
    let (_provider, edge) = start(json!({
        "limits": {"per_ip": {"rpm": 2}}, "server": {"trusted_proxies": ["127.0.0.0/8"]},
    }));
    let user = edge.token(json!({}));
    let from = |address: &str| user.with("X-Forwarded-For", address).chat("gpt-a").status;
    assert_eq!(
        [from("203.0.113.1"), from("203.0.113.1"), from("203.0.113.1")],
        [200, 200, 429]
    );
    assert_eq!(from("203.0.113.2"), 200);
    let block = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(from);
    assert_eq!(block, [200, 200, 429], "IPv6 by /64");
    assert_eq!(from("2001:db8:0:1::1"), 200);
}

#[test]
fn changed_limit_holds_for_the_next_request() {
    let (_provider, edge) = start(json!({}));
    let user = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    edge.admin()
        .change_token(&user.id, json!({"limits": {"rpm": 1}}))
        .expect(200);
    user.chat("gpt-a").expect(200);
    user.chat("gpt-a").refused(429, "rate_limit_exceeded");
    edge.admin()
        .change_token(&user.id, json!({"limits": null}))
        .expect(200);
    assert_eq!(burst(&user, 5), 5);
}

#[test]
fn concurrency_counts_until_the_last_byte() {
    let (provider, edge) = start(json!({}));
    let gate = Gate::new();
    provider.always(Reply::events(&chat_chunks("m")).piece_behind(2, &gate));
    let user = edge.token(json!({"limits": {"concurrency": 2}}));
    let (mut first, second) = (user.chat_stream("gpt-a"), user.chat_stream("gpt-a"));
    assert!(first.next_event().is_some() && second.status == 200);
    let refused = user.chat("gpt-a");
    assert_eq!(retry_after(&refused), 1);
    refused.refused(429, "rate_limit_exceeded");
    gate.open();
    assert!(first.finish().is_done() && second.finish().is_done());
    assert!(wait_until(Duration::from_secs(2), || user.chat("gpt-a").status == 200));
    assert_eq!(provider.most_in_flight(), 2);
}

#[test]
fn client_that_leaves_gives_its_place_back() {
    let (provider, edge) = start(json!({}));
    provider.next(Reply::events(&chat_chunks("m")).hang_after(1));
    let user = edge.token(json!({"limits": {"concurrency": 1}}));
    let mut stream = user.chat_stream("gpt-a");
    assert!(stream.next_event().is_some());
    user.chat("gpt-a").refused(429, "rate_limit_exceeded");
    stream.abort();
    assert!(wait_until(Duration::from_secs(3), || user.chat("gpt-a").status == 200));
}

#[test]
fn failed_calls_give_their_place_back() {
    let (provider, edge) = start(json!({"router": {"retries": 0}}));
    let user = edge.token(json!({"limits": {"concurrency": 1}}));
    for reply in [
        Reply::close(),
        Reply::reset(),
        Reply::raw("garbage"),
        Reply::events(&chat_chunks("m")).cut_after(1),
    ] {
        provider.next(reply);
        user.send(Request::new("POST", "/v1/chat/completions").json(&crate::http::chat_streamed("gpt-a")));
    }
    assert!(wait_until(Duration::from_secs(2), || user.chat("gpt-a").status == 200));
}

#[test]
fn model_list_costs_no_rate_of_the_token() {
    let (_provider, edge) = start(json!({}));
    let user = edge.token(json!({"limits": {"rpm": 2}, "max_requests": 2}));
    (0..5).for_each(|_| drop(user.get("/v1/models").expect(200)));
    user.chat("gpt-a").expect(200);
}

#[test]
fn refusal_by_rate_speaks_the_clients_dialect() {
    let (_provider, edge) = start(json!({}));
    let user = edge.token(json!({"limits": {"rpm": 1}}));
    user.as_anthropic().message("claude-a").expect(200);
    let refused = user.as_anthropic().message("claude-a");
    assert!(retry_after(&refused) >= 1);
    refused.refused_as_anthropic(429, "rate_limit_exceeded", "rate_limit_error");
}

#[test]
fn a_place_is_free_when_the_answer_is_there() {
    let (provider, edge) = start(json!({}));
    let user = edge.token(json!({"limits": {"concurrency": 1}}));
    let chunked = Reply::status(200)
        .pieces(vec![b"{".to_vec(), b"}".to_vec()])
        .chunked();
    for round in 0..60 {
        match round % 4 {
            0 => drop(user.chat("gpt-a").expect(200)),
            1 => {
                // whoever reads to the end marker alone asks again at once
                let mut stream = user.chat_stream("gpt-a");
                while stream.next_event().expect("the end marker").data != "[DONE]" {}
            }
            2 => {
                provider.next(chunked.clone());
                user.chat("gpt-a").expect(200);
            }
            _ => {
                provider.next(Reply::raw("garbage"));
                user.chat("gpt-a").expect(502);
            }
        }
    }
}

#[test]
fn tokens_a_minute_are_estimated_then_corrected_and_shown() {
    let (provider, edge) = start(json!({}));
    let answer = |tokens: u64| {
        let usage = json!({"prompt_tokens": 100, "completion_tokens": tokens});
        Reply::json(200, &json!({"usage": usage})).header("x-ratelimit-limit-tokens", "888")
    };
    let user = edge.token(json!({"limits": {"tpm": 1000}}));
    provider.next(answer(400));
    let first = user.chat("gpt-a").expect(200);
    let header = |answer: &Answer, name: &str| -> String {
        answer
            .header(name)
            .unwrap_or_else(|| panic!("no {name}"))
            .to_owned()
    };
    assert_eq!(
        header(&first, "x-ratelimit-limit-tokens"),
        "1000",
        "ours, not the provider's"
    );
    let left: u64 = header(&first, "x-ratelimit-remaining-tokens")
        .parse()
        .expect("a number");
    assert!(
        (900..1000).contains(&left),
        "{left} after the estimate of a short prompt"
    );
    assert!(header(&first, "x-ratelimit-reset-tokens").ends_with('s'));
    assert_eq!(first.header("x-ratelimit-limit-requests"), None);
    // it used 500: another that may use 600 does not fit, one of 300 does
    let mut large = crate::http::chat("gpt-a");
    large["max_tokens"] = json!(600);
    let refused = user.post("/v1/chat/completions", large.clone());
    let wait = retry_after(&refused);
    assert!((4..=10).contains(&wait), "{wait}");
    let refused = refused.refused(429, "rate_limit_exceeded");
    assert!(
        refused.text().contains("`1000` tokens a minute"),
        "{}",
        refused.text()
    );
    assert!(
        header(&refused, "x-ratelimit-remaining-tokens")
            .parse::<u64>()
            .is_ok_and(|left| left < 600)
    );
    provider.next(answer(5000));
    large["max_tokens"] = json!(300);
    user.post("/v1/chat/completions", large.clone()).expect(200);
    // what was used above the estimate is owed
    assert!(retry_after(&user.chat("gpt-a")) > 200);
    assert_eq!(provider.count(), 2);
    // nothing was used: nothing is taken
    let other = edge.token(json!({"limits": {"tpm": 1000}}));
    large["max_tokens"] = json!(100_000);
    for _ in 0..3 {
        provider.next(Reply::openai_error(400, "invalid_request_error", "bad"));
        other.post("/v1/chat/completions", large.clone()).expect(400);
    }
}

#[test]
fn tokens_a_minute_of_project_installation_and_address_count_everybody_in_them() {
    let (provider, mut edge) = start(json!({"limits": {"global": {"tpm": 5000}}}));
    let usage = json!({"usage": {"prompt_tokens": 900, "completion_tokens": 100}});
    provider.always(Reply::json(200, &usage));
    let project = edge.project(json!({"limits": {"tpm": 1000}}));
    let (one, two) = (
        edge.token_of(&project, json!({})),
        edge.token_of(&project, json!({})),
    );
    one.chat("gpt-a").expect(200);
    two.chat("gpt-a").refused(429, "rate_limit_exceeded");
    for _ in 0..4 {
        edge.token(json!({})).chat("gpt-a").expect(200);
    }
    let refused = edge
        .token(json!({}))
        .chat("gpt-a")
        .refused(429, "rate_limit_exceeded");
    assert!(refused.text().contains("this proxy"), "{}", refused.text());
    edge.save_config(json!({"limits": {"global": null, "default_token": {"tpm": 1000}}}));
    let user = edge.token(json!({}));
    assert!(wait_until(Duration::from_secs(10), || user.chat("gpt-a").status == 200));
    user.chat("gpt-a").refused(429, "rate_limit_exceeded");
    edge.save_config(
        json!({"limits": {"default_token": null, "per_ip": {"tpm": 1000}, "default_project": {"tpm": 500}}}),
    );
    let limits = || {
        let user = edge.token(json!({}));
        let first = user.chat("gpt-a");
        first.status == 200 && first.header("x-ratelimit-limit-tokens") == Some("500")
    };
    assert!(wait_until(Duration::from_secs(10), limits));
    let refused = edge
        .token(json!({}))
        .chat("gpt-a")
        .refused(429, "rate_limit_exceeded");
    assert!(refused.text().contains("this address"), "{}", refused.text());
}
