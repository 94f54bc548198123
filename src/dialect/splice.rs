//! Replaces named byte spans of a body and leaves every other byte as it was.
//!
//! The result is a short list of [`Bytes`] segments that share the memory of the original.

use bytes::Bytes;

use super::inspect::{BodyFacts, IncludeUsage, Span, StreamOptions};

/// One replacement: the bytes of `span` (which may be empty, for an insertion) become `with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced.
    pub span: Span,
    /// By what.
    pub with: Bytes,
}

impl Edit {
    fn insert(at: usize, with: impl Into<Bytes>) -> Self {
        Self {
            span: Span { start: at, end: at },
            with: with.into(),
        }
    }
}

/// A body in pieces, to be sent in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segments {
    /// The pieces; none is empty.
    pub pieces: Vec<Bytes>,
    /// The sum of their lengths: the `Content-Length`.
    pub length: usize,
}

impl Segments {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push(piece);
        }
    }

    /// All bytes in one piece (copies if there is more than one).
    pub fn to_bytes(&self) -> Bytes {
        match self.pieces.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

/// The edit after which the body names this model; none if it does so already.
pub fn name_model(facts: &BodyFacts, name: &str) -> Option<Edit> {
    match &facts.model {
        Some(model) if model.name == name => None,
        Some(model) => Some(Edit {
            span: model.span,
            with: json_string(name).into(),
        }),
        None => {
            let comma = if facts.empty { "" } else { "," };
            let member = format!(r#""model":{}{comma}"#, json_string(name));
            Some(Edit::insert(facts.open + 1, member))
        }
    }
}

/// The edit that asks for the usage chunk of a chat or completions stream; none if the client asks
/// for it already, or if what it wrote is for the provider to refuse.
pub fn request_usage(facts: &BodyFacts) -> Option<Edit> {
    const USAGE: &str = r#""include_usage":true"#;
    Some(match facts.stream_options {
        StreamOptions::Absent => {
            let comma = if facts.empty { "" } else { "," };
            Edit::insert(facts.open + 1, format!(r#""stream_options":{{{USAGE}}}{comma}"#))
        }
        StreamOptions::Null(span) => Edit {
            span,
            with: format!("{{{USAGE}}}").into(),
        },
        StreamOptions::Object {
            open,
            empty,
            include_usage,
        } => match include_usage {
            IncludeUsage::Absent => Edit::insert(
                open + 1,
                if empty {
                    USAGE.to_owned()
                } else {
                    format!("{USAGE},")
                },
            ),
            IncludeUsage::No(span) => Edit {
                span,
                with: Bytes::from_static(b"true"),
            },
            IncludeUsage::Yes | IncludeUsage::Other => return None,
        },
        StreamOptions::Other => return None,
    })
}

/// Applies edits to a body held in `chunks`. The edits must not overlap; their order does not matter.
/// An edit that lies outside the body, or overlaps an earlier one, is left out.
pub fn splice(chunks: &[Bytes], mut edits: Vec<Edit>) -> Segments {
    edits.sort_by_key(|edit| edit.span.start);
    let length = chunks.iter().map(Bytes::len).sum();
    let mut segments = Segments {
        pieces: Vec::with_capacity(chunks.len() + 2 * edits.len()),
        length: 0,
    };
    let mut at = 0;
    for edit in edits {
        let Span { start, end } = edit.span;
        if start < at || end < start || end > length {
            debug_assert!(false, "edit {start}..{end} does not fit at {at} of {length}");
            continue;
        }
        copy(chunks, at, start, &mut segments);
        segments.push(edit.with);
        at = end;
    }
    copy(chunks, at, length, &mut segments);
    segments
}

/// Adds `start..end` of the chunks' concatenation without copying bytes.
fn copy(chunks: &[Bytes], start: usize, end: usize, into: &mut Segments) {
    let mut base = 0;
    for chunk in chunks {
        let from = start.max(base).min(base + chunk.len());
        let to = end.max(base).min(base + chunk.len());
        if from < to {
            into.push(chunk.slice(from - base..to - base));
        }
        base += chunk.len();
    }
}

/// A JSON string token for `text`.
pub fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::inspect::{WatchedKeys, inspect};

    fn facts(body: &str) -> BodyFacts {
        inspect(&WatchedKeys::default(), body.as_bytes()).expect("a good body")
    }

    fn spliced(body: &str, edits: Vec<Edit>) -> String {
        let segments = splice(&[Bytes::copy_from_slice(body.as_bytes())], edits);
        assert_eq!(
            segments.length,
            segments.pieces.iter().map(Bytes::len).sum::<usize>()
        );
        String::from_utf8(segments.to_bytes().to_vec()).expect("text")
    }

    #[test]
    fn only_the_model_token_changes() {
        let body = "{ \"x\" : 1.0,\"model\" :\t\"gpt\\u002d4\", \"y\":\"é\"}\n";
        let edit = name_model(&facts(body), "a\"b\u{1}").expect("an edit");
        assert_eq!(
            spliced(body, vec![edit]),
            "{ \"x\" : 1.0,\"model\" :\t\"a\\\"b\\u0001\", \"y\":\"é\"}\n"
        );
        assert_eq!(name_model(&facts(body), "gpt-4"), None);
        for (body, expected) in [
            ("{}", r#"{"model":"x"}"#),
            (" { \"a\":1}", r#" {"model":"x", "a":1}"#),
        ] {
            let edit = name_model(&facts(body), "x").expect("an edit");
            assert_eq!(spliced(body, vec![edit]), expected);
        }
    }

    #[test]
    fn usage_is_requested_whatever_the_client_wrote() {
        for (body, expected) in [
            ("{}", Some(r#"{"stream_options":{"include_usage":true}}"#)),
            (
                " { \"a\":1}",
                Some(r#" {"stream_options":{"include_usage":true}, "a":1}"#),
            ),
            (
                r#"{"stream_options": null}"#,
                Some(r#"{"stream_options": {"include_usage":true}}"#),
            ),
            (
                r#"{"stream_options":{}}"#,
                Some(r#"{"stream_options":{"include_usage":true}}"#),
            ),
            (
                r#"{"stream_options":{"b":0}}"#,
                Some(r#"{"stream_options":{"include_usage":true,"b":0}}"#),
            ),
            (
                r#"{"stream_options":{"include_usage": false}}"#,
                Some(r#"{"stream_options":{"include_usage": true}}"#),
            ),
            (r#"{"stream_options":{"include_usage":true}}"#, None),
            (r#"{"stream_options":{"include_usage":7}}"#, None),
            (r#"{"stream_options":[]}"#, None),
        ] {
            let edit = request_usage(&facts(body));
            assert_eq!(
                edit.map(|edit| spliced(body, vec![edit])).as_deref(),
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn edits_apply_across_chunks_in_any_order() {
        let body = r#"{"model":"a","stream":true}"#;
        let found = facts(body);
        let edits = vec![
            name_model(&found, "longer").expect("edit"),
            request_usage(&found).expect("edit"),
        ];
        let expected = r#"{"stream_options":{"include_usage":true},"model":"longer","stream":true}"#;
        for size in 1..body.len() {
            let chunks: Vec<Bytes> = body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
            let segments = splice(&chunks, edits.clone());
            assert_eq!(segments.to_bytes(), expected, "chunks of {size}");
            assert_eq!(segments.length, expected.len());
        }
    }

    #[test]
    fn unchanged_bytes_share_memory() {
        let body = Bytes::from_static(br#"{"model":"a"}"#);
        let segments = splice(std::slice::from_ref(&body), Vec::new());
        assert_eq!(segments.pieces[0].as_ptr(), body.as_ptr());
    }
}
