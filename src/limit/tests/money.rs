//! What budgets let through and refuse, beside rates and quota.

use super::*;

const NOON: &str = "2026-11-27T12:00:00Z";

fn payer(subject: Subject, token: Option<i64>, project: Option<i64>) -> Payer {
    let budget = |nano_usd| Budget {
        nano_usd,
        period: BudgetPeriod::Day,
    };
    Payer {
        token_id: subject.token_id,
        project_id: subject.project_id,
        token_budget: token.map(budget),
        project_budget: project.map(budget),
    }
}

fn bound(nanos: i64, declared: bool) -> Bound {
    Bound {
        most: Some(NanoUsd::from_nanos(nanos)),
        declared,
    }
}

impl Bench {
    fn rich(change: impl FnOnce(&mut LimitSettings)) -> Self {
        let bench = Self::new(change);
        bench.clock.jump_wall(Timestamp::parse_rfc3339(NOON).unwrap());
        bench
    }

    async fn spend(&self, payer: Payer, bound: Bound, limited: Subject) -> Result<Reservation, Refused> {
        let claim = self.limiter.claim(payer, bound).await;
        self.limiter.reserve(limited, claim).await
    }

    fn pay(&self, mut reservation: Reservation, payer: Payer, cost: i64) {
        let spent = Spent {
            token_id: payer.token_id,
            project_id: payer.project_id,
            cost: NanoUsd::from_nanos(cost),
            tokens: 0,
            completion_tokens: 0,
        };
        self.limiter.charge(Some(&mut reservation), &spent);
    }
}

#[tokio::test]
async fn a_budget_counts_what_was_spent_before_and_what_is_reserved() {
    let bench = Bench::rich(|_| {});
    let one = subject();
    let day = Timestamp::parse_rfc3339(NOON).unwrap().as_micros() / 86_400_000_000;
    let before = Spending {
        total: NanoUsd::from_nanos(500),
        days: vec![
            (day - 1, NanoUsd::from_nanos(400)),
            (day, NanoUsd::from_nanos(40)),
        ],
    };
    bench.ledger.spent.lock().insert(one.token_id.to_string(), before);
    let payer = payer(one, Some(100), None);
    let first = bench.spend(payer, bound(30, true), one).await.unwrap();
    assert_eq!(first.reserved(), Some(NanoUsd::from_nanos(30)));
    let refused = bench.spend(payer, bound(31, true), one).await.unwrap_err().denial;
    assert_eq!(refused.code, DenialCode::RateLimitExceeded);
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
    let refused = bench.spend(payer, bound(61, true), one).await.unwrap_err().denial;
    assert_eq!(refused.code, DenialCode::BudgetExceeded);
    let standing = refused.budget.unwrap();
    assert_eq!(standing.left, NanoUsd::from_nanos(60));
    assert_eq!(standing.resets_at.unwrap().to_string(), "2026-11-28T00:00:00Z");
    bench.pay(first, payer, 10);
    let second = bench.spend(payer, bound(50, true), one).await.unwrap();
    drop(second);
    assert!(
        bench.spend(payer, bound(50, true), one).await.is_ok(),
        "what is dropped is free"
    );
    assert_eq!(bench.ledger.reads.load(Ordering::SeqCst), 1, "it is read once");
    assert_eq!(bench.limiter.statistics().budgets.reserved, NanoUsd::ZERO);
}

#[tokio::test]
async fn the_tightest_of_token_project_and_installation_decides_and_refusals_take_nothing() {
    let bench = Bench::rich(|settings| {
        settings.budgets.installation = Some(Budget {
            nano_usd: 100,
            period: BudgetPeriod::Month,
        });
    });
    let (one, other) = (subject(), somebody_else());
    let rich = payer(one, Some(1000), Some(60));
    let held = bench.spend(rich, bound(60, true), one).await.unwrap();
    assert_eq!(
        held.reserved(),
        Some(NanoUsd::from_nanos(60)),
        "all of what the project has"
    );
    let unlimited = payer(other, None, None);
    let refused = bench
        .spend(unlimited, bound(41, true), other)
        .await
        .unwrap_err()
        .denial;
    assert_eq!(refused.scope, Some(LimitScope::Global));
    let mut rest = bench.spend(unlimited, bound(30, true), other).await.unwrap();
    assert!(!rest.reserve_more(NanoUsd::from_nanos(11)));
    assert!(rest.reserve_more(NanoUsd::from_nanos(10)));
    assert_eq!(rest.reserved(), Some(NanoUsd::from_nanos(40)));
    bench.pay(rest, unlimited, 40);
    bench.pay(held, rich, 60);
    let refused = bench
        .spend(unlimited, bound(0, false), other)
        .await
        .unwrap_err()
        .denial;
    assert_eq!(refused.code, DenialCode::BudgetExceeded);
    let warnings = bench.ledger.warnings.lock().clone();
    assert_eq!(
        warnings,
        [(LimitScope::Project, 100), (LimitScope::Global, 100)],
        "the token has spent little of its own"
    );
    let statistics = bench.limiter.statistics().budgets;
    assert_eq!((statistics.warned_80, statistics.warned_100), (0, 2));
}

