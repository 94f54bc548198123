//! What a request's path stands for, once our own prefixes are taken off.

use crate::dialect::sse::StreamKind;
use crate::domain::Dialect;
use crate::upstream::PathClass;

/// A path that may be served.
#[derive(Debug, Clone)]
pub struct RequestPath {
    /// The path in normal form, without query: what rules match.
    pub path: String,
    /// Path and query for the provider, byte for byte as the client sent them.
    pub target: String,
    /// Its class.
    pub class: PathClass,
    /// How a stream of it is written.
    pub kind: StreamKind,
    /// The dialect the client speaks.
    pub client: Dialect,
}

/// Takes the first of `prefixes` off a path, at a segment's end.
pub fn strip_prefix<'a>(path: &'a str, prefixes: &[String]) -> &'a str {
    for prefix in prefixes {
        if let Some(rest) = path.strip_prefix(prefix.as_str()) {
            if rest.is_empty() {
                return "/";
            }
            if rest.starts_with('/') {
                return rest;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_taken_off_at_a_segments_end() {
        let prefixes = ["/api/litellm".to_owned(), "/edge".to_owned()];
        for (path, expected) in [
            ("/api/litellm/v1/models", "/v1/models"),
            ("/edge/v1/models", "/v1/models"),
            ("/edge", "/"),
            ("/edgev1", "/edgev1"),
            ("/v1/models", "/v1/models"),
        ] {
            assert_eq!(strip_prefix(path, &prefixes), expected, "{path}");
        }
    }
}
