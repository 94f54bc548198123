//! The rules of authentication, against a store that can be told to fail, hang and change.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::patch::TokenPatch;
use crate::domain::{Limits, Project, ProjectId, Timestamp, Token, TokenId};
use crate::store::tokens::RevokeCounts;
use crate::store::{Page, Paged, StoreError, StoredPrincipal, TokenFilter};

const START: Timestamp = Timestamp::EPOCH;

pub(super) fn stored(number: u8) -> StoredPrincipal {
    let project_id = ProjectId::from_bytes([100; 16]);
    StoredPrincipal {
        token: Token {
            id: TokenId::from_bytes([number; 16]),
            project_id,
            name: None,
            obfuscated: "sk-abcd****wxyz".into(),
            expires_at: START.plus(Duration::from_hours(24)),
            is_active: true,
            deactivated_at: None,
            created_at: START,
            last_used_at: None,
            request_count: 0,
            cache_hit_count: 0,
            max_requests: None,
            allowed_models: vec![],
            allowed_endpoints: vec![],
            allowed_ips: vec![],
            limits: Limits::default(),
            budget: None,
            metadata: serde_json::Map::new(),
        },
        project: Project {
            id: project_id,
            name: "project".into(),
            is_active: true,
            deactivated_at: None,
            created_at: START,
            updated_at: START,
            provider_keys: std::collections::BTreeMap::new(),
            allowed_models: vec![],
            limits: Limits::default(),
            budget: None,
            metadata: serde_json::Map::new(),
        },
        secret_expires_at: None,
    }
}

/// A store in memory: `away` makes reads fail, `gate` makes them wait after they have read.
struct FakeStore {
    rows: Mutex<HashMap<TokenHash, StoredPrincipal>>,
    away: AtomicBool,
    gate: Semaphore,
    reads: AtomicU64,
}

impl FakeStore {
    fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    fn put(&self, secret: &str, row: StoredPrincipal) {
        self.rows.lock().insert(TokenHash::of(secret), row);
    }
}

#[async_trait]
impl TokenStore for FakeStore {
    async fn by_hash(&self, hash: TokenHash) -> Result<Option<StoredPrincipal>, StoreError> {
        let answer = self.rows.lock().get(&hash).cloned();
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.gate.add_permits(1);
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("connection refused".into()));
        }
        Ok(answer)
    }
    async fn get(&self, _: TokenId) -> Result<Option<Token>, StoreError> {
        unreachable!()
    }
    async fn list(&self, _: TokenFilter, _: Page) -> Result<Paged<Token>, StoreError> {
        unreachable!()
    }
    async fn create(&self, _: &Token, _: TokenHash) -> Result<(), StoreError> {
        unreachable!()
    }
    async fn patch(&self, _: TokenId, _: &TokenPatch, _: Timestamp) -> Result<Option<Token>, StoreError> {
        unreachable!()
    }
    async fn revoke_all(&self, _: ProjectId, _: Timestamp) -> Result<RevokeCounts, StoreError> {
        unreachable!()
    }
    async fn rotate(
        &self,
        _: TokenId,
        _: TokenHash,
        _: &str,
        _: Timestamp,
    ) -> Result<Option<Token>, StoreError> {
        unreachable!()
    }
}

struct Bench {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    settings: Arc<ArcSwap<AuthSettings>>,
    authenticator: Arc<Authenticator>,
}

impl Bench {
    fn new() -> Self {
        let store = Arc::new(FakeStore {
            rows: Mutex::new(HashMap::new()),
            away: AtomicBool::new(false),
            gate: Semaphore::new(1),
            reads: AtomicU64::new(0),
        });
        let clock = ManualClock::at(START);
        clock.advance(Duration::from_secs(1));
        let settings = Arc::new(ArcSwap::from_pointee(AuthSettings::default()));
        let authenticator = Arc::new(Authenticator::new(
            store.clone(),
            Arc::new(Sealer::plain()),
            clock.clone(),
            settings.clone(),
        ));
        Self {
            store,
            clock,
            settings,
            authenticator,
        }
    }

