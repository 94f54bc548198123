//! In which order the targets of one request are tried.

use std::cmp::Reverse;

use parking_lot::Mutex;

use crate::config::Strategy;

/// What the choice knows of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Share among equals; 0 = only when the others fail.
    pub weight: u32,
    /// Under `priority` the lowest number comes first.
    pub priority: u32,
    /// Whether its rules and its breaker let the request through.
    pub available: bool,
}

/// Turns through the targets of one model so that each gets exactly its share (smooth weighted round-robin:
/// of a cycle of weights 5, 1, 1 the order is `a a b a c a a`, not five times `a` in a row).
#[derive(Debug)]
pub struct Wheel {
    strategy: Strategy,
    credit: Mutex<Vec<i64>>,
}

impl Wheel {
    /// A wheel for `targets` targets.
    pub fn new(strategy: Strategy, targets: usize) -> Self {
        Self {
            strategy,
            credit: Mutex::new(vec![0; targets]),
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
        let by_priority = self.strategy == Strategy::Priority;
        let rank = |index: usize| {
            let candidate = candidates[index];
            let priority = if by_priority { candidate.priority } else { 0 };
            (priority, candidate.weight == 0)
        };
        let mut credit = self.credit.lock();
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(weight: u32, priority: u32) -> Candidate {
        Candidate {
            weight,
            priority,
            available: true,
        }
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
