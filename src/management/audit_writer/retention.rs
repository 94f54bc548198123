//! The task that deletes events older than `audit.retention` from the store.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::AuditSettings;
use crate::domain::Clock;
use crate::store::AuditStore;

/// After the start, so that a start is not slowed.
const FIRST_AFTER: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_hours(1);
/// Between two bounded deletions, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until told to stop.
pub async fn run(
    store: Arc<dyn AuditStore>,
    settings: Arc<ArcSwap<AuditSettings>>,
    clock: Arc<dyn Clock>,
    mut stopped: watch::Receiver<bool>,
) {
    let pruning = async {
        tokio::time::sleep(FIRST_AFTER).await;
        loop {
            let retention = settings.load().retention;
            if let Some(retention) = retention {
                prune(store.as_ref(), clock.as_ref(), retention).await;
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        () = pruning => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

/// Deletes in bounded steps until nothing is left to delete.
pub(super) async fn prune(store: &dyn AuditStore, clock: &dyn Clock, retention: Duration) {
    let before = clock.now().minus(retention);
    let mut deleted = 0;
    loop {
        match store.prune(before).await {
            Ok(0) => break,
            Ok(count) => deleted += count,
            Err(error) => {
                log::warn!(reason = error.kind(); "old audit events are not deleted: {error}");
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    if deleted > 0 {
        log::info!(count = deleted; "deleted {deleted} audit events that were older than kept");
    }
}