    async fn ask(&self, secret: &str) -> Result<TokenId, DenialCode> {
        self.ask_from(secret, "192.0.2.1").await
    }

    async fn ask_from(&self, secret: &str, client: &str) -> Result<TokenId, DenialCode> {
        self.authenticator
            .authenticate(TokenHash::of(secret), client.parse().unwrap())
            .await
            .map(|principal| principal.token_id)
            .map_err(|refused| refused.denial.code)
    }

    fn close_gate(&self) {
        self.store.gate.forget_permits(1);
    }

    fn open_gate(&self) {
        self.store.gate.add_permits(1);
    }

    async fn reads_become(&self, count: u64) {
        while self.store.reads() < count {
            tokio::task::yield_now().await;
        }
    }
}

fn id(number: u8) -> TokenId {
    TokenId::from_bytes([number; 16])
}

#[tokio::test]
async fn a_known_token_is_read_once() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    for _ in 0..100 {
        assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
    }
    assert_eq!(bench.store.reads(), 1);
}

#[tokio::test]
async fn a_known_token_is_served_without_suspending() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.ask("secret-1").await.unwrap();
    let mut asking = std::pin::pin!(bench.ask("secret-1"));
    let waker = futures_util::task::noop_waker();
    let mut context = std::task::Context::from_waker(&waker);
    assert!(asking.as_mut().poll(&mut context).is_ready());
}

#[tokio::test]
async fn states_of_token_and_project_are_refused_by_name_at_each_use() {
    let bench = Bench::new();
    let mut revoked = stored(1);
    revoked.token.is_active = false;
    bench.store.put("revoked-token", revoked);
    let mut sleeping = stored(2);
    sleeping.project.is_active = false;
    bench.store.put("sleeping-project", sleeping);
    bench.store.put("short-lived", stored(3));
    let mut rotated = stored(4);
    rotated.secret_expires_at = Some(START.plus(Duration::from_mins(1)));
    bench.store.put("rotated-secret", rotated);

    for _ in 0..2 {
        assert_eq!(bench.ask("revoked-token").await, Err(DenialCode::TokenInactive));
        assert_eq!(
            bench.ask("sleeping-project").await,
            Err(DenialCode::ProjectInactive)
        );
        assert_eq!(bench.ask("nobody-knows-me").await, Err(DenialCode::TokenNotFound));
    }
    assert_eq!(bench.ask("short-lived").await, Ok(id(3)));
    assert_eq!(bench.ask("rotated-secret").await, Ok(id(4)));
    bench.clock.jump_wall(START.plus(Duration::from_mins(1)));
    assert_eq!(bench.ask("rotated-secret").await, Err(DenialCode::TokenExpired));
    assert_eq!(bench.ask("short-lived").await, Ok(id(3)));
    bench.clock.jump_wall(START.plus(Duration::from_hours(24)));
    assert_eq!(bench.ask("short-lived").await, Err(DenialCode::TokenExpired));
    assert_eq!(bench.store.reads(), 5);

    let refused = bench
        .authenticator
        .authenticate(TokenHash::of("short-lived"), "192.0.2.1".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(
        refused.principal.unwrap().token_id,
        id(3),
        "the audit learns whose it was"
    );
}

#[tokio::test]
async fn an_unknown_credential_is_remembered_until_anything_changes() {
    let bench = Bench::new();
    for _ in 0..5 {
        assert_eq!(bench.ask("not-yet-there").await, Err(DenialCode::TokenNotFound));
    }
    assert_eq!(bench.store.reads(), 1);
    bench.store.put("not-yet-there", stored(1));
    bench.authenticator.changed(Changed::Token(id(1)));
    assert_eq!(bench.ask("not-yet-there").await, Ok(id(1)));
}

#[tokio::test]
async fn an_unknown_credential_is_asked_for_again_after_half_a_minute() {
    let bench = Bench::new();
    assert_eq!(bench.ask("not-yet-there").await, Err(DenialCode::TokenNotFound));
    bench.store.put("not-yet-there", stored(1));
    bench.clock.advance(Duration::from_secs(31));
    assert_eq!(bench.ask("not-yet-there").await, Ok(id(1)));
}

#[tokio::test]
async fn a_change_of_the_token_or_its_project_holds_at_the_next_use() {
    let bench = Bench::new();
    for change in [
        Changed::Token(id(1)),
        Changed::Project(ProjectId::from_bytes([100; 16])),
        Changed::Everything,
    ] {
        bench.store.put("secret-1", stored(1));
        bench.authenticator.changed(Changed::Everything);
        assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
        let mut revoked = stored(1);
        revoked.token.is_active = false;
        bench.store.put("secret-1", revoked);
        assert_eq!(bench.ask("secret-1").await, Ok(id(1)), "nobody told yet");
        bench.authenticator.changed(change);
        assert_eq!(
            bench.ask("secret-1").await,
            Err(DenialCode::TokenInactive),
            "{change:?}"
        );
    }
}

#[tokio::test]
async fn many_who_ask_for_one_new_token_cause_one_read() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.close_gate();
    let asking = futures_util::future::join_all((0..50).map(|_| bench.ask("secret-1")));
    let opening = async {
        bench.reads_become(1).await;
        bench.open_gate();
    };
    let (answers, ()) = tokio::join!(asking, opening);
    assert!(answers.iter().all(|answer| *answer == Ok(id(1))));
    assert_eq!(bench.store.reads(), 1);
}

