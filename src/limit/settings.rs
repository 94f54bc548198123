//! What the limiter is told by the configuration; all of it may change while running.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::domain::{Budget, Limits};

/// What happens to rates while Redis does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Each instance enforces its share in its own memory.
    Local,
    /// Limited requests are refused with 429, `Retry-After: 1`.
    Refuse,
}

/// How many instances share the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetSize {
    /// As many as were seen in Redis within the last minute.
    Auto,
    /// This many, with or without Redis.
    Fixed(NonZeroU32),
}

impl FleetSize {
    /// What one instance may have of `value` at once: rounded up, and whole while the size is not given.
    pub(super) fn share_rounded_up(self, value: NonZeroU32) -> NonZeroU32 {
        match self {
            Self::Auto => value,
            Self::Fixed(count) => {
                NonZeroU32::new(value.get().div_ceil(count.get())).unwrap_or(NonZeroU32::MIN)
            }
        }
    }
}

/// Budgets that the configuration names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BudgetDefaults {
    /// Of everybody together.
    pub installation: Option<Budget>,
    /// Of a project without one of its own.
    pub default_project: Option<Budget>,
    /// Of a token without one of its own.
    pub default_token: Option<Budget>,
}

/// Limits of the installation, and how they are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// All requests together.
    pub global: Limits,
    /// Each client address (IPv6: each /64).
    pub per_ip: Limits,
    /// For each part that a token does not limit itself.
    pub default_token: Limits,
    /// For each part that a project does not limit itself.
    pub default_project: Limits,
    /// What may be spent.
    pub budgets: BudgetDefaults,
    /// Whether rates are shared through Redis, if there is one (`limits.distributed.enabled`).
    pub shared: bool,
    /// Begins every key in Redis.
    pub prefix: String,
    /// What happens while Redis does not answer.
    pub fallback: Fallback,
    /// How many instances there are.
    pub fleet_size: FleetSize,
    /// How long one answer of Redis may take.
    pub redis_timeout: Duration,
    /// How long taking a grant may take.
    pub store_timeout: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            global: Limits::default(),
            per_ip: Limits::default(),
            default_token: Limits::default(),
            default_project: Limits::default(),
            budgets: BudgetDefaults::default(),
            shared: true,
            prefix: "llmproxy:".to_owned(),
            fallback: Fallback::Local,
            fleet_size: FleetSize::Auto,
            redis_timeout: Duration::from_millis(50),
            store_timeout: Duration::from_secs(2),
        }
    }
}

/// One's own limits, each absent part filled from the defaults.
pub(super) fn filled(own: Limits, default: Limits) -> Limits {
    Limits {
        rpm: own.rpm.or(default.rpm),
        tpm: own.tpm.or(default.tpm),
        concurrency: own.concurrency.or(default.concurrency),
    }
}
