//! May they, now: rates, concurrency, `max_requests` and money, taken as one reservation.

mod budget;
mod charge;
mod concurrency;
mod gcra;
pub mod lease;
mod local;
pub mod redis;
mod reservation;
mod settings;
mod standing;

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::domain::client_address::limit_key;
use crate::domain::denial::LimitScope;
use crate::domain::{Budget, Clock, Denial, DenialCode, Limits, NanoUsd, ProjectId, TokenId, spawn};
use crate::store::{GrantOutcome, StoreError};

pub use budget::{Bound, BudgetStatistics, BudgetWatch};
pub use lease::{Backlog, Leases, WholeSlices};
pub use redis::RedisRates;
pub use reservation::Reservation;
pub use settings::{BudgetDefaults, Fallback, FleetSize, LimitSettings};
pub use standing::RateStanding;

use budget::{Budgets, Hold, Holders, NotReserved};
use charge::{Bucket, Charge, MOST_CHARGES, Refusal};
use concurrency::{Concurrency, Permit};
use gcra::{Rate, Room};
use local::{LocalRates, Share};
use reservation::{GrantHold, Returns};

/// Who wants to send a request, and what limits him.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// The token.
    pub token_id: TokenId,
    /// Its project.
    pub project_id: ProjectId,
    /// The token's own limits; a part that is absent is taken from `default_token`.
    pub token_limits: Limits,
    /// The project's own limits; a part that is absent is taken from `default_project`.
    pub project_limits: Limits,
    /// How many requests the token may make in all.
    pub max_requests: Option<NonZeroU64>,
    /// The client's address.
    pub client: IpAddr,
}

/// A refusal, and where the refusing rate stands, for the headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the client is told.
    pub denial: Denial,
    /// The rate of token or project that refused; `None` when something else did.
    pub rate: Option<RateStanding>,
}

impl From<Refused> for Denial {
    fn from(refused: Refused) -> Self {
        refused.denial
    }
}

/// How full the memory is and what had to be given up, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitStatistics {
    /// Rate buckets in this process.
    pub buckets: usize,
    /// Rate buckets that were forgotten at the bound before they were full.
    pub buckets_forgotten: u64,
    /// Grants that could not be returned because too many were on their way.
    pub grants_lost: u64,
    /// Budgets.
    pub budgets: BudgetStatistics,
}

/// Whose money a request spends.
#[derive(Debug, Clone, Copy)]
pub struct Payer {
    /// The token.
    pub token_id: TokenId,
    /// Its project.
    pub project_id: ProjectId,
    /// The token's own budget; absent: `budgets.default_token`.
    pub token_budget: Option<Budget>,
    /// The project's own budget; absent: `budgets.default_project`.
    pub project_budget: Option<Budget>,
}

/// What the budgets said to a request; part of its reservation, or the reason why it gets none.
#[derive(Debug)]
pub struct Claim(Result<Option<Hold>, NotReserved>);

impl Claim {
    /// Nobody has a budget.
    pub fn nothing() -> Self {
        Self(Ok(None))
    }

    /// Whether a budget refused, so that a tighter bound may be let through.
    pub fn is_short(&self) -> bool {
        matches!(self.0, Err(NotReserved::Short(_)))
    }
}

/// The one place where requests are admitted: rates in this process or in Redis, concurrency in this
/// process, `max_requests` behind the port [`Grants`].
pub struct Limiter {
    settings: Arc<ArcSwap<LimitSettings>>,
    local: Arc<LocalRates>,
    shared: Option<Arc<RedisRates>>,
    concurrency: Arc<Concurrency>,
    leases: Arc<dyn Leases>,
    returns: Arc<Returns>,
    budgets: Arc<Budgets>,
}

/// Where places were taken, so that they go back there.
enum Taken {
    Locally(Share),
    InRedis,
}

