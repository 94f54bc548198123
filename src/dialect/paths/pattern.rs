//! Patterns of `allowed_endpoints`.

use std::fmt;
use std::str::FromStr;

use super::normal::NormalPath;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin with `/`.
    #[error("endpoint `{0}` must begin with `/`")]
    NoSlash(String),
    /// It has an empty, `.` or `..` segment, a query or a percent-encoding.
    #[error("endpoint `{0}` must be plain path segments, as in `/v1/chat/completions`")]
    NotPlain(String),
    /// It has a `*` that is not a whole segment.
    #[error("endpoint `{0}` has a `*` inside a segment; `*` stands for one whole segment")]
    PartialStar(String),
}

/// A path by whole segments; `*` stands for exactly one segment, whatever it is.
///
/// A pattern matches the paths it names and everything below them: `/v1/models` matches
/// `/v1/models/x`, but not `/v1/modelsXYZ`. A path with a slash at the end is below its own name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointPattern(Box<str>);

impl EndpointPattern {
    /// Reads a pattern. A slash at the end has no meaning.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let plain = if text.len() > 1 {
            text.strip_suffix('/').unwrap_or(text)
        } else {
            text
        };
        let Some(path) = plain.strip_prefix('/') else {
            return Err(PatternError::NoSlash(text.into()));
        };
        let is_plain = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && !segment.contains(['?', '#', '%', '\\', ' '])
                && segment.is_ascii()
        };
        if path.is_empty() && text.len() > 1 {
            return Err(PatternError::NotPlain(text.into()));
        }
        if !path.is_empty() && !path.split('/').all(is_plain) {
            return Err(PatternError::NotPlain(text.into()));
        }
        if path
            .split('/')
            .any(|segment| segment.contains('*') && segment != "*")
        {
            return Err(PatternError::PartialStar(text.into()));
        }
        Ok(Self(plain.into()))
    }

    /// The pattern covers this path. `/` covers every path.
    pub fn matches(&self, path: &NormalPath<'_>) -> bool {
        if &*self.0 == "/" {
            return true;
        }
        let mut segments = path.segments();
        self.0[1..].split('/').all(|wanted| {
            segments
                .next()
                .is_some_and(|found| found == wanted || wanted == "*" && !found.is_empty())
        })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EndpointPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for EndpointPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::paths::normalise;

    #[test]
    fn patterns_match_by_whole_segments() {
        for (pattern, path, expected) in [
            ("/v1/models", "/v1/models", true),
            ("/v1/models", "/v1/models/x", true),
            ("/v1/models", "/v1/models/", true),
            ("/v1/models", "/v1/modelsXYZ", false),
            ("/v1/models", "/v1/model", false),
            ("/v1/models", "/v1", false),
            ("/v1/models/", "/v1/models", true),
            ("/v1/*/completions", "/v1/chat/completions", true),
            ("/v1/*/completions", "/v1/completions", false),
            ("/v1/*", "/v1/files/x", true),
            ("/v1/*", "/v1/", false),
            ("/", "/anything", true),
            ("/v1/Models", "/v1/models", false),
        ] {
            let normal = normalise(path).expect(path);
            assert_eq!(
                EndpointPattern::parse(pattern).expect(pattern).matches(&normal),
                expected,
                "{pattern} on {path}"
            );
        }
    }

    #[test]
    fn patterns_that_cannot_match_are_refused() {
        for pattern in [
            "",
            "v1/models",
            "/v1//models",
            "/v1/../x",
            "/v1/x?y",
            "/v1/%20",
            "/v1/gpt-*",
            "/v1/**",
            "//",
        ] {
            assert!(EndpointPattern::parse(pattern).is_err(), "{pattern}");
        }
        assert_eq!(
            "/v1/gpt-*".parse::<EndpointPattern>(),
            Err(PatternError::PartialStar("/v1/gpt-*".into()))
        );
    }
}
