//! Budgets: what a request may cost is reserved before it leaves and settled with what it did cost.
//!
//! Accounts are kept in memory: of the token, its project and the installation, as far as they have a budget. An account is
//! read from the store at its first use, and from then on follows what this process settles. It is exact for one process;
//! the death of the process loses nothing, for what a dead request had reserved becomes a record, which the next process
//! reads.

mod account;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;

use self::account::{Account, Short};
use super::lease::Leases;
use crate::domain::denial::LimitScope;
use crate::domain::{Budget, BudgetWarning, Clock, Denial, DenialCode, NanoUsd, ProjectId, TokenId, Windows};
use crate::store::{INSTALLATION, StoreError};

pub use self::account::Bound;

const SHARDS: usize = 16;

/// Accounts kept in all. Above it those go that nobody uses and that were not used for longest; they are read again.
const MOST_ACCOUNTS: usize = 100_000;

/// Whose money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A token's.
    Token(TokenId),
    /// A project's.
    Project(ProjectId),
    /// Everybody's.
    Installation,
}

impl Holder {
    fn subject(self) -> String {
        match self {
            Self::Token(id) => id.to_string(),
            Self::Project(id) => id.to_string(),
            Self::Installation => INSTALLATION.to_owned(),
        }
    }

    fn scope(self) -> LimitScope {
        match self {
            Self::Token(_) => LimitScope::Token,
            Self::Project(_) => LimitScope::Project,
            Self::Installation => LimitScope::Global,
        }
    }
}

/// Told when a budget is nearly or wholly spent. Must not block.
pub trait BudgetWatch: Send + Sync + 'static {
    /// Once at 80 and once at 100 percent in each period.
    fn budget_warning(&self, warning: BudgetWarning);
}

/// How many budgets there are accounts of, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetStatistics {
    /// Accounts in memory.
    pub accounts: usize,
    /// What running requests have reserved.
    pub reserved: NanoUsd,
    /// Warnings at 80 percent.
    pub warned_80: u64,
    /// Warnings at 100 percent.
    pub warned_100: u64,
}

/// Budgets of this process.
pub(super) struct Budgets {
    shards: [Mutex<Shard>; SHARDS],
    hasher: DefaultHashBuilder,
    most: usize,
    count: AtomicUsize,
    leases: Arc<dyn Leases>,
    clock: Arc<dyn Clock>,
    watch: Arc<dyn BudgetWatch>,
    warned: [AtomicU64; 2],
    reserved: AtomicI64,
}

type Shard = HashMap<Holder, Arc<Slot>, DefaultHashBuilder>;

/// An account and what it takes to read it.
struct Slot {
    holder: Holder,
    state: Mutex<State>,
    reading: tokio::sync::Mutex<()>,
    /// Monotonic milliseconds of its last use.
    touched: AtomicU64,
}

#[derive(Default)]
struct State {
    account: Option<Account>,
    /// Costs settled since the reading of the account began: it may or may not have seen them, so they count.
    unseen: NanoUsd,
}

/// What a request has reserved; given back when dropped, unless it was settled.
pub(super) struct Hold {
    budgets: Arc<Budgets>,
    accounts: Accounts,
    /// What may be spent of them, as far as it is known.
    amount: NanoUsd,
}

const NO_AMOUNTS: [NanoUsd; 3] = [NanoUsd::ZERO; 3];

/// Of a token, its project and the installation: those that have a budget.
type Accounts = [Option<Held>; 3];

/// A part of one account.
struct Held {
    slot: Arc<Slot>,
    budget: Budget,
    amount: NanoUsd,
}

/// The token, its project and the installation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holders(pub TokenId, pub ProjectId);

impl Holders {
    fn all(self) -> [Holder; 3] {
        [
            Holder::Token(self.0),
            Holder::Project(self.1),
            Holder::Installation,
        ]
    }
}

/// Why a request may not spend.
#[derive(Debug)]
pub(super) enum NotReserved {
    /// A budget.
    Short(Denial),
    /// What is left cannot be read.
    Unknown(StoreError),
}

