//! Turns usage records into columns and back, the same for both back ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::columns::signed;
use super::ledger::{HOUR_MICROS, record_id};
use crate::domain::{AttemptRecord, MediaUsage, NanoUsd, Timestamp, TokenUsage, UsageRecord};

/// A row of `usage_records`; also a line of SQLite's log of them, which the next version reads: a field that is added has a
/// default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordColumns {
    pub record_id: String,
    pub request_id: String,
    pub project_id: String,
    pub token_id: String,
    pub endpoint: String,
    pub model: String,
    pub provider: String,
    pub served_model: Option<String>,
    /// `status`, the six kinds of tokens, `cost_nano_usd`, `received_at`, `finished_at`, `duration_us`.
    pub numbers: [i64; 11],
    pub first_byte_us: Option<i64>,
    pub estimated: bool,
    pub cut: bool,
    /// JSON: [`Attempts`].
    pub attempts: String,
    /// JSON: [`MediaUsage`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub media: Option<String>,
}

/// The columns in the order in which both back ends read them.
pub(super) const RECORD_COLUMNS: &str = "\
record_id, request_id, project_id, token_id, endpoint, model, provider, served_model,
    status, prompt_tokens, completion_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
    reasoning_tokens, cost_nano_usd, received_at, finished_at, duration_us, first_byte_us, estimated, cut, attempts,
    media";

impl RecordColumns {
    pub(super) fn of(record: &UsageRecord) -> Self {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self {
            record_id: record.record_id.to_string(),
            request_id: record.request_id.clone(),
            project_id: record.project_id.to_string(),
            token_id: record.token_id.to_string(),
            endpoint: record.endpoint.clone(),
            model: record.model.clone(),
            provider: record.provider.to_string(),
            served_model: record.served_model.as_deref().map(str::to_owned),
            numbers: [
                i64::from(record.status),
                signed(record.usage.prompt),
                signed(record.usage.completion),
                signed(record.usage.cache_read),
                signed(record.usage.cache_write),
                signed(record.usage.cache_write_1h),
                signed(record.usage.reasoning),
                record.cost.nanos(),
                record.received_at.as_micros(),
                record.finished_at.as_micros(),
                micros(record.duration),
            ],
            first_byte_us: record.time_to_first_byte.map(micros),
            estimated: record.estimated,
            cut: record.cut,
            attempts: attempts_text(record),
            media: (!record.usage.media.is_zero())
                .then(|| serde_json::to_string(&record.usage.media).unwrap_or_default()),
        }
    }

    /// The hour in which it was over.
    pub(super) fn hour(&self) -> i64 {
        self.numbers[9].div_euclid(HOUR_MICROS)
    }

    /// The day in which it was over.
    pub(super) fn day(&self) -> i64 {
        self.hour().div_euclid(24)
    }

    pub(super) fn read(self) -> Result<UsageRecord, StoreError> {
        let wrong = |column: &str| StoreError::Inconsistent {
            table: "usage_records",
            row: self.record_id.clone(),
            why: format!("`{column}` cannot be read"),
        };
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let micros = |number: i64| Duration::from_micros(count(number));
        let [
            status,
            prompt,
            completion,
            cache_read,
            cache_write,
            cache_write_1h,
            reasoning,
            cost,
            received_at,
            finished_at,
            duration,
        ] = self.numbers;
        let media = match &self.media {
            Some(media) => serde_json::from_str(media).map_err(|_| wrong("media"))?,
            None => MediaUsage::default(),
        };
        let attempts: Attempts = serde_json::from_str(&self.attempts).map_err(|_| wrong("attempts"))?;
        let mut record = UsageRecord {
            record_id: record_id(&self.record_id)?,
            project_id: self.project_id.parse().map_err(|_| wrong("project_id"))?,
            token_id: self.token_id.parse().map_err(|_| wrong("token_id"))?,
            request_id: self.request_id,
            endpoint: self.endpoint,
            model: self.model,
            provider: self.provider.into(),
            served_model: self.served_model.map(Into::into),
            status: u16::try_from(status).unwrap_or(0),
            usage: TokenUsage {
                prompt: count(prompt),
                completion: count(completion),
                cache_read: count(cache_read),
                cache_write: count(cache_write),
                cache_write_1h: count(cache_write_1h),
                reasoning: count(reasoning),
                media,
            },
            cost: NanoUsd::from_nanos(cost),
            estimated: self.estimated,
            cut: self.cut,
            received_at: Timestamp::from_micros(received_at),
            finished_at: Timestamp::from_micros(finished_at),
            duration: micros(duration),
            time_to_first_byte: self.first_byte_us.map(micros),
            attempts: Vec::new(),
        };
        record.attempts = match attempts {
            Attempts::KeyOfTheOnly(key_id) => vec![only_attempt(&record, key_id)],
            Attempts::All(attempts) => attempts,
        };
        Ok(record)
    }
}

/// What `attempts` holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Attempts {
    /// There was one, and the record says all of it but its key.
    KeyOfTheOnly(String),
    All(Vec<AttemptRecord>),
}

/// WHY: most requests have one attempt, which would be half of the row.
fn attempts_text(record: &UsageRecord) -> String {
    let written = match record.attempts.as_slice() {
        [attempt] if says_all_of(record, attempt) => serde_json::to_string(&attempt.key_id),
        attempts => serde_json::to_string(attempts),
    };
    // names and numbers: there is nothing that could not be written
    written.unwrap_or_else(|_| "[]".to_owned())
}

fn says_all_of(record: &UsageRecord, attempt: &AttemptRecord) -> bool {
    *attempt.provider == *record.provider
        && attempt.model.as_deref() == record.served_model.as_deref()
        && attempt.status == record.status
        && attempt.usage == record.usage
        && attempt.cost_nano_usd == record.cost.nanos()
        && attempt.estimated == record.estimated
}

fn only_attempt(record: &UsageRecord, key_id: String) -> AttemptRecord {
    AttemptRecord {
        provider: record.provider.to_string(),
        model: record.served_model.as_deref().map(str::to_owned),
        key_id,
        status: record.status,
        usage: record.usage,
        cost_nano_usd: record.cost.nanos(),
        estimated: record.estimated,
    }
}
