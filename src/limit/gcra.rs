//! The rate rule: `n` requests at once, refilled evenly over a minute. Pure; time comes in.
//!
//! A bucket is one number, `full_at`: when all its places are free again. A request moves it one interval
//! (a minute ÷ n, rounded up to a nanosecond) into the future; it is refused if that leads further than `n`
//! intervals ahead. So `n` pass at once, and in `t` seconds at most `n + n·t/60` (the generic cell rate
//! algorithm). When `n` changes, the share that is used up carries over.

use std::num::NonZeroU32;
use std::time::Duration;

const MINUTE_NANOS: u64 = 60_000_000_000;

/// When all places of a bucket are free again, in nanoseconds of some clock that never goes backwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FullAt(pub u64);

/// Requests a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate(pub NonZeroU32);

/// What is left after a request was let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// Requests that would pass now.
    pub remaining: u32,
    /// Until everything is free again.
    pub reset: Duration,
}

impl Rate {
    /// Takes one place; the error is the exact time after which the next request passes.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take(self, bucket: FullAt, now: u64) -> Result<(FullAt, Room), Duration> {
        let ahead = self.ahead(bucket, now);
        let most = self.capacity() - self.interval();
        if ahead > most {
            return Err(Duration::from_nanos(ahead - most));
        }
        let ahead = ahead + self.interval();
        Ok((FullAt(now.saturating_add(ahead)), self.room(ahead)))
    }

    /// Returns one place.
    pub fn give_back(self, bucket: FullAt) -> FullAt {
        FullAt(bucket.0.saturating_sub(self.interval()))
    }

    /// What a bucket that is filled `ahead` nanoseconds into the future has left.
    pub fn room(self, ahead: u64) -> Room {
        let free = self.capacity().saturating_sub(ahead) / self.interval();
        Room {
            remaining: u32::try_from(free).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(ahead),
        }
    }

    /// When everything is free again, for a request that has to wait this long.
    pub fn reset_when_refused(self, wait: Duration) -> Duration {
        wait + Duration::from_nanos(self.capacity() - self.interval())
    }

    /// This rate for one of `instances`, rounded down, one a minute at least.
    #[must_use]
    pub fn share_of(self, instances: u32) -> Self {
        Self(NonZeroU32::new(self.0.get() / instances.max(1)).unwrap_or(NonZeroU32::MIN))
    }

    /// Never more than the capacity: a bucket filled under another rate counts as used up at most.
    fn ahead(self, bucket: FullAt, now: u64) -> u64 {
        bucket.0.saturating_sub(now).min(self.capacity())
    }

    fn interval(self) -> u64 {
        MINUTE_NANOS.div_ceil(u64::from(self.0.get()))
    }

    fn capacity(self) -> u64 {
        self.interval() * u64::from(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(n: u32) -> Rate {
        Rate(NonZeroU32::new(n).unwrap())
    }

    #[test]
    fn n_pass_at_once_and_the_next_one_waits_exactly_one_interval() {
        for n in [1, 2, 7, 60, 600, 1_000_000] {
            let (rate, mut bucket, now) = (rate(n), FullAt::default(), 5 * SECOND);
            for left in (0..n).rev() {
                let (next, room) = rate.take(bucket, now).unwrap();
                assert_eq!(room.remaining, left);
                bucket = next;
            }
            let wait = rate.take(bucket, now).unwrap_err();
            assert_eq!(wait.as_nanos() as u64, MINUTE_NANOS.div_ceil(u64::from(n)));
            let later = now + wait.as_nanos() as u64;
            assert!(rate.take(bucket, later - 1).is_err());
            assert!(rate.take(bucket, later).is_ok());
        }
    }

    #[test]
    fn a_place_given_back_can_be_taken_again() {
        let rate = rate(2);
        let (bucket, _) = rate.take(FullAt::default(), SECOND).unwrap();
        let (bucket, _) = rate.take(bucket, SECOND).unwrap();
        assert!(rate.take(bucket, SECOND).is_err());
        let (_, room) = rate.take(rate.give_back(bucket), SECOND).unwrap();
        assert_eq!(room.remaining, 0);
    }

    #[test]
    fn the_used_share_carries_over_when_the_rate_changes() {
        let mut bucket = FullAt::default();
        for _ in 0..500 {
            bucket = rate(1000).take(bucket, SECOND).unwrap().0;
        }
        assert_eq!(rate(10).take(bucket, SECOND).unwrap().1.remaining, 4);
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
                let (bucket, _) = rate(n).take(FullAt(u64::MAX), now).unwrap_or_default();
                let _ = rate(n).take(bucket, now);
            }
        }
    }

    proptest! {
        #[test]
        fn in_any_window_at_most_n_and_the_refill_pass(
            n in 1u32..2000,
            gaps in proptest::collection::vec(0u64..3 * SECOND, 1..400),
        ) {
            let rate = rate(n);
            let (mut bucket, mut now, mut passed) = (FullAt::default(), SECOND, Vec::new());
            for gap in gaps {
                now += gap;
                match rate.take(bucket, now) {
                    Ok((next, _)) => { bucket = next; passed.push(now); }
                    Err(wait) => {
                        let nanos = wait.as_nanos() as u64;
                        prop_assert!(nanos > 0);
                        prop_assert!(rate.take(bucket, now + nanos).is_ok());
                        prop_assert!(rate.take(bucket, now + nanos - 1).is_err());
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
