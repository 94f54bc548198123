//! Reads `model` and `stream` out of a `multipart/form-data` body (RFC 7578, RFC 2046).
//!
//! The body is wholly in memory. Only those two parts are looked at; files are skipped unread.
//! [`MultipartFacts::name_model`] gives the edit that names the model.

use bytes::Bytes;
use memchr::memmem;

use super::inspect::{MAX_MODEL_BYTES, Span};
use super::splice::Edit;

/// Parts a body may have.
pub const MAX_PARTS: usize = 1024;
/// Bytes the header lines of one part may have.
const MAX_PART_HEAD_BYTES: usize = 16 * 1024;

/// Why a multipart body cannot be understood. Every variant is a 400 `invalid_json` to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// `Content-Type` has no usable `boundary`.
    #[error("`content-type` is multipart/form-data without a valid `boundary`")]
    NoBoundary,
    /// The body does not follow RFC 2046.
    #[error("malformed multipart body at byte {offset}: expected {expected}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What would be right there.
        expected: &'static str,
    },
    /// A part that is read occurs twice.
    #[error("the form has two `{0}` parts; give it once")]
    DuplicatePart(&'static str),
    /// A part that is read has a value of the wrong kind.
    #[error("the form's `{part}` must be {expected}")]
    WrongValue {
        /// The part.
        part: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// More parts than allowed.
    #[error("the form has more than {MAX_PARTS} parts")]
    TooManyParts,
}

impl MultipartError {
    /// The request parameter the error is about, for the `param` of an OpenAI error.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::DuplicatePart(part) | Self::WrongValue { part, .. } => Some(part),
            Self::NoBoundary | Self::Malformed { .. } | Self::TooManyParts => None,
        }
    }
}

/// What a multipart body says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MultipartFacts {
    /// The value of the `model` part and where it is.
    pub model: Option<(String, Span)>,
    /// The value of the `stream` part.
    pub stream: Option<bool>,
    /// Where the first boundary begins.
    pub opening: usize,
    /// The boundary, without its dashes.
    pub boundary: String,
}

impl MultipartFacts {
    /// The model's name.
    pub fn model_name(&self) -> Option<&str> {
        self.model.as_ref().map(|(name, _)| name.as_str())
    }

    /// The client asked for a stream.
    pub fn is_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// The edit after which the form names this model; none if it does so already, or the name cannot stand in a part.
    pub fn name_model(&self, name: &str) -> Option<Edit> {
        if name.contains(['\r', '\n']) {
            return None;
        }
        match &self.model {
            Some((current, _)) if current == name => None,
            Some((_, span)) => Some(Edit {
                span: *span,
                with: Bytes::copy_from_slice(name.as_bytes()),
            }),
            None => Some(Edit {
                span: Span {
                    start: self.opening,
                    end: self.opening,
                },
                with: format!(
                    "--{}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{name}\r\n",
                    self.boundary
                )
                .into(),
            }),
        }
    }
}

/// Whether a `Content-Type` says `multipart/form-data`.
pub fn is_form_data(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("multipart/form-data")
}

/// Reads a whole body; `content_type` is the value of the header.
pub fn inspect(content_type: &str, body: &[u8]) -> Result<MultipartFacts, MultipartError> {
    let boundary = boundary(content_type).ok_or(MultipartError::NoBoundary)?;
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    refuse_bare_line_feed(body, &delimiter[1..])?;
    let mut seen = [false; 2];

    let mut at = first_part(body, &delimiter)?;
    let mut facts = MultipartFacts {
        opening: at + 2 - delimiter.len(),
        boundary,
        ..MultipartFacts::default()
    };
    let finder = memmem::Finder::new(&delimiter);
    for _ in 0..MAX_PARTS {
        let DelimiterLine::Part { content } = after_delimiter(body, at)? else {
            return Ok(facts);
        };
        let head_end = head_end(body, content)?;
        let value_end = finder
            .find(&body[head_end.value..])
            .map(|found| head_end.value + found);
        let value_end = value_end.ok_or(MultipartError::Malformed {
            offset: body.len(),
            expected: "the closing boundary",
        })?;
        if body[head_end.value..].starts_with(&delimiter[2..]) {
            return Err(MultipartError::Malformed {
                offset: head_end.value,
                expected: "a line end before the boundary",
            });
        }
        let span = Span {
            start: head_end.value,
            end: value_end,
        };
        match part_name(&body[content..head_end.lines], content)?.as_deref() {
            Some("model") => model(body, span, &mut seen[0], &mut facts)?,
            Some("stream") => stream(body, span, &mut seen[1], &mut facts)?,
            _ => {}
        }
        at = value_end + delimiter.len();
    }
    Err(MultipartError::TooManyParts)
}

