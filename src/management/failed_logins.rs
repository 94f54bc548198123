//! Slows down whoever guesses management tokens; a right token is never slowed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::domain::Clock;
use crate::domain::client_address::limit_key;

/// What the first wrong token of an address within a minute costs; each further one costs double.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The most that one costs.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// For how long a failure is remembered.
const WINDOW: Duration = Duration::from_mins(1);
/// Failures of one address that matter: the sixth already costs the most.
const REMEMBERED: usize = 5;
/// Addresses that are remembered; beyond, the oldest are forgotten.
const MOST_ADDRESSES: usize = 10_000;
/// Answers that may be held back at once.
const MOST_WAITING: usize = 100;

/// Failed logins of the last minute by address (IPv6 by /64).
pub struct FailedLogins {
    clock: Arc<dyn Clock>,
    addresses: Mutex<HashMap<IpAddr, Failures>>,
    waiting: Semaphore,
}

/// The moments of the last failures, newest last.
#[derive(Debug, Clone, Copy, Default)]
struct Failures {
    times: [Option<Duration>; REMEMBERED],
}

/// Too many answers are held back already.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyWaiting;

impl FailedLogins {
    /// Nobody has failed yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            addresses: Mutex::new(HashMap::new()),
            waiting: Semaphore::new(MOST_WAITING),
        }
    }

    /// Counts a failure and waits for what it costs.
    pub async fn hold_back(&self, client: IpAddr) -> Result<(), TooManyWaiting> {
        let delay = self.count(client);
        let _place = self.waiting.try_acquire().map_err(|_| TooManyWaiting)?;
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn count(&self, client: IpAddr) -> Duration {
        let now = self.clock.monotonic();
        let key = limit_key(client);
        let mut addresses = self.addresses.lock();
        if addresses.len() >= MOST_ADDRESSES && !addresses.contains_key(&key) {
            make_room(&mut addresses, now);
        }
        addresses.entry(key).or_default().count(now)
    }
}

impl Failures {
    fn count(&mut self, now: Duration) -> Duration {
        let earlier = self
            .times
            .iter()
            .flatten()
            .filter(|at| is_recent(**at, now))
            .count();
        self.times.rotate_left(1);
        self.times[REMEMBERED - 1] = Some(now);
        FIRST_DELAY.saturating_mul(1 << earlier).min(LONGEST_DELAY)
    }

    fn newest(&self) -> Duration {
        self.times[REMEMBERED - 1].unwrap_or_default()
    }
}

fn is_recent(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < WINDOW
}

/// Forgets who has not failed for a minute, and when that is not enough, the older half.
fn make_room(addresses: &mut HashMap<IpAddr, Failures>, now: Duration) {
    addresses.retain(|_, failures| is_recent(failures.newest(), now));
    if addresses.len() < MOST_ADDRESSES {
        return;
    }
    let mut newest: Vec<Duration> = addresses.values().map(Failures::newest).collect();
    let (_, middle, _) = newest.select_nth_unstable(MOST_ADDRESSES / 2);
    let middle = *middle;
    addresses.retain(|_, failures| failures.newest() > middle);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ManualClock, Timestamp};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_failure_within_a_minute_costs_double_up_to_five_seconds() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let logins = FailedLogins::new(clock.clone());
        let costs: Vec<u128> = (0..7)
            .map(|_| logins.count(address("192.0.2.1")).as_millis())
            .collect();
        assert_eq!(costs, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(logins.count(address("192.0.2.2")).as_millis(), 250);
        clock.advance(Duration::from_secs(61));
        assert_eq!(logins.count(address("192.0.2.1")).as_millis(), 250);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let logins = FailedLogins::new(ManualClock::at(Timestamp::EPOCH));
        assert_eq!(logins.count(address("2001:db8::1")).as_millis(), 250);
        assert_eq!(logins.count(address("2001:db8::2")).as_millis(), 500);
    }

    #[test]
    fn memory_is_bounded() {
        let logins = FailedLogins::new(ManualClock::at(Timestamp::EPOCH));
        for number in 0..(MOST_ADDRESSES as u32 + 500) {
            logins.count(IpAddr::V4(number.into()));
        }
        assert!(logins.addresses.lock().len() <= MOST_ADDRESSES);
    }

    #[tokio::test]
    async fn the_hundred_and_first_does_not_wait() {
        let logins = FailedLogins::new(ManualClock::at(Timestamp::EPOCH));
        let places: Vec<_> = (0..MOST_WAITING)
            .map(|_| logins.waiting.try_acquire().unwrap())
            .collect();
        assert_eq!(logins.hold_back(address("192.0.2.1")).await, Err(TooManyWaiting));
        drop(places);
        assert_eq!(logins.hold_back(address("192.0.2.2")).await, Ok(()));
    }
}
