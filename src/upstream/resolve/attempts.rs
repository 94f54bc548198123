//! The attempts of one request: which target and which key comes next.

use std::sync::Arc;
use std::time::Duration;

use super::{Route, RouteKind};
use crate::config::CooldownSettings;
use crate::domain::{Denial, DenialCode, Secret};
use crate::upstream::catalogue::Target;
use crate::upstream::choose::Candidate;
use crate::upstream::health::Permit;
use crate::upstream::keys::{KeyFault, KeyHealth, KeyRegistry, PooledKey};
use crate::upstream::provider::Provider;

/// The key of the request's own project for a provider, if it has one.
pub type OwnKeys<'r> = &'r (dyn Fn(&str) -> Option<&'r Secret> + Send + Sync);

/// The targets of one request in the order of its attempts.
pub struct Attempts<'r> {
    route: &'r Route,
    registry: &'r KeyRegistry,
    own_keys: OwnKeys<'r>,
    /// What the request is thought to use of a key's tokens.
    tokens: u64,
    /// Which public name's targets are in `order`: the model's own, or one of its fallbacks'.
    group: usize,
    order: Vec<usize>,
    next: usize,
    last: Option<usize>,
    made: u32,
    /// Only models that read more than so many tokens are of use.
    reads_more_than: Option<u64>,
}

/// One try at one target. Dropping the permit ends it.
#[derive(Debug)]
pub struct Attempt<'r> {
    /// Whom to call.
    pub target: &'r Target,
    /// Its breaker's leave, which wants a verdict.
    pub permit: Permit,
    /// With whose key.
    pub key: AttemptKey,
}

/// The key of an attempt.
#[derive(Debug, Clone)]
pub enum AttemptKey {
    /// The project's own, and what is known of it.
    Own(Option<Arc<KeyHealth>>),
    /// One of the installation's.
    Pooled(Arc<PooledKey>),
    /// None, or one in the configured headers.
    Other,
}

impl AttemptKey {
    /// The installation's key.
    pub fn pooled(&self) -> Option<&PooledKey> {
        match self {
            Self::Pooled(key) => Some(key),
            Self::Own(_) | Self::Other => None,
        }
    }

    /// It was good for an answer of a model to an attempt that began at `since`.
    pub fn worked(&self, since: Duration, model: Option<&str>) {
        let model = model.unwrap_or_default();
        match self {
            Self::Pooled(key) => key.health.worked(since, model),
            Self::Own(Some(health)) => health.worked(since, model),
            Self::Own(None) | Self::Other => {}
        }
    }
}

impl Route {
    /// The attempts of a request with these keys of its own, thought to use so many tokens.
    pub fn attempts<'r>(
        &'r self,
        registry: &'r KeyRegistry,
        own_keys: OwnKeys<'r>,
        tokens: u64,
    ) -> Attempts<'r> {
        Attempts {
            route: self,
            registry,
            own_keys,
            tokens,
            group: 0,
            order: Vec::new(),
            next: 0,
            last: None,
            made: 0,
            reads_more_than: None,
        }
    }

    fn groups(&self) -> usize {
        match &self.kind {
            RouteKind::Public(model) => model.groups.len(),
            RouteKind::Direct(_) => 1,
        }
    }
}

