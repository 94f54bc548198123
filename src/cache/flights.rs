//! One call for identical questions at the same time: who asks the provider, who waits for that answer.
//!
//! The first one leads, the others follow: they wait for the head of its answer. When that is being kept they read it as it
//! comes; when it may not be kept they ask for themselves, and so do those who come in the next minute, without waiting. When
//! the leader got no answer at all one of the followers leads; when that happened twice they all go, so that nobody waits
//! for a broken provider again and again. A follower waits no longer than its leader lives, and that has its time limits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::watch;

use super::fill::Fill;
use crate::domain::Clock;

/// How long it is remembered that an answer could not be shared.
const UNSHARED_FOR: Duration = Duration::from_mins(1);

/// Of how many questions that is remembered; of more, the least used are forgotten, and one waits in vain once more.
const UNSHARED_QUESTIONS: usize = 10_000;

/// Leaders that failed after which nobody waits any more.
pub(super) const FAILED_LEADERS: u32 = 2;

type Hash = [u8; 16];

/// What became of a leader's call.
#[derive(Debug, Clone)]
pub(super) enum Flight {
    /// No head yet.
    Waiting,
    /// The answer is being kept.
    Running(Arc<Fill>),
    /// Look again: the store has it.
    Stored,
    /// The answer is nobody else's.
    Unshared,
    /// No answer came. `reached`: a provider was asked.
    Failed { reached: bool },
}

#[derive(Debug)]
struct Shared {
    flight: watch::Sender<Flight>,
    followers: watch::Sender<usize>,
}

/// The calls under way. As many as there are requests, at most.
pub(super) struct Flights {
    running: Mutex<HashMap<Hash, Arc<Shared>>>,
    unshared: Cache<Hash, Duration>,
    clock: Arc<dyn Clock>,
    /// Requests that were answered by another one's call.
    coalesced: AtomicU64,
    /// Those who wait or read.
    followers: Arc<AtomicU64>,
}

/// What a request is to the others.
#[derive(Debug)]
pub(super) enum Joined {
    /// It asks the provider, for all of them.
    Lead(Lead),
    /// It waits for the one who asks.
    Follow(Follower),
    /// It asks for itself alone.
    Alone,
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

impl Flights {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::new(HashMap::new()),
            unshared: Cache::new(UNSHARED_QUESTIONS),
            clock,
            coalesced: AtomicU64::new(0),
            followers: Arc::default(),
        })
    }

    pub(super) fn join(self: &Arc<Self>, hash: Hash) -> Joined {
        if let Some(until) = self.unshared.get(&hash) {
            if self.clock.monotonic() < until {
                return Joined::Alone;
            }
            self.unshared.remove(&hash);
        }
        let mut running = self.running.lock();
        if let Some(shared) = running.get(&hash) {
            shared.followers.send_modify(|count| *count += 1);
            self.followers.fetch_add(1, Ordering::Relaxed);
            return Joined::Follow(Follower {
                flight: shared.flight.subscribe(),
                shared: Arc::clone(shared),
                all: Arc::clone(&self.followers),
            });
        }
        let shared = Arc::new(Shared {
            flight: watch::Sender::new(Flight::Waiting),
            followers: watch::Sender::new(0),
        });
        running.insert(hash, Arc::clone(&shared));
        Joined::Lead(Lead {
            flights: Arc::clone(self),
            hash,
            variant: OnceLock::new(),
            shared,
            reached: false,
        })
    }

    /// Whoever comes now asks anew: what is under way may be what was to be forgotten.
    pub(super) fn forget_running(&self) {
        self.running.lock().clear();
    }

    pub(super) fn count_coalesced(&self) {
        self.coalesced.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn followers(&self) -> u64 {
        self.followers.load(Ordering::Relaxed)
    }

    pub(super) fn coalesced(&self) -> u64 {
        self.coalesced.load(Ordering::Relaxed)
    }
}

/// The one who asks. Dropped without a word, it has failed.
#[derive(Debug)]
pub struct Lead {
    flights: Arc<Flights>,
    hash: Hash,
    /// Where those look who know by which fields the answer varies.
    variant: OnceLock<Hash>,
    shared: Arc<Shared>,
    reached: bool,
}

impl Lead {
    /// The request leaves for a provider.
    pub fn reached(&mut self) {
        self.reached = true;
    }

