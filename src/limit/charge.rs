//! What a rate is charged to.

use std::net::IpAddr;
use std::time::Duration;

use super::gcra::Rate;
use crate::domain::denial::LimitScope;
use crate::domain::{ProjectId, TokenId};

/// How many buckets one request is charged to at one point.
pub(super) const MOST_CHARGES: usize = 2;

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Bucket {
    /// Everyone's.
    Global,
    /// One address's (IPv6: one /64's).
    Address(IpAddr),
    /// One token's; its project decides where a cluster keeps it.
    Token {
        /// The token.
        token: TokenId,
        /// Its project.
        project: ProjectId,
    },
    /// One project's.
    Project(ProjectId),
}

impl Bucket {
    pub(super) fn scope(self) -> LimitScope {
        match self {
            Self::Global => LimitScope::Global,
            Self::Address(_) => LimitScope::Ip,
            Self::Token { .. } => LimitScope::Token,
            Self::Project(_) => LimitScope::Project,
        }
    }
}

/// One place of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) bucket: Bucket,
    pub(super) rate: Rate,
}

/// Which of the charges was refused, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) index: usize,
    pub(super) wait: Duration,
}
