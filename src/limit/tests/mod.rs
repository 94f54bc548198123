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

mod money;
mod token_rates;

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

fn somebody_else() -> Subject {
    Subject {
        token_id: TokenId::random(),
        project_id: ProjectId::random(),
        ..subject()
    }
}
