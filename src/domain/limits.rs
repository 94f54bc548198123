//! How fast a token, a project or the installation may go.

use std::num::{NonZeroU32, NonZeroU64};

/// Rates and concurrency; an absent part is unlimited. `rpm n` = n at once, refilled evenly over 60 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Limits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<NonZeroU32>,
    /// Model tokens a minute: estimated when a request is let through, corrected once it is known what it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<NonZeroU64>,
    /// Requests under way at once, per instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
}

impl Limits {
    /// The highest `tpm`: a place of it takes at least 60 nanoseconds to come back.
    pub const MOST_TPM: u64 = 1_000_000_000;

    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        self.rpm.is_none() && self.tpm.is_none() && self.concurrency.is_none()
    }
}
