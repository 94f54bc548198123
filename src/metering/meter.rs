//! The meter of one answer: sees its bytes as they pass and says at the end what it used.

use bytes::Bytes;

use super::tokenizer::TextTally;
use crate::dialect::content_coding::Decoder;
use crate::dialect::sse::StreamKind;
use crate::dialect::usage::UsageReader;
use crate::domain::{MediaUsage, TokenUsage};

/// Strings of a request longer than this without a space are no text (pictures, audio): not counted.
const LONGEST_WORD: usize = 4096;

/// What an answer used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metered {
    /// The tokens.
    pub usage: TokenUsage,
    /// Some of them are ours, not the provider's.
    pub estimated: bool,
}

impl Metered {
    /// Nothing was used.
    pub const NOTHING: Self = Self {
        usage: TokenUsage {
            prompt: 0,
            completion: 0,
            cache_read: 0,
            cache_write: 0,
            cache_write_1h: 0,
            reasoning: 0,
            media: MediaUsage {
                images: 0,
                audio_millis: 0,
                characters: 0,
            },
        },
        estimated: false,
    };

    /// And this, that is not counted in tokens.
    #[must_use]
    pub fn with(mut self, media: MediaUsage) -> Self {
        self.usage.media = media;
        self
    }
}

/// The meter of one answer.
#[derive(Debug)]
pub struct Meter {
    reader: UsageReader,
    delivered: TextTally,
    /// What a session's responses have used so far.
    session: Option<TokenUsage>,
    /// How its body is written.
    coding: Coding,
}

#[derive(Debug)]
enum Coding {
    Plain,
    Encoded(Box<Decoder>),
    /// In a coding that is not known, or not as it should be.
    Unreadable,
}

impl Meter {
    /// For an answer on a path of this kind.
    pub fn new(kind: StreamKind) -> Self {
        Self {
            reader: UsageReader::new(kind),
            delivered: TextTally::default(),
            session: None,
            coding: Coding::Plain,
        }
    }

    /// The body will come encoded; without a decoder it cannot be read.
    pub fn decode(&mut self, decoder: Option<Decoder>) {
        self.coding = decoder.map_or(Coding::Unreadable, |decoder| Coding::Encoded(Box::new(decoder)));
    }

    /// A response of a session has used this.
    pub fn response(&mut self, usage: TokenUsage) {
        self.session = Some(self.session.unwrap_or_default().plus(usage));
    }

    /// The data of one whole event of a stream.
    pub fn event(&mut self, data: &[u8]) {
        self.reader.event(data);
        self.delivered.take(self.reader.text());
    }

    /// The next bytes of an answer that is no stream.
    pub fn body(&mut self, bytes: &[u8]) {
        match &mut self.coding {
            Coding::Plain => self.reader.body(bytes),
            Coding::Unreadable => return,
            Coding::Encoded(decoder) => match decoder.push(bytes) {
                Some(text) => self.reader.body(&text),
                None => {
                    self.coding = Coding::Unreadable;
                    return;
                }
            },
        }
        self.delivered.take(self.reader.text());
    }

    /// The provider's own figure, if it has said all of it.
    pub fn told(&self) -> Option<TokenUsage> {
        self.session
            .or_else(|| self.reader.usage().filter(|_| self.reader.is_final()))
    }

    /// How many things the answer lists.
    pub fn items(&self) -> u64 {
        self.reader.items()
    }

    /// How long the sound was that was listened to, in milliseconds.
    pub fn audio_millis(&self) -> Option<u64> {
        self.reader.audio_millis()
    }

    /// What it used: the provider's figure, else what was sent (`request`, the body) and delivered, counted. Counting is
    /// slow: not for a thread that serves requests.
    pub fn count(&self, request: &[Bytes]) -> Metered {
        if let Some(usage) = self.told() {
            return Metered {
                usage,
                estimated: false,
            };
        }
        let so_far = self.reader.usage().unwrap_or_default();
        let counted = self.delivered.tokens();
        let prompt = if so_far.prompt > 0 {
            so_far.prompt
        } else {
            prompt_tokens(request)
        };
        Metered {
            usage: TokenUsage {
                prompt,
                completion: so_far.completion.max(counted),
                ..so_far
            },
            estimated: true,
        }
    }
}

/// Tokens of a request's body: of all the text in it, and a few for each message, as providers add them.
pub fn prompt_tokens(body: &[Bytes]) -> u64 {
    let mut text = Vec::new();
    let mut tally = TextTally::default();
    let mut messages = 0;
    let whole;
    let bytes: &[u8] = match body {
        [] => return 0,
        [one] => one,
        several => {
            whole = several.concat();
            &whole
        }
    };
    if let Ok(document) = serde_json::from_slice::<serde_json::Value>(bytes) {
        gather(&document, None, &mut text, &mut messages);
    } else {
        text.extend_from_slice(bytes);
    }
    tally.take(&mut text);
    tally.tokens() + 3 * messages
}

/// At most so many tokens has a request's prompt: all its words, names of members included, and what pictures may have.
pub fn prompt_bound(body: &[Bytes]) -> u64 {
    let bytes = body.concat();
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
        return bytes.len() as u64;
    };
    let mut text = Vec::new();
    let mut pictures = 0;
    gather_all(&document, &mut text, &mut pictures);
    let words = super::tokenizer::count(&String::from_utf8_lossy(&text));
    // each member and item may be wrapped in a few tokens of the provider's own
    words.saturating_add(pictures * PICTURE_TOKENS).saturating_add(16)
}