impl Limiter {
    /// Starts the task that returns grants on the current runtime, which must outlive the requests.
    pub fn new(
        settings: Arc<ArcSwap<LimitSettings>>,
        clock: Arc<dyn Clock>,
        leases: Arc<dyn Leases>,
        shared: Option<Arc<RedisRates>>,
        watch: Arc<dyn BudgetWatch>,
    ) -> Self {
        let budgets = Budgets::new(Arc::clone(&leases), Arc::clone(&clock), watch);
        let local = shared
            .as_ref()
            .map_or_else(|| Arc::new(LocalRates::new(clock)), |shared| shared.local());
        Self {
            settings,
            local,
            shared,
            concurrency: Concurrency::new(),
            returns: Returns::start(Arc::clone(&leases)),
            leases,
            budgets,
        }
    }

    /// The rates of the installation and of one address, before anything is known of the client.
    ///
    /// # Errors
    /// 429 `rate_limit_exceeded` with scope global or ip.
    pub async fn admit_address(&self, client: IpAddr) -> Result<(), Denial> {
        let settings = self.settings.load();
        if settings.global.rpm.is_none() && settings.per_ip.rpm.is_none() {
            return Ok(());
        }
        let settings = arc_swap::Guard::into_inner(settings);
        let global = settings.global.rpm.map(|rpm| charge(Bucket::Global, rpm));
        let address = settings
            .per_ip
            .rpm
            .map(|rpm| charge(Bucket::Address(limit_key(client)), rpm));
        let (charges, count) = listed(global, address);
        let taken = self.take(&charges[..count], &settings).await;
        taken.map(|_| ()).map_err(|refused| refused.denial)
    }

    /// Whether what this payer spends is limited.
    pub fn has_budget(&self, payer: &Payer) -> bool {
        self.budgets_of(payer).iter().any(Option::is_some)
    }

    fn budgets_of(&self, payer: &Payer) -> [Option<Budget>; 3] {
        let settings = self.settings.load();
        [
            payer.token_budget.or(settings.budgets.default_token),
            payer.project_budget.or(settings.budgets.default_project),
            settings.budgets.installation,
        ]
    }

    /// Reserves what a request may cost, wherever there is a budget. The answer goes into [`Self::reserve`].
    pub async fn claim(&self, payer: Payer, bound: Bound) -> Claim {
        let applying = self.budgets_of(&payer);
        if applying.iter().all(Option::is_none) {
            return Claim::nothing();
        }
        let holders = Holders(payer.token_id, payer.project_id);
        let patience = self.settings.load().store_timeout;
        let reserved = self.budgets.reserve(applying, holders, bound, patience).await;
        Claim(reserved.map(Some))
    }

    /// A request has cost this: what it had reserved for it is free, and its budgets are charged.
    pub fn charge(
        &self,
        reservation: Option<&mut Reservation>,
        token: TokenId,
        project: ProjectId,
        cost: NanoUsd,
    ) {
        let hold = reservation.and_then(|reservation| reservation.budget.take());
        self.budgets.settle(hold, Holders(token, project), cost);
    }

    /// Everything a request needs before it may leave for a provider: rates of token and project, then
    /// concurrency, then one of `max_requests`, then what its budgets said. What was taken before a refusal is given
    /// back.
    ///
    /// # Errors
    /// 429 `rate_limit_exceeded`, 429 `token_quota_exceeded`, 429 `budget_exceeded`, 503 `store_unavailable`.
    pub async fn reserve(&self, subject: Subject, claim: Claim) -> Result<Reservation, Refused> {
        let settings = self.settings.load_full();
        let token = settings::filled(subject.token_limits, settings.default_token);
        let project = settings::filled(subject.project_limits, settings.default_project);
        let of_token = Bucket::Token {
            token: subject.token_id,
            project: subject.project_id,
        };
        let (charges, count) = listed(
            token.rpm.map(|rpm| charge(of_token, rpm)),
            project
                .rpm
                .map(|rpm| charge(Bucket::Project(subject.project_id), rpm)),
        );
        let charges = &charges[..count];
        let (taken, rooms) = self.take(charges, &settings).await?;
        let rest = async {
            let permits = self.enter(subject, token, project, &settings)?;
            let mut grant = match subject.max_requests {
                Some(most) => Some(self.grant(subject.token_id, most, settings.store_timeout).await?),
                None => None,
            };
            match claim.0 {
                Ok(budget) => Ok((permits, grant, budget)),
                Err(refusal) => {
                    if grant.take().is_some() {
                        // it is back before the client hears of it
                        self.settle(settings.store_timeout).await;
                    }
                    Err(match refusal {
                        NotReserved::Short(denial) => denial,
                        NotReserved::Unknown(error) => unknown_budget(&error),
                    })
                }
            }
        };
        match rest.await {
            Ok((permits, grant, budget)) => Ok(Reservation {
                permits,
                grant,
                budget,
                rate: tightest(charges, &rooms),
            }),
            Err(denial) => {
                self.give_back(charges, &taken).await;
                Err(Refused { denial, rate: None })
            }
        }
    }

