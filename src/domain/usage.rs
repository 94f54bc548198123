//! What a request used, and what is kept of it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{NanoUsd, ProjectId, RecordId, Timestamp, TokenId};

/// Tokens of a request by kind, as OpenAI counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompt, those read from and written to the provider's cache included.
    pub prompt: u64,
    /// Tokens of the answer, thoughts included.
    pub completion: u64,
    /// Of the prompt: read from the provider's cache.
    pub cache_read: u64,
    /// Of the prompt: written to the provider's cache.
    pub cache_write: u64,
    /// Of those written: to be kept for an hour.
    pub cache_write_1h: u64,
    /// Of the answer: thoughts.
    pub reasoning: u64,
    /// What is counted by the piece, the second or the letter.
    #[serde(skip_serializing_if = "MediaUsage::is_zero", default)]
    pub media: MediaUsage,
}

/// What some models are paid for instead of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MediaUsage {
    /// Pictures that were made.
    #[serde(default)]
    pub images: u64,
    /// Milliseconds of sound that were listened to.
    #[serde(default)]
    pub audio_millis: u64,
    /// Characters that were spoken.
    #[serde(default)]
    pub characters: u64,
}

impl MediaUsage {
    /// Whether there was none.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            images: self.images.saturating_add(other.images),
            audio_millis: self.audio_millis.saturating_add(other.audio_millis),
            characters: self.characters.saturating_add(other.characters),
        }
    }
}

impl TokenUsage {
    /// Whether nothing was used.
    pub fn is_zero(&self) -> bool {
        self.prompt == 0 && self.completion == 0 && self.media.is_zero()
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.saturating_add(other.prompt),
            completion: self.completion.saturating_add(other.completion),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            media: self.media.plus(other.media),
        }
    }
}

/// One try at one target, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The provider's configured name.
    pub provider: String,
    /// The provider's name for the model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// Which of the provider's keys paid: `project`, or the id of a configured one.
    pub key_id: String,
    /// What the provider answered; 0: nothing.
    pub status: u16,
    /// What it used.
    pub usage: TokenUsage,
    /// What it cost, in billionths of a dollar.
    pub cost_nano_usd: i64,
    /// Whether the numbers are ours, not the provider's.
    pub estimated: bool,
}

/// What is kept of one client request that reached a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Made by this server; what makes a record occur once.
    pub record_id: RecordId,
    /// The client's name for the request, or ours.
    pub request_id: String,
    /// Whose project.
    pub project_id: ProjectId,
    /// Whose token.
    pub token_id: TokenId,
    /// The path below `/v1`.
    pub endpoint: String,
    /// The model asked for; empty: none was named.
    pub model: String,
    /// The provider that answered last.
    pub provider: Arc<str>,
    /// Its name for the model.
    pub served_model: Option<Arc<str>>,
    /// What the client was answered; 0: nothing.
    pub status: u16,
    /// All attempts together.
    pub usage: TokenUsage,
    /// All attempts together.
    pub cost: NanoUsd,
    /// Some of the numbers are ours, not a provider's.
    pub estimated: bool,
    /// The answer did not reach the client whole.
    pub cut: bool,
    /// When the request came.
    pub received_at: Timestamp,
    /// When its answer was over; what roll-ups and periods go by.
    pub finished_at: Timestamp,
    /// From arrival to the end.
    pub duration: Duration,
    /// From arrival to the first byte of the answer.
    pub time_to_first_byte: Option<Duration>,
    /// Every try.
    pub attempts: Vec<AttemptRecord>,
}