impl<'r> Attempts<'r> {
    /// The first attempt; when every usable target is cooling down: 503 `circuit_open`. Where every key is left alone, the
    /// one that is so for the shortest time is asked all the same: nothing else could answer.
    pub fn first(&mut self, now: Duration) -> Result<Attempt<'r>, Denial> {
        self.begin_round(now);
        let attempt = self.next(now).or_else(|| {
            self.begin_round(now);
            self.advance(now, |attempts, index| attempts.try_target(index, now, true))
        });
        let attempt = attempt.ok_or_else(|| self.circuit_open(now))?;
        attempt.target.breaker.note_first(now);
        Ok(attempt)
    }

    /// All targets may be tried again, in a new order.
    pub fn begin_round(&mut self, now: Duration) {
        self.group = 0;
        self.load_group(now);
        // what has just failed comes last
        if let Some(at) = self.order.iter().position(|index| Some(*index) == self.last) {
            let last = self.order.remove(at);
            self.order.push(last);
        }
    }

    /// From now on only targets whose model reads longer prompts than the last one's are tried.
    pub fn only_larger(&mut self) {
        let window = self
            .last
            .and_then(|last| self.route.targets()[last].context_window);
        self.reads_more_than = Some(window.unwrap_or(u64::MAX));
    }

    /// Whether another target, or another key of the last one, could be tried at once.
    pub fn another(&self, now: Duration) -> bool {
        let targets = self.route.targets();
        let rest = self.order.iter().skip(self.next).copied();
        let later = (self.group + 1..self.route.groups()).flat_map(|group| self.range(group));
        let other_key = self.last.is_some_and(|last| {
            (self.own_keys)(&targets[last].provider.name).is_none()
                && targets[last].provider.keys.keys().len() > 1
                && self.is_available(last, now)
        });
        other_key || rest.chain(later).any(|index| self.is_available(index, now))
    }

    /// The last target with another key.
    pub fn other_key(&mut self, now: Duration) -> Option<Attempt<'r>> {
        let last = self.last?;
        let provider = &self.route.targets()[last].provider;
        if (self.own_keys)(&provider.name).is_some() || provider.keys.keys().len() < 2 {
            return None;
        }
        self.further(last, now)
    }

    /// The next target that has not been tried in this round.
    pub fn next(&mut self, now: Duration) -> Option<Attempt<'r>> {
        self.advance(now, |attempts, index| {
            if attempts.made == 0 {
                attempts.try_target(index, now, false)
            } else {
                attempts.further(index, now)
            }
        })
    }

    /// The last target once more; `free`: it counts as no further load on it.
    pub fn same(&mut self, now: Duration, free: bool) -> Option<Attempt<'r>> {
        let last = self.last?;
        if free {
            self.try_target(last, now, true)
        } else {
            self.further(last, now)
        }
    }

    /// How long until a target can be tried.
    pub fn free_in(&self, now: Duration) -> Duration {
        let targets = self.route.targets();
        (0..targets.len())
            .filter(|&index| self.is_usable(index))
            .map(|index| self.wait(index, now))
            .min()
            .unwrap_or_default()
    }

    /// The key of this attempt is no good now.
    pub fn bench(&self, attempt: &Attempt<'_>, now: Duration, fault: KeyFault, pause: Option<Duration>) {
        let cooldown = &self.route.router.cooldown;
        let model = attempt.target.model.as_deref().unwrap_or_default();
        match &attempt.key {
            AttemptKey::Pooled(key) => key.health.bench(now, model, fault, pause, cooldown),
            AttemptKey::Own(_) => {
                let provider = attempt.provider();
                if let Some(key) = (self.own_keys)(&provider.name) {
                    self.registry
                        .note_own(&provider.name, &provider.address_text, key)
                        .bench(now, model, fault, pause, cooldown);
                }
            }
            AttemptKey::Other => {}
        }
    }

    /// The refusal when every usable target is cooling down, with the time until the first is not.
    pub fn circuit_open(&self, now: Duration) -> Denial {
        let wait = match self.free_in(now) {
            Duration::ZERO => Duration::from_secs(1),
            wait => wait,
        };
        let message = match self.route.public_name() {
            Some(name) => format!("every provider of model `{name}` is cooling down after failures"),
            None => "the provider is cooling down after failures".to_owned(),
        };
        Denial::new(DenialCode::CircuitOpen, message).with_retry_after(wait)
    }

    fn cooldown(&self) -> &'r CooldownSettings {
        &self.route.router.cooldown
    }

    fn range(&self, group: usize) -> std::ops::Range<usize> {
        match &self.route.kind {
            RouteKind::Public(model) => model.groups[group].range.clone(),
            RouteKind::Direct(_) => 0..1,
        }
    }

    fn load_group(&mut self, now: Duration) {
        self.next = 0;
        let RouteKind::Public(model) = &self.route.kind else {
            self.order = vec![0];
            return;
        };
        let group = &model.groups[self.group];
        let candidates: Vec<Candidate> = group
            .range
            .clone()
            .map(|index| {
                let target = &model.all[index];
                Candidate {
                    weight: target.weight,
                    priority: target.priority,
                    available: self.is_available(index, now),
                    in_flight: target.breaker.in_flight(),
                    latency: target.breaker.latency(),
                }
            })
            .collect();
        self.order = group.wheel.order(&candidates);
        for index in &mut self.order {
            *index += group.range.start;
        }
        // who has no key that can be taken now is asked when nothing else is left
        let order = &self.order;
        let others: Vec<usize> = group
            .range
            .clone()
            .filter(|index| !order.contains(index))
            .collect();
        self.order.extend(others);
    }

    fn advance(
        &mut self,
        now: Duration,
        mut take: impl FnMut(&mut Self, usize) -> Option<Attempt<'r>>,
    ) -> Option<Attempt<'r>> {
        loop {
            while let Some(&index) = self.order.get(self.next) {
                self.next += 1;
                if let Some(attempt) = take(self, index) {
                    return Some(attempt);
                }
            }
            if self.group + 1 >= self.route.groups() {
                return None;
            }
            self.group += 1;
            self.load_group(now);
        }
    }

    /// Nothing but its health keeps it from being tried.
    fn is_usable(&self, index: usize) -> bool {
        let larger = self.reads_more_than.is_none_or(|least| {
            self.route.targets()[index]
                .context_window
                .is_some_and(|window| window > least)
        });
        self.route.refused[index].is_none() && larger
    }

    fn wait(&self, index: usize, now: Duration) -> Duration {
        let target = &self.route.targets()[index];
        let breaker = target.breaker.closed_for(now, self.cooldown());
        let model = target.model.as_deref().unwrap_or_default();
        let keys = match (self.own_keys)(&target.provider.name) {
            Some(key) => self
                .own_health(&target.provider, key)
                .and_then(|health| health.benched_for(now, model))
                .map(|(left, _)| left),
            None => target.provider.keys.benched_for(now, model),
        };
        breaker.max(keys).unwrap_or_default()
    }

    fn is_available(&self, index: usize, now: Duration) -> bool {
        self.is_usable(index) && self.wait(index, now).is_zero()
    }

    fn own_health(&self, provider: &Provider, key: &Secret) -> Option<Arc<KeyHealth>> {
        self.registry.own(&provider.name, &provider.address_text, key)
    }

    /// A further attempt, if the target's retry budget has one left.
    fn further(&mut self, index: usize, now: Duration) -> Option<Attempt<'r>> {
        let share = self.route.router.retry_budget;
        let breaker = &self.route.targets()[index].breaker;
        if !self.is_available(index, now) || !breaker.may_retry(now, share) {
            return None;
        }
        let attempt = self.try_target(index, now, false)?;
        attempt.target.breaker.take_retry(now, share).then_some(attempt)
    }

    fn try_target(&mut self, index: usize, now: Duration, any_key: bool) -> Option<Attempt<'r>> {
        if !self.is_usable(index) {
            return None;
        }
        let target = &self.route.targets()[index];
        let provider = &target.provider;
        let model = target.model.as_deref().unwrap_or_default();
        // first, for a key that is taken is taken
        if target.breaker.closed_for(now, self.cooldown()).is_some() {
            return None;
        }
        let key = match (self.own_keys)(&provider.name) {
            Some(key) => {
                let health = self.own_health(provider, key);
                let benched = health.as_ref().and_then(|health| health.benched_for(now, model));
                let at_its_rate = benched.is_some_and(|(_, fault)| fault == KeyFault::RateLimited);
                if at_its_rate || benched.is_some() && !any_key {
                    return None;
                }
                AttemptKey::Own(health)
            }
            None if provider.keys.keys().is_empty() => AttemptKey::Other,
            None => {
                let picked = provider.keys.pick(now, model, self.tokens, self.cooldown());
                let least_bad = || provider.keys.least_bad(now, model).filter(|_| any_key);
                AttemptKey::Pooled(picked.or_else(least_bad)?)
            }
        };
        let permit = target.breaker.admit(now, self.cooldown()).ok()?;
        self.last = Some(index);
        self.made += 1;
        Some(Attempt { target, permit, key })
    }
}

impl Attempt<'_> {
    /// The provider to call.
    pub fn provider(&self) -> &Arc<Provider> {
        &self.target.provider
    }
}