/// Tokens of a picture or document at most, as far as providers say.
const PICTURE_TOKENS: u64 = 5_000;

fn gather_all(value: &serde_json::Value, text: &mut Vec<u8>, pictures: &mut u64) {
    match value {
        serde_json::Value::String(string) => {
            if string.len() > LONGEST_WORD && !string.contains(char::is_whitespace) {
                *pictures += 1;
            } else {
                text.extend_from_slice(string.as_bytes());
            }
            text.extend_from_slice(b"\n\n");
        }
        serde_json::Value::Array(values) => {
            for value in values {
                gather_all(value, text, pictures);
            }
        }
        serde_json::Value::Object(members) => {
            let is_picture = ["image_url", "source", "file", "input_audio"]
                .iter()
                .any(|name| members.contains_key(*name));
            *pictures += u64::from(is_picture);
            for (name, value) in members {
                text.extend_from_slice(name.as_bytes());
                text.extend_from_slice(b": ");
                gather_all(value, text, pictures);
            }
        }
        other => text.extend_from_slice(other.to_string().as_bytes()),
    }
}

/// Members that hold text a model reads.
fn is_read(name: &str) -> bool {
    !matches!(
        name,
        "model" | "role" | "type" | "id" | "tool_call_id" | "tool_use_id" | "url" | "data" | "user"
    )
}

fn gather(value: &serde_json::Value, name: Option<&str>, text: &mut Vec<u8>, messages: &mut u64) {
    match value {
        serde_json::Value::String(string) => {
            let is_text = string.len() <= LONGEST_WORD || string.contains(char::is_whitespace);
            if name.is_none_or(is_read) && is_text {
                text.extend_from_slice(string.as_bytes());
                text.push(b'\n');
            }
        }
        serde_json::Value::Array(values) => {
            for value in values {
                gather(value, name, text, messages);
            }
        }
        serde_json::Value::Object(members) => {
            *messages += u64::from(members.contains_key("role"));
            for (name, value) in members {
                gather(value, Some(name), text, messages);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_providers_figure_stands_above_ours() {
        let mut meter = Meter::new(StreamKind::Chat);
        meter.body(br#"{"choices":[{"message":{"content":"Hello"}}],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#);
        let metered = meter.count(&[]);
        assert_eq!((metered.usage.prompt, metered.usage.completion), (9, 4));
        assert!(!metered.estimated);
    }

    #[test]
    fn without_a_figure_it_is_counted_what_was_sent_and_delivered() {
        let mut meter = Meter::new(StreamKind::Chat);
        for piece in ["Hello", " world", ", this", " is"] {
            meter.event(format!(r#"{{"choices":[{{"delta":{{"content":"{piece}"}}}}]}}"#).as_bytes());
        }
        let request = br#"{"model":"gpt-4o","messages":[{"role":"user","content":"Say hello world"}]}"#;
        let metered = meter.count(&[Bytes::from_static(request)]);
        assert!(metered.estimated);
        assert_eq!(metered.usage.completion, 5);
        assert_eq!(
            metered.usage.prompt,
            3 + 1 + 3,
            "its words, the line's end, the message"
        );
    }

    #[test]
    fn of_a_cut_message_the_prompt_is_the_providers_and_the_answer_ours() {
        let mut meter = Meter::new(StreamKind::Messages);
        meter.event(br#"{"type":"message_start","message":{"usage":{"input_tokens":50,"output_tokens":1}}}"#);
        meter.event(
            br#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hello world, this is"}}"#,
        );
        let metered = meter.count(&[]);
        assert_eq!((metered.usage.prompt, metered.usage.completion), (50, 5));
        assert!(metered.estimated);
    }

    #[test]
    fn the_bound_of_a_prompt_is_above_what_is_counted_and_below_its_bytes() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(200);
        let body = serde_json::json!({"model": "gpt-4o", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": text},
        ], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]});
        let body = [Bytes::from(body.to_string())];
        let bound = prompt_bound(&body);
        assert!(bound >= prompt_tokens(&body), "{bound}");
        assert!(bound * 3 < body[0].len() as u64, "{bound}");
        let picture = format!(
            r#"{{"messages":[{{"image_url":{{"url":"{}"}}}}]}}"#,
            "A".repeat(1_000_000)
        );
        let bound = prompt_bound(&[Bytes::from(picture)]);
        assert!((PICTURE_TOKENS..3 * PICTURE_TOKENS).contains(&bound), "{bound}");
        assert_eq!(prompt_bound(&[Bytes::from_static(b"no json")]), 7);
    }

    #[test]
    fn pictures_and_names_are_no_text() {
        let picture = "A".repeat(100_000);
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}"}}}},{{"type":"text","text":"What is it?"}}]}}]}}"#
        );
        assert!(prompt_tokens(&[Bytes::from(body)]) < 20);
        assert_eq!(prompt_tokens(&[]), 0);
        assert!(prompt_tokens(&[Bytes::from_static(b"no json at all")]) >= 4);
    }
}
