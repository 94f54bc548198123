//! What a provider says of the tokens it used, and the text it delivered: found in answers as they pass.
//!
//! A [`UsageReader`] is fed the data of each event, or a plain body in any split, and keeps nothing but numbers and the
//! text that nobody has taken yet. It never refuses: what is no JSON says nothing.

mod session;
mod sink;

#[cfg(test)]
mod tests;

use super::inspect::grammar::Grammar;
use super::sse::StreamKind;
use crate::domain::TokenUsage;

use sink::UsageSink;

pub use session::SessionReader;

/// The numbers of `usage` objects; the last word on each counts, for Anthropic's are cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Reported {
    /// `prompt_tokens`, `input_tokens`.
    input: Option<u64>,
    /// `completion_tokens`, `output_tokens`.
    output: Option<u64>,
    /// `total_tokens`.
    total: Option<u64>,
    /// `cached_tokens`, `cache_read_input_tokens`.
    cache_read: Option<u64>,
    /// `cache_creation_input_tokens`.
    cache_write: Option<u64>,
    /// `ephemeral_1h_input_tokens`.
    cache_write_1h: Option<u64>,
    /// `reasoning_tokens`.
    reasoning: Option<u64>,
    /// `seconds` of `usage`, or `duration`.
    audio_millis: Option<u64>,
}

/// Reads the usage of one answer.
#[derive(Debug)]
pub struct UsageReader {
    kind: StreamKind,
    sink: UsageSink,
    /// A plain body under way; `None` once it was no JSON.
    body: Option<Grammar>,
}

impl UsageReader {
    /// For an answer on a path of this kind.
    pub fn new(kind: StreamKind) -> Self {
        Self {
            kind,
            sink: UsageSink::new(kind),
            body: Some(Grammar::new()),
        }
    }

    /// The data of one whole event.
    pub fn event(&mut self, data: &[u8]) {
        if data.first() != Some(&b'{') {
            return;
        }
        self.sink.begin(true);
        // an event that is no JSON has said what it could
        let _ = Grammar::new().feed(data, &mut self.sink);
    }

    /// The next bytes of a plain body.
    pub fn body(&mut self, bytes: &[u8]) {
        if let Some(grammar) = &mut self.body {
            if grammar.length() == 0 {
                self.sink.begin(false);
            }
            if grammar.feed(bytes, &mut self.sink).is_err() {
                self.body = None;
            }
        }
    }

    /// Text of the answer since it was taken last.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.sink.text
    }

    /// What the provider has said so far; `None`: nothing that counts.
    pub fn usage(&self) -> Option<TokenUsage> {
        self.sink.reported.usage(self.kind)
    }

    /// How many things the answer lists in `data`.
    pub fn items(&self) -> u64 {
        self.sink.items
    }

    /// How long the sound was that was listened to, in milliseconds.
    pub fn audio_millis(&self) -> Option<u64> {
        self.sink.reported.audio_millis
    }

    /// Whether what was said is the whole: Anthropic begins a stream with the prompt's tokens and one of the answer's.
    pub fn is_final(&self) -> bool {
        match self.kind {
            StreamKind::Messages => self.sink.has_final_output,
            _ => self.usage().is_some(),
        }
    }
}

impl Reported {
    fn usage(&self, kind: StreamKind) -> Option<TokenUsage> {
        if self.input.is_none() && self.output.is_none() && self.total.is_none() {
            return None;
        }
        let cache_read = self.cache_read.unwrap_or(0);
        // some say it in parts alone
        let cache_write_1h = self.cache_write_1h.unwrap_or(0);
        let cache_write = self.cache_write.unwrap_or(0).max(cache_write_1h);
        let mut prompt = self.input.unwrap_or(0);
        if kind == StreamKind::Messages {
            // Anthropic's `input_tokens` are those of neither kind
            prompt = prompt.saturating_add(cache_read).saturating_add(cache_write);
        }
        let completion = self.output.unwrap_or(0);
        // rerank and moderation tell a total only; some leave the prompt out
        let rest = self.total.unwrap_or(0).saturating_sub(completion);
        if self.input.is_none() {
            prompt = prompt.max(rest);
        }
        Some(TokenUsage {
            prompt: prompt.max(cache_read.saturating_add(cache_write)),
            completion,
            cache_read,
            cache_write,
            cache_write_1h,
            reasoning: self.reasoning.unwrap_or(0).min(completion),
            ..TokenUsage::default()
        })
    }
}
