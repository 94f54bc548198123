//! What kind of call a path is, and patterns over whole path segments.

use crate::domain::{Dialect, Glob};

/// What a path stands for. Paths are the client's, normalised, with our own prefixes taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathClass {
    /// One question, one answer; nothing is kept at the provider under a name.
    Inference,
    /// The list of models, or one of them.
    Models,
    /// Reads or writes things that the provider keeps per account.
    Stateful,
    /// A realtime session.
    Realtime,
    /// None of these.
    Unknown,
}

const STATEFUL: [&str; 13] = [
    "files",
    "uploads",
    "batches",
    "fine_tuning",
    "fine-tuning",
    "fine-tunes",
    "assistants",
    "threads",
    "vector_stores",
    "containers",
    "conversations",
    "evals",
    "organization",
];

const EVERY_METHOD: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

impl PathClass {
    /// The class of `path`.
    pub fn of(path: &str) -> Self {
        let mut segments = Segments::of(path);
        if segments.peek() == Some("v1") {
            segments.next();
        }
        let Some(first) = segments.next() else {
            return Self::Unknown;
        };
        let (second, third) = (segments.next(), segments.next());
        match (first, second, third) {
            ("chat", Some("completions"), None)
            | ("completions" | "embeddings" | "moderations" | "rerank" | "responses" | "messages", None, _)
            | ("messages", Some("count_tokens"), None)
            | ("responses", Some("input_tokens" | "compact"), None)
            | ("audio" | "images", Some(_), _) => Self::Inference,
            // a model's name may have a slash in it
            ("models", _, _) => Self::Models,
            ("chat", Some("completions"), Some(_))
            | ("responses", Some(_), _)
            | ("messages", Some("batches"), _) => Self::Stateful,
            ("realtime", _, _) => Self::Realtime,
            _ if STATEFUL.contains(&first) => Self::Stateful,
            _ => Self::Unknown,
        }
    }

    /// The methods that calls of this class need.
    pub fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Inference => &["POST"],
            Self::Models => &["GET", "HEAD"],
            Self::Realtime => &["GET"],
            Self::Stateful | Self::Unknown => EVERY_METHOD,
        }
    }
}

/// Whether a provider of dialect `provider` answers `path` of class `class` unless its configuration lists
/// endpoints of its own.
pub fn served_by_default(provider: Dialect, class: PathClass, path: &str) -> bool {
    match class {
        PathClass::Models | PathClass::Stateful => true,
        PathClass::Realtime | PathClass::Unknown => false,
        PathClass::Inference => match provider {
            Dialect::Demo => true,
            Dialect::Anthropic => is_messages(path),
            Dialect::OpenAi | Dialect::Azure => !is_messages(path),
        },
    }
}

/// Whether a path belongs to Anthropic's Messages API.
pub fn is_messages(path: &str) -> bool {
    let mut segments = Segments::of(path);
    if segments.peek() == Some("v1") {
        segments.next();
    }
    segments.next() == Some("messages")
}

/// The non-empty segments of a path.
#[derive(Clone)]
struct Segments<'a> {
    rest: &'a str,
}

impl<'a> Segments<'a> {
    fn of(path: &'a str) -> Self {
        Self { rest: path }
    }

    fn peek(&self) -> Option<&'a str> {
        self.clone().next()
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start_matches('/');
        if rest.is_empty() {
            return None;
        }
        let end = rest.find('/').unwrap_or(rest.len());
        let (segment, after) = rest.split_at(end);
        self.rest = after;
        Some(segment)
    }
}

/// A path prefix of whole segments, such as `/v1/chat/completions` or `/v1/*/batches`: `*` matches within one
/// segment, and what follows the last segment of the pattern is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPattern {
    segments: Vec<Glob>,
}

impl EndpointPattern {
    /// Reads a pattern; every text is one, with or without slashes at its ends.
    pub fn new(pattern: &str) -> Self {
        Self {
            segments: Segments::of(pattern).map(Glob::new).collect(),
        }
    }

