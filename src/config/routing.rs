//! `models` and `router`: which targets a public name has, and what happens when one fails.

use std::time::Duration;

/// One of `models`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSettings {
    /// The public name.
    pub name: String,
    /// Where it is served; at least one.
    pub targets: Vec<TargetSettings>,
    /// How a target is chosen.
    pub strategy: Strategy,
    /// Tokens the model can read, for people and `/v1/models`.
    pub context_window: Option<u64>,
    /// Tokens the model can write.
    pub max_output_tokens: Option<u64>,
}

/// One of `models.*.targets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// The provider's name; it exists.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
    /// Share among equals; 0 = only when the others fail.
    pub weight: u32,
    /// Under `priority` the lowest number is tried first.
    pub priority: u32,
}

/// `models.*.strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// By weight.
    Weighted,
    /// Lowest priority number first, equal ones by weight.
    Priority,
}

/// `unknown_models`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownModels {
    /// To the default provider, name unchanged.
    PassThrough,
    /// 404 `model_not_found`.
    Reject,
}

/// `router`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSettings {
    /// Further attempts in all.
    pub retries: u32,
    /// The breaker of each target.
    pub cooldown: CooldownSettings,
}

/// `router.cooldown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CooldownSettings {
    /// Failures in a row that open the breaker.
    pub failures: u32,
    /// First pause; it doubles with each further one.
    pub duration: Duration,
    /// Longest pause.
    pub max: Duration,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            retries: 2,
            cooldown: CooldownSettings::default(),
        }
    }
}

impl Default for CooldownSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            duration: Duration::from_secs(30),
            max: Duration::from_mins(10),
        }
    }
}
