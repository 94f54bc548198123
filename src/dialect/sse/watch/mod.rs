//! Watches the events of one stream and judges at the end whether it was whole.

use super::event::Event;
use super::splitter::Piece;
use crate::dialect::scan::{Reader, Value};

/// What kind of stream an endpoint answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`.
    Responses,
    /// `/v1/messages`.
    Messages,
    /// Any other stream of events.
    Other,
}

/// How HTTP ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpEnd {
    /// By `Content-Length`, the last chunk or END_STREAM.
    Framed,
    /// By closing the connection, of an answer that has no other end.
    Closed,
    /// By a reset, a close in the middle, a time-out.
    Broken,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamVerdict {
    /// It is whole.
    Complete,
    /// The provider sent an error event, which the client has got: no second one, no caching.
    EndedByProviderError,
    /// The provider broke: the client must be told.
    Broken,
}

/// What one event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventFacts {
    /// It is the end marker of its kind: what a strict ledger holds back.
    pub end_marker: bool,
    /// It is an error event.
    pub error: bool,
    /// It says something of the answer itself: words, a call of a tool, an end. What a stream opens with is none.
    pub content: bool,
    /// It carries usage and nothing else (chat, completions): to be removed if only the proxy asked for it.
    pub usage_only: bool,
}

/// Choices whose index is tracked; more are possible only with thousands of prompts at once, and then
/// only the end marker counts.
const MAX_CHOICES: usize = 4096;

/// The state of one stream.
#[derive(Debug)]
pub struct StreamWatch {
    kind: StreamKind,
    expected_choices: usize,
    choices: Vec<Choice>,
    untracked_choice: bool,
    stop_reason: bool,
    end_marker: bool,
    error: bool,
    content: bool,
    sequence_number: Option<u64>,
    /// What the event says whose head has left and whose end has not come.
    unfinished: Option<EventFacts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Unseen,
    Running,
    Finished,
}

