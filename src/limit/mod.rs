//! May they, now: rates, concurrency, `max_requests` and money, taken as one reservation.

mod budget;
mod charge;
mod concurrency;
mod gcra;
pub mod lease;
mod local;
mod rates;
pub mod redis;
mod refuse;
mod reservation;
mod settings;
mod standing;
mod tokens;

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::domain::client_address::limit_key;
use crate::domain::{Budget, Clock, Denial, DenialCode, Limits, NanoUsd, ProjectId, TokenId, spawn};
use crate::store::{GrantOutcome, StoreError};

pub use budget::{Bound, BudgetStatistics, BudgetWatch};
pub use lease::{Backlog, Leases, WholeSlices};
pub use redis::RedisRates;
pub use reservation::Reservation;
pub use settings::{BudgetDefaults, Fallback, FleetSize, LimitSettings};
pub use standing::{RateStanding, Standings};

use budget::{Budgets, Hold, Holders, NotReserved};
use charge::{Bucket, Charges, one_request, tokens};
use concurrency::{Concurrency, Permit};
use rates::{Rates, Taken};
use reservation::{GrantHold, Returns};
use tokens::TokenHold;

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
    /// How many tokens it may use, for rates of them.
    pub tokens: TokensThought,
}

/// How many tokens a request is thought to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokensThought {
    /// Of the prompt.
    pub prompt: u64,
    /// Of the answer, at most, as the client declared it; `None`: as many as answers usually have here.
    pub completion: Option<u64>,
}

/// What a request has used.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Whose token.
    pub token_id: TokenId,
    /// Whose project.
    pub project_id: ProjectId,
    /// Its cost.
    pub cost: NanoUsd,
    /// Its tokens, of prompt and answer.
    pub tokens: u64,
    /// Of these: of the answer.
    pub completion_tokens: u64,
}

