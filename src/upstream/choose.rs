//! In which order the targets of one request are tried.

use std::cmp::Reverse;
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::Strategy;

/// What the choice knows of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candidate {
    /// Share among equals; 0 = only when the others fail.
    pub weight: u32,
    /// Under `priority` the lowest number comes first.
    pub priority: u32,
    /// Whether its rules and its breaker let the request through.
    pub available: bool,
    /// Attempts under way.
    pub in_flight: u32,
    /// Time to the first byte of its answers, of late; `None`: it has not answered yet.
    pub latency: Option<Duration>,
}

/// One of so many turns goes by weight whatever `lowest_latency` knows: a target that was slow may be fast again, and only
/// an answer can tell.
const EXPLORE_EVERY: u64 = 20;

/// Turns through the targets of one model so that each gets exactly its share (smooth weighted round-robin:
/// of a cycle of weights 5, 1, 1 the order is `a a b a c a a`, not five times `a` in a row). Strategies say which targets
/// are equals; among those it is turned.
#[derive(Debug)]
pub struct Wheel {
    strategy: Strategy,
    turns: Mutex<Turns>,
}

#[derive(Debug)]
struct Turns {
    credit: Vec<i64>,
    count: u64,
}

/// What comes first: the smaller. Equals share.
type Rank = (bool, u64);

impl Wheel {
    /// A wheel for `targets` targets.
    pub fn new(strategy: Strategy, targets: usize) -> Self {
        Self {
            strategy,
            turns: Mutex::new(Turns {
                credit: vec![0; targets],
                count: 0,
            }),
        }
    }

    /// The order in which to try: the first is this request's turn, the rest stand in for it. Targets that
    /// are not available are left out; the result is empty when none is.
    pub fn order(&self, candidates: &[Candidate]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..candidates.len())
            .filter(|&index| candidates[index].available)
            .collect();
        if order.len() < 2 {
            return order;
        }
        let mut turns = self.turns.lock();
        turns.count = turns.count.wrapping_add(1);
        let explores = turns.count.is_multiple_of(EXPLORE_EVERY);
        let rank = |index: usize| self.rank(&candidates[index], explores);
        let credit = &mut turns.credit;
        credit.resize(candidates.len(), 0);
        let first_rank = order.iter().map(|&index| rank(index)).min();
        let group = order
            .iter()
            .copied()
            .filter(|&index| Some(rank(index)) == first_rank);
        let mut total = 0;
        for index in group.clone() {
            let weight = i64::from(candidates[index].weight);
            credit[index] += weight;
            total += weight;
        }
        let turn = group.min_by_key(|&index| (Reverse(credit[index]), index));
        if let Some(turn) = turn {
            credit[turn] -= total;
        }
        order.sort_by_key(|&index| (Some(index) != turn, rank(index), Reverse(credit[index]), index));
        order
    }

    fn rank(&self, candidate: &Candidate, explores: bool) -> Rank {
        let stands_in = candidate.weight == 0;
        match self.strategy {
            Strategy::Weighted => (stands_in, 0),
            // a priority stands above what only stands in
            Strategy::Priority => (false, u64::from(candidate.priority) * 2 + u64::from(stands_in)),
            Strategy::LeastBusy => (stands_in, busyness(candidate)),
            Strategy::LowestLatency if explores => (stands_in, 0),
            Strategy::LowestLatency => (stands_in, slowness(candidate)),
        }
    }
}

/// Attempts under way and this one, for its weight, in thousandths.
fn busyness(candidate: &Candidate) -> u64 {
    (u64::from(candidate.in_flight) + 1) * 1000 / u64::from(candidate.weight.max(1))
}

