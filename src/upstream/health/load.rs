//! How much a target is asked, of late, and how it did: further attempts at one that is not well are a share of its
//! requests, so that one that is down is not asked twice as much. One that is well takes what others fail to answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::Share;

/// Seconds that are looked back.
const WINDOW: usize = 10;
/// Further attempts that are always allowed within the window.
const ALWAYS: u64 = 10;

/// A target of whose attempts no more than one in so many failed is well.
const WELL: u64 = 10;

/// Requests, further attempts and failures of the last ten seconds, second by second.
#[derive(Debug, Default)]
pub(super) struct Load {
    firsts: [AtomicU64; WINDOW],
    failures: [AtomicU64; WINDOW],
    retries: Mutex<[u64; WINDOW]>,
}

/// A second and what was counted in it.
fn unpack(slot: u64) -> (u64, u64) {
    (slot >> 32, slot & u64::from(u32::MAX))
}

fn counted(slot: u64, second: u64) -> u64 {
    if slot >> 32 == second {
        slot + 1
    } else {
        (second << 32) | 1
    }
}

fn sum(slots: impl Iterator<Item = u64>, second: u64) -> u64 {
    slots
        .map(unpack)
        .filter(|(at, _)| at + WINDOW as u64 > second && *at <= second)
        .map(|(_, count)| count)
        .sum()
}

fn second_of(now: Duration) -> u64 {
    now.as_secs() & u64::from(u32::MAX)
}

fn place_of(second: u64) -> usize {
    usize::try_from(second % WINDOW as u64).unwrap_or(0)
}

impl Load {
    /// A request's first attempt goes to the target.
    pub(super) fn first(&self, now: Duration) {
        count(&self.firsts, second_of(now));
    }

    /// An attempt at it has failed.
    pub(super) fn failed(&self, now: Duration) {
        count(&self.failures, second_of(now));
    }

    /// Whether a further attempt may go to it; it is counted then.
    pub(super) fn retry(&self, now: Duration, share: Share) -> bool {
        let second = second_of(now);
        let mut retries = self.retries.lock();
        if !self.allows(&retries, second, share) {
            return false;
        }
        let slot = &mut retries[place_of(second)];
        *slot = counted(*slot, second);
        true
    }

    /// Whether [`Self::retry`] would say yes.
    pub(super) fn may_retry(&self, now: Duration, share: Share) -> bool {
        self.allows(&self.retries.lock(), second_of(now), share)
    }

    fn allows(&self, retries: &[u64; WINDOW], second: u64, share: Share) -> bool {
        let total =
            |slots: &[AtomicU64; WINDOW]| sum(slots.iter().map(|slot| slot.load(Ordering::Relaxed)), second);
        let (firsts, further) = (total(&self.firsts), sum(retries.iter().copied(), second));
        let is_well = total(&self.failures).saturating_mul(WELL) <= firsts.saturating_add(further);
        is_well || further < ALWAYS + firsts.saturating_mul(u64::from(share.thousandths)) / 1000
    }
}

fn count(slots: &[AtomicU64; WINDOW], second: u64) {
    let slot = &slots[place_of(second)];
    let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |slot| {
        Some(counted(slot, second))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIFTH: Share = Share { thousandths: 200 };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(1_000_000 + millis)
    }

    /// It is down.
    fn fail(load: &Load, now: Duration) {
        for _ in 0..10_000 {
            load.failed(now);
        }
    }

    fn retries(load: &Load, now: Duration) -> usize {
        (0..10_000).take_while(|_| load.retry(now, FIFTH)).count()
    }

    #[test]
    fn one_that_is_well_takes_what_others_fail_to_answer() {
        let load = Load::default();
        assert_eq!(retries(&load, at(0)), 10_000);
        for _ in 0..500 {
            load.failed(at(0));
        }
        assert!(load.may_retry(at(0), FIFTH), "one in twenty");
        for _ in 0..600 {
            load.failed(at(0));
        }
        assert!(!load.may_retry(at(0), FIFTH), "more than one in ten");
    }

    #[test]
    fn ten_and_a_fifth_of_the_last_ten_seconds_are_allowed() {
        let load = Load::default();
        fail(&load, at(0));
        assert_eq!(retries(&load, at(0)), 10);
        assert!(!load.may_retry(at(0), FIFTH));
        for millis in 0..1000 {
            load.first(at(millis));
        }
        assert_eq!(retries(&load, at(1000)), 200);
        assert_eq!(retries(&load, at(9_999)), 0);
        fail(&load, at(9_999));
        assert_eq!(
            retries(&load, at(11_500)),
            10,
            "what was asked ten seconds ago counts no more"
        );
        fail(&load, at(60_000));
        assert_eq!(retries(&load, at(60_000)), 10);
        let none = Share { thousandths: 0 };
        let load = Load::default();
        fail(&load, at(0));
        load.first(at(0));
        assert_eq!((0..20).filter(|_| load.retry(at(0), none)).count(), 10);
    }
}
