//! Picks the watched members out of what the grammar tells.

use super::facts::{BodyFacts, IncludeUsage, ModelField, ParameterValue, Span, StreamOptions};
use super::grammar::{Role, Sink};
use super::{InspectError, MAX_MODEL_BYTES, MAX_PARAMETER_BYTES};

/// Longest scalar kept of a member whose value has a meaning of its own (`n`, `max_tokens`, …).
const MAX_SCALAR_BYTES: usize = 512;

/// The parameter names to read besides the built-in ones, made once per configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchedKeys {
    /// Sorted, without duplicates.
    parameters: Vec<Box<str>>,
    longest: usize,
}

impl WatchedKeys {
    /// Watches these top-level parameters.
    pub fn new<Name: AsRef<str>>(parameters: impl IntoIterator<Item = Name>) -> Self {
        let mut parameters: Vec<Box<str>> = parameters.into_iter().map(|name| name.as_ref().into()).collect();
        parameters.sort_unstable();
        parameters.dedup();
        let longest = parameters.iter().map(|name| name.len()).max().unwrap_or(0);
        Self {
            parameters,
            longest: longest.max(LONGEST_MEMBER),
        }
    }

    fn parameter(&self, name: &[u8]) -> Option<usize> {
        self.parameters
            .binary_search_by(|candidate| candidate.as_bytes().cmp(name))
            .ok()
    }

    fn longest(&self) -> usize {
        self.longest.max(LONGEST_MEMBER)
    }
}

/// A built-in member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    N,
    Temperature,
    /// `include_usage` inside `stream_options`.
    IncludeUsage,
}

const LONGEST_MEMBER: usize = "max_completion_tokens".len();

impl Member {
    fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"model" => Self::Model,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"max_tokens" => Self::MaxTokens,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"n" => Self::N,
            b"temperature" => Self::Temperature,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Stream => "stream",
            Self::StreamOptions => "stream_options",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::N => "n",
            Self::Temperature => "temperature",
            Self::IncludeUsage => "stream_options.include_usage",
        }
    }
}

/// How a watched value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    String,
    Scalar,
    Composite,
}

#[derive(Debug)]
pub(super) struct Watcher<'keys> {
    keys: &'keys WatchedKeys,
    facts: BodyFacts,
    /// Built-in members already seen, one bit each.
    seen: u16,
    /// What the last name read stands for, until its value has ended.
    member: Option<Member>,
    parameter: Option<usize>,
    in_stream_options: bool,
    buffer: Vec<u8>,
    value_start: usize,
    lone_surrogate: bool,
    key_too_long: bool,
}

impl<'keys> Watcher<'keys> {
    pub(super) fn new(keys: &'keys WatchedKeys) -> Self {
        Self {
            keys,
            facts: BodyFacts {
                empty: true,
                ..BodyFacts::default()
            },
            seen: 0,
            member: None,
            parameter: None,
            in_stream_options: false,
            buffer: Vec::new(),
            value_start: 0,
            lone_surrogate: false,
            key_too_long: false,
        }
    }

    pub(super) fn into_facts(self, length: usize) -> BodyFacts {
        BodyFacts { length, ..self.facts }
    }

    fn is_watched(&self) -> bool {
        self.member.is_some() || self.parameter.is_some()
    }

    /// Values of the top object's members, and of those of `stream_options`, are looked at.
    fn is_member_level(&self, depth: usize) -> bool {
        depth == 1 || depth == 2 && self.in_stream_options
    }

