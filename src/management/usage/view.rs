//! A record as the API shows it.

use schemars::JsonSchema;
use serde::Serialize;

use super::super::openapi::shapes::{Id, Time};
use crate::domain::{AttemptRecord, NanoUsd, ProjectId, Timestamp, TokenId, UsageRecord};

/// One client request that reached a provider.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UsageRecord")]
pub struct RecordView<'a> {
    /// Made by the server; sorts by time.
    record_id: String,
    /// The client's `X-Request-ID`, or the server's.
    request_id: &'a str,
    #[schemars(with = "Time")]
    received_at: Timestamp,
    #[schemars(with = "Time")]
    finished_at: Timestamp,
    #[schemars(with = "Id")]
    project_id: ProjectId,
    #[schemars(with = "Id")]
    token_id: TokenId,
    /// The path below `/v1`.
    endpoint: &'a str,
    /// The model asked for.
    model: &'a str,
    /// The provider that answered.
    provider: &'a str,
    /// Its name for the model.
    served_model: Option<&'a str>,
    /// What the client was answered; 0: nothing.
    status: u16,
    /// Cached ones included.
    prompt_tokens: u64,
    /// Thoughts included.
    completion_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    reasoning_tokens: u64,
    /// Pictures that were made.
    images: u64,
    /// Sound that was listened to, as far as the provider tells.
    audio_seconds: f64,
    /// Characters that were spoken.
    characters: u64,
    /// All attempts together.
    cost_usd: f64,
    /// Some of the numbers are counted here, not told by a provider.
    estimated: bool,
    /// The answer did not reach the client whole.
    cut: bool,
    duration_ms: f64,
    time_to_first_byte_ms: Option<f64>,
    attempts: Vec<AttemptView<'a>>,
}

/// One try at one target.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UsageAttempt")]
struct AttemptView<'a> {
    provider: &'a str,
    model: Option<&'a str>,
    /// Whose key paid: `project`, `installation`, `none`.
    key_id: &'a str,
    /// What the provider answered; 0: nothing.
    status: u16,
    prompt_tokens: u64,
    completion_tokens: u64,
    cost_usd: f64,
    estimated: bool,
}

impl<'a> AttemptView<'a> {
    fn of(attempt: &'a AttemptRecord) -> Self {
        Self {
            provider: &attempt.provider,
            model: attempt.model.as_deref(),
            key_id: &attempt.key_id,
            status: attempt.status,
            prompt_tokens: attempt.usage.prompt,
            completion_tokens: attempt.usage.completion,
            cost_usd: NanoUsd::from_nanos(attempt.cost_nano_usd).as_usd(),
            estimated: attempt.estimated,
        }
    }
}

impl<'a> RecordView<'a> {
    /// What is shown of `record`.
    pub fn of(record: &'a UsageRecord) -> Self {
        let millis = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        Self {
            record_id: record.record_id.to_string(),
            request_id: &record.request_id,
            received_at: record.received_at,
            finished_at: record.finished_at,
            project_id: record.project_id,
            token_id: record.token_id,
            endpoint: &record.endpoint,
            model: &record.model,
            provider: &record.provider,
            served_model: record.served_model.as_deref(),
            status: record.status,
            prompt_tokens: record.usage.prompt,
            completion_tokens: record.usage.completion,
            cache_read_tokens: record.usage.cache_read,
            cache_write_tokens: record.usage.cache_write,
            reasoning_tokens: record.usage.reasoning,
            images: record.usage.media.images,
            audio_seconds: millis_as_seconds(record.usage.media.audio_millis),
            characters: record.usage.media.characters,
            cost_usd: record.cost.as_usd(),
            estimated: record.estimated,
            cut: record.cut,
            duration_ms: millis(record.duration),
            time_to_first_byte_ms: record.time_to_first_byte.map(millis),
            attempts: record.attempts.iter().map(AttemptView::of).collect(),
        }
    }
}

fn millis_as_seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}