    /// The answer is being kept: the others may read it.
    pub(super) fn runs(&self, fill: Arc<Fill>) {
        self.flights.unshared.remove(&self.hash);
        let variant = *self.variant.get_or_init(|| fill.hash);
        if variant != self.hash {
            let mut running = self.flights.running.lock();
            running.entry(variant).or_insert_with(|| Arc::clone(&self.shared));
        }
        self.shared.flight.send_replace(Flight::Running(fill));
    }

    /// The store has it.
    pub fn stored(&self) {
        self.shared.flight.send_replace(Flight::Stored);
    }

    /// The answer is nobody else's.
    pub fn unshared(&self) {
        let until = self.flights.clock.monotonic() + UNSHARED_FOR;
        self.flights.unshared.insert(self.hash, until);
        self.shared.flight.send_replace(Flight::Unshared);
    }

    /// Nobody joins any more; who has joined stays.
    pub fn close(&self) {
        let mut running = self.flights.running.lock();
        for hash in std::iter::once(&self.hash).chain(self.variant.get()) {
            if running
                .get(hash)
                .is_some_and(|current| Arc::ptr_eq(current, &self.shared))
            {
                running.remove(hash);
            }
        }
    }

    /// Those who wait for the answer or read it.
    pub(super) fn audience(&self) -> watch::Receiver<usize> {
        self.shared.followers.subscribe()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.close();
        let reached = self.reached;
        self.shared.flight.send_if_modified(|flight| {
            let silent = matches!(flight, Flight::Waiting);
            if silent {
                *flight = Flight::Failed { reached };
            }
            silent
        });
    }
}

/// One who waits, then reads. The leader's call goes on while there is one.
#[derive(Debug)]
pub struct Follower {
    flight: watch::Receiver<Flight>,
    shared: Arc<Shared>,
    all: Arc<AtomicU64>,
}

impl Follower {
    /// What became of the call, as soon as that is known.
    pub(super) async fn known(&mut self) -> Flight {
        let known = self
            .flight
            .wait_for(|flight| !matches!(flight, Flight::Waiting))
            .await;
        // the sender lives in what this follower holds: it cannot go away
        known.map_or(Flight::Failed { reached: false }, |flight| flight.clone())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.followers.send_modify(|count| *count -= 1);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ManualClock, Timestamp};

    const ONE: Hash = [1; 16];

    fn flights() -> (Arc<Flights>, Arc<ManualClock>) {
        let clock = ManualClock::at(Timestamp::from_micros(1_000_000_000_000_000));
        (Flights::new(clock.clone()), clock)
    }

    fn lead(flights: &Arc<Flights>) -> Lead {
        match flights.join(ONE) {
            Joined::Lead(lead) => lead,
            other => panic!("{other:?}"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> Follower {
        match flights.join(ONE) {
            Joined::Follow(follower) => follower,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_first_leads_the_others_follow_and_are_its_audience() {
        let (flights, _) = flights();
        let lead = lead(&flights);
        let audience = lead.audience();
        let (mut one, two) = (follow(&flights), follow(&flights));
        assert!(matches!(flights.join([2; 16]), Joined::Lead(_)));
        assert_eq!(*audience.borrow(), 2);
        drop(two);
        assert_eq!(*audience.borrow(), 1);
        lead.stored();
        assert!(matches!(one.known().await, Flight::Stored));
        drop(lead);
        assert!(matches!(one.known().await, Flight::Stored));
        assert!(flights.running.lock().is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_leaves_without_a_word_has_failed() {
        let (flights, _) = flights();
        for reached in [false, true] {
            let mut lead = lead(&flights);
            let mut follower = follow(&flights);
            if reached {
                lead.reached();
            }
            drop(lead);
            assert!(matches!(follower.known().await, Flight::Failed { reached: said } if said == reached));
        }
    }

    #[tokio::test]
    async fn who_comes_after_an_answer_that_was_not_shared_does_not_wait() {
        let (flights, clock) = flights();
        let lead = lead(&flights);
        lead.unshared();
        drop(lead);
        assert!(matches!(flights.join(ONE), Joined::Alone));
        clock.advance(UNSHARED_FOR);
        assert!(matches!(flights.join(ONE), Joined::Lead(_)));
    }

    #[tokio::test]
    async fn nobody_joins_what_was_to_be_forgotten() {
        let (flights, _) = flights();
        let old = lead(&flights);
        let mut waiting = follow(&flights);
        flights.forget_running();
        let new = lead(&flights);
        old.stored();
        drop(old);
        assert!(matches!(waiting.known().await, Flight::Stored));
        assert!(
            matches!(flights.join(ONE), Joined::Follow(_)),
            "the new one still leads"
        );
        drop(new);
    }
}
