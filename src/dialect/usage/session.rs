//! What a provider says of the tokens of a realtime session: each `response.done` has those of its response.

use super::sink::UsageSink;
use super::{Reported, StreamKind};
use crate::dialect::inspect::grammar::Grammar;
use crate::dialect::websocket::{FrameFollower, Piece};
use crate::domain::TokenUsage;

/// Reads the usage of a session from the provider's frames as they pass; holds nothing of them.
#[derive(Debug)]
pub struct SessionReader {
    sink: UsageSink,
    /// The text under way; `None`: there is none, or it is no JSON.
    text: Option<Grammar>,
    news: Option<TokenUsage>,
}

impl Default for SessionReader {
    fn default() -> Self {
        Self {
            sink: UsageSink::new(StreamKind::Other),
            text: None,
            news: None,
        }
    }
}

impl SessionReader {
    /// Bytes of the provider's direction that have passed, with the frames they belong to.
    pub fn follow(&mut self, frames: &mut FrameFollower, bytes: &[u8]) {
        frames.follow(bytes, |piece| match piece {
            Piece::TextBegins => {
                self.sink.begin(true);
                self.sink.reported = Reported::default();
                self.text = Some(Grammar::new());
            }
            Piece::Text(more) => {
                if let Some(grammar) = &mut self.text
                    && grammar.feed(more, &mut self.sink).is_err()
                {
                    self.text = None;
                }
                // what the model said is not kept
                self.sink.text.clear();
            }
            Piece::TextEnds => {
                let whole = self.text.take().is_some_and(|grammar| grammar.finish().is_ok());
                if let Some(usage) = self.sink.reported.usage(StreamKind::Other).filter(|_| whole) {
                    self.news = Some(self.news.unwrap_or_default().plus(usage));
                }
            }
        });
    }

    /// Tokens told since this was asked last.
    pub fn take(&mut self) -> Option<TokenUsage> {
        self.news.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Vec<u8> {
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&[0x81, 126, length[0], length[1]], text.as_bytes()].concat()
    }

    #[test]
    fn each_response_adds_its_tokens() {
        let done = |input: u64, output: u64| {
            frame(&format!(
                r#"{{"type":"response.done","response":{{"id":"r","output":[{{"content":[{{"transcript":"usage"}}]}}],"usage":{{"total_tokens":{},"input_tokens":{input},"output_tokens":{output},"input_token_details":{{"text_tokens":1,"audio_tokens":2,"cached_tokens":3}},"output_token_details":{{"audio_tokens":5}}}}}}}}"#,
                input + output
            ))
        };
        let mut bytes = frame(r#"{"type":"response.audio.delta","delta":"AAAA"}"#);
        bytes.extend(done(100, 20));
        bytes.extend(frame("no json"));
        bytes.extend(frame(r#"{"type":"response.done","response":{"usage":null}}"#));
        bytes.extend(done(10, 2));
        for piece in [1, 7, 1000] {
            let (mut reader, mut frames) = (SessionReader::default(), FrameFollower::default());
            let mut total = TokenUsage::default();
            for part in bytes.chunks(piece) {
                reader.follow(&mut frames, part);
                total = total.plus(reader.take().unwrap_or_default());
            }
            assert_eq!((total.prompt, total.completion, total.cache_read), (110, 22, 6));
            assert_eq!(reader.take(), None);
        }
    }
}
