//! The phases of a shutdown, shared with everyone who must behave differently in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;

use super::connections::ConnectionCount;

/// How long every answer says `Connection: close` before idle connections are closed.
const SOFT_PHASE: Duration = Duration::from_secs(2);

/// How long cut connections get to settle their accounts.
const CUT_PHASE: Duration = Duration::from_secs(5);

/// How far a shutdown has come. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything is served.
    Serving,
    /// Everything is served, but `/ready` says no.
    Unready,
    /// Everything is served with `Connection: close`.
    Soft,
    /// Listeners and idle connections are closed; a new request on an open connection is refused.
    Closing,
    /// What still runs is cut.
    Cut,
}

/// The shutdown of a process' listeners.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    /// What Pingora looks at: true from the soft phase on.
    ending: watch::Sender<bool>,
    unready: Arc<AtomicBool>,
    refusing: Arc<AtomicBool>,
    connections: Arc<ConnectionCount>,
}

impl Drain {
    /// A process that serves.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Serving),
            ending: watch::Sender::new(false),
            unready: Arc::default(),
            refusing: Arc::default(),
            connections: Arc::default(),
        })
    }

    /// The connections that the drain waits for.
    pub fn connections(&self) -> &Arc<ConnectionCount> {
        &self.connections
    }

    /// How far the shutdown has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Follows the phases.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// What Pingora's apps take: true from the soft phase on.
    pub fn shutdown_watch(&self) -> ShutdownWatch {
        self.ending.subscribe()
    }

    /// True from [`Phase::Unready`] on: what `/ready` asks.
    pub fn unready_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unready)
    }

    /// True from [`Phase::Closing`] on: a request that comes now is refused as `draining`.
    pub fn refusing_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.refusing)
    }

    /// `/ready` says no from here on.
    pub fn begin_unready(&self) {
        self.advance(Phase::Unready);
    }

    /// Every answer says `Connection: close` from here on.
    pub fn begin_soft(&self) {
        self.advance(Phase::Soft);
    }

    /// Listeners and idle connections close.
    pub fn close_idle(&self) {
        self.advance(Phase::Closing);
    }

    /// Whatever still runs is dropped.
    pub fn cut(&self) {
        self.advance(Phase::Cut);
    }

    /// Waits for the last connection; answers how many are left when `timeout` has passed.
    pub async fn wait_empty(&self, timeout: Duration) -> usize {
        match tokio::time::timeout(timeout, self.connections.wait_until_empty()).await {
            Ok(()) => 0,
            Err(_) => self.connections.open(),
        }
    }

    /// Goes through all phases; answers how many connections were cut.
    pub async fn run(&self, shutdown_delay: Duration, drain_timeout: Duration) -> usize {
        self.begin_unready();
        tokio::time::sleep(shutdown_delay).await;
        if self.connections.open() > 0 {
            self.begin_soft();
            self.wait_empty(SOFT_PHASE).await;
        }
        self.close_idle();
        let left = self.wait_empty(drain_timeout).await;
        self.cut();
        self.wait_empty(CUT_PHASE).await;
        left
    }

    fn advance(&self, to: Phase) {
        self.unready.store(true, Ordering::Release);
        self.refusing.fetch_or(to >= Phase::Closing, Ordering::AcqRel);
        self.ending.send_if_modified(|ending| {
            let news = to >= Phase::Soft && !*ending;
            *ending |= news;
            news
        });
        self.phase.send_if_modified(|phase| {
            let news = *phase < to;
            *phase = to.max(*phase);
            news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_never_go_back() {
        let drain = Drain::new();
        drain.close_idle();
        drain.begin_soft();
        assert_eq!(drain.phase(), Phase::Closing);
        assert!(*drain.shutdown_watch().borrow());
        assert!(drain.unready_flag().load(Ordering::Acquire));
        assert!(drain.refusing_flag().load(Ordering::Acquire));
    }

    #[test]
    fn the_soft_phase_still_serves() {
        let drain = Drain::new();
        assert!(!*drain.shutdown_watch().borrow());
        drain.begin_unready();
        assert!(!*drain.shutdown_watch().borrow());
        drain.begin_soft();
        assert!(*drain.shutdown_watch().borrow());
        assert!(!drain.refusing_flag().load(Ordering::Acquire));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_process_skips_the_soft_phase() {
        let drain = Drain::new();
        let began = tokio::time::Instant::now();
        assert_eq!(drain.run(Duration::from_secs(3), Duration::from_mins(1)).await, 0);
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        assert_eq!(drain.phase(), Phase::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn what_outlives_the_drain_timeout_is_counted() {
        let drain = Drain::new();
        let place = drain.connections().take_place(1).unwrap();
        assert_eq!(drain.run(Duration::ZERO, Duration::from_mins(1)).await, 1);
        drop(place);
    }
}
