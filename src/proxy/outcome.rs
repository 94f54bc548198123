//! How a request went: what the access line, the metrics and our own answer fields are made from.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{DenialCode, Timestamp};
use crate::limit::Standings;

/// Whose answer the client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Ours.
    #[default]
    Proxy,
    /// The provider's.
    Upstream,
}

impl Origin {
    /// The value of `X-LLM-Proxy-Origin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Upstream => "upstream",
        }
    }
}

/// How the answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// Nothing was answered.
    #[default]
    None,
    /// Whole.
    Complete,
    /// The provider broke it off.
    Cut,
    /// The client left.
    ClientGone,
}

/// The provider's side of a request.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// The provider's configured name.
    pub provider: Option<Arc<str>>,
    /// The provider's name for the model.
    pub model: Option<Arc<str>>,
    /// Attempts made.
    pub attempts: u32,
    /// When the last attempt's request left.
    pub request_started_at: Option<Timestamp>,
    /// When its head was there.
    pub head_at: Option<Timestamp>,
    /// Time spent waiting for providers.
    pub waited: Duration,
}

/// How a request went.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Whose answer it was.
    pub origin: Origin,
    /// The status that was answered; 0 = none.
    pub status: u16,
    /// Why it was refused.
    pub refusal: Option<DenialCode>,
    /// The public name of the model, where the operator configured one.
    pub public_model: Option<Arc<str>>,
    /// How the answer ended.
    pub ending: Ending,
    /// The provider's side.
    pub served: Served,
    /// The request left, or may have left, for a provider.
    pub sent: bool,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
    /// From arrival to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Where the tighter rates of token and project stand.
    pub rates: Standings,
    /// The answer is a stream under way, counted in `llm_proxy_active_streams`.
    pub streaming: bool,
}
