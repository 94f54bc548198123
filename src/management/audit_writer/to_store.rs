//! The task that appends events to the store, however long the store is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Message;
use super::counts::Counters;
use crate::domain::audit::AuditEvent;
use crate::store::{AuditStore, StoreError};

/// Events of one transaction at most.
const BATCH: usize = 256;
/// For one transaction.
const APPEND_PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts while the store is away: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For what is left when the process stops.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// Runs until the queue is closed and empty.
pub async fn run(
    store: Arc<dyn AuditStore>,
    mut queued: mpsc::Receiver<Message>,
    counters: Arc<Counters>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut messages = Vec::with_capacity(BATCH);
    while queued.recv_many(&mut messages, BATCH).await > 0 {
        let mut events = Vec::with_capacity(messages.len());
        let mut flushes = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Event(event) => events.push(*event),
                Message::Flush(done) => flushes.push(done),
            }
        }
        if !append_at_last(store.as_ref(), &events, &mut stopped).await {
            counters.add_missing_in_store(events.len() as u64);
        }
        for done in flushes {
            // Who asked may have gone.
            let _ = done.send(());
        }
    }
}

/// Tries until it works; gives up only some seconds after the process was told to stop.
async fn append_at_last(
    store: &dyn AuditStore,
    events: &[AuditEvent],
    stopped: &mut watch::Receiver<bool>,
) -> bool {
    if events.is_empty() {
        return true;
    }
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    let patience = async {
        let _ = stopped.wait_for(|stop| *stop).await;
        tokio::time::sleep(LAST_PATIENCE).await;
    };
    tokio::pin!(patience);
    loop {
        let error = match append(store, events).await {
            Ok(()) => {
                if told {
                    log::info!("audit events reach the store again");
                }
                return true;
            }
            Err(error) => error,
        };
        if !error.is_trouble() {
            log::error!(reason = error.kind(); "the store refuses {} audit events: {error}", events.len());
            return false;
        }
        if !told {
            told = true;
            log::warn!(reason = error.kind(); "audit events wait for the store; the file has them: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = patience.as_mut() => {
                log::error!("{} audit events are in the file alone", events.len());
                return false;
            }
        }
    }
}

async fn append(store: &dyn AuditStore, events: &[AuditEvent]) -> Result<(), StoreError> {
    tokio::time::timeout(APPEND_PATIENCE, store.append(events))
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())))
}
