//! The pace of one key: a provider's own limits, kept on our side, so that requests wait here instead of being refused there.
//!
//! Two buckets, of requests and of tokens, say when the next one may go; `turns.rs` says who that is. Nobody is let in by
//! another: each one that waits sleeps until it is told that its turn has come, then until the buckets hold what it needs,
//! and takes that itself. So nothing is ever handed to somebody who is gone. What has to hold is one thing:
//!
//! INVARIANT: whoever becomes the first, or might go earlier than it thought, is told under the same lock that made it so.
//! The one who is served and the one who leaves tell the next; new limits and what is given back tell the first.
//!
//! The first is waited for, however much it needs: small requests behind a large one do not overtake it, so it is not
//! put off for ever.

mod bucket;
mod turns;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use self::bucket::{Bucket, Filling};
use self::turns::{Ticket, Turns};
use crate::domain::TokenId;

/// How many may wait for one key; more are refused at once.
const MOST_WAITING: u32 = 10_000;

/// What a key may do in a minute; none: as much as comes. Below 1 counts as 1.
///
/// In any `t` seconds at most `n + n * t / 60` pass: the bucket is full at the start and refilled evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceLimits {
    /// Requests a minute.
    pub rpm: Option<u64>,
    /// Tokens a minute, of prompt and answer.
    pub tpm: Option<u64>,
}

/// The time was over, or too many waited, before the limits let the request through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overtime;

/// The pace of one key. It outlives a configuration: the next one sets its limits on the same pace.
pub struct Pace {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: Bucket,
    tokens: Bucket,
    turns: Turns,
}

/// From which fillings of the buckets a request took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    requests: Filling,
    tokens: Filling,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").finish_non_exhaustive()
    }
}

impl State {
    fn refill(&mut self) {
        let now = Instant::now();
        self.requests.refill(now);
        self.tokens.refill(now);
    }

    /// How long until a request may go after `ahead` others that take `tokens_ahead`; nothing: now.
    fn wait_for(&self, ahead: u32, tokens_ahead: u128, tokens: u64) -> Duration {
        let requests = self.requests.wait_for(u128::from(ahead), 1);
        requests.max(self.tokens.wait_for(tokens_ahead, tokens))
    }

    fn take(&mut self, tokens: u64) -> Taken {
        Taken {
            requests: self.requests.take(1),
            tokens: self.tokens.take(tokens),
        }
    }
}

impl Pace {
    /// With full buckets.
    pub fn new(limits: PaceLimits) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            state: Mutex::new(State {
                requests: Bucket::new(limits.rpm, now),
                tokens: Bucket::new(limits.tpm, now),
                turns: Turns::default(),
            }),
        })
    }

    /// Changes the limits for those who wait, too. What was used of the old limits counts against the new ones; a limit
    /// where there was none begins with a full bucket.
    pub fn set(&self, limits: PaceLimits) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.requests.resize(limits.rpm, now);
        state.tokens.resize(limits.tpm, now);
        state.turns.wake_first();
    }

    /// How long a newcomer would wait if everybody who waits now went before it; none: it goes at once. The turns of a
    /// token with few requests come earlier, and what is given back shortens it.
    pub fn wait(&self, tokens: u64) -> Option<Duration> {
        let mut state = self.state.lock();
        state.refill();
        let ahead = state.turns.waiting();
        let wait = state.wait_for(ahead, state.turns.tokens(), tokens);
        (ahead > 0 || !wait.is_zero()).then_some(wait)
    }

    /// Waits until the limits let a request of about this many tokens through, no longer than `until`, and takes what it
    /// needs. One larger than all tokens of a minute goes when nothing is used, and leaves a debt. Dropping the future
    /// leaves the queue.
    pub async fn enter(
        self: &Arc<Self>,
        who: TokenId,
        tokens: u64,
        until: Instant,
    ) -> Result<Paced, Overtime> {
        if let Some(paced) = self.enter_at_once(tokens) {
            return Ok(paced);
        }
        self.join(who, tokens)?.turn(until).await
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.state.lock().turns.waiting()
    }

    fn enter_at_once(self: &Arc<Self>, tokens: u64) -> Option<Paced> {
        let mut state = self.state.lock();
        if state.turns.waiting() > 0 {
            return None;
        }
        state.refill();
        let ready = state.wait_for(0, 0, tokens).is_zero();
        ready.then(|| self.paced(tokens, state.take(tokens)))
    }

    fn join(self: &Arc<Self>, who: TokenId, tokens: u64) -> Result<Waiting<'_>, Overtime> {
        let mut state = self.state.lock();
        if state.turns.waiting() >= MOST_WAITING {
            return Err(Overtime);
        }
        let wake = Arc::new(Notify::new());
        Ok(Waiting {
            pace: self,
            ticket: state.turns.join(who, tokens, Arc::clone(&wake)),
            tokens,
            wake,
        })
    }

    fn paced(self: &Arc<Self>, tokens: u64, taken: Taken) -> Paced {
        Paced {
            pace: Arc::clone(self),
            tokens,
            taken,
        }
    }
}

