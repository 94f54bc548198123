//! The rate rule: `n` places at once, refilled evenly over a minute. Pure; time comes in.
//!
//! A bucket is one number, `full_at`: when all its places are free again. What is taken moves it into the future, a place by
//! one interval (a minute ÷ n); it is refused if that leads further than `n` intervals ahead. So `n` pass at once, and in
//! `t` seconds at most `n + n·t/60` (the generic cell rate algorithm). When `n` changes, the share that is used up carries
//! over.
//!
//! A request takes one place of requests, and as many of tokens as it is thought to use. Once it is known what it used, the
//! difference is taken too, or given back: then a bucket of tokens may be further ahead than a minute, and nothing passes
//! until that is paid off.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

const MINUTE_NANOS: u64 = 60_000_000_000;

/// No bucket is further ahead: more is a slip of somebody's meter.
const FURTHEST_NANOS: u64 = 24 * 60 * MINUTE_NANOS;

/// When all places of a bucket are free again, in nanoseconds of some clock that never goes backwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FullAt(pub u64);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Unit {
    /// Requests.
    Requests,
    /// Tokens of models.
    Tokens,
}

/// So many of something a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    most: NonZeroU64,
    unit: Unit,
}

/// What is left after something was let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// Places that would pass now.
    pub remaining: u64,
    /// Until everything is free again.
    pub reset: Duration,
}

impl Rate {
    /// So many requests a minute.
    pub fn requests(most: NonZeroU32) -> Self {
        Self {
            most: most.into(),
            unit: Unit::Requests,
        }
    }

    /// So many tokens a minute.
    pub fn tokens(most: NonZeroU64) -> Self {
        Self {
            most,
            unit: Unit::Tokens,
        }
    }

    /// How many a minute.
    pub fn most(self) -> u64 {
        self.most.get()
    }

    /// Of what.
    pub fn unit(self) -> Unit {
        self.unit
    }

    /// Takes some places, at most as many as there are; the error is the exact time after which they would be there.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take(self, bucket: FullAt, now: u64, places: u64) -> Result<(FullAt, Room), Duration> {
        let amount = self.amount(places);
        let ahead = self.ahead(bucket, now);
        let most = self.capacity() - amount;
        if ahead > most {
            return Err(Duration::from_nanos(ahead - most));
        }
        let ahead = ahead + amount;
        Ok((FullAt(now.saturating_add(ahead)), self.room(ahead)))
    }

    /// Returns some places.
    pub fn give_back(self, bucket: FullAt, places: u64) -> FullAt {
        FullAt(bucket.0.saturating_sub(self.amount_unbounded(places)))
    }

    /// Takes some places whether they are there or not.
    pub fn charge(self, bucket: FullAt, now: u64, places: u64) -> FullAt {
        let ahead = self
            .ahead(bucket, now)
            .saturating_add(self.amount_unbounded(places));
        FullAt(now.saturating_add(ahead.min(FURTHEST_NANOS)))
    }

    /// What a bucket that is filled `ahead` nanoseconds into the future has left.
    pub fn room(self, ahead: u64) -> Room {
        let free = self.capacity().saturating_sub(ahead);
        let remaining = match self.unit {
            Unit::Requests => free / self.interval(),
            Unit::Tokens => scaled(free, self.most.get(), MINUTE_NANOS),
        };
        Room {
            remaining,
            reset: Duration::from_nanos(ahead),
        }
    }

    /// Places that are there in a bucket which is full again after this time.
    pub fn room_of(self, until_full: Duration) -> u64 {
        self.room(u64::try_from(until_full.as_nanos()).unwrap_or(u64::MAX))
            .remaining
    }

    /// When everything is free again, for one that has to wait this long for its places.
    pub fn reset_when_refused(self, wait: Duration, places: u64) -> Duration {
        wait + Duration::from_nanos(self.capacity() - self.amount(places))
    }

    /// This rate for one of `instances`, rounded down, one a minute at least.
    #[must_use]
    pub fn share_of(self, instances: u32) -> Self {
        let share = self.most.get() / u64::from(instances.max(1));
        Self {
            most: NonZeroU64::new(share).unwrap_or(NonZeroU64::MIN),
            ..self
        }
    }

    /// Of requests never more than the capacity: a bucket filled under another rate counts as used up at most.
    fn ahead(self, bucket: FullAt, now: u64) -> u64 {
        let ahead = bucket.0.saturating_sub(now);
        match self.unit {
            Unit::Requests => ahead.min(self.capacity()),
            Unit::Tokens => ahead.min(FURTHEST_NANOS),
        }
    }

    fn amount(self, places: u64) -> u64 {
        self.amount_unbounded(places.min(self.most.get()))
    }

    fn amount_unbounded(self, places: u64) -> u64 {
        match self.unit {
            Unit::Requests => self.interval().saturating_mul(places),
            // rounded once for all of them: tokens are many
            Unit::Tokens => {
                let nanos = (u128::from(places) * u128::from(MINUTE_NANOS)).div_ceil(self.most.get().into());
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
        }
    }

    fn interval(self) -> u64 {
        MINUTE_NANOS.div_ceil(self.most.get())
    }

    fn capacity(self) -> u64 {
        match self.unit {
            Unit::Requests => self.interval().saturating_mul(self.most.get()),
            Unit::Tokens => MINUTE_NANOS,
        }
    }
}

