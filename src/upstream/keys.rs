//! The keys of providers: which one an attempt carries, and which are left alone for a while.
//!
//! A key that a provider refuses (401), whose account has no money, or that is at its rate is benched: attempts take the
//! others. When its time is over one attempt tries it; a good answer frees it. What is known of a key outlives a reload,
//! and is known of that key at that address alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::catalogue::KeySnapshot;
use super::pace::{Pace, PaceLimits};
use crate::config::CooldownSettings;
use crate::domain::Secret;

/// How long a key rests that is at its rate when nobody says how long.
const RATE_PAUSE: Duration = Duration::from_secs(1);
/// Models of one key that are known to be at their rate; of further ones it is forgotten.
const MOST_MODELS: usize = 256;
/// Keys of projects of which something is known; beyond it the least used is forgotten.
const OWN_KEYS: usize = 4096;

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyFault {
    /// The provider does not know or allow it.
    Refused,
    /// Its account has no money, or may not spend more.
    Money,
    /// It is at its rate.
    RateLimited,
}

impl KeyFault {
    /// A word for logs and operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Money => "money",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// What is known of one key at one address.
#[derive(Debug, Default)]
pub struct KeyHealth {
    /// False for a key in order: then nobody needs the lock.
    disturbed: AtomicBool,
    state: Mutex<KeyState>,
}

#[derive(Debug, Default)]
struct KeyState {
    /// It is refused, or has no money: for every model.
    fault: Option<Fault>,
    /// Faults in a row.
    times: u32,
    /// Models for which it is at its rate, and until when.
    rates: Vec<(Box<str>, Duration)>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    what: KeyFault,
    since: Duration,
    until: Duration,
}

impl KeyState {
    fn benched_until(&self, model: &str) -> Option<(Duration, KeyFault)> {
        let rate = self.rates.iter().find(|(name, _)| **name == *model);
        let rate = rate.map(|(_, until)| (*until, KeyFault::RateLimited));
        let fault = self.fault.map(|fault| (fault.until, fault.what));
        fault.into_iter().chain(rate).max_by_key(|(until, _)| *until)
    }
}

impl KeyHealth {
    /// How long it is still left alone for a model, and why.
    pub fn benched_for(&self, now: Duration, model: &str) -> Option<(Duration, KeyFault)> {
        if !self.disturbed.load(Ordering::Acquire) {
            return None;
        }
        let (until, fault) = self.state.lock().benched_until(model)?;
        let left = until.checked_sub(now).filter(|left| !left.is_zero())?;
        Some((left, fault))
    }

    /// What is wrong with it, and for how long: of its models the worst.
    pub fn worst(&self, now: Duration) -> Option<(Duration, KeyFault)> {
        let state = self.state.lock();
        let rates = state
            .rates
            .iter()
            .map(|(_, until)| (*until, KeyFault::RateLimited));
        let fault = state.fault.map(|fault| (fault.until, fault.what));
        let (until, fault) = fault
            .into_iter()
            .chain(rates)
            .filter(|(until, _)| *until > now)
            .max_by_key(|(until, fault)| (*fault != KeyFault::RateLimited, *until))?;
        Some((until.saturating_sub(now), fault))
    }

    /// An attempt takes it. When its time has just ended, it is the only one to do so for a while.
    fn take(&self, now: Duration, model: &str, cooldown: &CooldownSettings) {
        if !self.disturbed.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        let alone_until = now + cooldown.duration.min(RATE_PAUSE);
        if let Some(fault) = &mut state.fault
            && fault.until <= now
        {
            fault.until = alone_until;
        }
        if let Some((_, until)) = state.rates.iter_mut().find(|(name, _)| **name == *model)
            && *until <= now
        {
            *until = alone_until;
        }
    }

