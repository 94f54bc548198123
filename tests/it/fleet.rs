//! Several instances on one PostgreSQL and one Redis.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{Store, TestEdge, TokenUser};
use crate::provider::Provider;
use crate::servers::{Postgres, Redis};
use crate::wait::wait_until;

fn pair(provider: &Provider, over: Value) -> (TestEdge, TestEdge) {
    let store = Store::Url(Postgres::shared().new_database());
    let start = || TestEdge::plan(provider).on(&store).with(over.clone()).start();
    (start(), start())
}

/// Sends at once over both instances; counts who passed.
fn burst(users: [&TokenUser; 2], count: usize) -> usize {
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..count)
            .map(|n| scope.spawn(move || users[n % 2].chat("gpt-a").status))
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().expect("a call"))
            .filter(|status| *status == 200)
            .count()
    })
}

#[test]
fn revocation_on_one_holds_on_the_other_within_a_second() {
    let (one, two) = pair(&Provider::start(), json!({}));
    for _ in 0..3 {
        let user = one.token(json!({}));
        let there = user.at(&two.anonymous());
        there.chat("gpt-a").expect(200);
        one.admin().revoke(&user.id);
        let from = Instant::now();
        assert!(wait_until(Duration::from_secs(3), || there.chat("gpt-a").status == 401));
        assert!(from.elapsed() < Duration::from_secs(1), "{:?}", from.elapsed());
        there.chat("gpt-a").refused(401, "token_inactive");
    }
}

#[test]
fn changes_on_one_hold_on_the_other_within_a_second() {
    let (one, two) = pair(&Provider::start(), json!({}));
    let user = one.token(json!({}));
    let there = user.at(&two.anonymous());
    there.chat("gpt-a").expect(200);
    one.admin()
        .change_token(&user.id, json!({"allowed_models": ["gpt-b"]}))
        .expect(200);
    assert!(wait_until(Duration::from_secs(1), || there.chat("gpt-a").status == 403));
    two.admin()
        .change_project(&user.project_id, json!({"is_active": false}))
        .expect(200);
    assert!(wait_until(Duration::from_secs(1), || user.chat("gpt-b").code()
        == "project_inactive"));
}

#[test]
fn token_made_on_one_works_on_the_other_although_asked_for_before() {
    let (one, two) = pair(&Provider::start(), json!({}));
    let user = one.token(json!({}));
    user.at(&two.anonymous()).chat("gpt-a").expect(200);
}

#[test]
fn max_requests_is_exact_over_both() {
    let provider = Provider::start();
    let (one, two) = pair(&provider, json!({}));
    let user = one.token(json!({"max_requests": 20}));
    let passed = burst([&user, &user.at(&two.anonymous())], 60);
    assert_eq!((passed, provider.count()), (20, 20));
}

#[test]
fn rate_is_shared_through_redis() {
    let redis = Redis::start();
    let provider = Provider::start();
    let (one, two) = pair(&provider, json!({"redis": {"url": redis.url()}}));
    let user = one.token(json!({"limits": {"rpm": 60}}));
    let from = Instant::now();
    let passed = burst([&user, &user.at(&two.anonymous())], 200);
    let elapsed = from.elapsed().as_secs() as usize + 1;
    assert!(
        (60..=60 + elapsed).contains(&passed),
        "{passed} of 200 passed in {:?}",
        from.elapsed()
    );
    assert_eq!(provider.count(), passed);
}

#[test]
fn redis_that_goes_means_local_limits_and_no_error() {
    let mut redis = Redis::start();
    let provider = Provider::start();
    let over = json!({"redis": {"url": redis.url()}, "limits": {"distributed": {"fleet_size": 2}}});
    let (one, two) = pair(&provider, over);
    let user = one.token(json!({"limits": {"rpm": 20}}));
    let there = user.at(&two.anonymous());
    user.chat("gpt-a").expect(200);
    redis.stop();
    let mut statuses = Vec::new();
    for _ in 0..15 {
        statuses.push(user.chat("gpt-a").status);
        statuses.push(there.chat("gpt-a").status);
    }
    assert!(
        statuses.iter().all(|status| *status == 200 || *status == 429),
        "{statuses:?}"
    );
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!((15..=26).contains(&passed), "half the cap each: {passed} passed");
    redis.start_again();
    let fresh = one.token(json!({"limits": {"rpm": 30}}));
    let shared_again = wait_until(Duration::from_secs(10), || {
        fresh.chat("gpt-a");
        redis.say("DBSIZE").trim() != ":0"
    });
    assert!(shared_again, "rates are never shared again after Redis came back");
}

#[test]
fn redis_that_goes_can_mean_refusal() {
    let mut redis = Redis::start();
    let over = json!({"redis": {"url": redis.url()}, "limits": {"distributed": {"fallback": "refuse"}}});
    let edge = TestEdge::plan(&Provider::start()).with(over).start();
    let user = edge.token(json!({"limits": {"rpm": 100}}));
    let free = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    redis.stop();
    assert!(wait_until(Duration::from_secs(5), || user.chat("gpt-a").status >= 429));
    free.chat("gpt-a").expect(200);
}

#[test]
fn concurrency_is_divided_by_the_size_of_the_fleet() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"limits": {"distributed": {"fleet_size": 2}}}))
        .start();
    let gate = crate::provider::Gate::new();
    provider
        .always(crate::provider::Reply::events(&crate::provider::chat_chunks("m")).piece_behind(1, &gate));
    let user = edge.token(json!({"limits": {"concurrency": 3}}));
    let streams = [user.chat_stream("gpt-a"), user.chat_stream("gpt-a")];
    user.chat("gpt-a").refused(429, "rate_limit_exceeded");
    gate.open();
    for stream in streams {
        assert!(stream.finish().is_done());
    }
}

#[test]
fn two_first_starts_on_one_empty_database_both_succeed() {
    let provider = Provider::start();
    let store = Store::Url(Postgres::shared().new_database());
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| drop(TestEdge::plan(&provider).on(&store).start())))
            .collect();
        for start in starts {
            start.join().expect("a start");
        }
    });
}