/// `number × numerator ÷ denominator`, rounded down.
fn scaled(number: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(number) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(n: u32) -> Rate {
        Rate::requests(NonZeroU32::new(n).unwrap())
    }

    fn tokens(n: u64) -> Rate {
        Rate::tokens(NonZeroU64::new(n).unwrap())
    }

    #[test]
    fn n_pass_at_once_and_the_next_one_waits_exactly_one_interval() {
        for n in [1, 2, 7, 60, 600, 1_000_000] {
            let (rate, mut bucket, now) = (rate(n), FullAt::default(), 5 * SECOND);
            for left in (0..n).rev() {
                let (next, room) = rate.take(bucket, now, 1).unwrap();
                assert_eq!(room.remaining, u64::from(left));
                bucket = next;
            }
            let wait = rate.take(bucket, now, 1).unwrap_err();
            assert_eq!(wait.as_nanos() as u64, MINUTE_NANOS.div_ceil(u64::from(n)));
            let later = now + wait.as_nanos() as u64;
            assert!(rate.take(bucket, later - 1, 1).is_err());
            assert!(rate.take(bucket, later, 1).is_ok());
        }
    }

    #[test]
    fn a_place_given_back_can_be_taken_again() {
        let rate = rate(2);
        let (bucket, _) = rate.take(FullAt::default(), SECOND, 1).unwrap();
        let (bucket, _) = rate.take(bucket, SECOND, 1).unwrap();
        assert!(rate.take(bucket, SECOND, 1).is_err());
        let (_, room) = rate.take(rate.give_back(bucket, 1), SECOND, 1).unwrap();
        assert_eq!(room.remaining, 0);
    }

    #[test]
    fn the_used_share_carries_over_when_the_rate_changes() {
        let mut bucket = FullAt::default();
        for _ in 0..500 {
            bucket = rate(1000).take(bucket, SECOND, 1).unwrap().0;
        }
        assert_eq!(rate(10).take(bucket, SECOND, 1).unwrap().1.remaining, 4);
    }

    #[test]
    fn a_share_is_never_nothing() {
        assert_eq!(rate(60).share_of(7), rate(8));
        assert_eq!(rate(2).share_of(7), rate(1));
        assert_eq!(rate(2).share_of(0), rate(2));
    }

    #[test]
    fn the_largest_rates_do_not_overflow() {
        for n in [u32::MAX, u32::MAX - 1, 1] {
            for now in [0, u64::MAX / 2, u64::MAX] {
                let (bucket, _) = rate(n).take(FullAt(u64::MAX), now, 1).unwrap_or_default();
                let _ = rate(n).take(bucket, now, 1);
            }
        }
    }

    #[test]
    fn tokens_are_taken_by_the_thousand_and_corrected_later() {
        let rate = tokens(1000);
        let (bucket, room) = rate.take(FullAt::default(), SECOND, 600).unwrap();
        assert_eq!((room.remaining, room.reset), (400, Duration::from_secs(36)));
        assert_eq!(rate.take(bucket, SECOND, 500), Err(Duration::from_secs(6)));
        // it used less
        let bucket = rate.give_back(bucket, 100);
        let (bucket, room) = rate.take(bucket, SECOND, 500).unwrap();
        assert_eq!(room.remaining, 0);
        // it used far more
        let bucket = rate.charge(bucket, SECOND, 2000);
        assert_eq!(rate.take(bucket, SECOND, 1), Err(Duration::from_millis(120_060)));
        assert_eq!(
            rate.reset_when_refused(Duration::from_millis(120_060), 1),
            Duration::from_mins(3)
        );
        // more than all of them is all of them
        assert_eq!(rate.take(bucket, 181 * SECOND, 5000).unwrap().1.remaining, 0);
        let most = tokens(crate::domain::Limits::MOST_TPM);
        let (bucket, room) = most.take(FullAt::default(), SECOND, 1).unwrap();
        assert_eq!(room.remaining, crate::domain::Limits::MOST_TPM - 1);
        assert_eq!(most.charge(bucket, SECOND, u64::MAX).0, SECOND + FURTHEST_NANOS);
    }

    proptest! {
        #[test]
        fn of_tokens_no_more_pass_than_the_rate_whatever_they_were_thought_to_be(
            n in 1u64..5000,
            steps in proptest::collection::vec((0u64..3 * SECOND, 1u64..9000, 0u64..9000), 1..200),
        ) {
            let rate = tokens(n);
            let (mut bucket, mut now, mut used) = (FullAt::default(), SECOND, Vec::new());
            for (gap, thought, truly) in steps {
                now += gap;
                if let Ok((next, _)) = rate.take(bucket, now, thought) {
                    let thought = thought.min(n);
                    bucket = if truly > thought {
                        rate.charge(next, now, truly - thought)
                    } else {
                        rate.give_back(next, thought - truly)
                    };
                    used.push((now, truly));
                }
            }
            // all that was used, but for the last request, which may owe
            if let Some(((end, _), before)) = used.split_last().map(|(last, before)| (*last, before)) {
                let total: u128 = before.iter().map(|(_, truly)| u128::from(*truly)).sum();
                let first = used[0].0;
                let allowed = u128::from(n) * u128::from(MINUTE_NANOS) + u128::from(n) * u128::from(end - first);
                prop_assert!(total * u128::from(MINUTE_NANOS) <= allowed, "{total}");
            }
        }

        #[test]
        fn in_any_window_at_most_n_and_the_refill_pass(
            n in 1u32..2000,
            gaps in proptest::collection::vec(0u64..3 * SECOND, 1..400),
        ) {
            let rate = rate(n);
            let (mut bucket, mut now, mut passed) = (FullAt::default(), SECOND, Vec::new());
            for gap in gaps {
                now += gap;
                match rate.take(bucket, now, 1) {
                    Ok((next, _)) => { bucket = next; passed.push(now); }
                    Err(wait) => {
                        let nanos = wait.as_nanos() as u64;
                        prop_assert!(nanos > 0);
                        prop_assert!(rate.take(bucket, now + nanos, 1).is_ok());
                        prop_assert!(rate.take(bucket, now + nanos - 1, 1).is_err());
                    }
                }
            }
            for (first, start) in passed.iter().enumerate() {
                for (last, end) in passed.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u128;
                    let allowed = u128::from(n) * u128::from(MINUTE_NANOS) + u128::from(n) * u128::from(end - start);
                    prop_assert!(count * u128::from(MINUTE_NANOS) <= allowed);
                }
            }
        }
    }
}