/// Lenient parsers take a boundary after a bare line feed for one; it stands in no honest form.
fn refuse_bare_line_feed(body: &[u8], line_feed_and_boundary: &[u8]) -> Result<(), MultipartError> {
    let mut bare =
        memmem::find_iter(body, line_feed_and_boundary).filter(|&at| at == 0 || body[at - 1] != b'\r');
    bare.next().map_or(Ok(()), |offset| {
        Err(MultipartError::Malformed {
            offset,
            expected: "CR and LF before the boundary",
        })
    })
}

fn model(body: &[u8], span: Span, seen: &mut bool, facts: &mut MultipartFacts) -> Result<(), MultipartError> {
    if std::mem::replace(seen, true) {
        return Err(MultipartError::DuplicatePart("model"));
    }
    let value = std::str::from_utf8(&body[span.start..span.end])
        .ok()
        .filter(|text| text.len() <= MAX_MODEL_BYTES);
    let name = value.ok_or(MultipartError::WrongValue {
        part: "model",
        expected: "text of at most 512 bytes",
    })?;
    facts.model = Some((name.to_owned(), span));
    Ok(())
}

fn stream(
    body: &[u8],
    span: Span,
    seen: &mut bool,
    facts: &mut MultipartFacts,
) -> Result<(), MultipartError> {
    if std::mem::replace(seen, true) {
        return Err(MultipartError::DuplicatePart("stream"));
    }
    // forms have no types: these are the spellings that providers' form parsers take for booleans
    facts.stream = match body[span.start..span.end].to_ascii_lowercase().as_slice() {
        b"true" | b"1" | b"on" | b"yes" => Some(true),
        b"false" | b"0" | b"off" | b"no" | b"" => Some(false),
        _ => {
            return Err(MultipartError::WrongValue {
                part: "stream",
                expected: "`true` or `false`",
            });
        }
    };
    Ok(())
}

/// Offset just past the first delimiter; what stands before it (the preamble) has no meaning.
fn first_part(body: &[u8], delimiter: &[u8]) -> Result<usize, MultipartError> {
    let opening = &delimiter[2..];
    if body.starts_with(opening) {
        return Ok(opening.len());
    }
    memmem::find(body, delimiter)
        .map(|found| found + delimiter.len())
        .ok_or(MultipartError::Malformed {
            offset: 0,
            expected: "the boundary that `content-type` names",
        })
}

enum DelimiterLine {
    Part { content: usize },
    Close,
}

/// Reads the rest of a delimiter's line.
fn after_delimiter(body: &[u8], at: usize) -> Result<DelimiterLine, MultipartError> {
    let rest = &body[at..];
    if rest.starts_with(b"--") {
        return Ok(DelimiterLine::Close);
    }
    let padding = rest
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    if rest[padding..].starts_with(b"\r\n") {
        return Ok(DelimiterLine::Part {
            content: at + padding + 2,
        });
    }
    Err(MultipartError::Malformed {
        offset: at + padding,
        expected: "a line end or `--` after the boundary",
    })
}

struct HeadEnd {
    /// End of the header lines, the line end of the last one included.
    lines: usize,
    /// Start of the value.
    value: usize,
}

