//! Who is let in: credentials in each place, changes that hold at once, floods of unknown ones.

use std::time::Duration;

use serde_json::json;

use crate::edge::{TestEdge, text};
use crate::for_both_stores;
use crate::http::{Client, Request, chat};
use crate::provider::Provider;
use crate::wait::wait_until;

#[test]
fn credential_is_found_in_each_of_its_three_places() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let nobody = edge.anonymous();
    nobody
        .with("Authorization", &format!("bearer {}", user.secret))
        .chat("gpt-a")
        .expect(200);
    nobody.with("x-api-key", &user.secret).chat("gpt-a").expect(200);
    nobody.with("api-key", &user.secret).chat("gpt-a").expect(200);
    let twice = nobody
        .with("x-api-key", &user.secret)
        .with("Authorization", &format!("Bearer {}", user.secret));
    twice.chat("gpt-a").expect(200);
}

#[test]
fn two_different_credentials_in_one_request_are_refused() {
    let edge = TestEdge::start(&Provider::start());
    let (first, second) = (edge.token(json!({})), edge.token(json!({})));
    first
        .with("x-api-key", &second.secret)
        .chat("gpt-a")
        .refused(401, "invalid_token");
}

#[test]
fn credential_in_the_url_is_not_read() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    for name in ["token", "api_key", "key", "access_token"] {
        let target = format!("/v1/chat/completions?{name}={}", user.secret);
        edge.anonymous()
            .post(&target, chat("gpt-a"))
            .refused(401, "invalid_token");
    }
    assert_eq!(provider.count(), 0);
}

for_both_stores! {
    fn revocation_holds_for_the_next_request(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let user = edge.token(json!({}));
        for _ in 0..10 {
            user.chat("gpt-a").expect(200);
            edge.admin().change_token(&user.id, json!({"is_active": false})).expect(200);
            user.chat("gpt-a").refused(401, "token_inactive");
            edge.admin().change_token(&user.id, json!({"is_active": true})).expect(200);
        }
    }

    fn new_token_works_although_its_secret_was_unknown_a_moment_ago(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let user = edge.token(json!({}));
        edge.anonymous().with("Authorization", "Bearer sk-nobody-knows-this-one").chat("gpt-a").refused(401, "token_not_found");
        user.chat("gpt-a").expect(200);
    }

    fn token_ends_at_its_expiry(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let project = edge.project(json!({}));
        let soon = jiff::Timestamp::try_from(std::time::SystemTime::now() + Duration::from_millis(1600)).expect("a time");
        let user = edge.token_of(&project, json!({"expires_at": soon.to_string()}));
        user.chat("gpt-a").expect(200);
        let ended = wait_until(Duration::from_secs(4), || user.chat("gpt-a").status == 401);
        assert!(ended, "the token outlives its expiry");
        user.chat("gpt-a").refused(401, "token_expired");
    }

    fn new_key_of_a_project_is_used_for_the_next_request(store) {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider).on(store).start();
        let project = edge.project(json!({"api_key": "sk-first-key-of-the-project"}));
        let user = edge.token_of(&project, json!({}));
        user.chat("gpt-a").expect(200);
        assert_eq!(provider.last().header("authorization"), Some("Bearer sk-first-key-of-the-project"));
        edge.admin().change_project(&project.id, json!({"api_key": "sk-second-key-of-the-project"})).expect(200);
        user.chat("gpt-a").expect(200);
        assert_eq!(provider.last().header("authorization"), Some("Bearer sk-second-key-of-the-project"));
    }
}

#[test]
fn flood_of_unknown_credentials_is_slowed_and_known_ones_are_not() {
    let edge = TestEdge::plan(&Provider::start())
        .with(json!({"auth": {"failed_per_ip": 5}}))
        .start();
    let user = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    let fresh = edge.token(json!({}));
    let mut limited = 0;
    for number in 0..12 {
        let wrong = edge
            .anonymous()
            .with("Authorization", &format!("Bearer sk-unknown-credential-{number}"));
        let answer = wrong.chat("gpt-a");
        match answer.status {
            401 => drop(answer.refused(401, "token_not_found")),
            _ => {
                limited += 1;
                assert!(answer.header("retry-after").is_some());
                drop(answer.refused(429, "rate_limit_exceeded"));
            }
        }
    }
    assert!((6..=7).contains(&limited), "{limited} of 12 were slowed");
    user.chat("gpt-a").expect(200);
    drop(fresh);
}

#[test]
fn client_address_comes_from_trusted_proxies_alone() {
    let provider = Provider::start();
    let listed = json!({"allowed_ips": ["203.0.113.7/32"]});
    let direct = TestEdge::start(&provider);
    let user = direct.token(listed.clone());
    user.with("X-Forwarded-For", "203.0.113.7")
        .chat("gpt-a")
        .refused(403, "ip_not_allowed");

    let trusting = json!({"server": {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}});
    let behind = TestEdge::plan(&provider).with(trusting).start();
    let user = behind.token(listed);
    let from = |value: &str| user.with("X-Forwarded-For", value).chat("gpt-a").status;
    assert_eq!(from("203.0.113.7"), 200);
    assert_eq!(
        from("1.2.3.4, 203.0.113.7, 10.1.1.1"),
        200,
        "from the right, trusted ones skipped"
    );
    assert_eq!(
        from("203.0.113.7, 1.2.3.4"),
        403,
        "the right-most untrusted one counts"
    );
    assert_eq!(from("203.0.113.7:4711"), 200, "ports are stripped");
    assert_eq!(from("::ffff:203.0.113.7"), 200, "mapped addresses are unmapped");
    assert_eq!(user.with("X-Real-IP", "203.0.113.7").chat("gpt-a").status, 403);
    assert_eq!(
        user.with("Forwarded", "for=203.0.113.7").chat("gpt-a").status,
        403
    );
    let lines = user
        .with("X-Forwarded-For", "203.0.113.7")
        .with("X-Forwarded-For", "10.1.1.1");
    assert_eq!(lines.chat("gpt-a").status, 200, "all lines are joined");
}

#[test]
fn tokens_of_one_project_are_counted_apart() {
    let edge = TestEdge::start(&Provider::start());
    let project = edge.project(json!({}));
    let (first, second) = (
        edge.token_of(&project, json!({"max_requests": 1})),
        edge.token_of(&project, json!({"max_requests": 1})),
    );
    first.chat("gpt-a").expect(200);
    first.chat("gpt-a").refused(429, "token_quota_exceeded");
    second.chat("gpt-a").expect(200);
}

#[test]
fn many_first_requests_of_one_token_all_pass() {
    let edge = TestEdge::start(&Provider::start());
    let user = edge.token(json!({}));
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..30)
            .map(|_| scope.spawn(|| user.chat("gpt-a").status))
            .collect();
        assert!(calls.into_iter().all(|call| call.join().expect("a call") == 200));
    });
    let read = edge.admin().read_token(&user.id);
    assert_eq!(text(&read, "id"), user.id);
}

#[test]
fn anthropic_clients_authenticate_with_their_header() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let client: Client = user.as_anthropic();
    client.message("claude-a").expect(200);
    let seen = provider.last();
    assert_eq!(seen.header("x-api-key"), Some(crate::edge::ANTHROPIC_KEY));
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    client
        .send(Request::new("POST", "/v1/messages/count_tokens").json(&crate::http::message("claude-a")))
        .expect(200);
}
