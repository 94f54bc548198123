//! Rate buckets in this process: sharded, bounded, exact under any concurrency.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;

use super::charge::{Bucket, Charge, MOST_CHARGES, Refusal};
use super::gcra::{FullAt, Rate, Room};
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
}

type Shard = HashMap<Bucket, FullAt, DefaultHashBuilder>;

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
        }
    }

    /// Takes one place of each, or of none. Every instance of a fleet of `instances` gives its share.
    pub(super) fn take(&self, charges: &[Charge], instances: u32) -> Result<[Room; MOST_CHARGES], Refusal> {
        let now = nanos(self.clock.monotonic());
        let mut rooms = [Room::default(); MOST_CHARGES];
        for (index, (charge, room)) in charges.iter().zip(&mut rooms).enumerate() {
            match self.take_one(charge.bucket, charge.rate.share_of(instances), now) {
                Ok(left) => *room = left,
                Err(wait) => {
                    self.give_back(&charges[..index], instances);
                    return Err(Refusal { index, wait });
                }
            }
        }
        Ok(rooms)
    }

    /// Returns one place of each.
    pub(super) fn give_back(&self, charges: &[Charge], instances: u32) {
        for charge in charges {
            let mut shard = self.shard(charge.bucket).lock();
            if let Some(bucket) = shard.get_mut(&charge.bucket) {
                *bucket = charge.rate.share_of(instances).give_back(*bucket);
            }
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

    fn take_one(&self, bucket: Bucket, rate: Rate, now: u64) -> Result<Room, Duration> {
        let mut shard = self.shard(bucket).lock();
        if let Some(full_at) = shard.get_mut(&bucket) {
            let (next, room) = rate.take(*full_at, now)?;
            *full_at = next;
            return Ok(room);
        }
        if shard.len() >= self.most_per_shard {
            let forgotten = make_room(&mut shard, now);
            self.forgotten.fetch_add(forgotten, Ordering::Relaxed);
        }
        let (next, room) = rate.take(FullAt::default(), now)?;
        shard.insert(bucket, next);
        Ok(room)
    }

    fn shard(&self, bucket: Bucket) -> &Mutex<Shard> {
        &self.shards[(self.hasher.hash_one(bucket) >> 16) as usize % SHARDS]
    }
}

/// Frees at least an eighth of a shard, so that the work is paid once in many insertions. Answers how many
/// buckets that were not full had to go.
fn make_room(shard: &mut Shard, now: u64) -> u64 {
    let before = shard.len();
    shard.retain(|_, full_at| full_at.0 > now);
    let wanted = before - before / 8;
    if shard.len() <= wanted {
        return 0;
    }
    let in_use = shard.len();
    let excess = in_use - wanted;
    let mut by_time: Vec<FullAt> = shard.values().copied().collect();
    let (_, threshold, _) = by_time.select_nth_unstable(excess - 1);
    let threshold = *threshold;
    shard.retain(|_, full_at| *full_at > threshold);
    (in_use - shard.len()) as u64
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ManualClock, ProjectId, Timestamp, TokenId};
    use std::num::NonZeroU32;

    fn token(number: u32, rpm: u32) -> Charge {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Charge {
            bucket: Bucket::Token {
                token: TokenId::from_bytes(bytes),
                project: ProjectId::from_bytes([0; 16]),
            },
            rate: Rate(NonZeroU32::new(rpm).unwrap()),
        }
    }

    fn project(rpm: u32) -> Charge {
        Charge {
            bucket: Bucket::Project(ProjectId::from_bytes([0; 16])),
            rate: Rate(NonZeroU32::new(rpm).unwrap()),
        }
    }

    #[test]
    fn when_the_project_refuses_the_place_of_the_token_is_returned() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let rates = LocalRates::new(clock.clone());
        let charges = [token(1, 10), project(3)];
        for _ in 0..3 {
            rates.take(&charges, 1).unwrap();
        }
        for _ in 0..20 {
            let refusal = rates.take(&charges, 1).unwrap_err();
            assert_eq!((refusal.index, refusal.wait), (1, Duration::from_secs(20)));
        }
        assert_eq!(
            rates.take(&charges[..1], 1).unwrap()[0].remaining,
            6,
            "10 - 3 - this one"
        );
    }

    #[test]
    fn a_bucket_refills_with_time_and_a_changed_limit_keeps_what_was_used() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let rates = LocalRates::new(clock.clone());
        for _ in 0..60 {
            rates.take(&[token(1, 60)], 1).unwrap();
        }
        assert_eq!(
            rates.take(&[token(1, 60)], 1).unwrap_err().wait,
            Duration::from_secs(1)
        );
        assert_eq!(
            rates.take(&[token(1, 6)], 1).unwrap_err().wait,
            Duration::from_secs(10)
        );
        clock.advance(Duration::from_secs(30));
        let room = rates.take(&[token(1, 6)], 1).unwrap()[0];
        assert_eq!((room.remaining, room.reset), (2, Duration::from_secs(40)));
    }

    #[test]
    fn at_the_bound_full_buckets_go_first_then_those_nearest_to_full() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let rates = LocalRates::with_bound(clock.clone(), SHARDS * 16);
        for number in 0..5_000 {
            rates.take(&[token(number, 60)], 1).unwrap();
            clock.advance(Duration::from_secs(2));
        }
        assert!(rates.len() <= SHARDS * 16);
        assert_eq!(rates.forgotten(), 0, "all that went were full again");

        let hot = token(9_999_999, 60);
        for _ in 0..60 {
            rates.take(&[hot], 1).unwrap();
        }
        for number in 10_000..20_000 {
            rates.take(&[token(number, 60)], 1).unwrap();
        }
        assert!(rates.len() <= SHARDS * 16);
        assert!(rates.forgotten() > 0);
        assert!(
            rates.take(&[hot], 1).is_err(),
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
                        if rates.take(&[token(1, 60), project(60)], 1).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 60);
    }
}