fn head_end(body: &[u8], start: usize) -> Result<HeadEnd, MultipartError> {
    let head = &body[start..body.len().min(start + MAX_PART_HEAD_BYTES)];
    if head.starts_with(b"\r\n") {
        return Ok(HeadEnd {
            lines: start,
            value: start + 2,
        });
    }
    memmem::find(head, b"\r\n\r\n")
        .map(|found| HeadEnd {
            lines: start + found + 2,
            value: start + found + 4,
        })
        .ok_or(MultipartError::Malformed {
            offset: start,
            expected: "header lines of a part and an empty line",
        })
}

/// The `name` of the part's `Content-Disposition`.
fn part_name(head: &[u8], offset: usize) -> Result<Option<String>, MultipartError> {
    let malformed = |expected| MultipartError::Malformed { offset, expected };
    let head = std::str::from_utf8(head).map_err(|_| malformed("part headers in UTF-8"))?;
    let mut name = None;
    for line in head.split_terminator("\r\n") {
        let (field, value) = line
            .split_once(':')
            .ok_or_else(|| malformed("`name: value` as a part header"))?;
        if field.contains([' ', '\t']) {
            return Err(malformed(
                "part headers of one line without white space in their names",
            ));
        }
        if field.eq_ignore_ascii_case("content-transfer-encoding") && !is_plain_encoding(value) {
            return Err(malformed("no `content-transfer-encoding`"));
        }
        if !field.eq_ignore_ascii_case("content-disposition") {
            continue;
        }
        if name.is_some() {
            return Err(malformed("one `content-disposition` a part"));
        }
        for (key, value) in Parameters::of(value) {
            if key.eq_ignore_ascii_case("name*") || key.eq_ignore_ascii_case("name") && name.is_some() {
                return Err(malformed("one plain `name` in `content-disposition`"));
            }
            if key.eq_ignore_ascii_case("name") {
                name = Some(value);
            }
        }
        if name.is_none() {
            return Err(malformed("a `name` in `content-disposition`"));
        }
    }
    Ok(name)
}

fn is_plain_encoding(value: &str) -> bool {
    ["7bit", "8bit", "binary"]
        .iter()
        .any(|plain| value.trim().eq_ignore_ascii_case(plain))
}

/// The `boundary` of a `Content-Type`, if it is one (RFC 2046, 5.1.1).
fn boundary(content_type: &str) -> Option<String> {
    let mut found = Parameters::of(content_type).filter(|(key, _)| key.eq_ignore_ascii_case("boundary"));
    let (_, boundary) = found.next()?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    let valid =
        (1..=70).contains(&boundary.len()) && boundary.bytes().all(allowed) && !boundary.ends_with(' ');
    (valid && found.next().is_none()).then_some(boundary)
}

/// The `; key=value` parameters after the first `;`, values unquoted.
struct Parameters<'a> {
    rest: &'a str,
}

impl<'a> Parameters<'a> {
    fn of(value: &'a str) -> Self {
        Self {
            rest: value.split_once(';').map_or("", |(_, rest)| rest),
        }
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a str, String);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.rest.trim_start_matches([' ', '\t', ';']);
            if rest.is_empty() {
                return None;
            }
            let key_end = rest.find(['=', ';']).unwrap_or(rest.len());
            let key = rest[..key_end].trim();
            if !rest[key_end..].starts_with('=') {
                self.rest = &rest[key_end..];
                continue;
            }
            let after = rest[key_end + 1..].trim_start();
            let Some(quoted) = after.strip_prefix('"') else {
                let end = after.find(';').unwrap_or(after.len());
                self.rest = &after[end..];
                return Some((key, after[..end].trim_end().to_owned()));
            };
            let (value, rest) = unquote(quoted)?;
            self.rest = rest;
            return Some((key, value));
        }
    }
}

/// Reads a quoted string after its opening quote; none if it is not closed.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                escaped @ ('"' | '\\') => value.push(escaped),
                // browsers send Windows paths unescaped
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests;