impl Budgets {
    pub(super) fn new(
        leases: Arc<dyn Leases>,
        clock: Arc<dyn Clock>,
        watch: Arc<dyn BudgetWatch>,
    ) -> Arc<Self> {
        Self::with_bound(leases, clock, watch, MOST_ACCOUNTS)
    }

    fn with_bound(
        leases: Arc<dyn Leases>,
        clock: Arc<dyn Clock>,
        watch: Arc<dyn BudgetWatch>,
        most: usize,
    ) -> Arc<Self> {
        let hasher = DefaultHashBuilder::default();
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))),
            hasher,
            most,
            count: AtomicUsize::new(0),
            leases,
            clock,
            watch,
            warned: [AtomicU64::new(0), AtomicU64::new(0)],
            reserved: AtomicI64::new(0),
        })
    }

    /// Reserves in every account, or in none.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        applying: [Option<Budget>; 3],
        holders: Holders,
        bound: Bound,
        patience: Duration,
    ) -> Result<Hold, NotReserved> {
        let mut accounts: Accounts = [None, None, None];
        for ((place, budget), holder) in accounts.iter_mut().zip(applying).zip(holders.all()) {
            let Some(budget) = budget else { continue };
            let slot = self.slot(holder);
            self.read(&slot, patience).await.map_err(NotReserved::Unknown)?;
            *place = Some(Held {
                slot,
                budget,
                amount: NanoUsd::ZERO,
            });
        }
        // dropped on the way out, it gives back what was reserved so far
        let mut hold = Hold {
            budgets: Arc::clone(self),
            accounts,
            amount: NanoUsd::ZERO,
        };
        let amount = hold.add(bound).map_err(NotReserved::Short)?;
        hold.amount = amount;
        self.note_reserved(amount.nanos());
        Ok(hold)
    }

    /// A request has cost this, whether it had reserved anything or not: an account may have come to be while it ran.
    pub(super) fn settle(&self, mut hold: Option<Hold>, holders: Holders, cost: NanoUsd) {
        let accounts = hold.as_mut().map(Hold::empty);
        let amounts = accounts.as_ref().map_or(NO_AMOUNTS, |accounts| {
            std::array::from_fn(|index| accounts[index].as_ref().map_or(NanoUsd::ZERO, |held| held.amount))
        });
        self.settle_with(accounts.as_ref(), amounts, holders, cost);
    }

    fn settle_with(
        &self,
        accounts: Option<&Accounts>,
        amounts: [NanoUsd; 3],
        holders: Holders,
        cost: NanoUsd,
    ) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for (index, holder) in holders.all().into_iter().enumerate() {
            let held = accounts.and_then(|accounts| accounts[index].as_ref());
            let warning = match held {
                Some(held) => self.settle_in(&held.slot, amounts[index], cost),
                None if cost == NanoUsd::ZERO => None,
                None => {
                    let slot = self.shard(holder).lock().get(&holder).cloned();
                    slot.and_then(|slot| self.settle_in(&slot, NanoUsd::ZERO, cost))
                }
            };
            if let Some(warning) = warning {
                self.warn(holder, holders, warning);
            }
        }
    }

    /// A part of a request has cost this, and what it has reserved stays. Whether anything is left of the budgets that it has
    /// reserved of.
    pub(super) fn pay(&self, hold: Option<&Hold>, holders: Holders, cost: NanoUsd) -> bool {
        self.settle_with(hold.map(|hold| &hold.accounts), NO_AMOUNTS, holders, cost);
        hold.is_none_or(|hold| {
            hold.accounts.iter().flatten().all(|held| {
                let mut state = held.slot.state.lock();
                let now = self.clock.now();
                state
                    .account
                    .as_mut()
                    .is_none_or(|account| account.has_any(held.budget, now))
            })
        })
    }

    /// Whether one of these budgets is spent; one that nobody has used yet is not.
    pub(super) fn is_spent(&self, applying: [Option<Budget>; 3], holders: Holders) -> bool {
        let now = self.clock.now();
        applying.into_iter().zip(holders.all()).any(|(budget, holder)| {
            let Some(budget) = budget else { return false };
            let slot = self.shard(holder).lock().get(&holder).cloned();
            slot.is_some_and(|slot| {
                let mut state = slot.state.lock();
                state
                    .account
                    .as_mut()
                    .is_some_and(|account| !account.has_any(budget, now))
            })
        })
    }

    fn settle_in(&self, slot: &Slot, reserved: NanoUsd, cost: NanoUsd) -> Option<(Budget, u8, NanoUsd)> {
        let mut state = slot.state.lock();
        let Some(account) = &mut state.account else {
            state.unseen = state.unseen.plus(cost);
            return None;
        };
        let (budget, percent) = account.settle(reserved, cost, self.clock.now())?;
        Some((budget, percent, account.spent(budget.period)))
    }

    fn warn(&self, holder: Holder, of: Holders, (budget, percent, spent): (Budget, u8, NanoUsd)) {
        self.warned[usize::from(percent >= 100)].fetch_add(1, Ordering::Relaxed);
        self.watch.budget_warning(BudgetWarning {
            scope: holder.scope(),
            token_id: matches!(holder, Holder::Token(_)).then_some(of.0),
            project_id: (!matches!(holder, Holder::Installation)).then_some(of.1),
            budget,
            spent,
            percent,
        });
    }

    /// Reads the account from the store, unless it is known. Who comes meanwhile waits for the same reading.
    async fn read(&self, slot: &Slot, patience: Duration) -> Result<(), StoreError> {
        if slot.state.lock().account.is_some() {
            return Ok(());
        }
        let reading = async {
            let _one_at_a_time = slot.reading.lock().await;
            {
                let mut state = slot.state.lock();
                if state.account.is_some() {
                    return Ok(());
                }
                // what was settled before now is in the store when it is asked
                state.unseen = NanoUsd::ZERO;
            }
            let first_day = Windows::at(self.clock.now()).first();
            let spending = self.leases.spending(&slot.holder.subject(), first_day).await?;
            let now = self.clock.now();
            let mut account = Account::new(&spending, now);
            let mut state = slot.state.lock();
            account.settle(NanoUsd::ZERO, std::mem::take(&mut state.unseen), now);
            state.account = Some(account);
            Ok(())
        };
        tokio::time::timeout(patience, reading)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {patience:?}"))))
    }

    fn slot(&self, holder: Holder) -> Arc<Slot> {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let mut shard = self.shard(holder).lock();
        if let Some(slot) = shard.get(&holder) {
            slot.touched.store(now, Ordering::Relaxed);
            return Arc::clone(slot);
        }
        let most = self.most / SHARDS;
        if shard.len() >= most {
            let before = shard.len();
            trim(&mut shard, most);
            self.count.fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
        let slot = Arc::new(Slot {
            holder,
            state: Mutex::default(),
            reading: tokio::sync::Mutex::new(()),
            touched: AtomicU64::new(now),
        });
        shard.insert(holder, Arc::clone(&slot));
        self.count.fetch_add(1, Ordering::Relaxed);
        slot
    }

    fn shard(&self, holder: Holder) -> &Mutex<Shard> {
        &self.shards[(self.hasher.hash_one(holder) >> 16) as usize % SHARDS]
    }

    fn note_reserved(&self, change: i64) {
        self.reserved.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn statistics(&self) -> BudgetStatistics {
        BudgetStatistics {
            accounts: self.count.load(Ordering::Relaxed),
            reserved: NanoUsd::from_nanos(self.reserved.load(Ordering::Relaxed)),
            warned_80: self.warned[0].load(Ordering::Relaxed),
            warned_100: self.warned[1].load(Ordering::Relaxed),
        }
    }
}

/// Forgets accounts that nobody holds, the longest unused first, so that an eighth of the room is free.
fn trim(shard: &mut Shard, most: usize) {
    let wanted = shard.len() - most * 7 / 8;
    let mut idle: Vec<(u64, Holder)> = shard
        .values()
        .filter(|slot| Arc::strong_count(slot) == 1)
        .map(|slot| (slot.touched.load(Ordering::Relaxed), slot.holder))
        .collect();
    idle.sort_unstable_by_key(|(touched, _)| *touched);
    for (_, holder) in idle.into_iter().take(wanted) {
        shard.remove(&holder);
    }
}

impl Hold {
    /// What was reserved.
    pub(super) fn amount(&self) -> NanoUsd {
        self.amount
    }

    /// Reserves in each account, or stops at the first that refuses. Answers how much is there in all of them.
    fn add(&mut self, bound: Bound) -> Result<NanoUsd, Denial> {
        let now = self.budgets.clock.now();
        let mut sure = None;
        for held in self.accounts.iter_mut().flatten() {
            let mut state = held.slot.state.lock();
            // it was read before, and is not forgotten while somebody holds it
            let Some(account) = &mut state.account else {
                continue;
            };
            let reserved = account
                .reserve(held.budget, bound, now)
                .map_err(|short| refusal(held.slot.holder, held.budget, bound, short))?;
            held.amount = held.amount.plus(reserved.held);
            sure = Some(sure.map_or(reserved.sure, |sure: NanoUsd| sure.min(reserved.sure)));
        }
        Ok(sure.unwrap_or_default())
    }

    /// Takes out what it holds, so that nothing is given back.
    fn empty(&mut self) -> Accounts {
        self.budgets
            .note_reserved(-std::mem::take(&mut self.amount).nanos());
        std::mem::take(&mut self.accounts)
    }

    /// Reserves more, in every account or in none; `false`: it is not there.
    pub(super) fn grow(&mut self, by: NanoUsd) -> bool {
        let before: [NanoUsd; 3] = std::array::from_fn(|index| {
            self.accounts[index]
                .as_ref()
                .map_or(NanoUsd::ZERO, |held| held.amount)
        });
        let bound = Bound {
            most: Some(by),
            declared: true,
        };
        if self.add(bound).is_ok() {
            self.amount = self.amount.plus(by);
            self.budgets.note_reserved(by.nanos());
            return true;
        }
        for (held, before) in self.accounts.iter_mut().zip(before) {
            if let Some(held) = held {
                held.shrink_to(before);
            }
        }
        false
    }
}

impl Held {
    fn shrink_to(&mut self, amount: NanoUsd) {
        if let Some(account) = &mut self.slot.state.lock().account {
            account.release(self.amount.minus(amount));
        }
        self.amount = amount;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        for mut held in self.empty().into_iter().flatten() {
            held.shrink_to(NanoUsd::ZERO);
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold")
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

fn refusal(holder: Holder, budget: Budget, bound: Bound, short: Short) -> Denial {
    let whose = match holder {
        Holder::Token(_) => "this token",
        Holder::Project(_) => "this project",
        Holder::Installation => "this proxy",
    };
    let (left, period) = (short.left, budget.period.in_words());
    if short.only_reserved {
        let message = format!(
            "running requests have reserved the `{left}` US dollars that are left of what {whose} may spend {period}"
        );
        return Denial::new(DenialCode::RateLimitExceeded, message)
            .with_retry_after(Duration::from_secs(1))
            .with_scope(holder.scope());
    }
    // how much there was is the business of those who gave it
    let mut message = format!("`{left}` US dollars are left of what {whose} may spend {period}");
    if let Some(most) = bound
        .most
        .filter(|_| bound.declared && short.left > NanoUsd::ZERO)
    {
        let _ = write!(
            message,
            ", and this request may cost `{most}`; ask for fewer tokens (`max_tokens`)"
        );
    }
    if let Some(resets_at) = short.resets_at {
        let _ = write!(message, "; the budget starts anew at `{resets_at}`");
    }
    Denial::new(DenialCode::BudgetExceeded, message)
        .with_budget(short.left, short.resets_at)
        .with_scope(holder.scope())
}

#[cfg(test)]
mod tests;
