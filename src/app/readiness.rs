//! The truth of `/ready`: whether the process is up, on its way out, and whether the store answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::auth::Authenticator;
use crate::listen::Drain;
use crate::management::ports::{Readiness, ReadyState};
use crate::store::{StoreError, StoreHealth};
use crate::telemetry::Metrics;

/// How often the store is asked whether it is there.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// What is known of the process and its store.
pub struct Truth {
    drain: Arc<Drain>,
    started: AtomicBool,
    store_reached: AtomicBool,
    trouble: Mutex<Option<&'static str>>,
}

impl Truth {
    /// Nothing is up yet.
    pub fn new(drain: Arc<Drain>) -> Arc<Self> {
        Arc::new(Self {
            drain,
            started: AtomicBool::new(false),
            store_reached: AtomicBool::new(false),
            trouble: Mutex::new(None),
        })
    }

    /// Listeners accept.
    pub fn mark_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The store answered; says whether it had been in trouble.
    pub fn store_answered(&self) -> bool {
        self.store_reached.store(true, Ordering::Release);
        self.trouble.lock().take().is_some()
    }

    /// The store did not answer; says whether that is news.
    pub fn store_failed(&self, error: &StoreError) -> bool {
        self.trouble.lock().replace(error.kind()) != Some(error.kind())
    }
}

impl Readiness for Truth {
    fn state(&self) -> ReadyState {
        if self.drain.unready_flag().load(Ordering::Acquire) {
            return ReadyState::Draining;
        }
        if !self.started.load(Ordering::Acquire) {
            return ReadyState::Starting;
        }
        let trouble = *self.trouble.lock();
        if !self.store_reached.load(Ordering::Acquire) {
            return ReadyState::StoreNeverReached(trouble.unwrap_or("unavailable"));
        }
        match trouble {
            Some(_) => ReadyState::Degraded(vec!["store_unavailable"]),
            None => ReadyState::Ready,
        }
    }
}

/// Asks the store again and again, until the process ends.
pub async fn probe(
    truth: Arc<Truth>,
    store: Arc<dyn StoreHealth>,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        match store.ping().await {
            Ok(()) => {
                authenticator.store_answered();
                if truth.store_answered() {
                    log::info!("the store answers again");
                }
            }
            Err(error) => {
                metrics.count_store_error();
                if truth.store_failed(&error) {
                    log::error!(reason = error.kind(); "{error}; known tokens are served on, limited ones may be refused");
                }
            }
        }
    }
}
