//! Finds the few facts the proxy needs in a JSON request body, chunk by chunk, without a document.
//!
//! An [`Inspector`] is fed the body as it arrives, in any split, and says at the end that it is one
//! well-formed JSON object and what its top-level members say about `model`, `stream`,
//! `stream_options`, the token limits and the parameters named in [`WatchedKeys`], with byte spans
//! for [`splice`](super::splice). One pass; memory is constant except for captured values, each of
//! them bounded. Names are compared with their escapes decoded, and a name that is read and occurs
//! twice is refused: two readers could otherwise see two different values.

mod facts;
pub(in crate::dialect) mod grammar;
mod watcher;

#[cfg(test)]
mod tests;

pub use facts::{BodyFacts, IncludeUsage, ModelField, ParameterValue, Span, StreamOptions};
pub use grammar::MAX_DEPTH;
pub use watcher::WatchedKeys;

use grammar::Grammar;
use watcher::Watcher;

/// Longest model name, decoded, in bytes.
pub const MAX_MODEL_BYTES: usize = 512;
/// Longest value of a watched parameter, decoded, in bytes.
pub const MAX_PARAMETER_BYTES: usize = 64 * 1024;

/// Why a body cannot be understood. Every variant is a 400 `invalid_json` to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// The body has no bytes but white space.
    #[error("the body is empty; a JSON object is expected")]
    Empty,
    /// The top level is a value, but no object.
    #[error("the body is not a JSON object (byte {offset}); an object `{{…}}` is expected")]
    NotAnObject {
        /// Offset of the first byte of that value.
        offset: usize,
    },
    /// The grammar of JSON is violated.
    #[error("malformed JSON at byte {offset}: expected {expected}")]
    Malformed {
        /// Offset of the offending byte.
        offset: usize,
        /// What would be right there.
        expected: &'static str,
    },
    /// The body ended inside the object.
    #[error("the JSON body ends at byte {offset} before the object is closed")]
    Unfinished {
        /// Length of the body.
        offset: usize,
    },
    /// More containers are open at once than allowed.
    #[error("the JSON body is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A name that is read occurs twice.
    #[error("`{0}` occurs twice in the body; give it once")]
    DuplicateKey(String),
    /// A member that is read has a value of the wrong type.
    #[error("`{key}` must be {expected}")]
    WrongType {
        /// The member.
        key: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// A member that is read is longer than allowed.
    #[error("the value of `{key}` is longer than {limit} bytes")]
    TooLong {
        /// The member.
        key: String,
        /// The limit.
        limit: usize,
    },
    /// A member that is read holds half of a surrogate pair.
    #[error("the value of `{key}` is not valid Unicode: it holds half of a surrogate pair")]
    LoneSurrogate {
        /// The member.
        key: String,
    },
}

impl InspectError {
    /// The request parameter the error is about, for the `param` of an OpenAI error.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::DuplicateKey(key) | Self::TooLong { key, .. } | Self::LoneSurrogate { key } => Some(key),
            Self::WrongType { key, .. } => Some(key),
            Self::Empty
            | Self::NotAnObject { .. }
            | Self::Malformed { .. }
            | Self::Unfinished { .. }
            | Self::TooDeep { .. } => None,
        }
    }
}

/// Reads a body as it arrives.
#[derive(Debug)]
pub struct Inspector<'keys> {
    grammar: Grammar,
    watcher: Watcher<'keys>,
}

impl<'keys> Inspector<'keys> {
    /// An inspector that reads the built-in members and the parameters of `keys`.
    pub fn new(keys: &'keys WatchedKeys) -> Self {
        Self {
            grammar: Grammar::new(),
            watcher: Watcher::new(keys),
        }
    }

    /// Takes the next bytes of the body. After an error the inspector is of no further use.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), InspectError> {
        self.grammar.feed(chunk, &mut self.watcher)
    }

    /// Says what the whole body holds.
    pub fn finish(self) -> Result<BodyFacts, InspectError> {
        self.grammar.finish()?;
        Ok(self.watcher.into_facts(self.grammar.length()))
    }
}

/// Inspects a body that is wholly in memory.
pub fn inspect(keys: &WatchedKeys, body: &[u8]) -> Result<BodyFacts, InspectError> {
    let mut inspector = Inspector::new(keys);
    inspector.feed(body)?;
    inspector.finish()
}