    /// It is left alone: for `pause` if the provider said so, else for what such a fault takes.
    pub fn bench(
        &self,
        now: Duration,
        model: &str,
        fault: KeyFault,
        pause: Option<Duration>,
        cooldown: &CooldownSettings,
    ) {
        let mut state = self.state.lock();
        let pause = match fault {
            KeyFault::Money => cooldown.max,
            KeyFault::RateLimited => pause.unwrap_or(RATE_PAUSE),
            KeyFault::Refused => cooldown.duration.saturating_mul(1 << state.times.min(20)),
        };
        let until = now + pause.min(cooldown.max);
        if fault == KeyFault::RateLimited {
            state.rates.retain(|(_, until)| *until > now);
            let known = state.rates.iter().position(|(name, _)| **name == *model);
            match known {
                Some(at) => state.rates[at].1 = until.max(state.rates[at].1),
                None if state.rates.len() < MOST_MODELS => state.rates.push((model.into(), until)),
                None => {}
            }
        } else {
            state.times = state.times.saturating_add(1);
            let known = state.fault.map_or(Duration::ZERO, |fault| fault.until);
            state.fault = Some(Fault {
                what: fault,
                since: now,
                until: until.max(known),
            });
        }
        self.disturbed.store(true, Ordering::Release);
    }

    /// It was good for an answer of a model to an attempt that began at `since`.
    pub fn worked(&self, since: Duration, model: &str) {
        if !self.disturbed.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        if state.fault.is_some_and(|fault| since >= fault.since) {
            state.fault = None;
            state.times = 0;
        }
        // who had been let through before its rate was used up says nothing of it
        state
            .rates
            .retain(|(name, until)| **name != *model || *until > since + RATE_PAUSE);
        if state.fault.is_none() && state.rates.is_empty() {
            self.disturbed.store(false, Ordering::Release);
        }
    }
}

/// One key of the installation for one provider.
pub struct PooledKey {
    /// Its name.
    pub id: Arc<str>,
    /// What goes into the head.
    pub value: HeaderValue,
    /// What is known of it.
    pub health: Arc<KeyHealth>,
    /// Keeps it within what the provider allows.
    pub pace: Option<Arc<Pace>>,
}

impl fmt::Debug for PooledKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The keys of the installation for one provider; they take turns.
#[derive(Debug, Default)]
pub struct KeyPool {
    keys: Vec<Arc<PooledKey>>,
    turn: AtomicUsize,
}

impl KeyPool {
    /// These keys.
    pub fn new(keys: Vec<Arc<PooledKey>>) -> Self {
        Self {
            keys,
            turn: AtomicUsize::new(0),
        }
    }

    /// Every key.
    pub fn keys(&self) -> &[Arc<PooledKey>] {
        &self.keys
    }

    /// One that is not known to be bad, else the first: for questions beside the requests.
    pub fn any(&self) -> Option<&PooledKey> {
        let good = self
            .keys
            .iter()
            .find(|key| !key.health.disturbed.load(Ordering::Acquire));
        good.or(self.keys.first()).map(|key| &**key)
    }

    /// What operators see of them.
    pub fn snapshot(&self, now: Duration) -> Vec<KeySnapshot> {
        let snapshot = |key: &Arc<PooledKey>| KeySnapshot {
            id: key.id.to_string(),
            benched: key.health.worst(now).map(|(left, fault)| (left, fault.as_str())),
            waiting: key.pace.as_ref().map_or(0, |pace| pace.waiting()),
        };
        self.keys.iter().map(snapshot).collect()
    }

    /// Requests that wait for the rate of a key.
    pub fn waiting(&self) -> u32 {
        self.keys
            .iter()
            .filter_map(|key| Some(key.pace.as_ref()?.waiting()))
            .sum()
    }

    /// How long every key is left alone; `None`: one can be taken, or there is none.
    pub fn benched_for(&self, now: Duration, model: &str) -> Option<Duration> {
        let mut shortest = None;
        for key in &self.keys {
            let (left, _) = key.health.benched_for(now, model)?;
            shortest = Some(shortest.map_or(left, |shortest: Duration| shortest.min(left)));
        }
        shortest
    }

    /// The key whose turn it is among those that may be taken: one that can go at once before one that would have to wait
    /// for its rate.
    pub fn pick(
        &self,
        now: Duration,
        model: &str,
        tokens: u64,
        cooldown: &CooldownSettings,
    ) -> Option<Arc<PooledKey>> {
        let picked = match &self.keys[..] {
            [] => return None,
            [only] => Some(only).filter(|key| key.health.benched_for(now, model).is_none()),
            keys => {
                let from = self.turn.fetch_add(1, Ordering::Relaxed);
                (0..keys.len())
                    .map(|step| &keys[from.wrapping_add(step) % keys.len()])
                    .filter(|key| key.health.benched_for(now, model).is_none())
                    .min_by_key(|key| key.pace.as_ref().and_then(|pace| pace.wait(tokens)))
            }
        }?;
        picked.health.take(now, model, cooldown);
        Some(Arc::clone(picked))
    }

