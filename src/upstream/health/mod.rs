//! The breaker of each target: stops calling what keeps failing, and tries again one call at a time.
//!
//! A breaker is closed until `failures` attempts in a row have failed (0: for ever). Then it is open for `duration`; when
//! that is over one attempt is let through as a probe while all others are still turned away. A probe that
//! succeeds closes the breaker; one that fails opens it again for twice as long, up to `max`. A probe
//! without a verdict (the client left) frees its place for the next one, and a probe that takes longer than
//! `duration` no longer keeps others from trying. Results of attempts that began before the breaker opened
//! change nothing. `Retry-After` of a provider opens the breaker for just that time, without counting as a
//! failure. A breaker in its normal state costs two atomic operations and no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use self::load::Load;
use crate::config::{CooldownSettings, Share};

mod load;

/// What a breaker is keyed by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TargetKey {
    /// The provider's name.
    pub provider: Arc<str>,
    /// Where the provider is: another address is another target.
    pub address: Arc<str>,
    /// The provider's name for the model; empty for calls without one.
    pub model: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, trips: u32 },
    HalfOpen { probe_since: Duration, trips: u32 },
}

/// The breaker of one target. Times are those of the monotonic clock.
#[derive(Debug)]
pub struct Breaker {
    key: TargetKey,
    in_flight: AtomicU32,
    /// False while closed without failures: then nobody needs the lock.
    disturbed: AtomicBool,
    /// Microseconds to the first byte, of late; 0: no answer yet.
    latency: AtomicU64,
    load: Load,
    state: Mutex<State>,
}

/// What a breaker shows to operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerSnapshot {
    /// The provider's name.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Failures in a row while closed.
    pub failures: u32,
    /// Why it is open: `failures`, or `retry_after` when the provider asked for it.
    pub reason: &'static str,
    /// Time to the first byte of its answers, of late.
    pub latency: Option<Duration>,
    /// How long it stays open.
    pub cooling_for: Option<Duration>,
    /// Attempts that run now.
    pub in_flight: u32,
}

impl Breaker {
    fn new(key: TargetKey) -> Self {
        Self {
            key,
            in_flight: AtomicU32::new(0),
            disturbed: AtomicBool::new(false),
            latency: AtomicU64::new(0),
            load: Load::default(),
            state: Mutex::new(State::Closed { failures: 0 }),
        }
    }

    /// Whether an attempt would be let through; else how long not.
    pub fn closed_for(&self, now: Duration, cooldown: &CooldownSettings) -> Option<Duration> {
        if !self.disturbed.load(Ordering::Acquire) {
            return None;
        }
        turned_away(*self.state.lock(), now, cooldown)
    }

