//! `limits`: rates and concurrency, and how a fleet shares them.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;

use super::schema::Key;
use super::section::{ANY_RATE, Section};
use crate::domain::Limits;

const TOKENS: &str = "Model tokens a minute: estimated when a request is let through, corrected once it is known what it used.";

/// A place of a rate takes at least 60 nanoseconds to come back.
const ANY_TPM: RangeInclusive<NonZeroU64> = NonZeroU64::MIN..=match NonZeroU64::new(Limits::MOST_TPM) {
    Some(most) => most,
    None => NonZeroU64::MIN,
};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "limits.global.rpm",
        "none",
        "Requests a minute of the whole installation: this many at once, refilled evenly; above: 429.",
    ),
    Key::new("limits.global.tpm", "none", TOKENS),
    Key::new(
        "limits.global.concurrency",
        "none",
        "Requests under way at once, per instance; above: 429.",
    ),
    Key::new(
        "limits.per_ip.rpm",
        "none",
        "Requests a minute of one client address (IPv6: of its /64).",
    ),
    Key::new("limits.per_ip.tpm", "none", TOKENS),
    Key::new("limits.per_ip.concurrency", "none", "Requests under way at once."),
    Key::new(
        "limits.default_token.rpm",
        "none",
        "Requests a minute of a token that has no limit of its own.",
    ),
    Key::new("limits.default_token.tpm", "none", TOKENS),
    Key::new(
        "limits.default_token.concurrency",
        "none",
        "Requests under way at once.",
    ),
    Key::new(
        "limits.default_project.rpm",
        "none",
        "Requests a minute of a project that has no limit of its own.",
    ),
    Key::new("limits.default_project.tpm", "none", TOKENS),
    Key::new(
        "limits.default_project.concurrency",
        "none",
        "Requests under way at once.",
    ),
    Key::new(
        "limits.distributed.enabled",
        "auto",
        "Whether rates are shared through Redis: `auto` (when `redis.url` is set), `true`, `false`.",
    ),
    Key::new(
        "limits.distributed.prefix",
        "\"llmproxy:\"",
        "What Redis keys begin with.",
    ),
    Key::new(
        "limits.distributed.fallback",
        "local",
        "While Redis is away: `local` (each instance enforces its part) or `refuse`.",
    ),
    Key::new(
        "limits.distributed.fleet_size",
        "auto",
        "Instances that share a cap: a number, or `auto` (those seen in Redis within the last minute).",
    ),
];

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

impl LimitsSettings {
    pub(super) fn read(section: &Section<'_>, has_redis: bool) -> Self {
        Self {
            global: read_limits(&section.section("global")),
            per_ip: read_limits(&section.section("per_ip")),
            default_token: read_limits(&section.section("default_token")),
            default_project: read_limits(&section.section("default_project")),
            distributed: DistributedSettings::read(&section.section("distributed"), has_redis),
        }
    }
}

fn read_limits(section: &Section<'_>) -> Limits {
    Limits {
        rpm: section.optional_number("rpm", ANY_RATE),
        tpm: section.optional_number("tpm", ANY_TPM),
        concurrency: section.optional_number("concurrency", ANY_RATE),
    }
}

impl DistributedSettings {
    fn read(section: &Section<'_>, has_redis: bool) -> Self {
        let default = Self::default();
        let enabled = if section.is_text("enabled", "auto") {
            has_redis
        } else {
            section.flag("enabled", has_redis)
        };
        if enabled && !has_redis {
            section.refuse("enabled", "needs a `redis.url`; set one, or write `auto`");
        }
        let fleet_size = if section.is_text("fleet_size", "auto") {
            FleetSize::Auto
        } else {
            section
                .optional_number("fleet_size", ANY_RATE)
                .map_or(FleetSize::Auto, FleetSize::Fixed)
        };
        Self {
            enabled,
            prefix: section.text("prefix").unwrap_or(default.prefix),
            fallback: section.choice(
                "fallback",
                default.fallback,
                &[("local", RateFallback::Local), ("refuse", RateFallback::Refuse)],
                &[],
            ),
            fleet_size,
        }
    }
}
