//! One account: what was spent in each period, what is reserved, and whether more may be. Pure; time comes in.

use crate::domain::{Budget, BudgetPeriod, NanoUsd, Timestamp, Windows};
use crate::store::Spending;

/// What a request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// At most this; `None`: nobody can say.
    pub most: Option<NanoUsd>,
    /// Whether the client said how long the answer may be, so that the bound holds.
    pub declared: bool,
}

/// What a request has reserved in one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reserved {
    /// What nobody else may spend: all that the request may cost.
    pub held: NanoUsd,
    /// How much of it was there.
    pub sure: NanoUsd,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    /// What is not spent of the budget.
    pub left: NanoUsd,
    /// When it starts anew.
    pub resets_at: Option<Timestamp>,
    /// Only what running requests have reserved stands in the way.
    pub only_reserved: bool,
}

/// What a token, a project or the installation spent and has reserved.
#[derive(Debug, Clone)]
pub(super) struct Account {
    windows: Windows,
    day: NanoUsd,
    week: NanoUsd,
    month: NanoUsd,
    total: NanoUsd,
    reserved: NanoUsd,
    /// The budget it was last asked for, and how much of it operators were told is spent, in percent.
    warned: Option<(Budget, u8)>,
}

impl Account {
    /// From what the store says was spent.
    pub(super) fn new(spending: &Spending, now: Timestamp) -> Self {
        let windows = Windows::at(now);
        let of = |period| {
            spending
                .days
                .iter()
                .filter(|(day, _)| windows.holds(period, *day))
                .map(|(_, amount)| *amount)
                .sum()
        };
        Self {
            windows,
            day: of(BudgetPeriod::Day),
            week: of(BudgetPeriod::Week),
            month: of(BudgetPeriod::Month),
            total: spending.total,
            reserved: NanoUsd::ZERO,
            warned: None,
        }
    }

    /// Starts periods that have begun since. A clock that goes back changes nothing: what was spent stays spent.
    fn roll(&mut self, now: Timestamp) {
        if Windows::day_of(now) <= self.windows.day {
            return;
        }
        let windows = Windows::at(now);
        self.day = NanoUsd::ZERO;
        if windows.week > self.windows.week {
            self.week = NanoUsd::ZERO;
        }
        if windows.month > self.windows.month {
            self.month = NanoUsd::ZERO;
        }
        self.windows = windows;
    }

    pub(super) fn spent(&self, period: BudgetPeriod) -> NanoUsd {
        match period {
            BudgetPeriod::Day => self.day,
            BudgetPeriod::Week => self.week,
            BudgetPeriod::Month => self.month,
            BudgetPeriod::Total => self.total,
        }
    }

    #[cfg(test)]
    pub(super) fn reserved(&self) -> NanoUsd {
        self.reserved
    }

    /// Reserves what the request may cost. A declared bound must fit; any other request is let through while anything is
    /// left, and then stands in the way of everybody else until it has cost what it costs: so no more than one of them
    /// can spend above the cap.
    pub(super) fn reserve(
        &mut self,
        budget: Budget,
        bound: Bound,
        now: Timestamp,
    ) -> Result<Reserved, Short> {
        self.roll(now);
        self.note_budget(budget);
        let unspent = budget.cap().minus(self.spent(budget.period));
        let free = unspent.minus(self.reserved);
        let declared = bound.most.filter(|_| bound.declared);
        let reserved = match declared {
            Some(most) if most <= free => Reserved {
                held: most,
                sure: most,
            },
            None if free > NanoUsd::ZERO => {
                // nobody knows how much: as much as there can be
                let held = bound.most.unwrap_or(budget.cap());
                Reserved {
                    held,
                    sure: held.min(free),
                }
            }
            _ => {
                let never = unspent <= NanoUsd::ZERO || declared.is_some_and(|most| most > unspent);
                return Err(Short {
                    left: unspent.max(NanoUsd::ZERO),
                    resets_at: self.windows.end_of(budget.period),
                    only_reserved: !never,
                });
            }
        };
        self.reserved = self.reserved.plus(reserved.held);
        Ok(reserved)
    }

    /// Whether anything is not spent.
    pub(super) fn has_any(&mut self, budget: Budget, now: Timestamp) -> bool {
        self.roll(now);
        self.spent(budget.period) < budget.cap()
    }

    /// Gives back what was reserved.
    pub(super) fn release(&mut self, amount: NanoUsd) {
        self.reserved = self.reserved.minus(amount).max(NanoUsd::ZERO);
    }

