//! One line for each request: who, what, with which outcome, in what time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{DenialCode, NanoUsd, ProjectId, RecordId, Timestamp, TokenId};

use super::fields;
use super::logging::LogFormat;
use super::logging::line::{JsonLine, LineWriter, TextLine};
use super::logging::sink::Sink;

/// The target that access lines carry.
const TARGET: &str = "llm_proxy::access";

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client got all of it.
    Complete,
    /// The provider or a limit cut it.
    Cut,
    /// The client left before its end.
    ClientLeft,
}

impl Outcome {
    /// The word in the line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cut => "cut",
            Self::ClientLeft => "client_left",
        }
    }
}

/// What is written of one request. No prompt, no answer, no credential, no query is among it.
#[derive(Debug, Clone)]
pub struct AccessLine {
    /// When its head was read.
    pub at: Timestamp,
    /// Its server-made identity.
    pub record_id: RecordId,
    /// The identity that the client knows it by.
    pub request_id: Box<str>,
    /// The token, once known.
    pub token_id: Option<TokenId>,
    /// The tenant, once known.
    pub project_id: Option<ProjectId>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The HTTP method.
    pub method: Box<str>,
    /// The path, without its query.
    pub path: Box<str>,
    /// The model asked for.
    pub model: Option<Box<str>>,
    /// The provider's name of the model that answered.
    pub served_model: Option<Arc<str>>,
    /// The configured name of the provider that answered.
    pub provider: Option<Arc<str>>,
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// The word of our refusal.
    pub error: Option<DenialCode>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From head to last byte.
    pub duration: Duration,
    /// From head to the first byte of the answer.
    pub time_to_first_byte: Option<Duration>,
    /// Tries at providers.
    pub attempts: u32,
    /// Time spent waiting for a place, for the rate of a key, or between attempts.
    pub waited: Duration,
    /// Tries that came to nothing, in words.
    pub failed_attempts: Option<Box<str>>,
    /// What it used and cost; nothing when it reached no provider.
    pub used: Option<UsedLine>,
    /// The word of `X-PROXY-CACHE`.
    pub cache: Option<&'static str>,
    /// How the answer ended.
    pub outcome: Outcome,
}

/// What a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedLine {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// What it cost.
    pub cost: NanoUsd,
}

impl AccessLine {
    /// Writes the line into `buffer`, its end included.
    pub(super) fn write(&self, format: LogFormat, buffer: &mut Vec<u8>) {
        match format {
            LogFormat::Json => self.write_fields(JsonLine::begin(
                buffer,
                self.at,
                log::Level::Info,
                TARGET,
                &"request",
            )),
            LogFormat::Text => self.write_fields(TextLine::begin(
                buffer,
                self.at,
                log::Level::Info,
                TARGET,
                &"request",
            )),
        }
    }

    fn write_fields(&self, mut line: impl LineWriter) {
        line.text(fields::RECORD_ID, &self.record_id);
        line.text(fields::REQUEST_ID, &self.request_id);
        line.optional(fields::PROJECT_ID, self.project_id.as_ref());
        line.optional(fields::TOKEN_ID, self.token_id.as_ref());
        line.optional(fields::CLIENT, self.client.as_ref());
        line.text(fields::METHOD, &self.method);
        line.text(fields::PATH, &self.path);
        line.number(fields::STATUS, u64::from(self.status));
        line.optional(fields::CODE, self.error.map(DenialCode::as_str).as_ref());
        line.optional(fields::PROVIDER, self.provider.as_ref());
        line.optional(fields::MODEL, self.model.as_ref());
        line.optional(fields::SERVED_MODEL, self.served_model.as_ref());
        line.number(fields::ATTEMPTS, u64::from(self.attempts));
        if !self.waited.is_zero() {
            line.float(fields::WAITED_MILLIS, millis(self.waited));
        }
        line.optional(fields::FAILED_ATTEMPTS, self.failed_attempts.as_ref());
        if let Some(used) = &self.used {
            line.number(fields::PROMPT_TOKENS, used.prompt_tokens);
            line.number(fields::COMPLETION_TOKENS, used.completion_tokens);
            line.float(fields::COST_USD, used.cost.as_usd());
        }
        line.optional(fields::CACHE, self.cache.as_ref());
        line.number(fields::BYTES_IN, self.bytes_in);
        line.number(fields::BYTES_OUT, self.bytes_out);
        line.float(fields::DURATION_MILLIS, millis(self.duration));
        if let Some(first_byte) = self.time_to_first_byte {
            line.float(fields::FIRST_BYTE_MILLIS, millis(first_byte));
        }
        line.text(fields::OUTCOME, &self.outcome.as_str());
        line.end();
    }
}

/// Takes access lines; they are formatted and written by the log's own thread.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Sink>);

impl AccessLog {
    pub(super) fn new(sink: Arc<Sink>) -> Self {
        Self(sink)
    }

    /// Whether lines are written at all; a line need not be made when not.
    pub fn is_on(&self) -> bool {
        self.0.settings().access_log
    }

    /// Hands `line` over without waiting. When the queue is full it is dropped and counted.
    pub fn write(&self, line: AccessLine) {
        if self.is_on() {
            self.0.offer_access(Box::new(line));
        }
    }
}

fn millis(duration: Duration) -> f64 {
    // microseconds are exact enough, and short
    duration.as_micros() as f64 / 1000.0
}
