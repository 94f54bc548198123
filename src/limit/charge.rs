//! What a rate is charged to.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::gcra::{Rate, Unit};
use crate::domain::denial::LimitScope;
use crate::domain::{ProjectId, TokenId};

/// How many buckets one request is charged to at one point.
pub(super) const MOST_CHARGES: usize = 4;

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

/// Places of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) bucket: Bucket,
    pub(super) rate: Rate,
    /// How many: one request, or so many tokens. Never more than there are at most.
    pub(super) places: u64,
}

/// Where its places are kept.
pub(super) type Key = (Bucket, Unit);

impl Charge {
    pub(super) fn key(&self) -> Key {
        (self.bucket, self.rate.unit())
    }
}

/// One request of a bucket.
pub(super) fn one_request(bucket: Bucket, rpm: NonZeroU32) -> Charge {
    Charge {
        bucket,
        rate: Rate::requests(rpm),
        places: 1,
    }
}

/// So many tokens of a bucket; more than there are at most are all of them.
pub(super) fn tokens(bucket: Bucket, tpm: NonZeroU64, places: u64) -> Charge {
    Charge {
        bucket,
        rate: Rate::tokens(tpm),
        places: places.min(tpm.get()),
    }
}

/// Charges of one call, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charges {
    all: [Charge; MOST_CHARGES],
    count: usize,
}

impl Charges {
    /// Those that are there.
    pub(super) fn of(some: impl IntoIterator<Item = Option<Charge>>) -> Self {
        let nothing = Charge {
            bucket: Bucket::Global,
            rate: Rate::requests(NonZeroU32::MAX),
            places: 0,
        };
        let mut charges = Self {
            all: [nothing; MOST_CHARGES],
            count: 0,
        };
        for charge in some.into_iter().flatten().take(MOST_CHARGES) {
            charges.all[charges.count] = charge;
            charges.count += 1;
        }
        charges
    }
}

impl std::ops::Deref for Charges {
    type Target = [Charge];

    fn deref(&self) -> &[Charge] {
        &self.all[..self.count]
    }
}

/// Which of the charges was refused, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) index: usize,
    pub(super) wait: Duration,
}
