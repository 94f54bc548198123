//! The rules of admission, against grants that can be told to fail, hang and run out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::domain::denial::LimitScope;
use crate::domain::{BudgetPeriod, BudgetWarning, ManualClock, Timestamp, UsageRecord};
use crate::store::{Grants, LedgerStore, Page, Paged, RecordFilter, Spending, UsageQuery, UsageRow};

/// Grants in memory: `away` makes them fail, `gate` makes them wait after they were taken.
pub(super) struct FakeGrants {
    taken: Mutex<HashMap<TokenId, u64>>,
    away: AtomicBool,
    gate: Semaphore,
}

impl FakeGrants {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::new(HashMap::new()),
            away: AtomicBool::new(false),
            gate: Semaphore::new(1),
        })
    }

    fn taken(&self) -> u64 {
        self.taken.lock().values().sum()
    }
}

#[async_trait]
impl Grants for FakeGrants {
    async fn take(&self, token: TokenId, max_requests: u64) -> Result<GrantOutcome, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("connection refused".into()));
        }
        {
            let mut taken = self.taken.lock();
            let count = taken.entry(token).or_insert(0);
            if *count >= max_requests {
                return Ok(GrantOutcome::Exhausted);
            }
            *count += 1;
        }
        drop(self.gate.acquire().await.unwrap());
        Ok(GrantOutcome::Granted)
    }
    async fn give_back(&self, token: TokenId) {
        *self.taken.lock().get_mut(&token).unwrap() -= 1;
    }
    async fn forget(&self, _: TokenId) -> Result<(), StoreError> {
        Ok(())
    }
    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What was spent, in memory: `away` makes it fail.
#[derive(Default)]
struct FakeLedger {
    spent: Mutex<HashMap<String, Spending>>,
    away: AtomicBool,
    warnings: Mutex<Vec<(LimitScope, u8)>>,
    reads: std::sync::atomic::AtomicU64,
}

#[async_trait]
impl LedgerStore for FakeLedger {
    async fn append(&self, _: &[UsageRecord]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        Ok(Vec::new())
    }
    async fn records(&self, _: &RecordFilter, _: Page) -> Result<Paged<UsageRecord>, StoreError> {
        Err(StoreError::Unavailable("not asked here".to_owned()))
    }
    async fn spent(&self, _: Vec<String>) -> Result<HashMap<String, NanoUsd>, StoreError> {
        Ok(HashMap::new())
    }
    async fn spending(&self, subject: &str, _: i64) -> Result<Spending, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(self.spent.lock().get(subject).cloned().unwrap_or_default())
    }
    async fn forget_spend_before(&self, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
    async fn prune(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}

#[async_trait]
impl Backlog for FakeLedger {
    async fn all_in_store(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("connection refused".into()));
        }
        Ok(())
    }
}

impl BudgetWatch for FakeLedger {
    fn budget_warning(&self, warning: BudgetWarning) {
        self.warnings.lock().push((warning.scope, warning.percent));
    }
}

/// A limiter with grants and a ledger of its own.
pub(super) fn limiter(
    settings: Arc<ArcSwap<LimitSettings>>,
    clock: Arc<dyn Clock>,
    shared: Option<Arc<RedisRates>>,
) -> Limiter {
    let ledger = Arc::new(FakeLedger::default());
    let slices = WholeSlices {
        grants: FakeGrants::new(),
        ledger: ledger.clone(),
        backlog: ledger.clone(),
    };
    Limiter::new(settings, clock, Arc::new(slices), shared, ledger)
}

struct Bench {
    clock: Arc<ManualClock>,
    settings: Arc<ArcSwap<LimitSettings>>,
    grants: Arc<FakeGrants>,
    ledger: Arc<FakeLedger>,
    limiter: Arc<Limiter>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut LimitSettings)) -> Self {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let mut first = LimitSettings::default();
        change(&mut first);
        let settings = Arc::new(ArcSwap::from_pointee(first));
        let grants = FakeGrants::new();
        let ledger = Arc::new(FakeLedger::default());
        let limiter = Arc::new(Limiter::new(
            settings.clone(),
            clock.clone(),
            Arc::new(WholeSlices {
                grants: grants.clone(),
                ledger: ledger.clone(),
                backlog: ledger.clone(),
            }),
            None,
            ledger.clone(),
        ));
        Self {
            clock,
            settings,
            grants,
            ledger,
            limiter,
        }
    }

    async fn settled(&self) {
        assert!(self.limiter.settle(Duration::from_secs(5)).await);
    }
}

