//! Rate buckets in this process: sharded, bounded, exact under any concurrency.
//!
//! In a fleet they are what each instance falls back to while Redis does not answer. So that both together
//! never give more than the rate, they learn from each answer of Redis how much of a bucket is used up, and
//! remember what was given without Redis (`owed`) until Redis was told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;

use super::charge::{Charge, Key, MOST_CHARGES, Refusal};
use super::gcra::{FullAt, Room};
use crate::domain::Clock;

const SHARDS: usize = 64;
/// Buckets kept in all. Above it a shard forgets those that are full, and if these are too few, the eighth
/// that is nearest to full: they start full again. Counted in `forgotten`.
const MOST_BUCKETS: usize = 262_144;

/// Buckets by what they limit. What is asked comes with each call, so that changed limits hold at once and
/// buckets carry over.
pub(super) struct LocalRates {
    shards: Box<[Mutex<Shard>]>,
    most_per_shard: usize,
    hasher: DefaultHashBuilder,
    clock: Arc<dyn Clock>,
    forgotten: AtomicU64,
    /// Buckets with something owed; nothing is looked for while it is 0.
    owing: AtomicUsize,
}

type Shard = HashMap<Key, Kept, DefaultHashBuilder>;

#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    full_at: FullAt,
    /// Places given without Redis, of which it was not told yet.
    owed: u64,
}

/// As what this process gives places of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Of how many instances it is one: each gives its part of a rate.
    pub(super) instances: u32,
    /// Whether Redis must be told of them later.
    pub(super) owing: bool,
}

impl Share {
    /// Nobody else gives any.
    pub(super) const WHOLE: Self = Self {
        instances: 1,
        owing: false,
    };
}