    /// What was reserved has become a cost. Answers what operators are to be told: 80 or 100 percent is spent.
    pub(super) fn settle(
        &mut self,
        reserved: NanoUsd,
        cost: NanoUsd,
        now: Timestamp,
    ) -> Option<(Budget, u8)> {
        self.roll(now);
        self.release(reserved);
        for spent in [&mut self.day, &mut self.week, &mut self.month, &mut self.total] {
            *spent = spent.plus(cost);
        }
        let (budget, told) = self.warned?;
        let level = self.level(budget);
        self.warned = Some((budget, level));
        (level > told).then_some((budget, level))
    }

    /// 0, 80 or 100.
    fn level(&self, budget: Budget) -> u8 {
        let (spent, cap) = (
            i128::from(self.spent(budget.period).nanos()),
            i128::from(budget.nano_usd),
        );
        match spent * 100 {
            _ if cap == 0 => 0,
            share if share >= cap * 100 => 100,
            share if share >= cap * 80 => 80,
            _ => 0,
        }
    }

    /// What is spent already of a budget that was not seen before is no news.
    fn note_budget(&mut self, budget: Budget) {
        match self.warned {
            Some((known, told)) if known == budget => {
                // a new period begins without warnings
                self.warned = Some((budget, told.min(self.level(budget))));
            }
            _ => self.warned = Some((budget, self.level(budget))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    const NOON: &str = "2026-11-27T12:00:00Z";

    fn budget(nano_usd: i64, period: BudgetPeriod) -> Budget {
        Budget { nano_usd, period }
    }

    fn declared(nanos: i64) -> Bound {
        Bound {
            most: Some(NanoUsd::from_nanos(nanos)),
            declared: true,
        }
    }

    fn undeclared(nanos: Option<i64>) -> Bound {
        Bound {
            most: nanos.map(NanoUsd::from_nanos),
            declared: false,
        }
    }

    fn all(held: i64) -> Reserved {
        part(held, held)
    }

    fn part(held: i64, sure: i64) -> Reserved {
        Reserved {
            held: nanos(held),
            sure: nanos(sure),
        }
    }

    fn nanos(nanos: i64) -> NanoUsd {
        NanoUsd::from_nanos(nanos)
    }

    #[test]
    fn a_declared_request_is_let_through_if_all_of_it_fits() {
        let (mut account, now) = (Account::new(&Spending::default(), at(NOON)), at(NOON));
        let ten = budget(10, BudgetPeriod::Day);
        assert_eq!(account.reserve(ten, declared(6), now), Ok(all(6)));
        let short = account.reserve(ten, declared(5), now).unwrap_err();
        assert!(short.only_reserved, "it would fit if the other one were cheap");
        assert_eq!(short.left, nanos(10));
        assert_eq!(short.resets_at, Some(at("2026-11-28T00:00:00Z")));
        assert!(!account.reserve(ten, declared(11), now).unwrap_err().only_reserved);
        account.settle(nanos(6), nanos(7), now);
        assert_eq!(account.reserve(ten, declared(3), now), Ok(all(3)));
        let short = account.reserve(ten, declared(4), now).unwrap_err();
        assert_eq!((short.only_reserved, short.left), (false, nanos(3)));
    }

    #[test]
    fn an_undeclared_request_is_let_through_while_anything_is_left() {
        let (mut account, now) = (Account::new(&Spending::default(), at(NOON)), at(NOON));
        let ten = budget(10, BudgetPeriod::Total);
        assert_eq!(account.reserve(ten, undeclared(Some(4)), now), Ok(all(4)));
        assert_eq!(account.reserve(ten, undeclared(Some(40)), now), Ok(part(40, 6)));
        assert!(
            account
                .reserve(ten, undeclared(None), now)
                .unwrap_err()
                .only_reserved
        );
        // what others free is for the one that runs already
        account.release(nanos(4));
        assert!(
            account
                .reserve(ten, undeclared(None), now)
                .unwrap_err()
                .only_reserved
        );
        account.settle(nanos(40), nanos(20), now);
        let short = account.reserve(ten, undeclared(None), now).unwrap_err();
        assert_eq!(
            (short.only_reserved, short.left, short.resets_at),
            (false, nanos(0), None)
        );
        assert!(
            account.reserve(ten, declared(0), now).is_err(),
            "more than all is spent"
        );
    }

    #[test]
    fn nothing_may_be_spent_of_nothing() {
        let (mut account, now) = (Account::new(&Spending::default(), at(NOON)), at(NOON));
        let nothing = budget(0, BudgetPeriod::Month);
        assert!(
            !account
                .reserve(nothing, undeclared(None), now)
                .unwrap_err()
                .only_reserved
        );
        assert!(
            !account
                .reserve(nothing, declared(1), now)
                .unwrap_err()
                .only_reserved
        );
        assert_eq!(
            account.reserve(nothing, declared(0), now),
            Ok(all(0)),
            "what is free is free"
        );
    }

    #[test]
    fn a_new_period_starts_with_nothing_spent_and_what_is_reserved() {
        let day = at(NOON).as_micros() / 86_400_000_000;
        let spending = Spending {
            total: nanos(100),
            days: vec![
                (day - 27, nanos(32)),
                (day - 5, nanos(16)),
                (day - 1, nanos(8)),
                (day, nanos(4)),
            ],
        };
        // a Friday
        let mut account = Account::new(&spending, at(NOON));
        let spent = |account: &Account| {
            [
                BudgetPeriod::Day,
                BudgetPeriod::Week,
                BudgetPeriod::Month,
                BudgetPeriod::Total,
            ]
            .map(|period| account.spent(period).nanos())
        };
        assert_eq!(spent(&account), [4, 12, 28, 100]);
        account
            .reserve(budget(100, BudgetPeriod::Day), declared(50), at(NOON))
            .unwrap();
        account.settle(nanos(0), nanos(1), at("2026-11-28T00:00:00Z"));
        assert_eq!(spent(&account), [1, 13, 29, 101]);
        account.settle(nanos(0), nanos(1), at("2026-11-27T23:00:00Z"));
        assert_eq!(
            spent(&account),
            [2, 14, 30, 102],
            "a clock that goes back takes nothing away"
        );
        account.settle(nanos(0), nanos(1), at("2026-11-30T00:00:00Z"));
        assert_eq!(spent(&account), [1, 1, 31, 103]);
        account.settle(nanos(0), nanos(1), at("2026-12-01T00:00:00Z"));
        assert_eq!(spent(&account), [1, 2, 1, 104]);
        assert_eq!(account.reserved(), nanos(50));
    }

    #[test]
    fn operators_are_told_once_at_eighty_and_at_a_hundred_percent() {
        let (mut account, now) = (Account::new(&Spending::default(), at(NOON)), at(NOON));
        let day = budget(100, BudgetPeriod::Day);
        account.reserve(day, declared(0), now).unwrap();
        let mut told = |cost| {
            account
                .settle(nanos(0), nanos(cost), now)
                .map(|(_, percent)| percent)
        };
        assert_eq!(
            [79, 1, 1, 18, 1, 5].map(&mut told),
            [None, Some(80), None, None, Some(100), None]
        );
        let tomorrow = at("2026-11-28T12:00:00Z");
        account.reserve(day, declared(0), tomorrow).unwrap();
        let told = account.settle(nanos(0), nanos(100), tomorrow);
        assert_eq!(told, Some((day, 100)), "both at once is one warning");
        let wider = budget(110, BudgetPeriod::Day);
        account.reserve(wider, declared(0), tomorrow).unwrap();
        assert_eq!(account.settle(nanos(0), nanos(1), tomorrow), None, "it was known");
        assert_eq!(account.settle(nanos(0), nanos(9), tomorrow), Some((wider, 100)));
    }

    proptest! {
        /// Whatever is asked and settled in whatever order: with declared bounds that hold, no more than the cap is spent.
        #[test]
        fn declared_requests_never_spend_more_than_the_cap(
            cap in 0i64..1000,
            steps in proptest::collection::vec((0i64..400, 0u8..101, any::<bool>(), 0usize..8), 1..200),
        ) {
            let now = at(NOON);
            let mut account = Account::new(&Spending::default(), now);
            let budget = budget(cap, BudgetPeriod::Week);
            let mut open: Vec<(NanoUsd, i64)> = Vec::new();
            for (bound, share, settles, which) in steps {
                if let Ok(reserved) = account.reserve(budget, declared(bound), now) {
                    open.push((reserved.held, bound * i64::from(share) / 100));
                }
                if settles && !open.is_empty() {
                    let (amount, cost) = open.swap_remove(which % open.len());
                    account.settle(amount, NanoUsd::from_nanos(cost), now);
                }
                prop_assert!(account.spent(BudgetPeriod::Week).plus(account.reserved()).nanos() <= cap);
            }
            for (amount, cost) in open {
                account.settle(amount, NanoUsd::from_nanos(cost), now);
            }
            prop_assert!(account.spent(BudgetPeriod::Week).nanos() <= cap);
            prop_assert_eq!(account.reserved(), NanoUsd::ZERO);
        }
    }
}
