//! What a request holds while it is under way, and how it is given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::budget::Hold;
use super::concurrency::Permit;
use super::lease::Leases;
use super::standing::Standings;
use super::tokens::TokenHold;
use crate::domain::{NanoUsd, TokenId, spawn};

/// Grants on their way back to the store; above it they are lost (a request less for their token) and
/// counted. There are never more than requests that failed before a connection within one store write.
const MOST_RETURNS: usize = 65_536;

/// Everything a request took to be let through. Dropping it, on any path, ends its places under way, and
/// returns its grant unless [`Self::mark_sent`] was called, and frees what it reserved of budgets.
#[derive(Debug)]
#[must_use = "dropping it ends the request's places"]
pub struct Reservation {
    pub(super) permits: [Option<Permit>; 4],
    pub(super) grant: Option<GrantHold>,
    pub(super) standings: Standings,
    pub(super) tokens: Option<TokenHold>,
    pub(super) budget: Option<Hold>,
    /// What was paid of it already.
    pub(super) paid: NanoUsd,
}

impl Reservation {
    /// A byte of the request may have left for a provider: from now on its grant counts, whatever follows.
    pub fn mark_sent(&mut self) {
        if let Some(grant) = self.grant.take() {
            grant.spend();
        }
    }

    /// Nothing of the request is under way any more: its places are free for the next one.
    pub fn end_places(&mut self) {
        self.permits = [const { None }; 4];
    }

    /// What `x-ratelimit-*` say: the tighter of token and project; nothing when neither has a rate.
    pub fn standings(&self) -> Standings {
        self.standings
    }

    /// What is reserved of budgets, what was paid already included; `None`: nobody has one.
    pub fn reserved(&self) -> Option<NanoUsd> {
        self.budget.as_ref().map(|hold| hold.amount().plus(self.paid))
    }

    /// Reserves more, for a request that may cost more than was thought; `false`: it is not there.
    pub fn reserve_more(&mut self, by: NanoUsd) -> bool {
        self.budget.as_mut().is_none_or(|hold| hold.grow(by))
    }

    /// How many places under way it holds.
    pub fn permits(&self) -> usize {
        self.permits.iter().flatten().count()
    }
}

/// One request of a token's `max_requests`; returned when dropped.
#[derive(Debug)]
pub(super) struct GrantHold {
    token: TokenId,
    returns: Option<Arc<Returns>>,
}

impl GrantHold {
    pub(super) fn new(token: TokenId, returns: Arc<Returns>) -> Self {
        Self {
            token,
            returns: Some(returns),
        }
    }

    fn spend(mut self) {
        self.returns = None;
    }
}

impl Drop for GrantHold {
    fn drop(&mut self) {
        if let Some(returns) = self.returns.take() {
            returns.send(self.token);
        }
    }
}

/// The way back of grants: a drop cannot wait for the store, so a task does.
#[derive(Debug)]
pub(super) struct Returns {
    sender: mpsc::Sender<Return>,
    lost: AtomicU64,
}

#[derive(Debug)]
enum Return {
    Grant(TokenId),
    /// Answers when everything sent before it is done.
    Settled(oneshot::Sender<()>),
}

impl Returns {
    /// Starts the task on the current runtime; it ends with the last holder.
    pub(super) fn start(leases: Arc<dyn Leases>) -> Arc<Self> {
        let (sender, mut receiver) = mpsc::channel(MOST_RETURNS);
        spawn::spawn("grant returns", async move {
            while let Some(message) = receiver.recv().await {
                match message {
                    Return::Grant(token) => leases.return_request(token).await,
                    Return::Settled(answer) => drop(answer.send(())),
                }
            }
        });
        Arc::new(Self {
            sender,
            lost: AtomicU64::new(0),
        })
    }

    /// Waits until every grant returned so far is back in the store, or the time is over.
    pub(super) async fn settle(&self, timeout: Duration) -> bool {
        let (sender, receiver) = oneshot::channel();
        let settled =
            async { self.sender.send(Return::Settled(sender)).await.is_ok() && receiver.await.is_ok() };
        tokio::time::timeout(timeout, settled).await.unwrap_or(false)
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn send(&self, token: TokenId) {
        if self.sender.try_send(Return::Grant(token)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            log::warn!(token_id = token.to_string().as_str(); "a grant of token `{token}` could not be returned");
        }
    }
}