impl LocalRates {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_bound(clock, MOST_BUCKETS)
    }

    fn with_bound(clock: Arc<dyn Clock>, most_buckets: usize) -> Self {
        let hasher = DefaultHashBuilder::default();
        Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(HashMap::with_hasher(hasher.clone())))
                .collect(),
            most_per_shard: most_buckets.div_ceil(SHARDS).max(8),
            hasher,
            clock,
            forgotten: AtomicU64::new(0),
            owing: AtomicUsize::new(0),
        }
    }

    /// Takes the places of each, or of none.
    pub(super) fn take(&self, charges: &[Charge], share: Share) -> Result<[Room; MOST_CHARGES], Refusal> {
        let now = nanos(self.clock.monotonic());
        let mut rooms = [Room::default(); MOST_CHARGES];
        for (index, (charge, room)) in charges.iter().zip(&mut rooms).enumerate() {
            match self.take_one(charge, share, now) {
                Ok(left) => *room = left,
                Err(wait) => {
                    self.give_back(&charges[..index], share);
                    return Err(Refusal { index, wait });
                }
            }
        }
        Ok(rooms)
    }

    /// Returns the places of each.
    pub(super) fn give_back(&self, charges: &[Charge], share: Share) {
        for charge in charges {
            let mut shard = self.shard(charge.key()).lock();
            if let Some(kept) = shard.get_mut(&charge.key()) {
                let rate = charge.rate.share_of(share.instances);
                kept.full_at = rate.give_back(kept.full_at, charge.places);
                if share.owing {
                    self.owe(kept, kept.owed.saturating_sub(charge.places));
                }
            }
        }
    }

    /// Takes the places of each whether they are there or not: they are used already.
    pub(super) fn take_anyway(&self, charges: &[Charge], share: Share) {
        let now = nanos(self.clock.monotonic());
        for charge in charges {
            let mut shard = self.shard(charge.key()).lock();
            let kept = self.kept(&mut shard, charge.key(), now);
            let rate = charge.rate.share_of(share.instances);
            kept.full_at = rate.charge(kept.full_at, now, charge.places);
            if share.owing {
                self.owe(kept, kept.owed.saturating_add(charge.places));
            }
        }
    }

    /// What Redis said of a bucket: everything is free again after `until_full`. The part of the rate that is
    /// used up there is used up here, and never less than was known.
    pub(super) fn learn(&self, bucket: Key, until_full: Duration) {
        let now = nanos(self.clock.monotonic());
        let full_at = FullAt(now.saturating_add(nanos(until_full)));
        let mut shard = self.shard(bucket).lock();
        let kept = self.kept(&mut shard, bucket, now);
        kept.full_at = kept.full_at.max(full_at);
    }

    /// What Redis was not told of each bucket yet. Whoever asks tells it, or says [`owe_again`](Self::owe_again).
    pub(super) fn take_owed(&self, charges: &[Charge]) -> [u64; MOST_CHARGES] {
        let mut owed = [0; MOST_CHARGES];
        if self.owing.load(Ordering::Acquire) == 0 {
            return owed;
        }
        for (charge, owed) in charges.iter().zip(&mut owed) {
            if let Some(kept) = self.shard(charge.key()).lock().get_mut(&charge.key()) {
                *owed = kept.owed;
                self.owe(kept, 0);
            }
        }
        owed
    }

    /// Redis was not told after all, or nobody knows: then the bucket is rather charged twice than not at all.
    pub(super) fn owe_again(&self, charges: &[Charge], owed: [u64; MOST_CHARGES]) {
        for (charge, owed) in charges.iter().zip(owed) {
            if owed > 0 {
                let mut shard = self.shard(charge.key()).lock();
                let now = nanos(self.clock.monotonic());
                let kept = self.kept(&mut shard, charge.key(), now);
                self.owe(kept, kept.owed.saturating_add(owed).min(charge.rate.most()));
            }
        }
    }

    /// Redis took the places for somebody who was answered without it: so many less are owed.
    pub(super) fn settle(&self, charge: &Charge) {
        if let Some(kept) = self.shard(charge.key()).lock().get_mut(&charge.key()) {
            self.owe(kept, kept.owed.saturating_sub(charge.places));
        }
    }

    /// Buckets that were forgotten before they were full.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Buckets kept now.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn take_one(&self, charge: &Charge, share: Share, now: u64) -> Result<Room, Duration> {
        let mut shard = self.shard(charge.key()).lock();
        let kept = self.kept(&mut shard, charge.key(), now);
        let rate = charge.rate.share_of(share.instances);
        let (next, room) = rate.take(kept.full_at, now, charge.places)?;
        kept.full_at = next;
        if share.owing {
            let owed = kept.owed.saturating_add(charge.places);
            self.owe(kept, owed.min(charge.rate.most()));
        }
        Ok(room)
    }

    fn kept<'shard>(&self, shard: &'shard mut Shard, bucket: Key, now: u64) -> &'shard mut Kept {
        if shard.len() >= self.most_per_shard && !shard.contains_key(&bucket) {
            let gone = make_room(shard, now);
            self.forgotten.fetch_add(gone.in_use, Ordering::Relaxed);
            self.owing.fetch_sub(gone.owing, Ordering::AcqRel);
        }
        shard.entry(bucket).or_default()
    }

    fn owe(&self, kept: &mut Kept, owed: u64) {
        match (kept.owed, owed) {
            (0, 1..) => {
                self.owing.fetch_add(1, Ordering::AcqRel);
            }
            (1.., 0) => {
                self.owing.fetch_sub(1, Ordering::AcqRel);
            }
            (0, 0) | (1.., 1..) => {}
        }
        kept.owed = owed;
    }

    fn shard(&self, bucket: Key) -> &Mutex<Shard> {
        &self.shards[(self.hasher.hash_one(bucket) >> 16) as usize % SHARDS]
    }
}

/// What a shard lost at the bound.
#[derive(Debug, Default)]
struct Gone {
    /// Buckets that were not full.
    in_use: u64,
    /// Buckets with something owed.
    owing: usize,
}

/// Frees at least an eighth of a shard, so that the work is paid once in many insertions.
fn make_room(shard: &mut Shard, now: u64) -> Gone {
    let mut gone = Gone::default();
    let before = shard.len();
    keep_those(shard, &mut gone, |kept| kept.full_at.0 > now);
    let wanted = before - before / 8;
    if shard.len() <= wanted {
        return gone;
    }
    let in_use = shard.len();
    let mut by_time: Vec<FullAt> = shard.values().map(|kept| kept.full_at).collect();
    let (_, threshold, _) = by_time.select_nth_unstable(in_use - wanted - 1);
    let threshold = *threshold;
    keep_those(shard, &mut gone, |kept| kept.full_at > threshold);
    gone.in_use = (in_use - shard.len()) as u64;
    gone
}