    fn key_ended(&mut self, depth: usize) -> Result<(), InspectError> {
        (self.member, self.parameter) = (None, None);
        let name = self.buffer.as_slice();
        if self.lone_surrogate || self.key_too_long {
            return Ok(());
        }
        if depth == 2 {
            self.member = (name == b"include_usage").then_some(Member::IncludeUsage);
        } else {
            self.member = Member::named(name);
            self.parameter = self.keys.parameter(name);
        }
        if let Some(member) = self.member {
            let bit = 1_u16 << member as u16;
            if self.seen & bit != 0 {
                return Err(InspectError::DuplicateKey(member.name().to_owned()));
            }
            self.seen |= bit;
        }
        if let Some(index) = self.parameter {
            let name = &*self.keys.parameters[index];
            if self.facts.parameter(name).is_some() {
                return Err(InspectError::DuplicateKey(name.to_owned()));
            }
        }
        Ok(())
    }

    fn begin_value(&mut self, start: usize) -> bool {
        self.buffer.clear();
        self.lone_surrogate = false;
        self.value_start = start;
        self.is_watched()
    }

    fn limit(&self) -> usize {
        match self.member {
            Some(Member::Model) => MAX_MODEL_BYTES,
            Some(_) if self.parameter.is_none() => MAX_SCALAR_BYTES,
            _ => MAX_PARAMETER_BYTES,
        }
    }

    fn name(&self) -> String {
        match (self.parameter, self.member) {
            (Some(index), _) => self.keys.parameters[index].clone().into(),
            (None, Some(member)) => member.name().to_owned(),
            (None, None) => String::new(),
        }
    }