    /// The key that is left alone for the shortest time: when nothing else is left. One that is at its rate would only be
    /// told so again.
    pub fn least_bad(&self, now: Duration, model: &str) -> Option<Arc<PooledKey>> {
        let at_its_rate = |key: &&Arc<PooledKey>| {
            let benched = key.health.benched_for(now, model);
            benched.is_some_and(|(_, fault)| fault == KeyFault::RateLimited)
        };
        self.keys
            .iter()
            .filter(|key| !at_its_rate(key))
            .min_by_key(|key| key.health.benched_for(now, model).map(|(left, _)| left))
            .cloned()
    }
}

/// What a key is known by: nobody can read the key from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct KeyName {
    provider: Arc<str>,
    address: Arc<str>,
    digest: [u8; 32],
}

impl KeyName {
    fn of(provider: &Arc<str>, address: &Arc<str>, key: &Secret) -> Self {
        Self {
            provider: Arc::clone(provider),
            address: Arc::clone(address),
            digest: Sha256::digest(key.expose().as_bytes()).into(),
        }
    }
}

#[derive(Debug, Clone)]
struct Known {
    health: Weak<KeyHealth>,
    pace: Option<Weak<Pace>>,
}

/// What is known of every key, for as long as the process lives.
pub struct KeyRegistry {
    pooled: Mutex<HashMap<KeyName, Known>>,
    /// Keys of projects that were benched.
    own: quick_cache::sync::Cache<KeyName, Arc<KeyHealth>>,
    any_own: AtomicBool,
}

impl Default for KeyRegistry {
    fn default() -> Self {
        Self {
            pooled: Mutex::new(HashMap::new()),
            own: quick_cache::sync::Cache::new(OWN_KEYS),
            any_own: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for KeyRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRegistry").finish_non_exhaustive()
    }
}

impl KeyRegistry {
    /// What is known of a key of the installation; nothing of one that is new.
    pub fn pooled(
        &self,
        provider: &Arc<str>,
        address: &Arc<str>,
        key: &Secret,
        limits: Option<PaceLimits>,
    ) -> (Arc<KeyHealth>, Option<Arc<Pace>>) {
        let name = KeyName::of(provider, address, key);
        let mut pooled = self.pooled.lock();
        pooled.retain(|_, known| known.health.strong_count() > 0);
        let known = pooled.get(&name).cloned();
        let health = known
            .as_ref()
            .and_then(|known| known.health.upgrade())
            .unwrap_or_default();
        let pace = limits.map(|limits| {
            let kept = known.and_then(|known| known.pace?.upgrade());
            if let Some(kept) = &kept {
                kept.set(limits);
            }
            kept.unwrap_or_else(|| Pace::new(limits))
        });
        let known = Known {
            health: Arc::downgrade(&health),
            pace: pace.as_ref().map(Arc::downgrade),
        };
        pooled.insert(name, known);
        (health, pace)
    }

    /// What is known of a project's own key; `None`: nothing that is bad.
    pub fn own(&self, provider: &Arc<str>, address: &Arc<str>, key: &Secret) -> Option<Arc<KeyHealth>> {
        if !self.any_own.load(Ordering::Acquire) {
            return None;
        }
        self.own.get(&KeyName::of(provider, address, key))
    }

