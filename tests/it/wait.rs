//! Waits for conditions, with an end.

use std::time::{Duration, Instant};

/// Asks again and again until the answer is yes; answers whether it was within the time.
pub fn wait_until(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let from = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if from.elapsed() >= within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks until there is something; panics with the sentence when there never is.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    let came = wait_until(within, || {
        found = ask();
        found.is_some()
    });
    assert!(came, "waited {within:?} in vain: {what}");
    found.expect("it came")
}

/// Whether the tests that have a long form (a minute without a database, thousands of connections) shall run it:
/// `make test-long`.
pub fn is_long_run() -> bool {
    std::env::var_os("LLM_PROXY_TEST_LONG").is_some()
}
