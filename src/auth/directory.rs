//! Keeps what is known of credentials in bounded memory, and reads the store when it is not enough.
//!
//! * *Known* credentials carry their principal. One is served from memory while nothing that concerns it
//!   changed (`changes.rs`) and the store was reached within `max_stale`. At most every few seconds one
//!   request in the whole process has its token read again in the background: success proves that the store
//!   is there, so an install with traffic never comes near `max_stale` while the store lives.
//! * *Unknown* credentials are remembered until anything changes, for half a minute at most.
//! * One credential is read once at a time; who asks for it meanwhile waits for that answer, unless something
//!   changed since that read began.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::watch;

use super::changes::{AsOf, Changes, Standing};
use super::{AuthSettings, Principal};
use crate::domain::crypto::Sealer;
use crate::domain::{Clock, TokenHash, spawn};
use crate::store::{StoreError, TokenStore};

/// Look-ups under way at once; above it they fail as if the store were away.
const MOST_LOOK_UPS: usize = 1024;
/// The store is proved to be there this often, as long as there is traffic.
const PROVE_EVERY: Duration = Duration::from_secs(5);
/// Younger than this, a proof is not questioned, whatever `max_stale` says.
const SURELY_FRESH: Duration = Duration::from_secs(1);
/// How long an unknown credential is remembered at most.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// A store that stays away is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A credential whose principal was read from the store.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) principal: Arc<Principal>,
    as_of: AsOf,
    read_at: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Unknown {
    as_of: AsOf,
    read_at: Duration,
}

/// What a look-up came to.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Principal(Arc<Principal>),
    Nobody,
    /// The store did not answer.
    Unavailable,
}

/// What memory alone can say of a known credential.
pub(super) enum Recall {
    /// May be served.
    Serve(Arc<Principal>),
    /// Must be read again; when the store is away, this may be served all the same.
    ReadAgainOrServe(Arc<Principal>),
    /// Must be read again.
    ReadAgain,
    /// Not known.
    Never,
}

struct Flight {
    number: u64,
    as_of: AsOf,
    outcome: watch::Receiver<Option<Found>>,
}

pub(super) struct Directory {
    store: Arc<dyn TokenStore>,
    sealer: Arc<Sealer>,
    clock: Arc<dyn Clock>,
    settings: Arc<ArcSwap<AuthSettings>>,
    pub(super) changes: Changes,
    known: Cache<TokenHash, Known>,
    unknown: Cache<TokenHash, Unknown>,
    flights: Mutex<HashMap<TokenHash, Flight>>,
    flights_started: AtomicU64,
    running: AtomicUsize,
    /// Monotonic microseconds, 0 = never.
    store_seen: AtomicU64,
    store_failed: AtomicU64,
    proof_started: AtomicU64,
    failure_logged: AtomicU64,
    pub(super) store_reads: AtomicU64,
    pub(super) store_failures: AtomicU64,
}

impl Directory {
    pub(super) fn new(
        store: Arc<dyn TokenStore>,
        sealer: Arc<Sealer>,
        clock: Arc<dyn Clock>,
        settings: Arc<ArcSwap<AuthSettings>>,
    ) -> Self {
        let bounds = settings.load();
        Self {
            known: Cache::new(bounds.known_tokens),
            unknown: Cache::new(bounds.unknown_tokens),
            store,
            sealer,
            clock,
            settings,
            changes: Changes::new(),
            flights: Mutex::new(HashMap::new()),
            flights_started: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            store_seen: AtomicU64::new(0),
            store_failed: AtomicU64::new(0),
            proof_started: AtomicU64::new(0),
            failure_logged: AtomicU64::new(0),
            store_reads: AtomicU64::new(0),
            store_failures: AtomicU64::new(0),
        }
    }

    pub(super) fn known_len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn unknown_len(&self) -> usize {
        self.unknown.len()
    }

    /// What is known of a credential without asking the store. Starts the proof that the store is there when
    /// it is due.
    pub(super) fn recall(self: &Arc<Self>, hash: TokenHash, now: Duration) -> Recall {
        let Some(known) = self.known.get(&hash) else {
            return Recall::Never;
        };
        let seen = Duration::from_micros(self.store_seen.load(Ordering::Relaxed)).max(known.read_at);
        let age = now.saturating_sub(seen);
        let standing =
            self.changes
                .standing(known.principal.token_id, known.principal.project_id, known.as_of);
        match standing {
            Standing::Current if age <= SURELY_FRESH => Recall::Serve(known.principal),
            Standing::Outdated => Recall::ReadAgain,
            Standing::Current | Standing::Doubtful => {
                let max_stale = self.settings.load().max_stale;
                if age > max_stale {
                    return Recall::ReadAgain;
                }
                if standing == Standing::Current {
                    if age > PROVE_EVERY.min(max_stale / 2) {
                        self.prove(hash, now);
                    }
                    return Recall::Serve(known.principal);
                }
                if self.store_is_away() {
                    self.prove(hash, now);
                    return Recall::Serve(known.principal);
                }
                Recall::ReadAgainOrServe(known.principal)
            }
        }
    }

    /// Whether the credential was looked up lately and belongs to nobody.
    pub(super) fn is_unknown(&self, hash: TokenHash, now: Duration) -> bool {
        self.unknown.get(&hash).is_some_and(|unknown| {
            self.changes.nothing_since(unknown.as_of) && now.saturating_sub(unknown.read_at) <= UNKNOWN_FOR
        })
    }