fn keep_those(shard: &mut Shard, gone: &mut Gone, wanted: impl Fn(&Kept) -> bool) {
    shard.retain(|_, kept| {
        let keep = wanted(kept);
        if !keep && kept.owed > 0 {
            gone.owing += 1;
        }
        keep
    });
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ManualClock, ProjectId, Timestamp, TokenId};
    use crate::limit::charge::Bucket;
    use crate::limit::gcra::Rate;
    use std::num::NonZeroU32;

    fn token(number: u32, rpm: u32) -> Charge {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Charge {
            bucket: Bucket::Token {
                token: TokenId::from_bytes(bytes),
                project: ProjectId::from_bytes([0; 16]),
            },
            rate: Rate::requests(NonZeroU32::new(rpm).unwrap()),
            places: 1,
        }
    }

    fn project(rpm: u32) -> Charge {
        Charge {
            bucket: Bucket::Project(ProjectId::from_bytes([0; 16])),
            rate: Rate::requests(NonZeroU32::new(rpm).unwrap()),
            places: 1,
        }
    }

    #[test]
    fn when_the_project_refuses_the_place_of_the_token_is_returned() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let rates = LocalRates::new(clock.clone());
        let charges = [token(1, 10), project(3)];
        for _ in 0..3 {
            rates.take(&charges, Share::WHOLE).unwrap();
        }
        for _ in 0..20 {
            let refusal = rates.take(&charges, Share::WHOLE).unwrap_err();
            assert_eq!((refusal.index, refusal.wait), (1, Duration::from_secs(20)));
        }
        assert_eq!(
            rates.take(&charges[..1], Share::WHOLE).unwrap()[0].remaining,
            6,
            "10 - 3 - this one"
        );
    }

    #[test]
    fn a_bucket_refills_with_time_and_a_changed_limit_keeps_what_was_used() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let rates = LocalRates::new(clock.clone());
        for _ in 0..60 {
            rates.take(&[token(1, 60)], Share::WHOLE).unwrap();
        }
        assert_eq!(
            rates.take(&[token(1, 60)], Share::WHOLE).unwrap_err().wait,
            Duration::from_secs(1)
        );
        assert_eq!(
            rates.take(&[token(1, 6)], Share::WHOLE).unwrap_err().wait,
            Duration::from_secs(10)
        );
        clock.advance(Duration::from_secs(30));
        let room = rates.take(&[token(1, 6)], Share::WHOLE).unwrap()[0];
        assert_eq!((room.remaining, room.reset), (2, Duration::from_secs(40)));
    }

    #[test]
    fn at_the_bound_full_buckets_go_first_then_those_nearest_to_full() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let rates = LocalRates::with_bound(clock.clone(), SHARDS * 16);
        for number in 0..5_000 {
            rates.take(&[token(number, 60)], Share::WHOLE).unwrap();
            clock.advance(Duration::from_secs(2));
        }
        assert!(rates.len() <= SHARDS * 16);
        assert_eq!(rates.forgotten(), 0, "all that went were full again");

        let hot = token(9_999_999, 60);
        for _ in 0..60 {
            rates.take(&[hot], Share::WHOLE).unwrap();
        }
        for number in 10_000..20_000 {
            rates.take(&[token(number, 60)], Share::WHOLE).unwrap();
        }
        assert!(rates.len() <= SHARDS * 16);
        assert!(rates.forgotten() > 0);
        assert!(
            rates.take(&[hot], Share::WHOLE).is_err(),
            "the bucket that is used up is kept"
        );
    }

    #[test]
    fn exactly_n_pass_when_many_threads_take_at_once() {
        let rates = LocalRates::new(ManualClock::at(Timestamp::EPOCH));
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        if rates.take(&[token(1, 60), project(60)], Share::WHOLE).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 60);
    }
}
