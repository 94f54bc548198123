//! What a client is told that may not go on now.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Refused;
use super::charge::{Charge, Refusal};
use super::gcra::Unit;
use super::standing::{RateStanding, Standings};
use crate::domain::denial::LimitScope;
use crate::domain::{Denial, DenialCode};
use crate::store::StoreError;

/// A rate refused.
pub(super) fn by_rate(charges: &[Charge], refusal: Refusal) -> Refused {
    let charge = charges[refusal.index.min(charges.len() - 1)];
    let (scope, most) = (charge.bucket.scope(), charge.rate.most());
    let what = match charge.rate.unit() {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
    };
    let denial = Denial::new(
        DenialCode::RateLimitExceeded,
        format!(
            "the rate limit of {} is reached: `{most}` {what} a minute",
            whose(scope)
        ),
    )
    .with_retry_after(refusal.wait)
    .with_scope(scope);
    let reset = charge.rate.reset_when_refused(refusal.wait, charge.places);
    let standing = matches!(scope, LimitScope::Token | LimitScope::Project).then(|| RateStanding {
        limit: most,
        remaining: charge.rate.room_of(reset),
        reset,
    });
    let mut standings = Standings::default();
    match charge.rate.unit() {
        Unit::Requests => standings.requests = standing,
        Unit::Tokens => standings.tokens = standing,
    }
    Refused { denial, standings }
}

/// Nobody can say.
pub(super) fn unchecked(charges: &[Charge]) -> Refused {
    let scope = charges[0].bucket.scope();
    Refused {
        denial: Denial::new(
            DenialCode::RateLimitExceeded,
            format!(
                "the rate limit of {} cannot be checked now because Redis does not answer",
                whose(scope)
            ),
        )
        .with_retry_after(Duration::from_secs(1))
        .with_scope(scope),
        standings: Standings::default(),
    }
}

/// Concurrency refused.
pub(super) fn too_many_under_way(scope: LimitScope, most: NonZeroU32) -> Denial {
    Denial::new(
        DenialCode::RateLimitExceeded,
        format!(
            "{} has `{most}` requests under way, as many as allowed at once",
            whose(scope)
        ),
    )
    .with_retry_after(Duration::from_secs(1))
    .with_scope(scope)
}

/// A grant could not be taken.
pub(super) fn uncounted(error: &StoreError) -> Denial {
    log::warn!(kind = error.kind(); "a grant could not be taken: {error}");
    Denial::new(
        DenialCode::StoreUnavailable,
        "the requests of this token cannot be counted now because the store does not answer; try again",
    )
    .with_retry_after(Duration::from_secs(1))
}

/// What is left cannot be read.
pub(super) fn unknown_budget(error: &StoreError) -> Denial {
    log::warn!(kind = error.kind(); "what is left of a budget could not be read: {error}");
    Denial::new(
        DenialCode::StoreUnavailable,
        "what is left of a budget cannot be read now because the store does not answer; try again",
    )
    .with_retry_after(Duration::from_secs(1))
}

fn whose(scope: LimitScope) -> &'static str {
    match scope {
        LimitScope::Global => "this proxy",
        LimitScope::Ip => "this address",
        LimitScope::Token => "this token",
        LimitScope::Project => "this project",
    }
}
