//! What an inspected body says.

/// A range of bytes of the body, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// The `model` of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelField {
    /// The name, escapes decoded.
    pub name: String,
    /// The whole JSON string, quotes included.
    pub span: Span,
}

/// The `stream_options` of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamOptions {
    /// No such member.
    #[default]
    Absent,
    /// `null`.
    Null(Span),
    /// An object.
    Object {
        /// Offset of its opening brace.
        open: usize,
        /// It has no members.
        empty: bool,
        /// What it says about usage.
        include_usage: IncludeUsage,
    },
    /// Something else: the provider will refuse it.
    Other,
}

/// The `include_usage` of `stream_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeUsage {
    /// No such member.
    #[default]
    Absent,
    /// `false` or `null`.
    No(Span),
    /// `true`.
    Yes,
    /// Something else: the provider will refuse it.
    Other,
}

/// The value of a watched parameter as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterValue {
    /// A string with its escapes decoded; a number, `true`, `false` or `null` as written.
    Text(String),
    /// An object or an array.
    Composite,
}

impl ParameterValue {
    /// The text; none for objects and arrays.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Composite => None,
        }
    }
}

/// What the top-level object of a body says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyFacts {
    /// The model asked for.
    pub model: Option<ModelField>,
    /// `stream`; `null` is as absent.
    pub stream: Option<bool>,
    /// `stream_options`.
    pub stream_options: StreamOptions,
    /// `max_tokens`, if a positive integer.
    pub max_tokens: Option<u64>,
    /// `max_completion_tokens`, if a positive integer.
    pub max_completion_tokens: Option<u64>,
    /// `max_output_tokens` (Responses), if a positive integer.
    pub max_output_tokens: Option<u64>,
    /// `n`, if a positive integer.
    pub n: Option<u64>,
    /// `temperature` is exactly zero.
    pub temperature_is_zero: bool,
    /// Offset of the top object's opening brace.
    pub open: usize,
    /// The top object has no members.
    pub empty: bool,
    /// Length of the body in bytes.
    pub length: usize,
    pub(super) parameters: Vec<(Box<str>, ParameterValue)>,
}

impl BodyFacts {
    /// The model's name.
    pub fn model_name(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.name.as_str())
    }

    /// The client asked for a stream.
    pub fn is_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// The client asked for the usage chunk of a stream itself.
    pub fn wants_usage(&self) -> bool {
        matches!(
            self.stream_options,
            StreamOptions::Object {
                include_usage: IncludeUsage::Yes,
                ..
            }
        )
    }

    /// The value of a watched parameter, if the body has it.
    pub fn parameter(&self, name: &str) -> Option<&ParameterValue> {
        self.parameters
            .iter()
            .find(|(key, _)| &**key == name)
            .map(|(_, value)| value)
    }

    /// Every watched parameter the body has, in the order of the body.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &ParameterValue)> {
        self.parameters.iter().map(|(key, value)| (&**key, value))
    }

    /// Most tokens the answer may have as the client declared it: the larger of `max_tokens`,
    /// `max_completion_tokens` and `max_output_tokens`, times `n`; none if undeclared.
    pub fn declared_output_tokens(&self) -> Option<u64> {
        let limit = self
            .max_tokens
            .max(self.max_completion_tokens)
            .max(self.max_output_tokens)?;
        Some(limit.saturating_mul(self.n.unwrap_or(1)))
    }
}