/// Milliseconds to the first byte, for nobody notices less. Who has not answered yet is asked at once, but by one request
/// at a time.
fn slowness(candidate: &Candidate) -> u64 {
    match candidate.latency {
        Some(latency) => u64::try_from(latency.as_millis()).unwrap_or(u64::MAX / 2).max(1),
        None if candidate.in_flight == 0 => 0,
        None => u64::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(weight: u32, priority: u32) -> Candidate {
        Candidate {
            weight,
            priority,
            available: true,
            ..Candidate::default()
        }
    }

    fn busy(weight: u32, in_flight: u32) -> Candidate {
        Candidate {
            in_flight,
            ..candidate(weight, 0)
        }
    }

    fn slow(millis: Option<u64>, in_flight: u32) -> Candidate {
        Candidate {
            latency: millis.map(Duration::from_millis),
            ..busy(1, in_flight)
        }
    }

    #[test]
    fn the_least_busy_for_its_weight_comes_first() {
        let table: [(&[Candidate], &[usize]); 6] = [
            (&[busy(1, 3), busy(1, 1), busy(1, 2)], &[1, 2, 0]),
            (&[busy(1, 2), busy(3, 5)], &[1, 0]),
            (&[busy(1, 1), busy(3, 6)], &[0, 1]),
            (&[busy(0, 0), busy(1, 900)], &[1, 0]),
            (&[busy(0, 5), busy(0, 2)], &[1, 0]),
            (
                &[
                    Candidate {
                        available: false,
                        ..busy(1, 0)
                    },
                    busy(1, 7),
                ],
                &[1],
            ),
        ];
        for (candidates, order) in table {
            let wheel = Wheel::new(Strategy::LeastBusy, candidates.len());
            assert_eq!(wheel.order(candidates), order, "{candidates:?}");
        }
        let wheel = Wheel::new(Strategy::LeastBusy, 2);
        let idle = [busy(3, 2), busy(1, 0)];
        assert_eq!(
            firsts(&wheel, &idle, 8).iter().filter(|&&turn| turn == 0).count(),
            6,
            "equals share"
        );
    }

    #[test]
    fn the_fastest_comes_first_and_the_others_are_looked_at() {
        let wheel = Wheel::new(Strategy::LowestLatency, 3);
        let known = [slow(Some(300), 0), slow(Some(100), 50), slow(Some(200), 0)];
        let turns = firsts(&wheel, &known, 600);
        let share = |target| turns.iter().filter(|&&turn| turn == target).count();
        assert_eq!(share(0) + share(1) + share(2), 600);
        assert!(
            share(1) >= 570 && share(0) >= 8 && share(2) >= 8,
            "{} {} {}",
            share(0),
            share(1),
            share(2)
        );
        assert_eq!(wheel.order(&known), [1, 2, 0]);
        let table: [(&[Candidate], &[usize]); 4] = [
            (&[slow(Some(1), 0), slow(None, 0)], &[1, 0]),
            (&[slow(Some(900), 0), slow(None, 1)], &[0, 1]),
            (
                &[
                    slow(Some(500), 0),
                    Candidate {
                        weight: 0,
                        ..slow(Some(1), 0)
                    },
                ],
                &[0, 1],
            ),
            (
                &[
                    slow(Some(5), 0),
                    Candidate {
                        available: false,
                        ..slow(Some(1), 0)
                    },
                ],
                &[0],
            ),
        ];
        for (candidates, order) in table {
            let wheel = Wheel::new(Strategy::LowestLatency, candidates.len());
            assert_eq!(wheel.order(candidates), order, "{candidates:?}");
        }
        let unknown = [slow(None, 1), slow(None, 2)];
        let wheel = Wheel::new(Strategy::LowestLatency, 2);
        assert_eq!(
            firsts(&wheel, &unknown, 4),
            [0, 1, 0, 1],
            "all unknown and asked: by weight"
        );
    }

    fn firsts(wheel: &Wheel, candidates: &[Candidate], turns: usize) -> Vec<usize> {
        (0..turns).map(|_| wheel.order(candidates)[0]).collect()
    }

    #[test]
    fn shares_are_exact_over_each_cycle_and_spread_within_it() {
        let wheel = Wheel::new(Strategy::Weighted, 3);
        let candidates = [candidate(5, 0), candidate(1, 0), candidate(1, 0)];
        assert_eq!(firsts(&wheel, &candidates, 7), [0, 0, 1, 0, 2, 0, 0]);
        let turns = firsts(&wheel, &candidates, 700);
        let share = |target| turns.iter().filter(|&&t| t == target).count();
        assert_eq!((share(0), share(1), share(2)), (500, 100, 100));
    }

    #[test]
    fn weight_zero_only_stands_in() {
        let wheel = Wheel::new(Strategy::Weighted, 3);
        let candidates = [candidate(0, 0), candidate(2, 0), candidate(1, 0)];
        for _ in 0..9 {
            let order = wheel.order(&candidates);
            assert_eq!(order.len(), 3);
            assert_eq!(order[2], 0);
        }
        let only_zero = [
            candidate(0, 0),
            Candidate {
                available: false,
                ..candidate(2, 0)
            },
            Candidate {
                available: false,
                ..candidate(1, 0)
            },
        ];
        assert_eq!(wheel.order(&only_zero), [0]);
    }

    #[test]
    fn the_lowest_priority_comes_first_and_equals_share_by_weight() {
        let wheel = Wheel::new(Strategy::Priority, 4);
        let mut candidates = [candidate(1, 2), candidate(3, 1), candidate(1, 1), candidate(9, 3)];
        let turns = firsts(&wheel, &candidates, 40);
        assert_eq!(turns.iter().filter(|&&t| t == 1).count(), 30);
        assert_eq!(turns.iter().filter(|&&t| t == 2).count(), 10);
        assert_eq!(wheel.order(&candidates)[2..], [0, 3]);
        candidates[1].available = false;
        candidates[2].available = false;
        assert_eq!(wheel.order(&candidates), [0, 3]);
    }

    #[test]
    fn targets_out_of_order_are_left_out_and_lose_no_turn_for_ever() {
        let wheel = Wheel::new(Strategy::Weighted, 2);
        let mut candidates = [candidate(1, 0), candidate(1, 0)];
        candidates[0].available = false;
        assert_eq!(firsts(&wheel, &candidates, 5), [1; 5]);
        candidates[0].available = true;
        let turns = firsts(&wheel, &candidates, 10);
        assert_eq!(turns.iter().filter(|&&t| t == 0).count(), 5);
        candidates = [Candidate {
            available: false,
            ..candidates[0]
        }; 2];
        assert!(wheel.order(&candidates).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn over_whole_cycles_every_share_is_exact(weights in proptest::collection::vec(0u32..9, 1..6)) {
            let candidates: Vec<_> = weights.iter().map(|&weight| candidate(weight, 0)).collect();
            let total: u32 = weights.iter().sum();
            proptest::prop_assume!(total > 0);
            let wheel = Wheel::new(Strategy::Weighted, weights.len());
            let mut seen = vec![0u32; weights.len()];
            for _ in 0..total * 3 {
                let order = wheel.order(&candidates);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                proptest::prop_assert_eq!(sorted, (0..weights.len()).collect::<Vec<_>>());
                seen[order[0]] += 1;
            }
            for (weight, seen) in weights.iter().zip(seen) {
                proptest::prop_assert_eq!(weight * 3, seen);
            }
        }
    }
}
