//! What does a known token cost, before its request may leave for a provider?
//!
//! NUMBERS
use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue};
use llm_proxy::auth::{AuthSettings, Authenticator, Principal, credential_hash};
use llm_proxy::domain::crypto::Sealer;
use llm_proxy::domain::patch::TokenPatch;
use llm_proxy::domain::token::NewSecret;
use llm_proxy::domain::{
    Budget, BudgetPeriod, BudgetWarning, Clock, Limits, NanoUsd, Project, ProjectId, SystemClock, Timestamp,
    Token, TokenHash, TokenId,
};
use llm_proxy::limit::{
    Bound, BudgetWatch, Claim, Leases, LimitSettings, Limiter, Payer, Spent, Subject, TokensThought,
};
use llm_proxy::store::tokens::RevokeCounts;
use llm_proxy::store::{
    GrantOutcome, Page, Paged, Spending, StoreError, StoredPrincipal, TokenFilter, TokenStore,
};
use tokio::runtime::Runtime;

/// A million dollars a month.
const MONTHLY: Budget = Budget {
    nano_usd: 1_000_000_000_000_000,
    period: BudgetPeriod::Month,
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    admit(&mut criterion, &runtime)?;
    criterion.final_summary();
    Ok(())
}

fn admit(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let secret = NewSecret::from_random([7; 32]);
    let headers = headers(&secret)?;
    let clock = SystemClock::shared();
    let store = Arc::new(OneToken {
        hash: secret.hash,
        principal: principal(&secret, &*clock),
    });
    let settings = Arc::new(ArcSwap::from_pointee(AuthSettings::default()));
    let authenticator = Authenticator::new(
        store.clone(),
        Arc::new(Sealer::plain()),
        Arc::clone(&clock),
        settings,
    );
    let caller = runtime
        .block_on(authenticator.authenticate(secret.hash, CLIENT))
        .map_err(|refused| anyhow!("{:?}", refused.denial))?;
    // a known token never waits; what runs beside it needs the runtime
    let _entered = runtime.enter();
    let limiter = Limiter::new(
        Arc::new(ArcSwap::from_pointee(LimitSettings::default())),
        clock,
        store.clone(),
        None,
        store,
    );
    let unlimited = subject(&caller, Limits::default());
    let limited = subject(&caller, rpm(u32::MAX));

    let mut group = criterion.benchmark_group("admit");
    group.bench_function("hash_of_the_credential", |bencher| {
        bencher.iter(|| credential_hash(black_box(&headers)));
    });
    group.bench_function("known_token", |bencher| {
        bencher.iter(|| {
            // proofs of the store's presence are queued here and never run: one in five seconds
            authenticator
                .authenticate(black_box(secret.hash), CLIENT)
                .now_or_never()
        });
    });
    group.bench_function("reserve_unlimited", |bencher| {
        bencher.iter(|| {
            limiter
                .reserve(black_box(unlimited), Claim::nothing())
                .now_or_never()
        });
    });
    group.bench_function("reserve_token_and_project_rpm", |bencher| {
        bencher.iter(|| {
            limiter
                .reserve(black_box(limited), Claim::nothing())
                .now_or_never()
        });
    });
    budgets(&mut group, runtime, &limiter, &caller);
    group.bench_function("all_together", |bencher| {
        bencher.iter(|| {
            let hash = credential_hash(black_box(&headers)).ok()?;
            let caller = authenticator.authenticate(hash, CLIENT).now_or_never()?.ok()?;
            limiter
                .reserve(subject(&caller, rpm(u32::MAX)), Claim::nothing())
                .now_or_never()
        });
    });
    group.finish();
    Ok(())
}

fn budgets(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    limiter: &Limiter,
    caller: &Principal,
) {
    let unlimited = subject(caller, Limits::default());
    let payer = Payer {
        token_id: caller.token_id,
        project_id: caller.project_id,
        token_budget: Some(MONTHLY),
        project_budget: Some(MONTHLY),
    };
    let bound = Bound {
        most: Some(NanoUsd::from_nanos(1_000_000)),
        declared: true,
    };
    // the accounts are read once
    drop(runtime.block_on(limiter.claim(payer, bound)));
    group.bench_function("reserve_and_settle_budgets_of_token_and_project", |bencher| {
        bencher.iter(|| {
            let claim = limiter.claim(black_box(payer), bound).now_or_never()?;
            let mut reservation = limiter.reserve(unlimited, claim).now_or_never()?.ok()?;
            let spent = Spent {
                token_id: payer.token_id,
                project_id: payer.project_id,
                cost: NanoUsd::from_nanos(1),
                tokens: 1,
                completion_tokens: 1,
            };
            limiter.charge(Some(&mut reservation), &spent);
            Some(())
        });
    });
}

