//! Hears the grammar of an answer and keeps its numbers and its text.

use super::Reported;
use crate::dialect::inspect::InspectError;
use crate::dialect::inspect::grammar::{Role, Sink};
use crate::dialect::sse::StreamKind;

/// How deep names matter: `response.usage.input_tokens_details.cached_tokens`.
const DEEPEST: usize = 5;

/// The longest name that means something, and the longest number.
const LONGEST_WORD: usize = 32;

/// What a member's name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Usage,
    /// `message` or `response`: what an event tells of.
    Envelope,
    Details,
    Text,
    Field(Field),
    /// A list of what was made.
    Data,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Input,
    Output,
    Total,
    CacheRead,
    CacheWrite,
    CacheWrite1h,
    Reasoning,
    /// Of sound, in `usage`.
    Seconds,
    /// The same, at the top.
    Duration,
}

impl Field {
    fn read(self, number: &str) -> Option<u64> {
        if !matches!(self, Self::Seconds | Self::Duration) {
            return number.parse().ok();
        }
        let seconds = std::time::Duration::try_from_secs_f64(number.parse().ok()?).ok()?;
        u64::try_from(seconds.as_micros().div_ceil(1000)).ok()
    }
}

#[derive(Debug)]
pub(super) struct UsageSink {
    kind: StreamKind,
    /// What is read is one event of a stream.
    streamed: bool,
    /// The name before the value that comes, at each depth.
    path: [Name; DEEPEST + 1],
    word: Word,
    taking: Taking,
    pub(super) reported: Reported,
    pub(super) has_final_output: bool,
    /// Objects in the list `data`.
    pub(super) items: u64,
    pub(super) text: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    Nothing,
    Name,
    Text,
    Number(Field),
}

/// A short piece of text; one that is too long is none.
#[derive(Debug)]
struct Word {
    bytes: [u8; LONGEST_WORD],
    length: usize,
}

impl Word {
    fn push(&mut self, piece: &[u8]) {
        let end = self.length + piece.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(piece);
        }
        self.length = end;
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl UsageSink {
    pub(super) fn new(kind: StreamKind) -> Self {
        Self {
            kind,
            streamed: false,
            path: [Name::Other; DEEPEST + 1],
            word: Word {
                bytes: [0; LONGEST_WORD],
                length: 0,
            },
            taking: Taking::Nothing,
            reported: Reported::default(),
            has_final_output: false,
            items: 0,
            text: Vec::new(),
        }
    }

    /// A new document begins.
    pub(super) fn begin(&mut self, streamed: bool) {
        self.streamed = streamed;
        self.path = [Name::Other; DEEPEST + 1];
        self.taking = Taking::Nothing;
    }

    fn classify(&self, name: &[u8]) -> Name {
        match name {
            b"usage" => Name::Usage,
            b"message" | b"response" => Name::Envelope,
            b"prompt_tokens_details"
            | b"input_tokens_details"
            | b"completion_tokens_details"
            | b"output_tokens_details"
            | b"input_token_details"
            | b"output_token_details"
            | b"cache_creation" => Name::Details,
            b"prompt_tokens" | b"input_tokens" => Name::Field(Field::Input),
            b"completion_tokens" | b"output_tokens" => Name::Field(Field::Output),
            b"total_tokens" => Name::Field(Field::Total),
            b"cached_tokens" | b"cache_read_input_tokens" => Name::Field(Field::CacheRead),
            b"cache_creation_input_tokens" | b"cache_write_tokens" => Name::Field(Field::CacheWrite),
            b"ephemeral_1h_input_tokens" => Name::Field(Field::CacheWrite1h),
            b"reasoning_tokens" => Name::Field(Field::Reasoning),
            b"seconds" => Name::Field(Field::Seconds),
            b"duration" => Name::Field(Field::Duration),
            b"data" => Name::Data,
            _ if self.is_text(name) => Name::Text,
            _ => Name::Other,
        }
    }

    /// Names of members that hold what the model wrote. A Responses stream repeats at the end what its deltas said.
    fn is_text(&self, name: &[u8]) -> bool {
        match self.kind {
            StreamKind::Messages => matches!(name, b"text" | b"thinking" | b"partial_json"),
            StreamKind::Responses if self.streamed => name == b"delta",
            _ => matches!(
                name,
                b"content" | b"text" | b"reasoning_content" | b"reasoning" | b"refusal" | b"arguments"
            ),
        }
    }

    /// Whether members at this depth are of a `usage` that counts: at the top, or in an event's envelope.
    fn is_usage(&self, depth: usize) -> bool {
        match depth {
            2 => self.path[1] == Name::Usage,
            3 => self.path[2] == Name::Usage && self.path[1] == Name::Envelope,
            _ => false,
        }
    }

    fn field_at(&self, depth: usize) -> Option<Field> {
        let Name::Field(field) = *self.path.get(depth)? else {
            return None;
        };
        if field == Field::Duration {
            return (depth == 1).then_some(field);
        }
        let of_details = depth > 2 && self.path[depth - 1] == Name::Details && self.is_usage(depth - 1);
        (self.is_usage(depth) || of_details).then_some(field)
    }

    fn report(&mut self, field: Field, number: u64) {
        let slot = match field {
            Field::Input => &mut self.reported.input,
            Field::Output => {
                // the first event of Anthropic's has a count of the answer too
                self.has_final_output |= !self.streamed || self.path[1] == Name::Usage;
                &mut self.reported.output
            }
            Field::Total => &mut self.reported.total,
            Field::CacheRead => &mut self.reported.cache_read,
            Field::CacheWrite => &mut self.reported.cache_write,
            Field::CacheWrite1h => &mut self.reported.cache_write_1h,
            Field::Reasoning => &mut self.reported.reasoning,
            Field::Seconds | Field::Duration => &mut self.reported.audio_millis,
        };
        *slot = Some(number);
    }
}

impl Sink for UsageSink {
    fn string_begins(&mut self, role: Role, _: usize, depth: usize) -> Result<bool, InspectError> {
        self.word.length = 0;
        self.taking = match role {
            Role::Key if depth <= DEEPEST || self.kind != StreamKind::Responses => Taking::Name,
            Role::Value if self.path[depth.min(DEEPEST)] == Name::Text => Taking::Text,
            _ => Taking::Nothing,
        };
        Ok(self.taking != Taking::Nothing)
    }

