//! Which target's turn it is: `least_busy` and `lowest_latency` on the running program.

use std::time::Duration;

use serde_json::json;

use crate::edge::{TestEdge, TokenUser};
use crate::provider::{Gate, Provider, Reply};

const SLOW: Duration = Duration::from_millis(300);

fn start(strategy: &str) -> (Provider, Provider, TestEdge, TokenUser) {
    let (one, two) = (Provider::start(), Provider::start());
    let edge = TestEdge::plan(&one)
        .with(json!({
            "providers": {
                "openai": {"base_url": one.url()},
                "second": {"dialect": "openai", "base_url": two.url(), "api_key": "sk-second-second-second"},
            },
            "models": {"m": {"strategy": strategy, "targets": [
                {"provider": "openai", "model": "a"}, {"provider": "second", "model": "b"},
            ]}},
        }))
        .start();
    let user = edge.token(json!({}));
    (one, two, edge, user)
}

fn ask(user: &TokenUser, times: usize) {
    for _ in 0..times {
        user.chat("m").expect(200);
    }
}

#[test]
fn the_least_busy_target_takes_what_comes() {
    let (one, two, edge, user) = start("least_busy");
    ask(&user, 4);
    assert_eq!((one.count(), two.count()), (2, 2), "idle ones share");
    let gate = Gate::new();
    one.always(Reply::json(200, &json!({"choices": []})).head_behind(&gate));
    let anonymous = edge.anonymous();
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| {
            loop {
                // the first that meets the gate hangs
                let before = one.count();
                user.at(&anonymous).chat("m").expect(200);
                if one.count() > before {
                    break;
                }
            }
        });
        one.wait_for_requests(3);
        let before = two.count();
        ask(&user, 10);
        assert_eq!(
            (one.count(), two.count()),
            (3, before + 10),
            "the busy one is left alone"
        );
        gate.open();
        hung.join().expect("an answer");
    });
    let models = edge.admin().get("/manage/models").expect(200).text();
    assert!(models.contains("\"least_busy\""), "{models}");
}

#[test]
fn the_fastest_target_gets_most_and_a_slow_one_that_recovers_comes_back() {
    let (one, two, _edge, user) = start("lowest_latency");
    let answer = || Reply::json(200, &json!({"choices": []}));
    one.always(answer().head_after(SLOW));
    ask(&user, 40);
    assert!(two.count() >= 36, "the fast one had {} of 40", two.count());
    assert!(one.count() >= 1, "the slow one is looked at");
    one.forget_scripts();
    two.always(answer().head_after(SLOW * 2));
    ask(&user, 60);
    let (at_one, at_two) = (one.count(), two.count());
    ask(&user, 20);
    assert!(
        one.count() - at_one >= 17,
        "{} of 20 went to what is fast now",
        one.count() - at_one
    );
    assert!(two.count() - at_two <= 3);
}
