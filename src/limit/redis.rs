//! Rates shared by a fleet: one atomic script on Redis, with Redis' own clock.
//!
//! A call that does not answer within `redis.timeout`, or fails, makes this instance do without Redis for a
//! second; then one request tries again while the others still do without. How many instances there are is
//! told by each of them to Redis every second, and remembered when Redis goes.
//!
//! A place must not be given twice at such a change: what is given without Redis is owed and charged at the
//! next call; what an answer says of a bucket is learned for the fallback; and an answer that comes too late
//! is still read, so that a place it took pays for one that is owed.
//!
//! Calls run on the runtime that is given at the start, where fred's own task lives. So a thread that is kept
//! busy by requests does not make Redis look slow.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use fred::clients::Client;
use fred::interfaces::{ClientLike as _, LuaInterface as _, SortedSetsInterface as _};
use fred::types::Builder;
use fred::types::config::{Config, Options, ReconnectPolicy, UnresponsiveConfig};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::LimitSettings;
use super::charge::{Bucket, Charge, Charges, MOST_CHARGES, Refusal};
use super::gcra::{Room, Unit};
use super::local::LocalRates;
use crate::domain::{Clock, Secret, TokenId, spawn};

const RATES: &str = include_str!("rates.lua");
const INSTANCES: &str = include_str!("instances.lua");

/// How long Redis is left alone after it failed.
const DO_WITHOUT: Duration = Duration::from_secs(1);
/// How often this instance says that it lives.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long an answer that comes too late is still waited for.
const LATE: Duration = Duration::from_secs(2);
const RECONNECT_MILLIS: u32 = 250;
/// Commands on their way to Redis at once; above it they fail and the fallback holds.
const MOST_COMMANDS: usize = 16_384;

/// Redis cannot be used as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`redis.url` cannot be used: {0}; write it like `redis://user:password@host:6379/0`")]
pub struct RedisUnusable(String);

/// Rate buckets in Redis.
pub struct RedisRates {
    client: Client,
    runtime: Handle,
    clock: Arc<dyn Clock>,
    settings: Arc<ArcSwap<LimitSettings>>,
    /// What this instance gives while Redis does not answer.
    local: Arc<LocalRates>,
    /// How this instance is known to the others.
    name: String,
    instances: AtomicU32,
    /// Monotonic microseconds from which on Redis may be tried again; 0 while it answers.
    try_at: AtomicU64,
    failures: AtomicU64,
    rates_sha: OnceLock<String>,
    /// Whether this instance said once that it lives.
    counted: watch::Sender<bool>,
}

/// What is charged with one call.
#[derive(Debug, Clone, Copy)]
struct Call {
    action: Action,
    charges: Charges,
    /// Places of each that were given without Redis.
    owed: [u64; MOST_CHARGES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The places of each, or of none.
    Take,
    /// Whatever is there: they are used already.
    TakeAnyway,
    /// They were not used.
    Give,
}

/// What Redis says to a call.
type Verdict = Result<[Room; MOST_CHARGES], Refusal>;

impl RedisRates {
    /// Begins to connect on `runtime` and keeps at it; does not wait for Redis.
    ///
    /// # Errors
    /// The URL cannot be understood.
    pub fn connect(
        url: &Secret,
        runtime: &Handle,
        clock: Arc<dyn Clock>,
        settings: Arc<ArcSwap<LimitSettings>>,
    ) -> Result<Arc<Self>, RedisUnusable> {
        let unusable = |error: fred::error::Error| RedisUnusable(error.details().to_owned());
        let mut config = Config::from_url(url.expose()).map_err(unusable)?;
        config.fail_fast = false;
        let client = Builder::from_config(config)
            .with_connection_config(|connection| {
                connection.connection_timeout = Duration::from_secs(2);
                connection.internal_command_timeout = Duration::from_secs(2);
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = MOST_COMMANDS;
                connection.reconnect_on_auth_error = true;
                connection.unresponsive = UnresponsiveConfig {
                    max_timeout: Some(Duration::from_secs(2)),
                    interval: Duration::from_millis(500),
                };
            })
            .set_policy(ReconnectPolicy::new_constant(0, RECONNECT_MILLIS))
            .build()
            .map_err(unusable)?;
        let rates = Arc::new(Self {
            client,
            runtime: runtime.clone(),
            local: Arc::new(LocalRates::new(Arc::clone(&clock))),
            clock,
            settings,
            name: TokenId::random().to_string(),
            instances: AtomicU32::new(1),
            try_at: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            rates_sha: OnceLock::new(),
            counted: watch::Sender::new(false),
        });
        let _entered = runtime.enter();
        drop(rates.client.connect());
        spawn::spawn("redis heartbeat", beat(Arc::downgrade(&rates)));
        Ok(rates)
    }