    /// Something bad is to be known of a project's own key.
    pub fn note_own(&self, provider: &Arc<str>, address: &Arc<str>, key: &Secret) -> Arc<KeyHealth> {
        let name = KeyName::of(provider, address, key);
        if let Some(known) = self.own.get(&name) {
            return known;
        }
        let health = Arc::new(KeyHealth::default());
        self.own.insert(name, Arc::clone(&health));
        self.any_own.store(true, Ordering::Release);
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: CooldownSettings = CooldownSettings {
        failures: 5,
        duration: Duration::from_secs(30),
        max: Duration::from_mins(10),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    fn pool(ids: &[&str]) -> KeyPool {
        let key = |id: &&str| {
            Arc::new(PooledKey {
                id: (*id).into(),
                value: HeaderValue::from_static("k"),
                health: Arc::default(),
                pace: None,
            })
        };
        KeyPool::new(ids.iter().map(key).collect())
    }

    fn picks(pool: &KeyPool, now: Duration, times: usize) -> String {
        (0..times)
            .map(|_| {
                pool.pick(now, "m", 1, &COOLDOWN)
                    .map_or("-".into(), |key| key.id.to_string())
            })
            .collect()
    }

    #[test]
    fn keys_take_turns_and_a_benched_one_is_passed_over() {
        let pool = pool(&["a", "b", "c"]);
        assert_eq!(picks(&pool, at(0), 6), "abcabc");
        pool.keys()[1]
            .health
            .bench(at(0), "m", KeyFault::Refused, None, &COOLDOWN);
        let picked = picks(&pool, at(29), 6);
        assert!(
            !picked.contains('b') && picked.contains('a') && picked.contains('c'),
            "{picked}"
        );
        assert_eq!(pool.benched_for(at(1), "m"), None);
    }

    #[test]
    fn one_attempt_tries_a_key_whose_time_is_over() {
        let pool = pool(&["a"]);
        let health = &pool.keys()[0].health;
        health.bench(at(0), "m", KeyFault::Refused, None, &COOLDOWN);
        assert_eq!(
            health.benched_for(at(1), "m"),
            Some((Duration::from_secs(29), KeyFault::Refused))
        );
        assert_eq!(pool.benched_for(at(1), "m"), Some(Duration::from_secs(29)));
        assert_eq!(picks(&pool, at(29), 1), "-");
        assert_eq!(picks(&pool, at(30), 2), "a-");
        health.bench(at(30), "m", KeyFault::Refused, None, &COOLDOWN);
        assert_eq!(picks(&pool, at(89), 1), "-", "twice as long the second time");
        assert_eq!(picks(&pool, at(90), 1), "a");
        health.worked(at(29), "m");
        assert_eq!(picks(&pool, at(90), 1), "-", "asked before it was refused");
        health.worked(at(90), "m");
        assert_eq!(picks(&pool, at(90), 3), "aaa");
        assert_eq!(
            pool.least_bad(at(90), "m")
                .map(|key| key.id.to_string())
                .as_deref(),
            Some("a")
        );
    }

    #[test]
    fn money_takes_longest_and_a_rate_as_long_as_was_said() {
        let health = KeyHealth::default();
        health.bench(
            at(0),
            "m",
            KeyFault::RateLimited,
            Some(Duration::from_secs(3)),
            &COOLDOWN,
        );
        assert_eq!(
            health.benched_for(at(0), "m"),
            Some((Duration::from_secs(3), KeyFault::RateLimited))
        );
        health.bench(
            at(0),
            "m",
            KeyFault::RateLimited,
            Some(Duration::from_hours(24)),
            &COOLDOWN,
        );
        assert_eq!(
            health.benched_for(at(0), "m").map(|(left, _)| left),
            Some(COOLDOWN.max)
        );
        let health = KeyHealth::default();
        health.bench(at(0), "m", KeyFault::Money, None, &COOLDOWN);
        assert_eq!(
            health.benched_for(at(0), "m").map(|(left, _)| left),
            Some(COOLDOWN.max)
        );
    }

    #[test]
    fn what_is_known_of_a_key_outlives_a_reload_and_is_of_that_key_alone() {
        let registry = KeyRegistry::default();
        let (provider, address): (Arc<str>, Arc<str>) = ("p".into(), "https://h".into());
        let key = Secret::new("sk-1");
        let (health, pace) = registry.pooled(&provider, &address, &key, None);
        assert!(pace.is_none());
        health.bench(at(0), "m", KeyFault::Refused, None, &COOLDOWN);
        let (again, _) = registry.pooled(&provider, &address, &key, None);
        assert!(again.benched_for(at(0), "m").is_some());
        let (other, _) = registry.pooled(&provider, &address, &Secret::new("sk-2"), None);
        assert!(other.benched_for(at(0), "m").is_none());
        assert!(registry.own(&provider, &address, &key).is_none());
        registry
            .note_own(&provider, &address, &key)
            .bench(at(0), "m", KeyFault::Money, None, &COOLDOWN);
        assert!(registry.own(&provider, &address, &key).is_some());
        assert!(registry.own(&provider, &"https://other".into(), &key).is_none());
        assert!(!format!("{registry:?}").contains("sk-1"));
    }
}
