//! The normal form of a request path.
//!
//! Rules match on the decoded path, and the raw one goes upstream: both must mean the same to every
//! reader. So a path that two readers could take for different ones is refused, not repaired.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNormal {
    /// It does not begin with `/`.
    #[error("the path must begin with `/`")]
    NoSlash,
    /// It has an empty segment.
    #[error("the path has an empty segment (`//`)")]
    EmptySegment,
    /// It has a segment `.` or `..`, encoded or not.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// It has a byte that must be percent-encoded.
    #[error("the path has a byte that must be percent-encoded")]
    RawByte,
    /// It has an encoding that is broken, hides a letter, a digit, a delimiter of the path or a control
    /// character, or does not decode to UTF-8.
    #[error("the path has a percent-encoding that is broken or not needed")]
    Encoding,
}

/// A path in normal form: what the client sent, and what it says decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath<'a> {
    raw: &'a str,
    decoded: Cow<'a, str>,
}

impl<'a> NormalPath<'a> {
    /// As the client sent it: what goes upstream.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// Decoded: what rules match on.
    pub fn decoded(&self) -> &str {
        &self.decoded
    }

    /// The decoded segments; a slash at the end gives an empty last one.
    pub fn segments(&self) -> std::str::Split<'_, char> {
        self.decoded[1..].split('/')
    }
}

/// Checks and decodes a path (without query).
///
/// `%2F` is refused, with one exception: below `/v1/models/`, where clients encode the slash of a
/// model's name and which the proxy answers itself.
pub fn normalise(path: &str) -> Result<NormalPath<'_>, NotNormal> {
    if !path.starts_with('/') {
        return Err(NotNormal::NoSlash);
    }
    if path.bytes().any(|byte| !may_stand_raw(byte)) {
        return Err(NotNormal::RawByte);
    }
    let decoded = if path.contains('%') {
        Cow::Owned(decode(path)?)
    } else {
        Cow::Borrowed(path)
    };
    let mut segments = decoded[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err(NotNormal::EmptySegment);
        }
        // some servers cut `;…` off a segment before they look at it
        if matches!(segment.split(';').next(), Some("." | "..")) {
            return Err(NotNormal::DotSegment);
        }
    }
    Ok(NormalPath { raw: path, decoded })
}

/// The characters of RFC 3986's `pchar`, the slash and the percent sign.
fn may_stand_raw(byte: u8) -> bool {
    is_unreserved(byte) || b"/%!$&'()*+,;=:@".contains(&byte)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn decode(path: &str) -> Result<String, NotNormal> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            decoded.push(bytes[at]);
            at += 1;
            continue;
        }
        let digit = |offset: usize| {
            bytes
                .get(at + offset)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        let (Some(high), Some(low)) = (digit(1), digit(2)) else {
            return Err(NotNormal::Encoding);
        };
        let byte = (high << 4 | low) as u8;
        let slash_of_a_model_name = byte == b'/' && is_below_models(&bytes[..at]);
        let refused = is_unreserved(byte) || byte.is_ascii_control() || b"/\\%".contains(&byte);
        if refused && !slash_of_a_model_name {
            return Err(NotNormal::Encoding);
        }
        decoded.push(byte);
        at += 3;
    }
    String::from_utf8(decoded).map_err(|_| NotNormal::Encoding)
}

fn is_below_models(before: &[u8]) -> bool {
    let models = b"/v1/models/";
    before.len() > models.len() && before.starts_with(models)
}

/// Strips the first of `prefixes` that covers whole segments of `path`. What is left begins with `/`.
pub fn strip_prefix<'a>(path: &'a str, prefixes: &[impl AsRef<str>]) -> &'a str {
    for prefix in prefixes {
        let prefix = prefix.as_ref().trim_end_matches('/');
        match path.strip_prefix(prefix) {
            Some("") if !prefix.is_empty() => return "/",
            Some(rest) if rest.starts_with('/') && !prefix.is_empty() => return rest,
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_paths_are_decoded() {
        for (path, decoded) in [
            ("/", "/"),
            ("/v1/models", "/v1/models"),
            ("/v1/models/", "/v1/models/"),
            ("/v1/models/ft:gpt%3Ax%20y%C3%A9", "/v1/models/ft:gpt:x yé"),
            ("/v1/models/a%2Fb", "/v1/models/a/b"),
            ("/v1/files/a.b..c/...", "/v1/files/a.b..c/..."),
        ] {
            let normal = normalise(path).expect(path);
            assert_eq!((normal.raw(), normal.decoded()), (path, decoded));
        }
    }

    #[test]
    fn paths_that_could_be_read_in_two_ways_are_refused() {
        use NotNormal::{DotSegment, EmptySegment, Encoding, NoSlash, RawByte};
        for (path, expected) in [
            ("", NoSlash),
            ("v1/models", NoSlash),
            ("*", NoSlash),
            ("//v1/models", EmptySegment),
            ("/v1//models", EmptySegment),
            ("/v1/models//", EmptySegment),
            ("/v1/./models", DotSegment),
            ("/v1/models/..", DotSegment),
            ("/v1/..;x/models", DotSegment),
            ("/v1/models/..%2Ffiles", DotSegment),
            ("/v1/models/a%2F%2Fb", EmptySegment),
            ("/v1/%2e%2e/files", Encoding),
            ("/v1/%66iles", Encoding),
            ("/v1/mod%65ls", Encoding),
            ("/v1/files%2Fx", Encoding),
            ("/v1%2Ffiles", Encoding),
            ("/v1/models%2Fx", Encoding),
            ("/v1/files/%5C", Encoding),
            ("/v1/files/%252e", Encoding),
            ("/v1/files/%00", Encoding),
            ("/v1/files/%0A", Encoding),
            ("/v1/files/%7F", Encoding),
            ("/v1/files/%C0%AF", Encoding),
            ("/v1/files/%", Encoding),
            ("/v1/files/%4", Encoding),
            ("/v1/files/%zz", Encoding),
            ("/v1/files/é", RawByte),
            ("/v1/files/a b", RawByte),
            ("/v1/files/a\u{1}", RawByte),
            ("/v1\\files", RawByte),
            ("/v1/files/a?b", RawByte),
            ("/v1/files/a#b", RawByte),
        ] {
            assert_eq!(normalise(path).err(), Some(expected), "{path}");
        }
    }

    #[test]
    fn prefixes_are_stripped_by_whole_segments() {
        let prefixes = ["/api/litellm", "/edge/"];
        for (path, expected) in [
            ("/api/litellm/v1/models", "/v1/models"),
            ("/api/litellm", "/"),
            ("/api/litellm/", "/"),
            ("/edge/v1", "/v1"),
            ("/api/litellmx/v1", "/api/litellmx/v1"),
            ("/v1/models", "/v1/models"),
        ] {
            assert_eq!(strip_prefix(path, &prefixes), expected, "{path}");
        }
        assert_eq!(strip_prefix("/v1", &["", "/"]), "/v1");
    }

    proptest! {
        #[test]
        fn what_is_normal_has_no_second_meaning(path in "/[a-z./%25;CA9 \\\\é]{0,24}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(normal.raw().is_ascii());
                prop_assert!(normal.segments().all(|segment| segment != "." && segment != ".."));
                prop_assert!(!normal.decoded().contains("//"));
                prop_assert!(!normal.decoded().contains('\\'));
            }
        }
    }
}