#[tokio::test]
async fn quota_refuses_before_the_budget_and_what_the_budget_refuses_costs_no_quota_and_no_rate() {
    let bench = Bench::rich(|_| {});
    let limited = Subject {
        max_requests: NonZeroU64::new(1),
        token_limits: rpm(1),
        ..subject()
    };
    let payer = payer(limited, Some(10), None);
    for _ in 0..5 {
        let refused = bench
            .spend(payer, bound(11, true), limited)
            .await
            .unwrap_err()
            .denial;
        assert_eq!(refused.code, DenialCode::BudgetExceeded);
        assert_eq!(bench.grants.taken(), 0);
    }
    let mut reservation = bench.spend(payer, bound(10, true), limited).await.unwrap();
    reservation.mark_sent();
    bench.pay(reservation, payer, 10);
    let unlimited_rate = Subject {
        token_limits: Limits::default(),
        ..limited
    };
    let refused = bench
        .spend(payer, bound(1, true), unlimited_rate)
        .await
        .unwrap_err()
        .denial;
    assert_eq!(refused.code, DenialCode::TokenQuotaExceeded);
}

#[tokio::test]
async fn a_budget_that_cannot_be_read_is_503_and_one_that_is_known_goes_on() {
    let bench = Bench::rich(|_| {});
    let (one, other) = (subject(), somebody_else());
    drop(
        bench
            .spend(payer(one, Some(10), None), bound(1, true), one)
            .await
            .unwrap(),
    );
    bench.ledger.away.store(true, Ordering::SeqCst);
    assert!(
        bench
            .spend(payer(one, Some(10), None), bound(1, true), one)
            .await
            .is_ok()
    );
    let refused = bench
        .spend(payer(other, Some(10), None), bound(1, true), other)
        .await
        .unwrap_err()
        .denial;
    assert_eq!(refused.code, DenialCode::StoreUnavailable);
    bench.ledger.away.store(false, Ordering::SeqCst);
    assert!(
        bench
            .spend(payer(other, Some(10), None), bound(1, true), other)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn what_ran_before_the_budget_was_given_counts_when_it_ends() {
    let bench = Bench::rich(|_| {});
    let one = subject();
    let without = bench
        .spend(payer(one, None, None), bound(5, true), one)
        .await
        .unwrap();
    assert_eq!(without.reserved(), None);
    let with = payer(one, Some(10), None);
    drop(bench.spend(with, bound(1, true), one).await.unwrap());
    bench.pay(without, with, 8);
    assert!(bench.spend(with, bound(3, true), one).await.is_err());
    assert!(bench.spend(with, bound(2, true), one).await.is_ok());
}

#[tokio::test]
async fn a_thousand_first_requests_at_once_share_what_is_there() {
    let bench = Bench::rich(|_| {});
    let one = subject();
    let with = payer(one, Some(100), None);
    let asking = futures_util::future::join_all((0..1000).map(|_| bench.spend(with, bound(7, true), one)));
    let passed = asking
        .await
        .into_iter()
        .filter_map(Result::ok)
        .collect::<Vec<_>>();
    assert_eq!(passed.len(), 14);
    assert_eq!(bench.ledger.reads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn of_requests_that_declare_nothing_one_at_a_time_may_spend_too_much() {
    let bench = Bench::rich(|_| {});
    let one = subject();
    let with = payer(one, Some(100), Some(40));
    let small = bench.spend(with, bound(30, true), one).await.unwrap();
    let large = bench.spend(with, bound(500, false), one).await.unwrap();
    let sure = large.reserved();
    assert_eq!(sure, Some(NanoUsd::from_nanos(10)), "what the tightest can give");
    bench.pay(small, with, 1);
    let refused = bench.spend(with, bound(1, false), one).await.unwrap_err().denial;
    assert_eq!(refused.code, DenialCode::RateLimitExceeded);
    bench.pay(large, with, 20);
    assert!(bench.spend(with, bound(19, true), one).await.is_ok());
}
