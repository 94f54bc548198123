//! What kind of call a path is, and patterns over whole path segments.

use super::Glob;

/// What a path stands for. The table of paths (`dialect/paths`) says it.
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

const EVERY_METHOD: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

impl PathClass {
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

/// The non-empty segments of a path.
struct Segments<'a> {
    rest: &'a str,
}

impl<'a> Segments<'a> {
    fn of(path: &'a str) -> Self {
        Self { rest: path }
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

    /// The pattern as it is shown: with a slash before each segment.
    pub fn shown(&self) -> String {
        let segments: Vec<&str> = self.segments.iter().map(Glob::as_str).collect();
        format!("/{}", segments.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