fn headers(secret: &NewSecret) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(
        "authorization",
        HeaderValue::from_str(&format!("Bearer {}", secret.secret.expose()))?,
    );
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("OpenAI/Python 1.99.0"));
    headers.insert("accept", HeaderValue::from_static("application/json"));
    Ok(headers)
}

fn rpm(rpm: u32) -> Limits {
    Limits {
        rpm: NonZeroU32::new(rpm),
        ..Limits::default()
    }
}

fn subject(caller: &Principal, limits: Limits) -> Subject {
    Subject {
        token_id: caller.token_id,
        project_id: caller.project_id,
        token_limits: limits,
        project_limits: limits,
        max_requests: None,
        client: CLIENT,
        tokens: TokensThought::default(),
    }
}

fn principal(secret: &NewSecret, clock: &dyn Clock) -> StoredPrincipal {
    let now = clock.now();
    let project = Project {
        id: ProjectId::random(),
        name: "bench".to_owned(),
        is_active: true,
        deactivated_at: None,
        created_at: now,
        updated_at: now,
        provider_keys: BTreeMap::new(),
        allowed_models: Vec::new(),
        limits: Limits::default(),
        budget: None,
        metadata: serde_json::Map::new(),
    };
    let token = Token {
        id: TokenId::random(),
        project_id: project.id,
        name: None,
        obfuscated: secret.obfuscated.clone(),
        expires_at: now.plus(Duration::from_hours(24)),
        is_active: true,
        deactivated_at: None,
        created_at: now,
        last_used_at: None,
        request_count: 0,
        cache_hit_count: 0,
        max_requests: None,
        allowed_models: Vec::new(),
        allowed_endpoints: Vec::new(),
        allowed_ips: Vec::new(),
        limits: Limits::default(),
        budget: None,
        metadata: serde_json::Map::new(),
    };
    StoredPrincipal {
        token,
        project,
        secret_expires_at: None,
    }
}

/// A store of one token that is only ever looked up.
struct OneToken {
    hash: TokenHash,
    principal: StoredPrincipal,
}

fn read_only<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("this store is only looked up".to_owned()))
}

#[async_trait]
impl TokenStore for OneToken {
    async fn by_hash(&self, hash: TokenHash) -> Result<Option<StoredPrincipal>, StoreError> {
        Ok((hash == self.hash).then(|| self.principal.clone()))
    }

    async fn get(&self, _: TokenId) -> Result<Option<Token>, StoreError> {
        read_only()
    }

    async fn list(&self, _: TokenFilter, _: Page) -> Result<Paged<Token>, StoreError> {
        read_only()
    }

    async fn create(&self, _: &Token, _: TokenHash) -> Result<(), StoreError> {
        read_only()
    }

    async fn patch(&self, _: TokenId, _: &TokenPatch, _: Timestamp) -> Result<Option<Token>, StoreError> {
        read_only()
    }

    async fn revoke_all(&self, _: ProjectId, _: Timestamp) -> Result<RevokeCounts, StoreError> {
        read_only()
    }

    async fn rotate(
        &self,
        _: TokenId,
        _: TokenHash,
        _: &str,
        _: Timestamp,
    ) -> Result<Option<Token>, StoreError> {
        read_only()
    }
}

#[async_trait]
impl Leases for OneToken {
    async fn take_request(&self, _: TokenId, _: u64) -> Result<GrantOutcome, StoreError> {
        Ok(GrantOutcome::Granted)
    }

    async fn return_request(&self, _: TokenId) {}

    async fn spending(&self, _: &str, _: i64) -> Result<Spending, StoreError> {
        Ok(Spending::default())
    }
}

impl BudgetWatch for OneToken {
    fn budget_warning(&self, _: BudgetWarning) {}
}