/// One in the queue. Dropped, it leaves it and tells the next.
struct Waiting<'a> {
    pace: &'a Arc<Pace>,
    ticket: Ticket,
    tokens: u64,
    wake: Arc<Notify>,
}

/// What one in the queue finds when it looks.
enum Look {
    /// It may go, and has left the queue.
    Go(Paced),
    /// It is the first; the buckets hold enough in so much time.
    First(Duration),
    /// It is not its turn.
    Later,
}

impl Waiting<'_> {
    async fn turn(self, until: Instant) -> Result<Paced, Overtime> {
        loop {
            let look = self.look();
            let now = Instant::now();
            let alarm = match look {
                Look::Go(paced) => return Ok(paced),
                _ if now >= until => return Err(Overtime),
                // Beyond what a clock can say is beyond `until`.
                Look::First(wait) => now.checked_add(wait).map_or(until, |ready| ready.min(until)),
                Look::Later => until,
            };
            // Woken or not, it looks: `Notify` keeps a call that came before anybody listened.
            let _ = timeout_at(alarm, self.wake.notified()).await;
        }
    }

    fn look(&self) -> Look {
        let mut state = self.pace.state.lock();
        if !state.turns.is_first(self.ticket) {
            return Look::Later;
        }
        state.refill();
        let wait = state.wait_for(0, 0, self.tokens);
        if !wait.is_zero() {
            return Look::First(wait);
        }
        let taken = state.take(self.tokens);
        state.turns.serve(self.ticket);
        state.turns.wake_first();
        Look::Go(self.pace.paced(self.tokens, taken))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.pace.state.lock();
        // Of one that was served nothing is there any more.
        let first = state.turns.is_first(self.ticket);
        state.turns.remove(self.ticket);
        if first {
            state.turns.wake_first();
        }
    }
}

/// A request that the limits let through, with what it took of them. Dropped, it leaves the estimate charged.
#[derive(Debug)]
#[must_use = "it knows how to correct what was charged"]
pub struct Paced {
    pace: Arc<Pace>,
    tokens: u64,
    taken: Taken,
}

impl Paced {
    /// What is charged: the estimate, or what it was last corrected to.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Charges what was really used instead of the estimate: gives back the rest, or takes more, into debt if need be. It may
    /// be called again. Nothing is given back to a bucket that has been full since.
    pub fn correct(&mut self, actual: u64) {
        let estimate = std::mem::replace(&mut self.tokens, actual);
        if actual == estimate {
            return;
        }
        let mut state = self.pace.state.lock();
        state.refill();
        if actual > estimate {
            state.tokens.take(actual - estimate);
        } else {
            state.tokens.give_back(estimate - actual, self.taken.tokens);
            state.turns.wake_first();
        }
    }

    /// Gives back the request and all its tokens: nothing was sent.
    pub fn give_back(self) {
        let mut state = self.pace.state.lock();
        state.refill();
        state.requests.give_back(1, self.taken.requests);
        state.tokens.give_back(self.tokens, self.taken.tokens);
        state.turns.wake_first();
    }
}

#[cfg(test)]
mod tests;
