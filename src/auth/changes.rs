//! Tells whether something read from the store may have changed since, in bounded memory and without a lock.
//!
//! Every change gets a number. A slot per token and per project (chosen by a hash of the id, so two ids may
//! share one) keeps the number of its last change. Whoever reads the store notes the newest number *before*
//! reading; what was read is outdated once its slot holds a larger one. A change is announced after it was
//! committed, so a read that began later sees it, and one that began earlier can never pass for newer. Two
//! ids in one slot cost at most one needless read of the store.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::{ProjectId, TokenId};
use crate::fleet::Changed;

const TOKEN_SLOTS: usize = 1 << 14;
const PROJECT_SLOTS: usize = 1 << 12;

/// The number of the newest change when a read of the store began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AsOf(u64);

/// Whether what was read still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing that concerns it changed.
    Current,
    /// Something was missed; it may or may not have changed.
    Doubtful,
    /// It was changed.
    Outdated,
}

/// What changed when.
#[derive(Debug)]
pub(super) struct Changes {
    newest: AtomicU64,
    everything: AtomicU64,
    tokens: Box<[AtomicU64]>,
    projects: Box<[AtomicU64]>,
}

impl Changes {
    pub(super) fn new() -> Self {
        Self {
            newest: AtomicU64::new(0),
            everything: AtomicU64::new(0),
            tokens: (0..TOKEN_SLOTS).map(|_| AtomicU64::new(0)).collect(),
            projects: (0..PROJECT_SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Notes a change. When this returns, nothing read before it is current any more.
    pub(super) fn note(&self, change: Changed) {
        let number = self.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let slot = match change {
            Changed::Token(id) => &self.tokens[slot_of(id.as_bytes(), TOKEN_SLOTS)],
            Changed::Project(id) => &self.projects[slot_of(id.as_bytes(), PROJECT_SLOTS)],
            Changed::Everything => &self.everything,
        };
        slot.fetch_max(number, Ordering::SeqCst);
    }

    /// To be taken before the store is read.
    pub(super) fn now(&self) -> AsOf {
        AsOf(self.newest.load(Ordering::SeqCst))
    }

    /// Whether nothing at all changed since.
    pub(super) fn nothing_since(&self, as_of: AsOf) -> bool {
        self.now() == as_of
    }

    /// Whether what was read of this token and project still holds.
    pub(super) fn standing(&self, token: TokenId, project: ProjectId, as_of: AsOf) -> Standing {
        let of_token = self.tokens[slot_of(token.as_bytes(), TOKEN_SLOTS)].load(Ordering::SeqCst);
        let of_project = self.projects[slot_of(project.as_bytes(), PROJECT_SLOTS)].load(Ordering::SeqCst);
        if of_token > as_of.0 || of_project > as_of.0 {
            Standing::Outdated
        } else if self.everything.load(Ordering::SeqCst) > as_of.0 {
            Standing::Doubtful
        } else {
            Standing::Current
        }
    }
}

fn slot_of(id: &[u8; 16], slots: usize) -> usize {
    let whole = u128::from_le_bytes(*id);
    let (low, high) = (whole as u64, (whole >> 64) as u64);
    let mixed = low
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(high.wrapping_mul(0xC2B2_AE3D_27D4_EB4F));
    (mixed >> 32) as usize % slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_outdates_what_was_read_before_it_and_nothing_else() {
        let changes = Changes::new();
        let (token, project) = (TokenId::from_bytes([1; 16]), ProjectId::from_bytes([2; 16]));
        let (stranger, foreign) = (TokenId::from_bytes([3; 16]), ProjectId::from_bytes([4; 16]));
        let before = changes.now();
        assert_eq!(changes.standing(token, project, before), Standing::Current);

        changes.note(Changed::Token(token));
        assert_eq!(changes.standing(token, project, before), Standing::Outdated);
        assert_eq!(changes.standing(stranger, project, before), Standing::Current);
        assert!(!changes.nothing_since(before));
        assert_eq!(changes.standing(token, project, changes.now()), Standing::Current);

        let before = changes.now();
        changes.note(Changed::Project(project));
        assert_eq!(changes.standing(stranger, project, before), Standing::Outdated);
        assert_eq!(changes.standing(stranger, foreign, before), Standing::Current);

        let before = changes.now();
        changes.note(Changed::Everything);
        assert_eq!(changes.standing(stranger, foreign, before), Standing::Doubtful);
        changes.note(Changed::Token(stranger));
        assert_eq!(changes.standing(stranger, foreign, before), Standing::Outdated);
    }
}