    fn capture(&mut self, piece: &[u8]) -> Result<(), InspectError> {
        let limit = self.limit();
        if self.buffer.len() + piece.len() > limit {
            return Err(InspectError::TooLong {
                key: self.name(),
                limit,
            });
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    fn end_value(&mut self, shape: Shape, end: usize) -> Result<(), InspectError> {
        if !self.is_watched() {
            return Ok(());
        }
        if shape == Shape::String && self.lone_surrogate {
            return Err(InspectError::LoneSurrogate { key: self.name() });
        }
        let span = Span {
            start: self.value_start,
            end,
        };
        if let Some(member) = self.member.take() {
            self.end_member(member, shape, span)?;
        }
        if let Some(index) = self.parameter.take() {
            let value = match shape {
                Shape::Composite => ParameterValue::Composite,
                Shape::String | Shape::Scalar => {
                    ParameterValue::Text(String::from_utf8_lossy(&self.buffer).into_owned())
                }
            };
            self.facts
                .parameters
                .push((self.keys.parameters[index].clone(), value));
        }
        Ok(())
    }

    fn end_member(&mut self, member: Member, shape: Shape, span: Span) -> Result<(), InspectError> {
        let scalar: &[u8] = if shape == Shape::Scalar { &self.buffer } else { b"" };
        match member {
            Member::Model if shape == Shape::String => {
                let name = String::from_utf8_lossy(&self.buffer).into_owned();
                self.facts.model = Some(ModelField { name, span });
            }
            Member::Model => {
                return Err(InspectError::WrongType {
                    key: "model",
                    expected: "a string",
                });
            }
            Member::Stream => {
                self.facts.stream = match scalar {
                    b"true" => Some(true),
                    b"false" => Some(false),
                    b"null" => None,
                    _ => {
                        return Err(InspectError::WrongType {
                            key: "stream",
                            expected: "`true` or `false`",
                        });
                    }
                }
            }
            // an object was noted when it opened
            Member::StreamOptions if shape == Shape::Composite => {}
            Member::StreamOptions if scalar == b"null" => {
                self.facts.stream_options = StreamOptions::Null(span);
            }
            Member::StreamOptions => self.facts.stream_options = StreamOptions::Other,
            Member::MaxTokens => self.facts.max_tokens = positive_integer(scalar),
            Member::MaxCompletionTokens => self.facts.max_completion_tokens = positive_integer(scalar),
            Member::MaxOutputTokens => self.facts.max_output_tokens = positive_integer(scalar),
            Member::N => self.facts.n = positive_integer(scalar),
            Member::Temperature => self.facts.temperature_is_zero = is_zero(scalar),
            Member::IncludeUsage => {
                let said = match scalar {
                    b"true" => IncludeUsage::Yes,
                    b"false" | b"null" => IncludeUsage::No(span),
                    _ => IncludeUsage::Other,
                };
                if let StreamOptions::Object { include_usage, .. } = &mut self.facts.stream_options {
                    *include_usage = said;
                }
            }
        }
        Ok(())
    }
}

impl Sink for Watcher<'_> {
    fn string_begins(&mut self, role: Role, start: usize, depth: usize) -> Result<bool, InspectError> {
        if !self.is_member_level(depth) {
            return Ok(false);
        }
        if role == Role::Value {
            return Ok(self.begin_value(start));
        }
        self.buffer.clear();
        self.lone_surrogate = false;
        self.key_too_long = false;
        (self.member, self.parameter) = (None, None);
        if depth == 1 {
            self.facts.empty = false;
        } else if let StreamOptions::Object { empty, .. } = &mut self.facts.stream_options {
            *empty = false;
        }
        Ok(true)
    }

    fn string_content(&mut self, piece: &[u8]) -> Result<(), InspectError> {
        if self.is_watched() {
            return self.capture(piece);
        }
        // a name: longer than any watched one is none of them
        self.key_too_long |= self.buffer.len() + piece.len() > self.keys.longest();
        if !self.key_too_long {
            self.buffer.extend_from_slice(piece);
        }
        Ok(())
    }

    fn lone_surrogate(&mut self) {
        self.lone_surrogate = true;
    }

    fn string_ends(&mut self, role: Role, end: usize, depth: usize) -> Result<(), InspectError> {
        match role {
            _ if !self.is_member_level(depth) => Ok(()),
            Role::Key => self.key_ended(depth),
            Role::Value => self.end_value(Shape::String, end),
        }
    }

    fn scalar_begins(&mut self, start: usize, depth: usize) -> Result<bool, InspectError> {
        Ok(self.is_member_level(depth) && self.begin_value(start))
    }

    fn scalar_content(&mut self, piece: &[u8]) -> Result<(), InspectError> {
        self.capture(piece)
    }

    fn scalar_ends(&mut self, end: usize, depth: usize) -> Result<(), InspectError> {
        if self.is_member_level(depth) {
            self.end_value(Shape::Scalar, end)
        } else {
            Ok(())
        }
    }

    fn container_opens(&mut self, object: bool, start: usize, depth: usize) -> Result<(), InspectError> {
        if depth == 0 {
            self.facts.open = start;
            return Ok(());
        }
        if !self.is_member_level(depth) {
            return Ok(());
        }
        self.begin_value(start);
        let is_stream_options = depth == 1 && self.member == Some(Member::StreamOptions);
        // the value may hold strings before it ends: settle it now, its end tells nothing more
        self.end_value(Shape::Composite, start)?;
        if is_stream_options && object {
            self.in_stream_options = true;
            self.facts.stream_options = StreamOptions::Object {
                open: start,
                empty: true,
                include_usage: IncludeUsage::Absent,
            };
        } else if is_stream_options {
            self.facts.stream_options = StreamOptions::Other;
        }
        Ok(())
    }

    fn container_closes(&mut self, _end: usize, depth: usize) -> Result<(), InspectError> {
        if depth == 1 {
            self.in_stream_options = false;
        }
        Ok(())
    }
}

/// A number written as a plain positive integer.
fn positive_integer(scalar: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(scalar).ok()?;
    text.parse::<u64>().ok().filter(|&number| number > 0)
}

/// A number whose digits before any exponent are all zero.
fn is_zero(scalar: &[u8]) -> bool {
    let digits = scalar
        .split(|byte| matches!(byte, b'e' | b'E'))
        .next()
        .unwrap_or_default();
    digits.contains(&b'0') && digits.iter().all(|byte| matches!(byte, b'0' | b'-' | b'.'))
}