    /// Waits until every grant that was returned so far is back in the store; `false`: not in time.
    pub async fn settle(&self, timeout: Duration) -> bool {
        self.returns.settle(timeout).await
    }

    /// For metrics.
    pub fn statistics(&self) -> LimitStatistics {
        LimitStatistics {
            buckets: self.local.len(),
            buckets_forgotten: self.local.forgotten(),
            grants_lost: self.returns.lost(),
            budgets: self.budgets.statistics(),
        }
    }

    async fn take(
        &self,
        charges: &[Charge],
        settings: &Arc<LimitSettings>,
    ) -> Result<(Taken, [Room; MOST_CHARGES]), Refused> {
        if charges.is_empty() {
            return Ok((Taken::Locally(Share::WHOLE), [Room::default(); MOST_CHARGES]));
        }
        if settings.shared
            && let Some(shared) = &self.shared
        {
            // WHY: boxed, so that requests of an installation without Redis do not carry its state around
            match Box::pin(shared.take(charges, settings)).await {
                Some(Ok(rooms)) => return Ok((Taken::InRedis, rooms)),
                Some(Err(refusal)) => return Err(refused(charges, refusal)),
                None if settings.fallback == Fallback::Refuse => return Err(unavailable(charges)),
                None => {}
            }
        }
        let share = self.share(settings);
        match self.local.take(charges, share) {
            Ok(rooms) => Ok((Taken::Locally(share), rooms)),
            Err(refusal) => Err(refused(charges, refusal)),
        }
    }

    async fn give_back(&self, charges: &[Charge], taken: &Taken) {
        match (taken, &self.shared) {
            (Taken::Locally(share), _) => self.local.give_back(charges, *share),
            (Taken::InRedis, Some(shared)) => {
                Box::pin(shared.give_back(charges, &self.settings.load_full())).await;
            }
            (Taken::InRedis, None) => {}
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

    fn enter(
        &self,
        subject: Subject,
        token: Limits,
        project: Limits,
        settings: &LimitSettings,
    ) -> Result<[Option<Permit>; 4], Denial> {
        let of_token = Bucket::Token {
            token: subject.token_id,
            project: subject.project_id,
        };
        let enter = |bucket: Bucket, most: Option<NonZeroU32>| match most {
            None => Ok(None),
            Some(most) => self
                .concurrency
                .enter(bucket, settings.fleet_size.share_rounded_up(most))
                .map(Some)
                .ok_or_else(|| too_many_under_way(bucket.scope(), most)),
        };
        Ok([
            enter(of_token, token.concurrency)?,
            enter(Bucket::Project(subject.project_id), project.concurrency)?,
            enter(
                Bucket::Address(limit_key(subject.client)),
                settings.per_ip.concurrency,
            )?,
            enter(Bucket::Global, settings.global.concurrency)?,
        ])
    }

    /// Takes a grant in a task of its own: when the client leaves meanwhile, the grant finds its way back.
    async fn grant(&self, token: TokenId, most: NonZeroU64, timeout: Duration) -> Result<GrantHold, Denial> {
        let (sender, receiver) = oneshot::channel();
        let (leases, returns) = (self.leases.clone(), self.returns.clone());
        spawn::spawn("grant", async move {
            let outcome = leases.take_request(token, most.get()).await;
            let hold = outcome.map(|outcome| match outcome {
                GrantOutcome::Granted => Some(GrantHold::new(token, returns)),
                GrantOutcome::Exhausted => None,
            });
            drop(sender.send(hold));
        });
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(Ok(Some(hold)))) => Ok(hold),
            Ok(Ok(Ok(None))) => Err(Denial::new(
                DenialCode::TokenQuotaExceeded,
                format!(
                    "this token has used up its `{most}` requests; ask for a new one or a higher `max_requests`"
                ),
            )),
            Ok(Ok(Err(error))) => Err(store_unavailable(&error)),
            Ok(Err(_)) | Err(_) => Err(store_unavailable(&StoreError::Unavailable(format!(
                "no answer within {timeout:?}"
            )))),
        }
    }
}