    /// Whether `path` lies under the pattern.
    pub fn matches(&self, path: &str) -> bool {
        let mut segments = Segments::of(path);
        self.segments
            .iter()
            .all(|pattern| segments.next().is_some_and(|segment| pattern.matches(segment)))
    }

    /// Whether `path` lies under any of `patterns`, as tokens carry them. An empty list allows all.
    pub fn allows(patterns: &[String], path: &str) -> bool {
        patterns.is_empty() || patterns.iter().any(|pattern| Self::new(pattern).matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_contract_has_its_class() {
        let table = [
            ("/v1/chat/completions", PathClass::Inference),
            ("/chat/completions", PathClass::Inference),
            ("/v1/chat/completions/", PathClass::Inference),
            ("/v1/chat/completions/chatcmpl-1", PathClass::Stateful),
            ("/v1/completions", PathClass::Inference),
            ("/v1/responses", PathClass::Inference),
            ("/v1/responses/resp_1", PathClass::Stateful),
            ("/v1/responses/resp_1/cancel", PathClass::Stateful),
            ("/v1/messages", PathClass::Inference),
            ("/v1/messages/count_tokens", PathClass::Inference),
            ("/v1/messages/batches", PathClass::Stateful),
            ("/v1/embeddings", PathClass::Inference),
            ("/v1/moderations", PathClass::Inference),
            ("/v1/audio/transcriptions", PathClass::Inference),
            ("/v1/images/generations", PathClass::Inference),
            ("/v1/rerank", PathClass::Inference),
            ("/v1/models", PathClass::Models),
            ("/v1/models/gpt-4o", PathClass::Models),
            ("/v1/models/meta/llama", PathClass::Models),
            ("/v1/files/file-1/content", PathClass::Stateful),
            ("/v1/fine_tuning/jobs", PathClass::Stateful),
            ("/v1/organization/usage", PathClass::Stateful),
            ("/v1/realtime", PathClass::Realtime),
            ("/v1/nonsense", PathClass::Unknown),
            ("/v1/chat", PathClass::Unknown),
            ("/v1/chatX/completions", PathClass::Unknown),
            ("/v1", PathClass::Unknown),
            ("/", PathClass::Unknown),
        ];
        for (path, class) in table {
            assert_eq!(PathClass::of(path), class, "{path}");
        }
    }

    #[test]
    fn patterns_match_whole_segments_only() {
        let table = [
            ("/v1/models", "/v1/models", true),
            ("/v1/models", "/v1/models/gpt-4o", true),
            ("/v1/models", "/v1/modelsXYZ", false),
            ("/v1/models/", "/v1/models", true),
            ("v1/models", "/v1/models", true),
            ("/v1/*/batches", "/v1/messages/batches/b1", true),
            ("/v1/*/batches", "/v1/a/b/batches", false),
            ("/v1/chat/*", "/v1/chat", false),
            ("/v1/im*", "/v1/images/edits", true),
            ("/", "/anything", true),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(
                EndpointPattern::new(pattern).matches(path),
                expected,
                "`{pattern}` on `{path}`"
            );
        }
    }

    #[test]
    fn an_anthropic_provider_serves_messages_and_an_openai_one_the_rest() {
        let serves = |dialect, path| served_by_default(dialect, PathClass::of(path), path);
        assert!(serves(Dialect::Anthropic, "/v1/messages"));
        assert!(!serves(Dialect::Anthropic, "/v1/chat/completions"));
        assert!(serves(Dialect::OpenAi, "/v1/chat/completions"));
        assert!(!serves(Dialect::OpenAi, "/v1/messages/count_tokens"));
        assert!(serves(Dialect::Demo, "/v1/messages"));
        assert!(!serves(Dialect::OpenAi, "/v1/realtime"));
    }
}
