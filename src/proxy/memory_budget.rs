//! The bound on request bodies held in memory: for the process, and for one token a quarter of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::domain::TokenId;

/// Tokens are counted in so many parts, so that their requests do not wait for each other.
const SHARDS: usize = 16;

/// Counts held bytes by actual size. At the bound: 503 `overloaded`, `Retry-After: 1`.
#[derive(Debug, Default)]
pub struct MemoryBudget {
    held: AtomicU64,
    by_token: [Mutex<HashMap<TokenId, u64>>; SHARDS],
}

/// The bytes of one request; given back on drop, on every path.
#[derive(Debug)]
pub struct HeldBytes {
    budget: Arc<MemoryBudget>,
    token: TokenId,
    bytes: u64,
}

/// The budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetExceeded {
    /// By all requests together.
    Process,
    /// By the requests of this token.
    Token,
}

impl MemoryBudget {
    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn shard(&self, token: TokenId) -> &Mutex<HashMap<TokenId, u64>> {
        &self.by_token[usize::from(token.as_bytes()[15]) % SHARDS]
    }

    /// Starts counting for one request of `token`.
    pub fn open(self: &Arc<Self>, token: TokenId) -> HeldBytes {
        HeldBytes {
            budget: Arc::clone(self),
            token,
            bytes: 0,
        }
    }
}

impl HeldBytes {
    /// Whether `more` bytes could be taken now. Takes nothing.
    pub fn would_fit(&self, more: u64, limit_bytes: u64) -> Result<(), BudgetExceeded> {
        if self.budget.held().saturating_add(more) > limit_bytes {
            return Err(BudgetExceeded::Process);
        }
        let by_token = self.budget.shard(self.token).lock();
        let token_bytes = by_token.get(&self.token).copied().unwrap_or_default();
        if token_bytes.saturating_add(more) > limit_bytes / 4 {
            return Err(BudgetExceeded::Token);
        }
        Ok(())
    }

    /// Takes `more` bytes under the bound `limit_bytes`, or takes nothing.
    pub fn grow(&mut self, more: u64, limit_bytes: u64) -> Result<(), BudgetExceeded> {
        let before = self.budget.held.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > limit_bytes {
            self.budget.held.fetch_sub(more, Ordering::Relaxed);
            return Err(BudgetExceeded::Process);
        }
        let mut by_token = self.budget.shard(self.token).lock();
        let token_bytes = by_token.entry(self.token).or_default();
        if token_bytes.saturating_add(more) > limit_bytes / 4 {
            if *token_bytes == 0 {
                by_token.remove(&self.token);
            }
            self.budget.held.fetch_sub(more, Ordering::Relaxed);
            return Err(BudgetExceeded::Token);
        }
        *token_bytes += more;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut by_token = self.budget.shard(self.token).lock();
        if let Some(token_bytes) = by_token.get_mut(&self.token) {
            *token_bytes -= self.bytes;
            if *token_bytes == 0 {
                by_token.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_gets_a_quarter_and_everything_comes_back() {
        let budget = Arc::new(MemoryBudget::default());
        let (first, second) = (TokenId::random(), TokenId::random());
        let mut held = budget.open(first);
        assert_eq!(held.grow(25, 100), Ok(()));
        assert_eq!(held.grow(1, 100), Err(BudgetExceeded::Token));
        let mut other = budget.open(second);
        assert_eq!(other.would_fit(75, 100), Err(BudgetExceeded::Token));
        assert_eq!(other.would_fit(76, 100), Err(BudgetExceeded::Process));
        assert_eq!(other.would_fit(25, 100), Ok(()));
        assert_eq!(other.grow(25, 49), Err(BudgetExceeded::Process));
        assert_eq!(other.grow(20, 100), Ok(()));
        assert_eq!(budget.held(), 45);
        drop((held, other));
        assert_eq!(budget.held(), 0);
        assert!(budget.by_token.iter().all(|shard| shard.lock().is_empty()));
    }
}