    /// Reads the store, or waits for a read of the same credential that is young enough.
    pub(super) async fn look_up(self: &Arc<Self>, hash: TokenHash) -> Found {
        let timeout = self.settings.load().store_timeout;
        let Some(mut outcome) = self.join_or_start(hash, timeout) else {
            return Found::Unavailable;
        };
        match tokio::time::timeout(timeout, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().unwrap_or(Found::Unavailable),
            Ok(Err(_)) | Err(_) => Found::Unavailable,
        }
    }

    /// Notes that the store answered someone, so that known tokens count as verified.
    pub(super) fn store_answered(&self, now: Duration) {
        self.store_seen.fetch_max(micros(now), Ordering::Relaxed);
    }

    /// Whether the last that was heard of the store is a failure. Doubtful entries are then served at once,
    /// while one read a second tries whether it is back.
    pub(super) fn store_is_away(&self) -> bool {
        self.store_failed.load(Ordering::Relaxed) > self.store_seen.load(Ordering::Relaxed)
    }

    fn prove(self: &Arc<Self>, hash: TokenHash, now: Duration) {
        let last = self.proof_started.load(Ordering::Relaxed);
        let due = last == 0 || !within(last, now, SURELY_FRESH);
        let claim = |cell: &AtomicU64| {
            cell.compare_exchange(last, micros(now).max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        if due && claim(&self.proof_started) {
            let timeout = self.settings.load().store_timeout;
            drop(self.join_or_start(hash, timeout));
        }
    }

    fn join_or_start(
        self: &Arc<Self>,
        hash: TokenHash,
        timeout: Duration,
    ) -> Option<watch::Receiver<Option<Found>>> {
        let mut flights = self.flights.lock();
        let as_of = self.changes.now();
        if let Some(flight) = flights.get(&hash)
            && flight.as_of == as_of
        {
            return Some(flight.outcome.clone());
        }
        let landing = Landing::claim(self, hash)?;
        let (sender, outcome) = watch::channel(None);
        flights.insert(
            hash,
            Flight {
                number: landing.number,
                as_of,
                outcome: outcome.clone(),
            },
        );
        drop(flights);
        let directory = self.clone();
        spawn::spawn("token look-up", async move {
            let found = directory.read(hash, as_of, timeout).await;
            drop(landing);
            sender.send_replace(Some(found));
        });
        Some(outcome)
    }

    async fn read(&self, hash: TokenHash, as_of: AsOf, timeout: Duration) -> Found {
        self.store_reads.fetch_add(1, Ordering::Relaxed);
        self.fit_bounds();
        let answer = tokio::time::timeout(timeout, self.store.by_hash(hash)).await;
        let read_at = self.clock.monotonic();
        match answer {
            Ok(Ok(Some(stored))) => {
                self.store_answered(read_at);
                let principal = Arc::new(Principal::from_stored(stored, &self.sealer));
                let known = Known {
                    principal: principal.clone(),
                    as_of,
                    read_at,
                };
                self.known.insert(hash, known);
                self.unknown.remove(&hash);
                Found::Principal(principal)
            }
            Ok(Ok(None)) => {
                self.store_answered(read_at);
                self.known.remove_if(&hash, |known| known.as_of <= as_of);
                self.unknown.insert(hash, Unknown { as_of, read_at });
                Found::Nobody
            }
            Ok(Err(error)) => self.failed(&error, read_at),
            Err(_) => {
                let error = StoreError::Unavailable(format!("no answer within {timeout:?}"));
                self.failed(&error, read_at)
            }
        }
    }

    fn failed(&self, error: &StoreError, now: Duration) -> Found {
        self.store_failures.fetch_add(1, Ordering::Relaxed);
        if !matches!(error, StoreError::Inconsistent { .. }) {
            self.store_failed.fetch_max(micros(now).max(1), Ordering::Relaxed);
        }
        let logged = self.failure_logged.load(Ordering::Relaxed);
        if logged == 0 || !within(logged, now, LOG_EVERY) {
            self.failure_logged.store(micros(now).max(1), Ordering::Relaxed);
            log::warn!(kind = error.kind(); "a token could not be looked up: {error}");
        }
        Found::Unavailable
    }

    /// Applies bounds that a reload changed.
    fn fit_bounds(&self) {
        let bounds = self.settings.load();
        if self.known.capacity() != bounds.known_tokens as u64 {
            self.known.set_capacity(bounds.known_tokens as u64);
        }
        if self.unknown.capacity() != bounds.unknown_tokens as u64 {
            self.unknown.set_capacity(bounds.unknown_tokens as u64);
        }
    }
}

/// A place among the look-ups under way; frees it, also when the look-up panics.
struct Landing {
    directory: Arc<Directory>,
    hash: TokenHash,
    number: u64,
}

impl Landing {
    fn claim(directory: &Arc<Directory>, hash: TokenHash) -> Option<Self> {
        let running = directory.running.fetch_add(1, Ordering::Relaxed);
        if running >= MOST_LOOK_UPS {
            directory.running.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let landing = Self {
            directory: directory.clone(),
            hash,
            number: directory.flights_started.fetch_add(1, Ordering::Relaxed),
        };
        Some(landing)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.directory.running.fetch_sub(1, Ordering::Relaxed);
        let mut flights = self.directory.flights.lock();
        if let Entry::Occupied(entry) = flights.entry(self.hash)
            && entry.get().number == self.number
        {
            entry.remove();
        }
    }
}

fn within(at_micros: u64, now: Duration, span: Duration) -> bool {
    at_micros > 0 && now.saturating_sub(Duration::from_micros(at_micros)) < span
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
