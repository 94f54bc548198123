//! How a request went: what the access line, the metrics and our own answer fields are made from.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{DenialCode, Timestamp};
use crate::limit::Standings;
use crate::upstream::{Attempt, Target};

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
    /// Time spent waiting for a place, for the rate of a key, or for the next attempt.
    pub paused: Duration,
    /// Attempts that came to nothing.
    pub tried: Vec<Tried>,
}

/// An attempt that came to nothing for the client.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The provider's configured name.
    pub provider: Arc<str>,
    /// The provider's name for the model.
    pub model: Option<Arc<str>>,
    /// The installation's key it was asked with.
    pub key: Option<Arc<str>>,
    /// Why it came to nothing.
    pub cause: &'static str,
    /// What the provider answered.
    pub status: Option<u16>,
    /// How long it took.
    pub took: Duration,
}

impl Served {
    /// An attempt begins.
    pub fn begin(&mut self, attempt: &Attempt<'_>) {
        self.attempts += 1;
        self.is_by(attempt.target);
    }

    /// The answer is that of this target.
    pub fn is_by(&mut self, target: &Target) {
        self.provider = Some(Arc::clone(&target.provider.name));
        self.model.clone_from(&target.model);
    }

    /// Whether an attempt at this target came to nothing before.
    pub fn has_failed(&self, target: &Target) -> bool {
        self.tried
            .iter()
            .any(|tried| tried.provider == target.provider.name && tried.model == target.model)
    }

    /// An attempt came to nothing.
    pub fn tried(&mut self, tried: Tried) {
        self.tried.push(tried);
    }

    /// The attempts that came to nothing, in words: `openai/gpt-4o key-1 status 503 12 ms; …`.
    pub fn failures(&self) -> Option<Box<str>> {
        use std::fmt::Write as _;
        if self.tried.is_empty() {
            return None;
        }
        let mut words = String::new();
        for tried in &self.tried {
            if !words.is_empty() {
                words.push_str("; ");
            }
            words.push_str(&tried.provider);
            if let Some(model) = &tried.model {
                words.push('/');
                words.push_str(&model[..model.floor_char_boundary(256)]);
            }
            if let Some(key) = &tried.key {
                words.push(' ');
                words.push_str(key);
            }
            words.push(' ');
            words.push_str(tried.cause);
            // writing into a text never fails
            if let Some(status) = tried.status {
                let _ = write!(words, " {status}");
            }
            let _ = write!(words, " {} ms", tried.took.as_millis());
        }
        Some(words.into())
    }

    /// So long was waited before an attempt.
    pub fn paused(&mut self, time: Duration) {
        self.paused += time;
        self.waited += time;
    }
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