pub(super) fn rpm(n: u32) -> Limits {
    Limits {
        rpm: NonZeroU32::new(n),
        ..Limits::default()
    }
}

fn at_once(n: u32) -> Limits {
    Limits {
        concurrency: NonZeroU32::new(n),
        ..Limits::default()
    }
}

pub(super) fn subject() -> Subject {
    Subject {
        token_id: TokenId::from_bytes([1; 16]),
        project_id: ProjectId::from_bytes([2; 16]),
        token_limits: Limits::default(),
        project_limits: Limits::default(),
        max_requests: None,
        client: "192.0.2.1".parse().unwrap(),
        tokens: TokensThought::default(),
    }
}

#[tokio::test]
async fn an_unlimited_request_reserves_nothing() {
    let bench = Bench::new(|_| ());
    let reservation = bench.limiter.reserve(subject(), Claim::nothing()).await.unwrap();
    assert_eq!(
        (reservation.permits(), reservation.standings()),
        (0, Standings::default())
    );
    bench
        .limiter
        .admit_address("192.0.2.1".parse().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn global_and_address_rates_refuse_with_their_scope_and_exact_wait() {
    let bench = Bench::new(|settings| {
        settings.global = rpm(6);
        settings.per_ip = rpm(3);
    });
    let (first, second) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    for _ in 0..3 {
        bench.limiter.admit_address(first).await.unwrap();
    }
    let denial = bench.limiter.admit_address(first).await.unwrap_err();
    assert_eq!(
        (denial.scope, denial.retry_after_seconds()),
        (Some(LimitScope::Ip), Some(20))
    );
    for _ in 0..3 {
        bench.limiter.admit_address(second).await.unwrap();
    }
    let denial = bench
        .limiter
        .admit_address("192.0.2.3".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(
        (denial.scope, denial.retry_after_seconds()),
        (Some(LimitScope::Global), Some(10))
    );
    bench.clock.advance(Duration::from_secs(10));
    bench
        .limiter
        .admit_address("192.0.2.3".parse().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_headers_show_the_tighter_of_token_and_project() {
    let bench = Bench::new(|_| ());
    let mut subject = subject();
    subject.token_limits = rpm(10);
    subject.project_limits = rpm(3);
    for left in [2, 1, 0] {
        let reservation = bench.limiter.reserve(subject, Claim::nothing()).await.unwrap();
        let standing = reservation.standings().requests.unwrap();
        assert_eq!((standing.limit, standing.remaining), (3, left));
    }
    let refused = bench
        .limiter
        .reserve(subject, Claim::nothing())
        .await
        .unwrap_err();
    assert_eq!(refused.denial.scope, Some(LimitScope::Project));
    let standing = refused.standings.requests.unwrap();
    assert_eq!(
        (standing.limit, standing.remaining, standing.reset_text().as_str()),
        (3, 0, "1m0s")
    );
    subject.project_limits = Limits::default();
    let reservation = bench.limiter.reserve(subject, Claim::nothing()).await.unwrap();
    assert_eq!(
        reservation.standings().requests.unwrap().remaining,
        6,
        "refused ones cost the token nothing"
    );
}

#[tokio::test]
async fn defaults_fill_what_token_and_project_leave_open_and_change_live() {
    let bench = Bench::new(|settings| settings.default_token = rpm(2));
    let mut own = subject();
    own.token_limits = at_once(5);
    for _ in 0..2 {
        drop(bench.limiter.reserve(own, Claim::nothing()).await.unwrap());
    }
    assert!(bench.limiter.reserve(own, Claim::nothing()).await.is_err());
    bench.settings.store(Arc::new(LimitSettings {
        default_token: rpm(4),
        ..LimitSettings::default()
    }));
    assert!(
        bench.limiter.reserve(own, Claim::nothing()).await.is_err(),
        "the used share carries over"
    );
    own.token_limits = rpm(100);
    assert!(
        bench.limiter.reserve(own, Claim::nothing()).await.is_err(),
        "all of it was used up"
    );
    bench.clock.advance(Duration::from_secs(1));
    assert!(bench.limiter.reserve(own, Claim::nothing()).await.is_ok());
}

#[tokio::test]
async fn concurrency_counts_from_reservation_to_drop_and_returns_the_rate_of_the_refused() {
    let bench = Bench::new(|settings| {
        settings.global = at_once(4);
        settings.per_ip = at_once(3);
    });
    let mut subject = subject();
    subject.token_limits = Limits {
        rpm: NonZeroU32::new(10),
        ..at_once(2)
    };
    let first = bench.limiter.reserve(subject, Claim::nothing()).await.unwrap();
    let second = bench.limiter.reserve(subject, Claim::nothing()).await.unwrap();
    for _ in 0..20 {
        let refused = bench
            .limiter
            .reserve(subject, Claim::nothing())
            .await
            .unwrap_err();
        assert_eq!(refused.denial.code, DenialCode::RateLimitExceeded);
        assert_eq!(
            (refused.denial.scope, refused.denial.retry_after_seconds()),
            (Some(LimitScope::Token), Some(1))
        );
    }
    drop(first);
    let third = bench.limiter.reserve(subject, Claim::nothing()).await.unwrap();
    assert_eq!(third.standings().requests.unwrap().remaining, 7);

    let mut other = subject;
    other.token_id = TokenId::from_bytes([9; 16]);
    let fourth = bench.limiter.reserve(other, Claim::nothing()).await.unwrap();
    let refused = bench.limiter.reserve(other, Claim::nothing()).await.unwrap_err();
    assert_eq!(refused.denial.scope, Some(LimitScope::Ip));
    other.client = "192.0.2.2".parse().unwrap();
    let fifth = bench.limiter.reserve(other, Claim::nothing()).await.unwrap();
    other.client = "192.0.2.3".parse().unwrap();
    other.token_id = TokenId::from_bytes([10; 16]);
    let refused = bench.limiter.reserve(other, Claim::nothing()).await.unwrap_err();
    assert_eq!(refused.denial.scope, Some(LimitScope::Global));
    drop((second, third, fourth, fifth));
    assert_eq!(bench.limiter.concurrency.len(), 0);
}

#[tokio::test]
async fn a_fleet_of_known_size_divides_concurrency_up_and_rates_down() {
    let bench = Bench::new(|settings| settings.fleet_size = FleetSize::Fixed(NonZeroU32::new(2).unwrap()));
    let mut three = subject();
    three.token_limits = at_once(3);
    let held = [
        bench.limiter.reserve(three, Claim::nothing()).await.unwrap(),
        bench.limiter.reserve(three, Claim::nothing()).await.unwrap(),
    ];
    assert!(bench.limiter.reserve(three, Claim::nothing()).await.is_err());
    drop(held);
    three.token_limits = rpm(3);
    drop(bench.limiter.reserve(three, Claim::nothing()).await.unwrap());
    assert!(bench.limiter.reserve(three, Claim::nothing()).await.is_err());
}

#[tokio::test]
async fn exactly_max_requests_pass_and_what_was_not_sent_is_granted_again() {
    let bench = Bench::new(|_| ());
    let mut limited = subject();
    limited.max_requests = NonZeroU64::new(20);
    let asking =
        futures_util::future::join_all((0..60).map(|_| bench.limiter.reserve(limited, Claim::nothing())));
    let mut passed: Vec<Reservation> = asking.await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(passed.len(), 20);
    let refused = bench
        .limiter
        .reserve(limited, Claim::nothing())
        .await
        .unwrap_err();
    assert_eq!(
        (refused.denial.code, refused.denial.retry_after),
        (DenialCode::TokenQuotaExceeded, None)
    );
    for reservation in passed.iter_mut().take(15) {
        reservation.mark_sent();
        reservation.mark_sent();
    }
    drop(passed);
    bench.settled().await;
    assert_eq!(bench.grants.taken(), 15);
}

#[tokio::test]
async fn a_reservation_dropped_by_a_panic_returns_its_grant_and_permits() {
    let bench = Bench::new(|_| ());
    let mut limited = subject();
    limited.max_requests = NonZeroU64::new(1);
    limited.token_limits = at_once(1);
    let reservation = bench.limiter.reserve(limited, Claim::nothing()).await.unwrap();
    let thread = std::thread::spawn(move || {
        let _held = reservation;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    bench.settled().await;
    assert_eq!(bench.grants.taken(), 0);
    assert_eq!(bench.limiter.concurrency.len(), 0);
    bench
        .limiter
        .reserve(limited, Claim::nothing())
        .await
        .unwrap()
        .mark_sent();
}

#[tokio::test]
async fn a_client_that_leaves_while_its_grant_is_taken_loses_none() {
    let bench = Bench::new(|_| ());
    let mut limited = subject();
    limited.max_requests = NonZeroU64::new(1);
    bench.grants.gate.forget_permits(1);
    {
        let mut leaving = std::pin::pin!(bench.limiter.reserve(limited, Claim::nothing()));
        while bench.grants.taken() == 0 {
            tokio::select! { biased; _ = &mut leaving => unreachable!(), () = tokio::task::yield_now() => {} }
        }
    }
    bench.grants.gate.add_permits(1);
    while bench.grants.taken() == 1 {
        tokio::task::yield_now().await;
    }
    assert!(bench.limiter.reserve(limited, Claim::nothing()).await.is_ok());
}

#[tokio::test]
async fn a_store_that_is_away_is_503_and_costs_nothing() {
    let bench = Bench::new(|_| ());
    let mut limited = subject();
    limited.max_requests = NonZeroU64::new(10);
    limited.token_limits = Limits {
        rpm: NonZeroU32::new(10),
        ..at_once(10)
    };
    bench.grants.away.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        let refused = bench
            .limiter
            .reserve(limited, Claim::nothing())
            .await
            .unwrap_err();
        assert_eq!(refused.denial.code, DenialCode::StoreUnavailable);
    }
    bench.grants.away.store(false, Ordering::SeqCst);
    let reservation = bench.limiter.reserve(limited, Claim::nothing()).await.unwrap();
    assert_eq!(reservation.standings().requests.unwrap().remaining, 9);
    assert_eq!(reservation.permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_503_after_store_timeout_and_its_grant_comes_back() {
    let bench = Bench::new(|_| ());
    let mut limited = subject();
    limited.max_requests = NonZeroU64::new(1);
    bench.grants.gate.forget_permits(1);
    let refused = bench
        .limiter
        .reserve(limited, Claim::nothing())
        .await
        .unwrap_err();
    assert_eq!(refused.denial.code, DenialCode::StoreUnavailable);
    bench.grants.gate.add_permits(1);
    while bench.grants.taken() == 1 {
        tokio::task::yield_now().await;
    }
}

const NOON: &str = "2026-11-27T12:00:00Z";

fn somebody_else() -> Subject {
    Subject {
        token_id: TokenId::random(),
        project_id: ProjectId::random(),
        ..subject()
    }
}

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

fn of_tokens(subject: Subject, prompt: u64, completion: Option<u64>) -> Subject {
    Subject {
        tokens: TokensThought { prompt, completion },
        ..subject
    }
}

fn tpm(n: u64) -> Limits {
    Limits {
        tpm: NonZeroU64::new(n),
        ..Limits::default()
    }
}

impl Bench {
    fn used(&self, mut reservation: Reservation, subject: Subject, tokens: u64) {
        let spent = Spent {
            token_id: subject.token_id,
            project_id: subject.project_id,
            cost: NanoUsd::ZERO,
            tokens,
            completion_tokens: tokens,
        };
        self.limiter.charge(Some(&mut reservation), &spent);
    }
}

#[tokio::test]
async fn tokens_are_taken_as_thought_and_corrected_by_what_was_used() {
    let bench = Bench::new(|_| {});
    let limited = Subject {
        token_limits: tpm(1000),
        project_limits: tpm(1200),
        ..subject()
    };
    let nothing = Claim::nothing;
    let first = bench
        .limiter
        .reserve(of_tokens(limited, 100, Some(500)), nothing())
        .await
        .unwrap();
    let standing = first.standings();
    assert_eq!(standing.requests, None);
    let tokens = standing.tokens.unwrap();
    assert_eq!(
        (tokens.limit, tokens.remaining),
        (1000, 400),
        "the tighter of both"
    );
    let refused = bench
        .limiter
        .reserve(of_tokens(limited, 100, Some(400)), nothing())
        .await
        .unwrap_err();
    assert_eq!(refused.denial.code, DenialCode::RateLimitExceeded);
    assert_eq!(refused.denial.retry_after, Some(Duration::from_secs(6)));
    assert_eq!(refused.standings.tokens.unwrap().remaining, 400);
    bench.used(first, limited, 50);
    let second = bench
        .limiter
        .reserve(of_tokens(limited, 100, Some(400)), nothing())
        .await
        .unwrap();
    // it never left: dropped, it has used nothing
    drop(second);
    let third = bench
        .limiter
        .reserve(of_tokens(limited, 1, Some(0)), nothing())
        .await
        .unwrap();
    assert_eq!(third.standings().tokens.unwrap().remaining, 949);
    bench.used(third, limited, 3000);
    let refused = bench
        .limiter
        .reserve(of_tokens(limited, 1, Some(0)), nothing())
        .await
        .unwrap_err();
    assert_eq!(
        refused.denial.retry_after,
        Some(Duration::from_millis(123_060)),
        "2,050 more than there are, and one"
    );
    bench.clock.advance(Duration::from_millis(123_060));
    assert!(
        bench
            .limiter
            .reserve(of_tokens(limited, 1, Some(0)), nothing())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn more_tokens_than_there_are_pass_when_nothing_is_used_and_others_give_theirs_back() {
    let bench = Bench::new(|settings| {
        settings.global = tpm(500);
        settings.per_ip = tpm(5000);
    });
    let limited = Subject {
        token_limits: tpm(100),
        ..subject()
    };
    let nothing = Claim::nothing;
    let whole = of_tokens(limited, 10, Some(4096));
    let held = bench.limiter.reserve(whole, nothing()).await.unwrap();
    assert_eq!(held.standings().tokens.unwrap().remaining, 0);
    bench.used(held, limited, 0);
    // the installation refuses: the token's places are not taken
    let other = somebody_else();
    let held = bench
        .limiter
        .reserve(of_tokens(other, 450, Some(0)), nothing())
        .await
        .unwrap();
    let refused = bench
        .limiter
        .reserve(of_tokens(limited, 80, Some(0)), nothing())
        .await
        .unwrap_err();
    assert_eq!(refused.denial.scope, Some(LimitScope::Global));
    bench.used(held, other, 0);
    assert!(
        bench
            .limiter
            .reserve(of_tokens(limited, 100, Some(0)), nothing())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn who_declares_nothing_is_thought_to_use_what_is_usual() {
    let bench = Bench::new(|_| {});
    let limited = Subject {
        token_limits: tpm(10_000),
        ..subject()
    };
    for _ in 0..40 {
        let held = bench
            .limiter
            .reserve(of_tokens(limited, 0, None), Claim::nothing())
            .await
            .unwrap();
        bench.used(held, limited, 800);
        bench.clock.advance(Duration::from_mins(1));
    }
    let held = bench
        .limiter
        .reserve(of_tokens(limited, 100, None), Claim::nothing())
        .await
        .unwrap();
    let remaining = held.standings().tokens.unwrap().remaining;
    assert!((9_100..9_250).contains(&remaining), "{remaining}");
}