    fn string_content(&mut self, piece: &[u8]) -> Result<(), InspectError> {
        match self.taking {
            Taking::Name => self.word.push(piece),
            Taking::Text => self.text.extend_from_slice(piece),
            Taking::Nothing | Taking::Number(_) => {}
        }
        Ok(())
    }

    fn lone_surrogate(&mut self) {}

    fn string_ends(&mut self, role: Role, _: usize, depth: usize) -> Result<(), InspectError> {
        if role == Role::Key {
            let name = if self.taking == Taking::Name {
                self.classify(self.word.get())
            } else {
                Name::Other
            };
            // what lies deeper than names matter can only be text
            self.path[depth.min(DEEPEST)] = if depth > DEEPEST && name != Name::Text {
                Name::Other
            } else {
                name
            };
        }
        self.taking = Taking::Nothing;
        Ok(())
    }

    fn scalar_begins(&mut self, _: usize, depth: usize) -> Result<bool, InspectError> {
        self.word.length = 0;
        self.taking = self.field_at(depth).map_or(Taking::Nothing, Taking::Number);
        Ok(self.taking != Taking::Nothing)
    }

    fn scalar_content(&mut self, piece: &[u8]) -> Result<(), InspectError> {
        self.word.push(piece);
        Ok(())
    }

    fn scalar_ends(&mut self, _: usize, _: usize) -> Result<(), InspectError> {
        if let Taking::Number(field) = self.taking
            && let Ok(number) = std::str::from_utf8(self.word.get())
            && let Some(number) = field.read(number)
        {
            self.report(field, number);
        }
        self.taking = Taking::Nothing;
        Ok(())
    }

    fn container_opens(&mut self, object: bool, _: usize, depth: usize) -> Result<(), InspectError> {
        if object && depth == 2 && self.path[1] == Name::Data {
            self.items += 1;
        }
        // an array of texts has its own name for each; an object's members bring theirs
        if object && depth < DEEPEST {
            self.path[depth + 1] = Name::Other;
        } else if !object && depth < DEEPEST {
            self.path[depth + 1] = match self.path[depth] {
                Name::Text => Name::Text,
                _ => Name::Other,
            };
        }
        Ok(())
    }

    fn container_closes(&mut self, _: usize, _: usize) -> Result<(), InspectError> {
        Ok(())
    }
}
