//! One parameter of a query string, found and replaced without touching another byte.

use std::ops::Range;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

/// What stays as it is in a value (RFC 3986 `unreserved`).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A parameter's value, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Decoded.
    pub value: String,
    place: Range<usize>,
}

/// A parameter that two readers could read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// It occurs more than once, escapes decoded.
    #[error("it occurs more than once")]
    Twice,
    /// It is no percent-encoded UTF-8.
    #[error("it is not percent-encoded UTF-8")]
    Encoding,
}

/// The parameter `name` of `query`; `None` when it is not there or has no value.
///
/// # Errors
/// When readers could differ about it.
pub fn parameter(query: &str, name: &str) -> Result<Option<Parameter>, Ambiguous> {
    let mut found = None;
    let mut at = 0;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(key).is_ok_and(|key| key == name) {
            let start = at + pair.len() - value.len();
            let parameter = Parameter {
                value: decode(value)?,
                place: start..start + value.len(),
            };
            if found.replace(parameter).is_some() {
                return Err(Ambiguous::Twice);
            }
        }
        at += pair.len() + 1;
    }
    Ok(found.filter(|parameter: &Parameter| !parameter.value.is_empty()))
}

/// `query` with another value for the parameter, every other byte as it was.
pub fn with_value(query: &str, parameter: &Parameter, value: &str) -> String {
    let encoded = utf8_percent_encode(value, ENCODED).to_string();
    let (before, after) = (&query[..parameter.place.start], &query[parameter.place.end..]);
    [before, &encoded, after].concat()
}

fn decode(text: &str) -> Result<String, Ambiguous> {
    let bytes = text.as_bytes();
    let broken =
        |at: usize| !matches!(bytes.get(at + 1..at + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit));
    if memchr::memchr_iter(b'%', bytes).any(broken) {
        return Err(Ambiguous::Encoding);
    }
    let spaces = text.replace('+', " ");
    let decoded = percent_decode(spaces.as_bytes())
        .decode_utf8()
        .map_err(|_| Ambiguous::Encoding)?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(query: &str) -> Result<Option<String>, Ambiguous> {
        parameter(query, "model").map(|found| found.map(|parameter| parameter.value))
    }

    #[test]
    fn a_parameter_is_found_once_and_decoded() {
        for (query, expected) in [
            ("model=gpt", Ok(Some("gpt"))),
            ("a=b&model=gpt&c=d", Ok(Some("gpt"))),
            ("model=a%2Fb%20c", Ok(Some("a/b c"))),
            ("model=a+b", Ok(Some("a b"))),
            ("%6dodel=gpt", Ok(Some("gpt"))),
            ("models=gpt&amodel=x", Ok(None)),
            ("model=", Ok(None)),
            ("model", Ok(None)),
            ("", Ok(None)),
            ("model=a&model=b", Err(Ambiguous::Twice)),
            ("model=a&%6d%6Fdel=b", Err(Ambiguous::Twice)),
            ("model=a&model", Err(Ambiguous::Twice)),
            ("model=%zz", Err(Ambiguous::Encoding)),
            ("model=%2", Err(Ambiguous::Encoding)),
            ("model=%ff", Err(Ambiguous::Encoding)),
        ] {
            assert_eq!(
                value(query),
                expected.map(|found| found.map(str::to_owned)),
                "{query}"
            );
        }
    }

    #[test]
    fn only_the_value_changes() {
        let query = "a=%41&model=x%20y&b=&&c";
        let found = parameter(query, "model").unwrap().unwrap();
        assert_eq!(
            with_value(query, &found, "meta/llama ü"),
            "a=%41&model=meta%2Fllama%20%C3%BC&b=&&c"
        );
    }
}