    /// Lets one attempt through, or says how long none will be.
    pub fn admit(self: &Arc<Self>, now: Duration, cooldown: &CooldownSettings) -> Result<Permit, Duration> {
        let mut probe = false;
        if self.disturbed.load(Ordering::Acquire) {
            let mut state = self.state.lock();
            if let Some(wait) = turned_away(*state, now, cooldown) {
                return Err(wait);
            }
            if let State::Open { trips, .. } | State::HalfOpen { trips, .. } = *state {
                *state = State::HalfOpen {
                    probe_since: now,
                    trips,
                };
                probe = true;
            }
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            breaker: Arc::clone(self),
            in_flight: Some(InFlight(Arc::clone(self))),
            since: now,
            probe,
            judged: false,
        })
    }

    /// A request's first attempt goes here.
    pub fn note_first(&self, now: Duration) {
        self.load.first(now);
    }

    /// Whether a further attempt may go here, `router.retry_budget` being `share`; it is counted then.
    pub fn take_retry(&self, now: Duration, share: Share) -> bool {
        self.load.retry(now, share)
    }

    /// Whether a further attempt might go here.
    pub fn may_retry(&self, now: Duration, share: Share) -> bool {
        self.load.may_retry(now, share)
    }

    /// Attempts that run now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Time to the first byte of its answers: the newest counts a fifth. `None`: it has not answered yet.
    pub fn latency(&self) -> Option<Duration> {
        match self.latency.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    // two at once may lose one of both
    fn answered_after(&self, latency: Duration) {
        let newest = u64::try_from(latency.as_micros())
            .unwrap_or(u64::MAX / 5)
            .clamp(1, u64::MAX / 5);
        let before = self.latency.load(Ordering::Relaxed);
        let now = if before == 0 {
            newest
        } else {
            (before / 5 * 4 + before % 5 * 4 / 5 + newest / 5).max(1)
        };
        self.latency.store(now, Ordering::Relaxed);
    }

    fn reason(&self) -> &'static str {
        match *self.state.lock() {
            State::Open { trips: 0, .. } | State::HalfOpen { trips: 0, .. } => "retry_after",
            _ => "failures",
        }
    }

    /// What operators see.
    pub fn snapshot(&self, now: Duration) -> BreakerSnapshot {
        let (word, failures, cooling_for) = match *self.state.lock() {
            State::Closed { failures } => ("closed", failures, None),
            State::Open { until, .. } if until > now => ("open", 0, until.checked_sub(now)),
            State::Open { .. } | State::HalfOpen { .. } => ("half_open", 0, None),
        };
        BreakerSnapshot {
            provider: self.key.provider.to_string(),
            model: self.key.model.to_string(),
            state: word,
            reason: self.reason(),
            latency: self.latency(),
            failures,
            cooling_for,
            in_flight: self.in_flight(),
        }
    }

    fn succeeded(&self, probe: bool, since: Duration) {
        if !self.disturbed.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        match *state {
            State::Closed { .. } => {}
            State::HalfOpen { probe_since, .. } if probe && probe_since == since => {}
            State::Open { .. } | State::HalfOpen { .. } => return,
        }
        *state = State::Closed { failures: 0 };
        self.disturbed.store(false, Ordering::Release);
    }

    fn failed(&self, probe: bool, since: Duration, now: Duration, cooldown: &CooldownSettings) {
        self.load.failed(now);
        let mut state = self.state.lock();
        match *state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                *state = if cooldown.failures == 0 || failures < cooldown.failures {
                    State::Closed { failures }
                } else {
                    open(now, 1, cooldown)
                };
            }
            State::HalfOpen { probe_since, trips } if probe && probe_since == since => {
                *state = open(now, trips.saturating_add(1), cooldown);
            }
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
        self.disturbed.store(true, Ordering::Release);
    }

    fn cool_down(&self, now: Duration, pause: Duration, cooldown: &CooldownSettings) {
        let pause = pause.min(cooldown.max);
        if pause.is_zero() {
            return;
        }
        let mut state = self.state.lock();
        let (until, trips) = match *state {
            State::Closed { .. } => (now + pause, 0),
            State::Open { until, trips } => (until.max(now + pause), trips),
            State::HalfOpen { trips, .. } => (now + pause, trips),
        };
        *state = State::Open { until, trips };
        self.disturbed.store(true, Ordering::Release);
    }

    fn abandoned(&self, since: Duration, now_or_earlier: Duration) {
        let mut state = self.state.lock();
        if let State::HalfOpen { probe_since, trips } = *state
            && probe_since == since
        {
            *state = State::Open {
                until: now_or_earlier,
                trips,
            };
        }
    }
}

fn turned_away(state: State, now: Duration, cooldown: &CooldownSettings) -> Option<Duration> {
    match state {
        State::Closed { .. } => None,
        State::Open { until, .. } => until.checked_sub(now).filter(|wait| !wait.is_zero()),
        State::HalfOpen { probe_since, .. } => (probe_since + cooldown.duration)
            .checked_sub(now)
            .filter(|wait| !wait.is_zero())
            .map(|wait| wait.min(Duration::from_secs(1))),
    }
}

fn open(now: Duration, trips: u32, cooldown: &CooldownSettings) -> State {
    let doublings = trips.saturating_sub(1).min(20);
    let pause = cooldown
        .duration
        .saturating_mul(1 << doublings)
        .min(cooldown.max.max(cooldown.duration));
    State::Open {
        until: now + pause,
        trips,
    }
}

/// One attempt that was let through. Dropping it ends the attempt; without a verdict it counts for nothing.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    in_flight: Option<InFlight>,
    since: Duration,
    probe: bool,
    judged: bool,
}