impl StreamWatch {
    /// A watch over a stream of `kind`, whose request asked for `n` choices.
    pub fn new(kind: StreamKind, n: Option<u64>) -> Self {
        let expected = n.map_or(1, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Self {
            kind,
            expected_choices: expected,
            choices: Vec::new(),
            untracked_choice: false,
            stop_reason: false,
            end_marker: false,
            error: false,
            content: false,
            sequence_number: None,
            unfinished: None,
        }
    }

    /// Takes a piece of a [`Batch`](super::Batch).
    pub fn observe(&mut self, piece: Piece<'_>) -> EventFacts {
        match piece {
            Piece::Event(bytes) => {
                let facts = self.read(bytes);
                self.settle(facts);
                facts
            }
            Piece::LongHead(bytes) => {
                self.unfinished = Some(self.read(bytes));
                EventFacts::default()
            }
            Piece::LongEnd(_) => {
                let facts = self.unfinished.take().unwrap_or_default();
                self.settle(facts);
                facts
            }
            Piece::LongMiddle(_) | Piece::LineFeed(_) => EventFacts::default(),
        }
    }

    /// The end marker has come.
    pub fn has_end_marker(&self) -> bool {
        self.end_marker
    }

    /// Something of the answer itself has come.
    pub fn has_content(&self) -> bool {
        self.content
    }

    /// An error event has come.
    pub fn has_error(&self) -> bool {
        self.error
    }

    /// The last `sequence_number` of a Responses stream.
    pub fn last_sequence_number(&self) -> Option<u64> {
        self.sequence_number
    }

    /// Every choice had a finish or stop reason. Streams without choices have none that could be open:
    /// true for [`StreamKind::Other`], false for Responses, which only their marker ends.
    pub fn all_finished(&self) -> bool {
        match self.kind {
            StreamKind::Chat | StreamKind::Completions => {
                let finished = self
                    .choices
                    .iter()
                    .filter(|choice| **choice == Choice::Finished)
                    .count();
                !self.untracked_choice
                    && finished >= self.expected_choices
                    && !self.choices.contains(&Choice::Running)
            }
            StreamKind::Messages => self.stop_reason,
            StreamKind::Responses => false,
            StreamKind::Other => true,
        }
    }

    /// Judges the stream when HTTP has ended.
    pub fn verdict(&self, end: HttpEnd) -> StreamVerdict {
        if self.error {
            StreamVerdict::EndedByProviderError
        } else if is_complete(self.end_marker, self.all_finished(), end) {
            StreamVerdict::Complete
        } else {
            StreamVerdict::Broken
        }
    }

    fn settle(&mut self, facts: EventFacts) {
        self.end_marker |= facts.end_marker;
        self.error |= facts.error;
        self.content |= facts.content;
    }

    fn read(&mut self, bytes: &[u8]) -> EventFacts {
        let event = Event::parse(bytes);
        let Some(data) = event.data.as_deref() else {
            return EventFacts::default();
        };
        if data.starts_with(b"[DONE]") {
            let marks = matches!(
                self.kind,
                StreamKind::Chat | StreamKind::Completions | StreamKind::Other
            );
            return EventFacts {
                end_marker: marks,
                content: marks,
                ..EventFacts::default()
            };
        }
        let is_named_error = event.name == Some(b"error");
        match self.kind {
            StreamKind::Chat | StreamKind::Completions => self.chunk(data, event.name),
            StreamKind::Responses => self.response_event(data, event.name),
            StreamKind::Messages => self.message_event(data, event.name),
            StreamKind::Other => EventFacts {
                error: is_named_error || is_error_object(data),
                content: true,
                ..EventFacts::default()
            },
        }
    }

    fn chunk(&mut self, data: &[u8], event_name: Option<&[u8]>) -> EventFacts {
        let mut facts = EventFacts {
            error: event_name == Some(b"error"),
            ..EventFacts::default()
        };
        let (mut no_choices, mut usage, mut content) = (false, false, self.content);
        let mut reader = Reader::new(data);
        if !reader.enter_object() {
            return facts;
        }
        while let Some(name) = reader.next_member() {
            if name == b"choices" && reader.enter_array() {
                no_choices = !self.choices(&mut reader, &mut content);
                continue;
            }
            let Some(value) = reader.value() else { break };
            match name {
                b"usage" => usage = matches!(value, Value::Object(_)),
                b"error" => facts.error |= !value.is_null(),
                _ => {}
            }
        }
        facts.usage_only = no_choices && usage && !facts.error;
        facts.content = content;
        facts
    }

    /// Reads an entered array of choices; says whether it has any.
    fn choices(&mut self, reader: &mut Reader<'_>, content: &mut bool) -> bool {
        let mut any = false;
        while reader.next_element() {
            any = true;
            if reader.enter_object() {
                self.choice(reader, content);
            } else if reader.value().is_none() {
                break;
            }
        }
        any
    }

    /// Reads an entered choice.
    fn choice(&mut self, reader: &mut Reader<'_>, content: &mut bool) {
        let (mut index, mut finished) = (0, false);
        while let Some(name) = reader.next_member() {
            let Some(value) = reader.value() else { break };
            match name {
                b"index" => index = choice_index(value),
                // some providers write an empty text instead of null
                b"finish_reason" => finished = matches!(value, Value::String(reason) if !reason.is_empty()),
                b"delta" if !*content => *content = says_something(value),
                b"text" if !*content => *content = matches!(value, Value::String(text) if !text.is_empty()),
                _ => {}
            }
        }
        *content |= finished;
        if index >= MAX_CHOICES {
            self.untracked_choice = true;
            return;
        }
        if self.choices.len() <= index {
            self.choices.resize(index + 1, Choice::Unseen);
        }
        let state = &mut self.choices[index];
        if finished {
            *state = Choice::Finished;
        } else if *state == Choice::Unseen {
            *state = Choice::Running;
        }
    }

    fn response_event(&mut self, data: &[u8], event_name: Option<&[u8]>) -> EventFacts {
        let (mut kind, mut sequence_number) = (None, None);
        let mut reader = Reader::new(data);
        reader.enter_object();
        while let Some(name) = reader.next_member() {
            let Some(value) = reader.value() else { break };
            match name {
                b"type" => kind = value.as_plain_text(),
                b"sequence_number" => sequence_number = value.as_u64(),
                _ => {}
            }
            if kind.is_some() && sequence_number.is_some() {
                break;
            }
        }
        self.sequence_number = sequence_number.or(self.sequence_number);
        let kind = kind.map(str::as_bytes).or(event_name).unwrap_or_default();
        EventFacts {
            content: !matches!(
                kind,
                b"response.created"
                    | b"response.in_progress"
                    | b"response.queued"
                    | b"response.output_item.added"
                    | b"response.content_part.added"
                    | b"keepalive"
                    | b"error"
            ),
            end_marker: matches!(
                kind,
                b"response.completed" | b"response.incomplete" | b"response.failed"
            ),
            error: kind == b"error" || event_name == Some(b"error"),
            usage_only: false,
        }
    }

    fn message_event(&mut self, data: &[u8], event_name: Option<&[u8]>) -> EventFacts {
        let object = Value::parse(data);
        let kind = object
            .and_then(|object| object.member(b"type"))
            .and_then(Value::as_plain_text);
        let kind = kind.map(str::as_bytes).or(event_name).unwrap_or_default();
        if kind == b"message_delta" {
            let delta = object.and_then(|object| object.member(b"delta"));
            let reason = delta.and_then(|delta| delta.member(b"stop_reason"));
            self.stop_reason |= matches!(reason, Some(Value::String(reason)) if !reason.is_empty());
        }
        EventFacts {
            content: matches!(kind, b"content_block_delta" | b"message_delta" | b"message_stop"),
            end_marker: kind == b"message_stop",
            error: kind == b"error" || event_name == Some(b"error"),
            usage_only: false,
        }
    }
}

/// The rule: the end marker came, or every choice is finished and HTTP has an end of its own.
fn is_complete(end_marker: bool, all_finished: bool, end: HttpEnd) -> bool {
    end_marker || all_finished && end == HttpEnd::Framed
}

/// A delta with more than whose turn it is.
fn says_something(delta: Value<'_>) -> bool {
    delta.members().any(|(name, value)| {
        let says = match value {
            Value::String(text) => !text.is_empty(),
            Value::Object(_) | Value::Array(_) => true,
            Value::Scalar(_) => false,
        };
        says && name != b"role"
    })
}

fn choice_index(value: Value<'_>) -> usize {
    value
        .as_u64()
        .map_or(0, |index| usize::try_from(index).unwrap_or(usize::MAX))
}

fn is_error_object(data: &[u8]) -> bool {
    let Some(object) = Value::parse(data) else {
        return false;
    };
    object.member(b"error").is_some_and(|error| !error.is_null())
        || object.member(b"type").and_then(Value::as_plain_text) == Some("error")
}

#[cfg(test)]
mod tests;