/// A refusal, and where the refusing rate stands, for the headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the client is told.
    pub denial: Denial,
    /// The rate of token or project that refused; nothing when something else did.
    pub standings: Standings,
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
/// process, `max_requests` and budgets behind the port [`Leases`].
pub struct Limiter {
    settings: Arc<ArcSwap<LimitSettings>>,
    rates: Arc<Rates>,
    concurrency: Arc<Concurrency>,
    leases: Arc<dyn Leases>,
    returns: Arc<Returns>,
    budgets: Arc<Budgets>,
    /// Tokens of an answer, on the average of the last ones.
    usual_answer: AtomicU64,
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
        Self {
            rates: Arc::new(Rates::new(Arc::clone(&settings), clock, shared)),
            settings,
            concurrency: Concurrency::new(),
            returns: Returns::start(Arc::clone(&leases)),
            leases,
            budgets,
            usual_answer: AtomicU64::new(0),
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
        let global = settings.global.rpm.map(|rpm| one_request(Bucket::Global, rpm));
        let address = settings
            .per_ip
            .rpm
            .map(|rpm| one_request(Bucket::Address(limit_key(client)), rpm));
        let taken = self.rates.take(&Charges::of([global, address]), &settings).await;
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

    /// Whether a budget of this payer is known to be spent, for what is under way already.
    pub fn is_spent(&self, payer: &Payer) -> bool {
        let holders = Holders(payer.token_id, payer.project_id);
        self.budgets.is_spent(self.budgets_of(payer), holders)
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

    /// A request has used this: what it had reserved is free, its budgets are charged and its rates of tokens corrected.
    pub fn charge(&self, reservation: Option<&mut Reservation>, spent: &Spent) {
        let (mut hold, mut paid) = (None, NanoUsd::ZERO);
        if let Some(reservation) = reservation {
            hold = reservation.budget.take();
            paid = std::mem::take(&mut reservation.paid);
            if let Some(tokens) = reservation.tokens.take() {
                self.note_answer(spent.completion_tokens);
                tokens.settle(spent.tokens);
            }
        }
        let holders = Holders(spent.token_id, spent.project_id);
        self.budgets.settle(hold, holders, spent.cost.minus(paid));
    }

    /// A part of a request that goes on has cost this: its budgets are charged, and what it has reserved stays. Whether
    /// anything is left of them.
    pub fn pay(
        &self,
        reservation: &mut Reservation,
        token: TokenId,
        project: ProjectId,
        cost: NanoUsd,
    ) -> bool {
        reservation.paid = reservation.paid.plus(cost);
        let holders = Holders(token, project);
        self.budgets.pay(reservation.budget.as_ref(), holders, cost)
    }

    /// Remembers how long answers are, for requests that do not say.
    fn note_answer(&self, tokens: u64) {
        let average = self.usual_answer.load(Ordering::Relaxed);
        let next = average - average / 8 + tokens.min(u64::from(u32::MAX)) / 8;
        // two at once: one of them is not remembered
        self.usual_answer.store(next, Ordering::Relaxed);
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
        let [of_caller, of_all] = self.charges(&subject, token, project, &settings);
        let taken = self.take(of_caller.as_ref(), &settings).await?;
        let taken_of_all = match self.take(of_all.as_ref(), &settings).await {
            Ok(taken) => taken,
            Err(refused) => {
                self.give_back([taken.as_deref(), None]).await;
                return Err(refused);
            }
        };
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
                        NotReserved::Unknown(error) => refuse::unknown_budget(&error),
                    })
                }
            }
        };
        match rest.await {
            Ok((permits, grant, budget)) => Ok(Reservation {
                permits,
                grant,
                budget,
                paid: NanoUsd::ZERO,
                standings: taken.as_deref().map(Taken::standings).unwrap_or_default(),
                tokens: TokenHold::of(&self.rates, [taken, taken_of_all]),
            }),
            Err(denial) => {
                self.give_back([taken.as_deref(), taken_of_all.as_deref()]).await;
                Err(Refused {
                    denial,
                    standings: Standings::default(),
                })
            }
        }
    }

    /// What a request is charged to: rates of its token and project, and rates of tokens of everybody and its address (those
    /// of requests were charged when its head came). Nothing: it has no such rate.
    ///
    /// WHY: asked first, for most requests are charged to nothing, and charges are large.
    fn charges(
        &self,
        subject: &Subject,
        token: Limits,
        project: Limits,
        settings: &LimitSettings,
    ) -> [Option<Charges>; 2] {
        let of_token = Bucket::Token {
            token: subject.token_id,
            project: subject.project_id,
        };
        let of_project = Bucket::Project(subject.project_id);
        let estimate = subject.tokens.prompt.saturating_add(
            subject
                .tokens
                .completion
                .unwrap_or_else(|| self.usual_answer.load(Ordering::Relaxed)),
        );
        let has_rate = |limits: &Limits| limits.rpm.is_some() || limits.tpm.is_some();
        let of_caller = (has_rate(&token) || has_rate(&project)).then(|| {
            Charges::of([
                token.rpm.map(|rpm| one_request(of_token, rpm)),
                project.rpm.map(|rpm| one_request(of_project, rpm)),
                token.tpm.map(|tpm| tokens(of_token, tpm, estimate)),
                project.tpm.map(|tpm| tokens(of_project, tpm, estimate)),
            ])
        });
        let address = || Bucket::Address(limit_key(subject.client));
        let of_all = (settings.global.tpm.is_some() || settings.per_ip.tpm.is_some()).then(|| {
            Charges::of([
                settings
                    .global
                    .tpm
                    .map(|tpm| tokens(Bucket::Global, tpm, estimate)),
                settings.per_ip.tpm.map(|tpm| tokens(address(), tpm, estimate)),
            ])
        });
        [of_caller, of_all]
    }

    async fn take(
        &self,
        charges: Option<&Charges>,
        settings: &Arc<LimitSettings>,
    ) -> Result<Option<Box<Taken>>, Refused> {
        match charges {
            None => Ok(None),
            Some(charges) => self.rates.take(charges, settings).await.map(Box::new).map(Some),
        }
    }

    async fn give_back(&self, all: [Option<&Taken>; 2]) {
        for taken in all.into_iter().flatten() {
            self.rates.give_back(taken).await;
        }
    }

    /// Waits until every grant that was returned so far is back in the store; `false`: not in time.
    pub async fn settle(&self, timeout: Duration) -> bool {
        self.returns.settle(timeout).await
    }

    /// For metrics.
    pub fn statistics(&self) -> LimitStatistics {
        LimitStatistics {
            buckets: self.rates.buckets(),
            buckets_forgotten: self.rates.buckets_forgotten(),
            grants_lost: self.returns.lost(),
            budgets: self.budgets.statistics(),
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
                .ok_or_else(|| refuse::too_many_under_way(bucket.scope(), most)),
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
            Ok(Ok(Err(error))) => Err(refuse::uncounted(&error)),
            Ok(Err(_)) | Err(_) => Err(refuse::uncounted(&StoreError::Unavailable(format!(
                "no answer within {timeout:?}"
            )))),
        }
    }
}

#[cfg(test)]
mod tests;
