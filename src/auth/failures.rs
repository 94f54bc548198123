//! Counts unknown credentials per client address, so that guessing costs no look-ups.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;

use crate::domain::client_address::limit_key;

/// Addresses kept; above it, the least used ones start anew.
const ADDRESSES: usize = 65_536;
const MINUTE_MICROS: u64 = 60_000_000;

/// `n` at once, refilled evenly over a minute, per address (IPv6 by /64). Failures that were already under
/// way when the last place was taken are charged too, up to one minute ahead.
#[derive(Debug)]
pub(super) struct Failures {
    /// Per address: the monotonic time in microseconds at which all its places are free again.
    free_at: Cache<IpAddr, Arc<AtomicU64>>,
}

impl Failures {
    pub(super) fn new() -> Self {
        Self {
            free_at: Cache::new(ADDRESSES),
        }
    }

    /// How long an unknown credential from `client` has to wait; `None`: it may be looked up. A limit of 0
    /// refuses none.
    pub(super) fn wait(&self, client: IpAddr, now: Duration, per_minute: u32) -> Option<Duration> {
        let interval = interval(per_minute)?;
        let free_at = self.free_at.get(&limit_key(client))?.load(Ordering::Relaxed);
        let ahead = free_at.saturating_sub(micros(now));
        let most = MINUTE_MICROS.saturating_sub(interval);
        (ahead > most).then(|| Duration::from_micros(ahead - most))
    }

    /// Charges one unknown credential.
    pub(super) fn charge(&self, client: IpAddr, now: Duration, per_minute: u32) {
        let Some(interval) = interval(per_minute) else {
            return;
        };
        let key = limit_key(client);
        let cell = self.free_at.get(&key).unwrap_or_else(|| {
            let cell = Arc::new(AtomicU64::new(0));
            self.free_at.insert(key, cell.clone());
            cell
        });
        let now = micros(now);
        let charged = |free_at: u64| Some((free_at.max(now) + interval).min(now + 2 * MINUTE_MICROS));
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charged);
    }
}

fn interval(per_minute: u32) -> Option<u64> {
    (per_minute > 0).then(|| (MINUTE_MICROS / u64::from(per_minute)).max(1))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_limit_an_address_waits_for_exactly_one_place() {
        let failures = Failures::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let start = Duration::from_secs(1000);
        for _ in 0..60 {
            assert_eq!(failures.wait(address, start, 60), None);
            failures.charge(address, start, 60);
        }
        assert_eq!(failures.wait(address, start, 60), Some(Duration::from_secs(1)));
        assert_eq!(failures.wait("192.0.2.2".parse().unwrap(), start, 60), None);
        assert_eq!(failures.wait(address, start + Duration::from_secs(1), 60), None);
        assert_eq!(failures.wait(address, start, 0), None, "0 switches it off");
    }

    #[test]
    fn addresses_of_one_ipv6_64_share_their_places() {
        let failures = Failures::new();
        let start = Duration::from_secs(1000);
        for host in 0..60u16 {
            let address: IpAddr = format!("2001:db8::{host:x}").parse().unwrap();
            assert_eq!(failures.wait(address, start, 60), None);
            failures.charge(address, start, 60);
        }
        assert!(
            failures
                .wait("2001:db8::ffff".parse().unwrap(), start, 60)
                .is_some()
        );
        assert!(
            failures
                .wait("2001:db8:0:1::1".parse().unwrap(), start, 60)
                .is_none()
        );
    }
}
