//! How many requests each limited token has taken: what the database says plus what it does not know yet.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::domain::TokenId;

/// Counters beyond this many are forgotten when idle.
const COMFORTABLE: usize = 100_000;
/// Counters beyond this many are not taken in.
const MOST: usize = 200_000;
/// A counter younger than this is kept, for a grant may yet be given back.
const IDLE: Duration = Duration::from_mins(15);

/// Grants minus returned ones, by token.
type Sums = Vec<(TokenId, i64)>;

/// What a caller learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Counted; to be logged before anybody hears of it.
    Granted,
    /// The cap is reached.
    Exhausted,
    /// The database must be asked first; its answer holds while the epoch does.
    Unknown { epoch: u64 },
    /// There is no room for another counter.
    Crowded,
}

/// What the database said about a token, and when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub count: u64,
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    /// Everything: counted in the database, on the way there, and logged only.
    used: u64,
    /// Logged, in no fold yet.
    pending: i64,
    /// In the fold that is under way or will be repeated.
    folding: i64,
    touched: Duration,
}

/// All counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    by_token: HashMap<TokenId, Counter>,
    dirty: HashSet<TokenId>,
    /// Moves when a counter is forgotten: an older answer of the database may miss what that counter had folded.
    epoch: u64,
}

impl Counters {
    /// Takes one request of `cap`.
    pub(super) fn take(&mut self, token: TokenId, cap: u64, base: Option<Base>, now: Duration) -> Verdict {
        if !self.by_token.contains_key(&token) {
            match base {
                Some(base) if base.epoch == self.epoch => {
                    if self.by_token.len() >= MOST {
                        return Verdict::Crowded;
                    }
                    let counter = Counter {
                        used: base.count,
                        pending: 0,
                        folding: 0,
                        touched: now,
                    };
                    self.by_token.insert(token, counter);
                }
                _ => return Verdict::Unknown { epoch: self.epoch },
            }
        }
        let Some(counter) = self.by_token.get_mut(&token) else {
            return Verdict::Unknown { epoch: self.epoch };
        };
        counter.touched = now;
        if counter.used >= cap {
            return Verdict::Exhausted;
        }
        counter.used += 1;
        counter.pending += 1;
        self.dirty.insert(token);
        Verdict::Granted
    }

    /// Takes a grant back, or the mark of one that could not be logged. `false`: nothing is known of it, it is lost.
    pub(super) fn give_back(&mut self, token: TokenId) -> bool {
        let Some(counter) = self.by_token.get_mut(&token).filter(|counter| counter.used > 0) else {
            return false;
        };
        counter.used -= 1;
        counter.pending -= 1;
        self.dirty.insert(token);
        true
    }

    /// Which answers of the database hold.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether everything is in the database or on its way.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Moves what is pending into a fold: the change of each token that has one, and of `also` in any case.
    pub(super) fn begin_fold(&mut self, also: impl IntoIterator<Item = TokenId>) -> Vec<(TokenId, i64)> {
        let mut tokens = std::mem::take(&mut self.dirty);
        tokens.extend(also.into_iter().filter(|token| self.by_token.contains_key(token)));
        let mut changes = Vec::with_capacity(tokens.len());
        for token in tokens {
            if let Some(counter) = self.by_token.get_mut(&token) {
                counter.folding = std::mem::take(&mut counter.pending);
                changes.push((token, counter.folding));
            }
        }
        changes
    }

    /// The fold is committed; `counts` is what the database says now. A token that is not there has no row any more.
    pub(super) fn end_fold(&mut self, changes: &[(TokenId, i64)], counts: &[(TokenId, u64)]) {
        for (token, _) in changes {
            if let Some(counter) = self.by_token.get_mut(token) {
                counter.folding = 0;
            }
        }
        for (token, count) in counts {
            if let Some(counter) = self.by_token.get_mut(token) {
                counter.used = count.saturating_add_signed(counter.pending);
            }
        }
    }

    /// What is logged only, in the order folding, pending, for a log that is written anew.
    pub(super) fn unfolded(&self) -> (Sums, Sums) {
        let all = |part: fn(&Counter) -> i64| {
            self.by_token
                .iter()
                .map(|(token, counter)| (*token, part(counter)))
                .filter(|(_, count)| *count != 0)
                .collect()
        };
        (all(|counter| counter.folding), all(|counter| counter.pending))
    }

    /// Forgets idle counters when there are many, and any that are folded when there are far too many.
    pub(super) fn trim(&mut self, now: Duration) {
        let count = self.by_token.len();
        if count <= COMFORTABLE {
            return;
        }
        let idle = if count >= MOST { Duration::ZERO } else { IDLE };
        self.by_token.retain(|_, counter| {
            counter.pending != 0 || counter.folding != 0 || now.saturating_sub(counter.touched) < idle
        });
        self.dirty.retain(|token| self.by_token.contains_key(token));
        if self.by_token.len() < count {
            self.epoch += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn known(counters: &mut Counters, token: TokenId, cap: u64, count: u64) -> Verdict {
        let Verdict::Unknown { epoch } = counters.take(token, cap, None, NOW) else {
            panic!("the token is known already");
        };
        counters.take(token, cap, Some(Base { count, epoch }), NOW)
    }

    #[test]
    fn a_cap_is_exact_across_folds_and_returns() {
        let token = TokenId::random();
        let mut counters = Counters::default();
        assert_eq!(known(&mut counters, token, 3, 1), Verdict::Granted);
        let changes = counters.begin_fold([]);
        assert_eq!(changes, [(token, 1)]);
        assert_eq!(counters.take(token, 3, None, NOW), Verdict::Granted);
        assert_eq!(counters.take(token, 3, None, NOW), Verdict::Exhausted);
        counters.end_fold(&changes, &[(token, 2)]);
        assert_eq!(counters.take(token, 3, None, NOW), Verdict::Exhausted);
        assert!(counters.give_back(token));
        assert_eq!(counters.take(token, 3, None, NOW), Verdict::Granted);
        assert_eq!(counters.begin_fold([]), [(token, 1)]);
    }

    #[test]
    fn an_answer_from_before_a_counter_was_forgotten_is_not_believed() {
        let mut counters = Counters::default();
        let stale = TokenId::random();
        let Verdict::Unknown { epoch } = counters.take(stale, 9, None, NOW) else {
            panic!("nothing is known yet");
        };
        for _ in 0..=COMFORTABLE {
            assert_eq!(known(&mut counters, TokenId::random(), 9, 0), Verdict::Granted);
        }
        counters.trim(IDLE * 2);
        assert_eq!(
            counters.by_token.len(),
            COMFORTABLE + 1,
            "what is not folded stays"
        );
        let changes = counters.begin_fold([]);
        counters.end_fold(&changes, &[]);
        counters.trim(IDLE * 2);
        assert!(counters.by_token.is_empty());
        let verdict = counters.take(stale, 9, Some(Base { count: 0, epoch }), NOW);
        assert!(matches!(verdict, Verdict::Unknown { .. }));
    }

    #[test]
    fn what_the_database_says_wins() {
        let token = TokenId::random();
        let mut counters = Counters::default();
        assert_eq!(known(&mut counters, token, 9, 0), Verdict::Granted);
        let changes = counters.begin_fold([]);
        counters.end_fold(&changes, &[(token, 8)]);
        assert_eq!(counters.begin_fold([token]), [(token, 0)]);
        assert_eq!(counters.take(token, 9, None, NOW), Verdict::Granted);
        assert_eq!(counters.take(token, 9, None, NOW), Verdict::Exhausted);
    }
}
