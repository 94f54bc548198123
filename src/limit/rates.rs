//! Rates in this process, or in Redis while it answers.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::charge::{Charge, Charges, MOST_CHARGES};
use super::gcra::{Room, Unit};
use super::local::{LocalRates, Share};
use super::redis::RedisRates;
use super::settings::{Fallback, FleetSize, LimitSettings};
use super::standing::{RateStanding, Standings};
use super::{Refused, refuse};
use crate::domain::Clock;

/// Where places are taken.
pub(super) struct Rates {
    settings: Arc<ArcSwap<LimitSettings>>,
    local: Arc<LocalRates>,
    shared: Option<Arc<RedisRates>>,
}

/// Places that were taken, and where, so that they go back there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) charges: Charges,
    rooms: [Room; MOST_CHARGES],
    from: From,
}

#[derive(Debug, Clone, Copy)]
enum From {
    Local(Share),
    Redis,
}

impl Taken {
    /// The tighter of token and project.
    pub(super) fn standings(&self) -> Standings {
        let of = |unit: Unit| {
            self.charges
                .iter()
                .zip(&self.rooms)
                .filter(|(charge, _)| charge.rate.unit() == unit)
                .map(|(charge, room)| RateStanding {
                    limit: charge.rate.most(),
                    remaining: room.remaining,
                    reset: room.reset,
                })
                .reduce(RateStanding::tighter)
        };
        Standings {
            requests: of(Unit::Requests),
            tokens: of(Unit::Tokens),
        }
    }
}

impl Rates {
    pub(super) fn new(
        settings: Arc<ArcSwap<LimitSettings>>,
        clock: Arc<dyn Clock>,
        shared: Option<Arc<RedisRates>>,
    ) -> Self {
        let local = shared
            .as_ref()
            .map_or_else(|| Arc::new(LocalRates::new(clock)), |shared| shared.local());
        Self {
            settings,
            local,
            shared,
        }
    }

    /// Takes the places of each, or of none.
    pub(super) async fn take(
        &self,
        charges: &Charges,
        settings: &Arc<LimitSettings>,
    ) -> Result<Taken, Refused> {
        let taken = |rooms, from| Taken {
            charges: *charges,
            rooms,
            from,
        };
        if charges.is_empty() {
            return Ok(taken([Room::default(); MOST_CHARGES], From::Local(Share::WHOLE)));
        }
        if settings.shared
            && let Some(shared) = &self.shared
        {
            // WHY: boxed, so that requests of an installation without Redis do not carry its state around
            match Box::pin(shared.take(charges, settings)).await {
                Some(Ok(rooms)) => return Ok(taken(rooms, From::Redis)),
                Some(Err(refusal)) => return Err(refuse::by_rate(charges, refusal)),
                None if settings.fallback == Fallback::Refuse => return Err(refuse::unchecked(charges)),
                None => {}
            }
        }
        let share = self.share(settings);
        match self.local.take(charges, share) {
            Ok(rooms) => Ok(taken(rooms, From::Local(share))),
            Err(refusal) => Err(refuse::by_rate(charges, refusal)),
        }
    }

    /// Returns all of it.
    pub(super) async fn give_back(&self, taken: &Taken) {
        match (taken.from, &self.shared) {
            (From::Local(share), _) => self.local.give_back(&taken.charges, share),
            (From::Redis, Some(shared)) => {
                Box::pin(shared.give_back(&taken.charges, &self.settings.load_full())).await;
            }
            (From::Redis, None) => {}
        }
    }

    /// So many tokens were used, where others were taken: the difference is taken too, or given back. Does not wait.
    pub(super) fn correct(&self, taken: &Taken, used: u64) {
        let difference = |charge: &Charge, of: fn(u64, u64) -> u64| Charge {
            places: of(used, charge.places),
            ..*charge
        };
        let tokens = || {
            taken
                .charges
                .iter()
                .filter(|charge| charge.rate.unit() == Unit::Tokens)
        };
        let more = Charges::of(tokens().map(|charge| Some(difference(charge, u64::saturating_sub))));
        let less = Charges::of(
            tokens().map(|charge| Some(difference(charge, |used, taken| taken.saturating_sub(used)))),
        );
        match (taken.from, &self.shared) {
            (From::Local(share), _) => {
                self.local.take_anyway(&more, share);
                self.local.give_back(&less, share);
            }
            (From::Redis, Some(shared)) => {
                for (charges, used) in [(more, true), (less, false)] {
                    if charges.iter().any(|charge| charge.places > 0) {
                        shared.correct(&charges, used, self.settings.load_full());
                    }
                }
            }
            (From::Redis, None) => {}
        }
    }

    /// What this process gives of a rate while Redis does not count for all.
    fn share(&self, settings: &LimitSettings) -> Share {
        let shared = self.shared.as_ref().filter(|_| settings.shared);
        Share {
            instances: match settings.fleet_size {
                FleetSize::Fixed(count) => count.get(),
                FleetSize::Auto => shared.map_or(1, |shared| shared.instances()),
            },
            owing: shared.is_some(),
        }
    }

    /// Buckets in this process.
    pub(super) fn buckets(&self) -> usize {
        self.local.len()
    }

    /// Buckets that were forgotten before they were full.
    pub(super) fn buckets_forgotten(&self) -> u64 {
        self.local.forgotten()
    }
}
