//! Many clients, one account: whatever comes in whatever order.

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::domain::{BudgetPeriod, ManualClock, Timestamp};
use crate::store::{GrantOutcome, Spending};

/// A store that knows what was spent by whom, and tells it late.
#[derive(Default)]
struct Books {
    spent: Mutex<HashMap<String, Spending>>,
    told: Mutex<Vec<u8>>,
}

#[async_trait]
impl Leases for Books {
    async fn take_request(&self, _: TokenId, _: u64) -> Result<GrantOutcome, StoreError> {
        Ok(GrantOutcome::Granted)
    }
    async fn return_request(&self, _: TokenId) {}
    async fn spending(&self, subject: &str, _: i64) -> Result<Spending, StoreError> {
        tokio::task::yield_now().await;
        Ok(self.spent.lock().get(subject).cloned().unwrap_or_default())
    }
}

impl BudgetWatch for Books {
    fn budget_warning(&self, warning: BudgetWarning) {
        self.told.lock().push(warning.percent);
    }
}

impl Books {
    fn add(&self, subject: &str, day: i64, cost: NanoUsd) {
        let mut spent = self.spent.lock();
        let spending = spent.entry(subject.to_owned()).or_default();
        spending.total = spending.total.plus(cost);
        spending.days.push((day, cost));
    }
}

fn holders() -> Holders {
    Holders(TokenId::from_bytes([7; 16]), ProjectId::from_bytes([8; 16]))
}

const NOON: i64 = 1_795_780_800_000_000;

#[tokio::test]
async fn accounts_are_bounded_and_those_in_use_stay() {
    let clock = ManualClock::at(Timestamp::from_micros(NOON));
    let books = Arc::new(Books::default());
    let budgets = Budgets::with_bound(books.clone(), clock.clone(), books.clone(), SHARDS * 8);
    let budget = Budget {
        nano_usd: 10,
        period: BudgetPeriod::Total,
    };
    let bound = Bound {
        most: Some(NanoUsd::from_nanos(10)),
        declared: true,
    };
    let patience = Duration::from_secs(5);
    let reserve = async |holders| {
        budgets
            .reserve([Some(budget), None, None], holders, bound, patience)
            .await
    };
    let held = reserve(holders()).await.unwrap();
    for _ in 0..5_000 {
        let other = Holders(TokenId::random(), ProjectId::random());
        drop(reserve(other).await.unwrap());
        clock.advance(Duration::from_millis(1));
    }
    assert!(budgets.statistics().accounts <= SHARDS * 8);
    assert!(
        reserve(holders()).await.is_err(),
        "what is reserved is not forgotten"
    );
    drop(held);
    assert!(reserve(holders()).await.is_ok());
}

/// One client's request.
#[derive(Debug, Clone)]
struct Ask {
    bound: i64,
    declared: bool,
    /// What it costs, in percent of the bound.
    share: i64,
    /// How long it runs, in steps.
    steps: u8,
    /// Whether it never leaves.
    dropped: bool,
    /// How long it waits before it begins, in seconds of the clock.
    after: u32,
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = (0i64..500, any::<bool>(), 0i64..101, 0u8..6, 0u8..10, 0u32..30_000);
    let ask = ask.prop_map(|(bound, declared, share, steps, dropped, after)| Ask {
        bound,
        declared,
        share,
        steps,
        dropped: dropped == 0,
        after,
    });
    proptest::collection::vec(ask, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Concurrent clients over days: in each day spend stays within the cap, but for the requests without a declared bound,
    /// of which one may overshoot; and the account says what the ledger says.
    #[test]
    fn spend_stays_within_the_cap_whatever_the_interleaving(cap in 1i64..2000, asks in asks()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (over, in_books, in_account, reserved) = runtime.block_on(async {
            let clock = ManualClock::at(Timestamp::from_micros(NOON));
            let books = Arc::new(Books::default());
            let budgets = Budgets::new(books.clone(), clock.clone(), books.clone());
            let budget = Budget { nano_usd: cap, period: BudgetPeriod::Total };
            let only_declared = asks.iter().all(|ask| ask.declared);
            let largest = asks.iter().filter(|ask| !ask.declared).map(|ask| ask.bound).max().unwrap_or(0);
            let running = asks.into_iter().map(|ask| {
                let (budgets, clock, books) = (Arc::clone(&budgets), clock.clone(), books.clone());
                async move {
                    for _ in 0..ask.after % 7 {
                        tokio::task::yield_now().await;
                    }
                    clock.advance(Duration::from_secs(u64::from(ask.after)));
                    let bound = Bound { most: Some(NanoUsd::from_nanos(ask.bound)), declared: ask.declared };
                    let budgeted = [Some(budget), None, None];
                    let reserved = budgets.reserve(budgeted, holders(), bound, Duration::from_mins(1)).await;
                    let Ok(hold) = reserved else { return };
                    for _ in 0..ask.steps {
                        tokio::task::yield_now().await;
                    }
                    if ask.dropped {
                        return;
                    }
                    let cost = NanoUsd::from_nanos(ask.bound * ask.share / 100);
                    let day = Windows::at(clock.now()).day;
                    books.add(&holders().0.to_string(), day, cost);
                    budgets.settle(Some(hold), holders(), cost);
                }
            });
            futures_util::future::join_all(running).await;
            let slot = budgets.slot(Holder::Token(holders().0));
            let in_account = slot.state.lock().account.as_ref().map_or(0, |account| account.spent(BudgetPeriod::Total).nanos());
            let in_books: i64 = books.spent.lock().values().map(|spending| spending.total.nanos()).sum();
            let most = if only_declared { cap } else { cap + largest };
            (in_account - most, in_books, in_account, budgets.statistics().reserved)
        });
        prop_assert!(over <= 0, "{over} above what may be spent");
        prop_assert_eq!(in_books, in_account);
        prop_assert_eq!(reserved, NanoUsd::ZERO);
    }
}