    /// Instances that were seen when Redis last answered, this one included.
    pub fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed)
    }

    /// Whether Redis answered when it was last asked.
    pub fn is_answering(&self) -> bool {
        self.try_at.load(Ordering::Relaxed) == 0
    }

    /// Waits until the others can count this instance; false when Redis does not answer within `timeout`.
    pub async fn joined_within(&self, timeout: Duration) -> bool {
        let mut counted = self.counted.subscribe();
        matches!(
            tokio::time::timeout(timeout, counted.wait_for(|counted| *counted)).await,
            Ok(Ok(_))
        )
    }

    /// The buckets of the fallback.
    pub(super) fn local(&self) -> Arc<LocalRates> {
        Arc::clone(&self.local)
    }

    /// Calls that failed or came too late, for metrics.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Tells the others that this instance stops, and closes the connection.
    pub async fn leave(&self) {
        let options = options(Duration::from_millis(500));
        let key = instances_key(&self.settings.load().prefix);
        let _: Result<i64, _> = self
            .client
            .with_options(&options)
            .zrem(key, self.name.as_str())
            .await;
        let _ = tokio::time::timeout(Duration::from_millis(500), self.client.quit()).await;
    }

    /// Takes the places of each, or of none. `None`: Redis does not answer.
    pub(super) async fn take(
        self: &Arc<Self>,
        charges: &Charges,
        settings: &Arc<LimitSettings>,
    ) -> Option<Verdict> {
        if !self.may_try() {
            return None;
        }
        let call = Box::new(Call {
            action: Action::Take,
            charges: *charges,
            owed: self.local.take_owed(charges),
        });
        let (answer, answered) = oneshot::channel();
        let asking = Arc::clone(self).ask(call, Arc::clone(settings), answer);
        spawn::spawn_on(&self.runtime, "redis rates", asking);
        answered.await.ok().flatten()
    }

    /// Returns the places of each; when Redis does not answer, they stay taken until they refill.
    pub(super) async fn give_back(&self, charges: &Charges, settings: &LimitSettings) {
        self.change(Action::Give, charges, settings).await;
    }

    /// Takes the places of each whether they are there or not, or returns them, in a task of its own. When Redis does not
    /// answer, what was to be taken is owed and charged at the next call, and what was to be returned refills.
    pub(super) fn correct(self: &Arc<Self>, charges: &Charges, used: bool, settings: Arc<LimitSettings>) {
        let action = if used { Action::TakeAnyway } else { Action::Give };
        let (rates, charges) = (Arc::clone(self), *charges);
        spawn::spawn_on(&self.runtime, "redis rates", async move {
            if !rates.change(action, &charges, &settings).await && used {
                let mut owed = [0; MOST_CHARGES];
                for (owed, charge) in owed.iter_mut().zip(&*charges) {
                    *owed = charge.places;
                }
                rates.local.owe_again(&charges, owed);
            }
        });
    }

    /// Whether Redis has done it.
    async fn change(&self, action: Action, charges: &Charges, settings: &LimitSettings) -> bool {
        if charges.is_empty() {
            return true;
        }
        if !self.may_try() {
            return false;
        }
        let call = Call {
            action,
            charges: *charges,
            owed: [0; MOST_CHARGES],
        };
        match tokio::time::timeout(settings.redis_timeout, self.call(&call, settings)).await {
            Ok(Ok(_)) => {
                self.answered();
                return true;
            }
            Ok(Err(error)) => self.failed(error.details()),
            Err(_) => self.failed("no answer in time"),
        }
        false
    }

    /// One call from beginning to end, also when nobody waits for its answer any more.
    async fn ask(
        self: Arc<Self>,
        call: Box<Call>,
        settings: Arc<LimitSettings>,
        answer: oneshot::Sender<Option<Verdict>>,
    ) {
        let mut calling = std::pin::pin!(self.call(&call, &settings));
        let verdict = match tokio::time::timeout(settings.redis_timeout, &mut calling).await {
            Ok(Ok(numbers)) => {
                self.answered();
                self.understand(&call, &numbers)
            }
            Ok(Err(error)) => {
                self.failed(error.details());
                None
            }
            Err(_) => {
                self.failed("no answer in time");
                // a receiver that is gone decided nothing, and what was taken for it goes back all the same
                let _ = answer.send(None);
                let late = tokio::time::timeout(LATE, calling).await;
                let verdict = late
                    .ok()
                    .and_then(Result::ok)
                    .and_then(|numbers| self.understand(&call, &numbers));
                self.settle_late(&call, verdict);
                return;
            }
        };
        if verdict.is_none() {
            self.local.owe_again(&call.charges, call.owed);
        }
        if answer.send(verdict).is_err() && matches!(verdict, Some(Ok(_))) {
            self.give_back(&call.charges, &settings).await;
        }
    }

    /// An answer that nobody waits for: who asked was answered without Redis. A place it took that pays for
    /// nothing stays taken until it refills: another instance may owe it, and would come too late.
    fn settle_late(&self, call: &Call, verdict: Option<Verdict>) {
        match verdict {
            None => self.local.owe_again(&call.charges, call.owed),
            Some(Err(_)) => {}
            Some(Ok(_)) => {
                for charge in &*call.charges {
                    self.local.settle(charge);
                }
            }
        }
    }

    /// Reads the script's answer, and learns from it for the fallback.
    fn understand(&self, call: &Call, numbers: &[i64]) -> Option<Verdict> {
        match numbers {
            [0, 0, pairs @ ..] if pairs.len() == call.charges.len() * 2 => {
                let mut rooms = [Room::default(); MOST_CHARGES];
                let charges = call.charges.iter();
                for ((room, pair), charge) in rooms.iter_mut().zip(pairs.chunks_exact(2)).zip(charges) {
                    room.remaining = u64::try_from(pair[0]).unwrap_or(0);
                    room.reset = micros(pair[1]);
                    self.local.learn(charge.key(), room.reset);
                }
                Some(Ok(rooms))
            }
            [index, wait] if (1..=call.charges.len() as i64).contains(index) => {
                let refusal = Refusal {
                    index: (*index - 1) as usize,
                    wait: micros(*wait),
                };
                let charge = call.charges[refusal.index];
                let reset = charge.rate.reset_when_refused(refusal.wait, charge.places);
                self.local.learn(charge.key(), reset);
                Some(Err(refusal))
            }
            _ => {
                self.failed("the answer of the script is not of the form that was agreed");
                None
            }
        }
    }

    async fn call(&self, call: &Call, settings: &LimitSettings) -> Result<Vec<i64>, fred::error::Error> {
        let charges = &call.charges;
        let keys: Vec<String> = charges
            .iter()
            .map(|charge| key(&settings.prefix, charge))
            .collect();
        let word = match call.action {
            Action::Take => "take",
            Action::TakeAnyway | Action::Give => "add",
        };
        let mut arguments = Vec::with_capacity(charges.len() * 4 + 1);
        arguments.push(word.to_owned());
        for (charge, owed) in charges.iter().zip(call.owed) {
            let sign = if call.action == Action::Give { "-" } else { "" };
            arguments.push(charge.rate.most().to_string());
            arguments.push(u8::from(charge.rate.unit() == Unit::Tokens).to_string());
            arguments.push(format!("{sign}{}", charge.places));
            arguments.push(owed.to_string());
        }
        let options = options(settings.redis_timeout + LATE);
        let client = self.client.with_options(&options);
        if let Some(sha) = self.rates_sha.get() {
            match client
                .evalsha(sha.as_str(), keys.clone(), arguments.clone())
                .await
            {
                Err(error) if error.details().starts_with("NOSCRIPT") => {}
                answered => return answered,
            }
        }
        client.eval(RATES, keys, arguments).await
    }

    fn answered(&self) {
        if self.try_at.swap(0, Ordering::Relaxed) != 0 {
            log::info!("redis answers again: rates are shared");
        }
    }

    /// While Redis is down one caller a second tries it.
    fn may_try(&self) -> bool {
        let try_at = self.try_at.load(Ordering::Relaxed);
        if try_at == 0 {
            return true;
        }
        let now = self.now();
        now >= try_at
            && self
                .try_at
                .compare_exchange(
                    try_at,
                    now + DO_WITHOUT.as_micros() as u64,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    fn failed(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let try_at = self.now() + DO_WITHOUT.as_micros() as u64;
        if self.try_at.swap(try_at, Ordering::Relaxed) == 0 {
            log::warn!("redis does not answer, rates fall back to `limits.distributed.fallback`: {why}");
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_micros())
            .unwrap_or(u64::MAX / 2)
            .max(1)
    }

    async fn beat_once(&self) -> Result<(), fred::error::Error> {
        let options = options(Duration::from_secs(1));
        let client = self.client.with_options(&options);
        if self.rates_sha.get().is_none() {
            let sha: String = client.script_load(RATES).await?;
            let _ = self.rates_sha.set(sha);
        }
        let key = instances_key(&self.settings.load().prefix);
        let count: i64 = client
            .eval(INSTANCES, vec![key], vec![self.name.as_str()])
            .await?;
        self.instances
            .store(u32::try_from(count).unwrap_or(1).max(1), Ordering::Relaxed);
        self.counted.send_replace(true);
        Ok(())
    }
}

/// Says every second that this instance lives, as long as someone holds it, from the first connection on.
async fn beat(rates: Weak<RedisRates>) {
    let client = rates.upgrade().map(|rates| rates.client.clone());
    if let Some(client) = client {
        // an error here is one of the connection: the beats below find out when there is one
        let _ = client.wait_for_connect().await;
    }
    while let Some(strong) = rates.upgrade() {
        // WHY: an instance that cannot say so is still one of those that were seen last
        let _ = strong.beat_once().await;
        drop(strong);
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

fn options(timeout: Duration) -> Options {
    Options {
        timeout: Some(timeout),
        max_attempts: Some(1),
        fail_fast: true,
        ..Options::default()
    }
}

/// Buckets of one call lie in one slot of a cluster: those of a token with its project's, those of
/// addresses with the global one. Addresses are hashed.
fn key(prefix: &str, charge: &Charge) -> String {
    let prefix = match charge.rate.unit() {
        Unit::Requests => format!("{prefix}rate:"),
        Unit::Tokens => format!("{prefix}tokens:"),
    };
    match charge.bucket {
        Bucket::Global => format!("{prefix}{{all}}"),
        Bucket::Address(address) => {
            let digest = Sha256::digest(address.to_string().as_bytes());
            let mut short = [0; 16];
            short.copy_from_slice(&digest[..16]);
            format!("{prefix}{{all}}:ip:{:032x}", u128::from_be_bytes(short))
        }
        Bucket::Token { token, project } => format!("{prefix}{{{project}}}:token:{token}"),
        Bucket::Project(project) => format!("{prefix}{{{project}}}"),
    }
}

fn instances_key(prefix: &str) -> String {
    format!("{prefix}instances")
}

fn micros(count: i64) -> Duration {
    Duration::from_micros(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
#[path = "redis_tests.rs"]
mod tests;
