//! The order in which background work ends: each step with a deadline, each overrun named.

use std::future::Future;
use std::time::Duration;

/// Runs one step of the shutdown; a step that takes too long is left behind with a warning.
pub async fn end_step<F: Future<Output = ()>>(name: &str, limit: Duration, step: F) {
    if tokio::time::timeout(limit, step).await.is_err() {
        log::warn!(step = name; "`{name}` did not end within {} s and is left behind", limit.as_secs());
    }
}
