//! What values look like in JSON whose types belong to the domain.
#![expect(dead_code, reason = "descriptions: nobody makes one")]

use std::num::{NonZeroU32, NonZeroU64};

use schemars::JsonSchema;

/// A UUID.
#[derive(JsonSchema)]
#[schemars(transparent)]
pub struct Id(#[schemars(extend("format" = "uuid"))] String);

/// An RFC 3339 time, UTC.
#[derive(Default, JsonSchema)]
#[schemars(transparent)]
pub struct Time(#[schemars(extend("format" = "date-time"))] String);

/// The owner's notes: any JSON object of at most 64 KiB.
#[derive(JsonSchema)]
#[schemars(transparent)]
pub struct Notes(serde_json::Map<String, serde_json::Value>);

/// Limits; what is absent is not limited.
#[derive(JsonSchema)]
#[schemars(rename = "Limits")]
pub struct Limits {
    /// Requests a minute.
    rpm: Option<NonZeroU32>,
    /// Model tokens a minute.
    tpm: Option<NonZeroU64>,
    /// Requests under way at once, for each instance.
    concurrency: Option<NonZeroU32>,
}

/// Money that may be spent in a period (UTC).
#[derive(JsonSchema)]
pub struct Budget {
    /// US dollars; 0: nothing.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    usd: f64,
    /// When it starts anew.
    period: Period,
}

/// A change of a budget: a merge patch, so that each part may be there by itself where there is a budget already.
#[derive(JsonSchema)]
pub struct BudgetChange {
    /// US dollars; 0: nothing.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    usd: Option<f64>,
    /// When it starts anew.
    period: Option<Period>,
}

/// The period of a budget.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Period {
    /// Midnight to midnight.
    Day,
    /// Monday to Monday.
    Week,
    /// First to first.
    Month,
    /// Never starts anew.
    Total,
}

/// Whatever refuses or fails.
#[derive(JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody {
    /// What is wrong, for people.
    error: String,
    /// The machine word.
    code: Option<String>,
    /// More about it.
    message: Option<String>,
    /// The field at fault.
    field: Option<String>,
    /// Each fault of a refused configuration.
    errors: Option<Vec<String>>,
    /// The kind of trouble with the store.
    reason: Option<String>,
}

/// The effective configuration, secrets masked.
#[derive(JsonSchema)]
pub struct EffectiveConfiguration {
    /// Counts the configurations of this process, from 1.
    generation: u64,
    /// The file it came from.
    file: Option<String>,
    /// The values in force, by section.
    configuration: serde_json::Map<String, serde_json::Value>,
    /// Keys that are set and not active in this version.
    not_active: Vec<String>,
    /// What is odd about it.
    warnings: Vec<serde_json::Value>,
    /// The last reload.
    last_reload: serde_json::Value,
}

/// What a reload did.
#[derive(JsonSchema)]
pub struct Reloaded {
    /// It is in force.
    ok: bool,
    /// The generation in force.
    generation: u64,
    /// Keys that changed.
    changed: Vec<String>,
    /// Keys whose change needs a new process.
    process_only: Vec<String>,
}

/// What a purge did.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum Purged {
    /// By method and URL: whether there was something.
    One {
        /// Whether it was there.
        deleted: bool,
    },
    /// Else: how many.
    Many {
        /// Entries.
        deleted: u64,
    },
}

/// An OpenAPI document.
#[derive(JsonSchema)]
#[schemars(transparent)]
pub struct Description(serde_json::Map<String, serde_json::Value>);

/// How an audited action ended.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was tried and not done.
    Failure,
    /// It was refused.
    Denied,
    /// Something broke.
    Error,
}
