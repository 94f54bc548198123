//! A token bucket that is counted exactly: so many a minute, full at the start, refilled evenly.
//!
//! The level is kept in nanosecond-shares: one thing is worth as many as a minute has nanoseconds, and each nanosecond adds
//! as many as things may pass in a minute. So nothing is ever rounded, whatever the limit and however often it is looked at.
//!
//! What was taken can be given back as long as the bucket has not been full since: a bucket that was full would have been
//! full without the taking too, and to add to it afterwards would let more pass than the limit says. One that came close may
//! get back more than would have fitted in at that time; it never holds more than its size.

use std::time::Duration;

use tokio::time::Instant;

/// What one thing is worth: the nanoseconds of a minute.
const ONE: i128 = 60_000_000_000;

/// A bucket of `per_minute` things; without a limit everything passes and nothing is counted.
#[derive(Debug)]
pub(super) struct Bucket {
    per_minute: Option<u64>,
    /// What is in it. Less than nothing: a debt.
    level: i128,
    refilled_at: Instant,
    /// How often it was found full.
    fulls: u64,
}

/// When something was taken from a bucket: it may go back only into the same filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filling(u64);

impl Bucket {
    /// A full one.
    pub(super) fn new(per_minute: Option<u64>, now: Instant) -> Self {
        let mut bucket = Self {
            per_minute: None,
            level: 0,
            refilled_at: now,
            fulls: 0,
        };
        bucket.resize(per_minute, now);
        bucket
    }

    /// Adds what has come since the last time.
    pub(super) fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled_at).as_nanos() as i128;
        self.refilled_at = self.refilled_at.max(now);
        if let Some(per_minute) = self.per_minute {
            self.add(elapsed.saturating_mul(i128::from(per_minute)));
        }
    }

    /// Changes the limit; what was used stays used. A bucket that had no limit begins full.
    pub(super) fn resize(&mut self, per_minute: Option<u64>, now: Instant) {
        self.refill(now);
        let before = self.per_minute;
        // WHY: nothing would ever pass a limit of none, and its waiting time has no number.
        self.per_minute = per_minute.map(|count| count.max(1));
        let Some(after) = self.per_minute else {
            return;
        };
        match before {
            // A bucket of the new size would have lost no more than this one did: what it has more of is there.
            Some(before) => self.add(worth(after.saturating_sub(before))),
            None => {
                self.level = capacity(after);
                self.fulls += 1;
            }
        }
    }

    /// How long until `cost` things may pass once `ahead` things have passed before; nothing: now. Something larger
    /// than the whole bucket passes when it is full.
    pub(super) fn wait_for(&self, ahead: u128, cost: u64) -> Duration {
        let Some(per_minute) = self.per_minute else {
            return Duration::ZERO;
        };
        let ahead = i128::try_from(ahead).unwrap_or(i128::MAX).saturating_mul(ONE);
        let needed = ahead.saturating_add(worth(cost).min(capacity(per_minute)));
        let missing = needed.saturating_sub(self.level).max(0);
        let nanos = missing.unsigned_abs().div_ceil(u128::from(per_minute));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes, into debt if need be.
    pub(super) fn take(&mut self, cost: u64) -> Filling {
        if self.per_minute.is_some() {
            self.level = self.level.saturating_sub(worth(cost));
        }
        Filling(self.fulls)
    }

    /// Puts back what was taken from the same filling; from an earlier one nothing is left to give back.
    pub(super) fn give_back(&mut self, count: u64, taken: Filling) {
        if self.per_minute.is_some() && taken.0 == self.fulls {
            self.add(worth(count));
        }
    }

    fn add(&mut self, worth: i128) {
        let Some(per_minute) = self.per_minute else {
            return;
        };
        let capacity = capacity(per_minute);
        let level = self.level.saturating_add(worth);
        if level >= capacity && self.level != capacity {
            self.fulls += 1;
        }
        self.level = level.min(capacity);
    }
}

fn worth(count: u64) -> i128 {
    i128::from(count) * ONE
}

fn capacity(per_minute: u64) -> i128 {
    worth(per_minute)
}
