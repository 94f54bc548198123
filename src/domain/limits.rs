//! What a token, a project or the installation may use per time.

use std::num::{NonZeroU32, NonZeroU64};

/// Rates and concurrency; an absent part is unlimited. `rpm n` = n at once, refilled evenly over 60 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Limits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<NonZeroU32>,
    /// Model tokens a minute (not in this version).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<NonZeroU64>,
    /// Requests under way at once, per instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        self.rpm.is_none() && self.tpm.is_none() && self.concurrency.is_none()
    }
}

/// The period of a budget, UTC; weeks are ISO weeks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetPeriod {
    /// Midnight to midnight.
    Day,
    /// Monday to Monday.
    Week,
    /// First to first.
    Month,
    /// Never resets.
    Total,
}

/// Money that may be spent in a period, in billionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The cap in billionths of a US dollar.
    pub nano_usd: i64,
    /// When it starts anew.
    pub period: BudgetPeriod,
}
