//! The other instances: how a change made on one is heard on all.

pub mod local;
pub mod postgres;

use crate::domain::{ProjectId, TokenId};

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Changed {
    /// One token (revoked, patched, rotated, created).
    Token(TokenId),
    /// One project: all its tokens must be read again.
    Project(ProjectId),
    /// Something was missed: everything must be read again before its next use.
    Everything,
}

/// Who wants to hear of changes; called from any thread, must not block.
pub trait ChangeListener: Send + Sync + 'static {
    /// A change happened, here or elsewhere.
    fn changed(&self, change: Changed);
}