fn charge(bucket: Bucket, rpm: NonZeroU32) -> Charge {
    Charge {
        bucket,
        rate: Rate(rpm),
    }
}

/// Those that are there, in order, and how many.
fn listed(first: Option<Charge>, second: Option<Charge>) -> ([Charge; MOST_CHARGES], usize) {
    match (first, second) {
        (Some(first), Some(second)) => ([first, second], 2),
        (Some(one), None) | (None, Some(one)) => ([one, one], 1),
        (None, None) => ([charge(Bucket::Global, NonZeroU32::MAX); MOST_CHARGES], 0),
    }
}

fn tightest(charges: &[Charge], rooms: &[Room; MOST_CHARGES]) -> Option<RateStanding> {
    charges
        .iter()
        .zip(rooms)
        .map(|(charge, room)| RateStanding {
            limit: charge.rate.0.get(),
            remaining: room.remaining,
            reset: room.reset,
        })
        .reduce(RateStanding::tighter)
}

fn refused(charges: &[Charge], refusal: Refusal) -> Refused {
    let charge = charges[refusal.index.min(charges.len() - 1)];
    let (scope, rpm) = (charge.bucket.scope(), charge.rate.0.get());
    let denial = Denial::new(
        DenialCode::RateLimitExceeded,
        format!(
            "the rate limit of {} is reached: `{rpm}` requests a minute",
            whose(scope)
        ),
    )
    .with_retry_after(refusal.wait)
    .with_scope(scope);
    let rate = matches!(scope, LimitScope::Token | LimitScope::Project).then_some(RateStanding {
        limit: rpm,
        remaining: 0,
        reset: charge.rate.reset_when_refused(refusal.wait),
    });
    Refused { denial, rate }
}

fn unavailable(charges: &[Charge]) -> Refused {
    let scope = charges[0].bucket.scope();
    Refused {
        denial: Denial::new(
            DenialCode::RateLimitExceeded,
            format!(
                "the rate limit of {} cannot be checked now because Redis does not answer",
                whose(scope)
            ),
        )
        .with_retry_after(Duration::from_secs(1))
        .with_scope(scope),
        rate: None,
    }
}

fn too_many_under_way(scope: LimitScope, most: NonZeroU32) -> Denial {
    Denial::new(
        DenialCode::RateLimitExceeded,
        format!(
            "{} has `{most}` requests under way, as many as allowed at once",
            whose(scope)
        ),
    )
    .with_retry_after(Duration::from_secs(1))
    .with_scope(scope)
}

fn store_unavailable(error: &StoreError) -> Denial {
    log::warn!(kind = error.kind(); "a grant could not be taken: {error}");
    Denial::new(
        DenialCode::StoreUnavailable,
        "the requests of this token cannot be counted now because the store does not answer; try again",
    )
    .with_retry_after(Duration::from_secs(1))
}

fn unknown_budget(error: &StoreError) -> Denial {
    log::warn!(kind = error.kind(); "what is left of a budget could not be read: {error}");
    Denial::new(
        DenialCode::StoreUnavailable,
        "what is left of a budget cannot be read now because the store does not answer; try again",
    )
    .with_retry_after(Duration::from_secs(1))
}

fn whose(scope: LimitScope) -> &'static str {
    match scope {
        LimitScope::Global => "this proxy",
        LimitScope::Ip => "this address",
        LimitScope::Token => "this token",
        LimitScope::Project => "this project",
    }
}

#[cfg(test)]
mod tests;