#[tokio::test]
async fn a_read_under_way_during_a_revocation_does_not_bring_the_token_back() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.close_gate();
    let early = bench.ask("secret-1");
    let rest = async {
        bench.reads_become(1).await;
        let mut revoked = stored(1);
        revoked.token.is_active = false;
        bench.store.put("secret-1", revoked);
        bench.authenticator.changed(Changed::Token(id(1)));
        let late = bench.ask("secret-1");
        let opening = async {
            bench.reads_become(2).await;
            bench.open_gate();
        };
        tokio::join!(late, opening).0
    };
    let (early, late) = tokio::join!(early, rest);
    assert_eq!(
        early,
        Ok(id(1)),
        "it was asked for before the revocation was answered"
    );
    assert_eq!(
        late,
        Err(DenialCode::TokenInactive),
        "it must not join the older read"
    );
    assert_eq!(bench.ask("secret-1").await, Err(DenialCode::TokenInactive));
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_read_for_others() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.close_gate();
    {
        let mut leaving = std::pin::pin!(bench.ask("secret-1"));
        let waker = futures_util::task::noop_waker();
        assert!(
            leaving
                .as_mut()
                .poll(&mut std::task::Context::from_waker(&waker))
                .is_pending()
        );
    }
    bench.reads_become(1).await;
    bench.open_gate();
    assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
    assert_eq!(bench.store.reads(), 1);
}

#[tokio::test]
async fn while_the_store_is_away_known_tokens_are_served_for_max_stale_and_nobody_gets_a_401() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.store.put("secret-2", stored(2));
    assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
    bench.store.away.store(true, Ordering::SeqCst);
    assert_eq!(bench.ask("secret-2").await, Err(DenialCode::StoreUnavailable));
    assert_eq!(
        bench.ask("nobody-knows-me").await,
        Err(DenialCode::StoreUnavailable)
    );
    bench.clock.advance(Duration::from_hours(1));
    assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.ask("secret-1").await, Err(DenialCode::StoreUnavailable));
    bench.store.away.store(false, Ordering::SeqCst);
    assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
}

