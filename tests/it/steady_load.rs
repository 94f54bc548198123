//! Two targets under a steady load, one of them failing half of its requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::edge::TestEdge;
use crate::provider::{Provider, Reply, Seen};

const PER_SECOND: usize = 200;
const SECONDS: usize = 6;

/// Half of all requests, and always the same ones.
fn fails(seen: &Seen) -> bool {
    let last = seen.header("x-request-id").and_then(|id| id.bytes().last());
    last.is_some_and(|byte| byte % 2 == 0)
}

#[test]
fn no_client_sees_a_target_that_fails_half_of_its_requests() {
    let (half, good) = (Provider::start(), Provider::start());
    let edge = TestEdge::plan(&half)
        .with(json!({
            "providers": {
                "openai": {"base_url": half.url()},
                "second": {"dialect": "openai", "base_url": good.url(), "api_key": "sk-second-second-second"},
            },
            "models": {"m": {"targets": [
                {"provider": "openai", "model": "a"}, {"provider": "second", "model": "b"},
            ]}},
        }))
        .start();
    half.on(|seen| fails(seen).then(|| Reply::openai_error(500, "server_error", "boom")));
    let user = edge.token(json!({}));
    let address = edge.anonymous();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let from = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let user = user.at(&address);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= PER_SECOND * SECONDS {
                        return;
                    }
                    let due = Duration::from_millis((number * 1000 / PER_SECOND) as u64);
                    std::thread::sleep(due.saturating_sub(from.elapsed()));
                    if user.chat("m").status != 200 {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let all = PER_SECOND * SECONDS;
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    let share = all / 2;
    assert!(
        half.count() <= share + 10 + share / 5,
        "{} of {all} at the failing one",
        half.count()
    );
    let repeated = half.seen().iter().filter(|seen| fails(seen)).count();
    assert!(repeated > 2, "{repeated}");
    let more = half.count() + good.count() - all;
    // a connection that a provider closed meanwhile may cost one, too
    assert!(
        (repeated..=repeated + all / 100).contains(&more),
        "{more} for {repeated}"
    );
}
