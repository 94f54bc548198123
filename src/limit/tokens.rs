//! What a request took of rates of tokens, until it is known what it used.

use std::sync::Arc;

use super::gcra::Unit;
use super::rates::{Rates, Taken};

/// Tokens that were taken because a request was thought to use them. Dropped, it has used none.
pub(super) struct TokenHold {
    rates: Arc<Rates>,
    taken: [Option<Box<Taken>>; 2],
    used: u64,
}

impl TokenHold {
    /// What is to be corrected of `taken`, if any of it is tokens.
    pub(super) fn of(rates: &Arc<Rates>, taken: [Option<Box<Taken>>; 2]) -> Option<Self> {
        let has_tokens = |taken: &Taken| {
            taken
                .charges
                .iter()
                .any(|charge| charge.rate.unit() == Unit::Tokens)
        };
        taken
            .iter()
            .flatten()
            .any(|taken| has_tokens(taken))
            .then(|| Self {
                rates: Arc::clone(rates),
                taken,
                used: 0,
            })
    }

    /// So many were used.
    pub(super) fn settle(mut self, used: u64) {
        self.used = used;
    }
}

impl Drop for TokenHold {
    fn drop(&mut self) {
        for taken in self.taken.iter().flatten() {
            self.rates.correct(taken, self.used);
        }
    }
}

impl std::fmt::Debug for TokenHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHold")
    }
}