/// Counts one attempt as running at its target.
#[derive(Debug)]
pub struct InFlight(Arc<Breaker>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Permit {
    /// What counts the attempt as running, for whoever knows its end before the permit goes.
    pub fn take_in_flight(&mut self) -> Option<InFlight> {
        self.in_flight.take()
    }

    /// The first byte of a good answer came after so long.
    pub fn answered_after(&self, latency: Duration) {
        self.breaker.answered_after(latency);
    }

    /// The target answered. Judge as soon as the head is there: a stream may take minutes.
    pub fn succeeded(&mut self) {
        if !std::mem::replace(&mut self.judged, true) {
            self.breaker.succeeded(self.probe, self.since);
        }
    }

    /// The target failed.
    pub fn failed(&mut self, now: Duration, cooldown: &CooldownSettings) {
        if !std::mem::replace(&mut self.judged, true) {
            self.breaker.failed(self.probe, self.since, now, cooldown);
        }
    }

    /// The target failed a request that it had failed before: one request that nothing can answer must not open the breaker
    /// for all others. A probe counts all the same.
    pub fn failed_again(&mut self, now: Duration, cooldown: &CooldownSettings) {
        if self.probe {
            self.failed(now, cooldown);
        } else {
            self.breaker.load.failed(now);
        }
        self.judged = true;
    }

    /// The target asked to be left alone for `pause` (`Retry-After`), at most `cooldown.max`.
    pub fn cool_down(&mut self, now: Duration, pause: Duration, cooldown: &CooldownSettings) {
        self.judged = true;
        self.breaker.cool_down(now, pause, cooldown);
    }

    /// When the attempt began.
    pub fn since(&self) -> Duration {
        self.since
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe && !self.judged {
            self.breaker.abandoned(self.since, self.since);
        }
    }
}

/// Every breaker, for as long as the process lives: a reload finds those of unchanged targets as they were.
#[derive(Debug)]
pub struct HealthRegistry {
    configured: Mutex<HashMap<TargetKey, Arc<Breaker>>>,
    passed_through: quick_cache::sync::Cache<TargetKey, Arc<Breaker>>,
}

/// Breakers kept for models that clients name and nobody configured; beyond it the least used is forgotten.
const PASSED_THROUGH: usize = 4096;

#[derive(Hash)]
struct KeyRef<'a> {
    provider: &'a str,
    address: &'a str,
    model: &'a str,
}

impl quick_cache::Equivalent<TargetKey> for KeyRef<'_> {
    fn equivalent(&self, key: &TargetKey) -> bool {
        self.model == &*key.model && self.provider == &*key.provider && self.address == &*key.address
    }
}

impl Default for HealthRegistry {
    fn default() -> Self {
        Self {
            configured: Mutex::new(HashMap::new()),
            passed_through: quick_cache::sync::Cache::new(PASSED_THROUGH),
        }
    }
}

impl HealthRegistry {
    /// The breaker of a configured target, made when it is new.
    pub fn configured(&self, key: TargetKey) -> Arc<Breaker> {
        Arc::clone(
            self.configured
                .lock()
                .entry(key.clone())
                .or_insert_with(|| Arc::new(Breaker::new(key))),
        )
    }

    /// The breaker of a model that a client named. Names that are the same in their first 256 bytes share one.
    pub fn passed_through(&self, provider: &Arc<str>, address: &Arc<str>, model: &str) -> Arc<Breaker> {
        let model = &model[..model.floor_char_boundary(256)];
        let key = KeyRef {
            provider,
            address,
            model,
        };
        if let Some(breaker) = self.passed_through.get(&key) {
            return breaker;
        }
        let key = TargetKey {
            provider: Arc::clone(provider),
            address: Arc::clone(address),
            model: model.into(),
        };
        let breaker = Arc::new(Breaker::new(key.clone()));
        self.passed_through.insert(key, Arc::clone(&breaker));
        breaker
    }

    /// Forgets configured targets that no catalogue names any more. Call it after a swap.
    pub fn forget_unused(&self) {
        self.configured
            .lock()
            .retain(|_, breaker| Arc::strong_count(breaker) > 1);
    }

    /// Every breaker that an operator may want to see: the configured ones, and the others that are not in
    /// their normal state or in use.
    pub fn snapshot(&self, now: Duration) -> Vec<BreakerSnapshot> {
        let mut all: Vec<_> = self
            .configured
            .lock()
            .values()
            .map(|breaker| breaker.snapshot(now))
            .collect();
        all.extend(
            self.passed_through
                .iter()
                .map(|(_, breaker)| breaker)
                .filter(|breaker| breaker.in_flight() > 0 || breaker.disturbed.load(Ordering::Acquire))
                .map(|breaker| breaker.snapshot(now)),
        );
        all.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        all
    }
}

#[cfg(test)]
mod tests;
