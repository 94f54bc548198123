//! `limits`: rates and concurrency, and how a fleet shares them.

use std::num::NonZeroU32;

use crate::domain::Limits;

/// `limits`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LimitsSettings {
    /// The whole installation.
    pub global: Limits,
    /// Each client address (IPv6: each /64).
    pub per_ip: Limits,
    /// Tokens without limits of their own.
    pub default_token: Limits,
    /// Projects without limits of their own.
    pub default_project: Limits,
    /// Sharing through Redis.
    pub distributed: DistributedSettings,
}

/// `limits.distributed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributedSettings {
    /// Whether rates are shared through Redis; `auto` is resolved: whether `redis.url` is set.
    pub enabled: bool,
    /// What Redis keys start with.
    pub prefix: String,
    /// What happens while Redis is away.
    pub fallback: RateFallback,
    /// How many instances share a cap.
    pub fleet_size: FleetSize,
}

/// `limits.distributed.fallback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateFallback {
    /// Each instance enforces cap ÷ fleet size.
    Local,
    /// Limited requests are refused.
    Refuse,
}

/// `limits.distributed.fleet_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FleetSize {
    /// Instances seen in Redis within the last minute, remembered when Redis goes.
    Auto,
    /// This many, also without Redis.
    Fixed(NonZeroU32),
}

impl Default for DistributedSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            prefix: "llmproxy:".to_owned(),
            fallback: RateFallback::Local,
            fleet_size: FleetSize::Auto,
        }
    }
}