#[tokio::test]
async fn traffic_proves_every_few_seconds_that_the_store_is_there_for_all_tokens() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.store.put("secret-2", stored(2));
    bench.ask("secret-1").await.unwrap();
    bench.ask("secret-2").await.unwrap();
    for proof in 1..=5u64 {
        bench.clock.advance(Duration::from_mins(50));
        bench.ask("secret-1").await.unwrap();
        bench.reads_become(2 + proof).await;
        tokio::task::yield_now().await;
    }
    bench.store.away.store(true, Ordering::SeqCst);
    assert_eq!(
        bench.ask("secret-2").await,
        Ok(id(2)),
        "verified by the proofs of another token"
    );
}

#[tokio::test]
async fn after_a_gap_with_the_store_away_known_tokens_are_served_without_waiting_each_time() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.ask("secret-1").await.unwrap();
    bench.store.away.store(true, Ordering::SeqCst);
    bench.clock.advance(Duration::from_secs(2));
    bench.authenticator.changed(Changed::Everything);
    assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
    bench.close_gate();
    for _ in 0..10 {
        let mut asking = std::pin::pin!(bench.ask("secret-1"));
        let waker = futures_util::task::noop_waker();
        assert!(
            asking
                .as_mut()
                .poll(&mut std::task::Context::from_waker(&waker))
                .is_ready()
        );
    }
    bench.reads_become(3).await;
    bench.store.away.store(false, Ordering::SeqCst);
    bench.open_gate();
    while bench.authenticator.directory.store_is_away() {
        tokio::task::yield_now().await;
    }
    let mut revoked = stored(1);
    revoked.token.is_active = false;
    bench.store.put("secret-1", revoked);
    bench.authenticator.changed(Changed::Everything);
    assert_eq!(
        bench.ask("secret-1").await,
        Err(DenialCode::TokenInactive),
        "read again once it is back"
    );
    bench.store.away.store(true, Ordering::SeqCst);
    bench.authenticator.changed(Changed::Token(id(1)));
    assert_eq!(
        bench.ask("secret-1").await,
        Err(DenialCode::StoreUnavailable),
        "it is known to have changed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_unavailable_after_store_timeout() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.close_gate();
    assert_eq!(bench.ask("secret-1").await, Err(DenialCode::StoreUnavailable));
}

#[tokio::test]
async fn above_failed_per_ip_unknown_credentials_get_429_without_a_read_and_known_ones_work() {
    let bench = Bench::new();
    bench.store.put("secret-1", stored(1));
    bench.ask("secret-1").await.unwrap();
    for number in 0..60 {
        assert_eq!(
            bench.ask(&format!("guess-{number}")).await,
            Err(DenialCode::TokenNotFound)
        );
    }
    let reads = bench.store.reads();
    assert_eq!(bench.ask("guess-60").await, Err(DenialCode::RateLimitExceeded));
    assert_eq!(bench.ask("guess-1").await, Err(DenialCode::RateLimitExceeded));
    assert_eq!(bench.store.reads(), reads);
    assert_eq!(bench.ask("secret-1").await, Ok(id(1)));
    assert_eq!(
        bench.ask_from("guess-60", "192.0.2.2").await,
        Err(DenialCode::TokenNotFound)
    );
    assert_eq!(bench.authenticator.statistics().throttled, 2);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.ask("guess-61").await, Err(DenialCode::TokenNotFound));
}

#[tokio::test]
async fn memory_keeps_to_its_bounds_also_when_a_reload_changes_them() {
    let bench = Bench::new();
    bench.settings.store(Arc::new(AuthSettings {
        known_tokens: 10,
        unknown_tokens: 10,
        failed_per_ip: 0,
        ..AuthSettings::default()
    }));
    for number in 0..100 {
        bench.store.put(&format!("secret-{number}"), stored(number));
        bench.ask(&format!("secret-{number}")).await.unwrap();
        bench.ask(&format!("guess-{number}")).await.unwrap_err();
    }
    let statistics = bench.authenticator.statistics();
    assert!(
        statistics.known_tokens <= 32 && statistics.unknown_tokens <= 32,
        "{statistics:?}"
    );
}
