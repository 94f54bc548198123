//! Reads the head of an HTTP/1 request strictly: what two parsers could read differently is refused.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use crate::domain::{Denial, DenialCode};

use super::framing::BodyFraming;
use super::settings::{FrontSettings, HEADER_COUNT_CEILING};

/// Methods named in the answer to one that this proxy never serves.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Answered even when every ordinary place is taken.
const HEALTH_PATHS: [&str; 6] = [
    "/health",
    "/ready",
    "/live",
    "/health/liveliness",
    "/health/liveness",
    "/health/readiness",
];

/// Finds the end of a head while it arrives, looking at each byte once.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Bytes looked at.
    seen: usize,
    /// Where the current line began.
    line_start: usize,
}

impl HeadScan {
    /// The length of the head once its empty line has come.
    ///
    /// # Errors
    /// A line that does not end in CR LF, or more bytes than a head may have.
    pub(super) fn find_end(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, Denial> {
        let window = &bytes[..bytes.len().min(limit)];
        while let Some(offset) = memchr::memchr(b'\n', &window[self.seen..]) {
            let line_feed = self.seen + offset;
            if line_feed == 0 || window[line_feed - 1] != b'\r' {
                return Err(malformed(
                    "a line of the head ends in a bare LF; lines end in CR LF",
                ));
            }
            self.seen = line_feed + 1;
            if line_feed == self.line_start + 1 {
                return Ok(Some(self.seen));
            }
            self.line_start = self.seen;
        }
        self.seen = window.len();
        if bytes.len() >= limit {
            return Err(too_large(format!(
                "the request head is larger than {limit} bytes"
            )));
        }
        Ok(None)
    }
}

/// What the front has to know of a head.
#[derive(Debug)]
pub(super) struct Head {
    /// Where the body ends.
    pub framing: BodyFraming,
    /// Asks for one of the health paths.
    pub asks_for_health: bool,
    /// The head in origin form, if it came in absolute form.
    pub rewritten: Option<Vec<u8>>,
}

impl Head {
    /// Reads a whole head, its empty line included.
    ///
    /// # Errors
    /// Anything malformed, ambiguous or above a limit.
    pub(super) fn parse(bytes: &[u8], settings: &FrontSettings) -> Result<Self, Denial> {
        let mut fields = [const { MaybeUninit::uninit() }; HEADER_COUNT_CEILING];
        let mut request = httparse::Request::new(&mut []);
        let limit = settings.header_count_limit();
        match request.parse_with_uninit_headers(bytes, &mut fields[..limit]) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(malformed("the head has an empty line inside its fields")),
            Err(error) => return Err(denial_for(error, limit)),
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version)
        else {
            return Err(malformed("the request line is incomplete"));
        };
        if method == "CONNECT" {
            let denial = Denial::new(
                DenialCode::MethodNotAllowed,
                "`CONNECT` is not served: this is no tunnel",
            );
            return Err(denial.with_allow(METHODS));
        }
        let fields = Fields::collect(request.headers)?;
        let host = fields.host(version)?;
        let framing = fields.framing(version)?;
        let origin_form = origin_form(method, target, host)?;
        let rewritten = match &origin_form {
            Cow::Borrowed(_) => None,
            Cow::Owned(origin_form) => Some(with_target(bytes, target, origin_form)),
        };
        let path = origin_form
            .split_once('?')
            .map_or(&*origin_form, |(path, _)| path);
        Ok(Self {
            framing,
            asks_for_health: HEALTH_PATHS.contains(&path),
            rewritten,
        })
    }
}

/// Whether a first byte can begin a request at all; a TLS greeting, for one, cannot.
pub(super) fn may_begin(byte: u8) -> Result<(), Denial> {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' => Ok(()),
        0x16 => Err(malformed(
            "this port speaks plain HTTP and was sent a TLS handshake",
        )),
        _ => Err(malformed(
            "a request begins with a method such as `GET` or `POST`",
        )),
    }
}

/// The refusal of a head that is not well formed.
pub(super) fn malformed(message: impl Into<String>) -> Denial {
    Denial::new(DenialCode::MalformedRequest, message)
}

fn too_large(message: String) -> Denial {
    Denial::new(DenialCode::HeaderTooLarge, message)
}

fn denial_for(error: httparse::Error, limit: usize) -> Denial {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => too_large(format!("the request has more than {limit} header fields")),
        Error::Version => malformed("the HTTP version is not supported; `HTTP/1.1` and `HTTP/1.0` are"),
        Error::HeaderName => malformed(
            "a header name holds a character that is not allowed, such as a space before the colon or at the \
             start of a folded line",
        ),
        Error::HeaderValue => malformed("a header value holds a control character"),
        Error::Token | Error::Status | Error::NewLine => {
            malformed("the request line is not `METHOD target HTTP/1.1`")
        }
    }
}

/// The fields that decide about framing and authority.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn collect(headers: &[httparse::Header<'a>]) -> Result<Self, Denial> {
        let mut fields = Self::default();
        for header in headers {
            let slot = match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") => &mut fields.host,
                14 if header.name.eq_ignore_ascii_case("content-length") => &mut fields.content_length,
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => &mut fields.transfer_encoding,
                _ => continue,
            };
            if slot.replace(header.value).is_some() {
                return Err(malformed(format!(
                    "`{}` occurs twice; it may occur once",
                    header.name.to_ascii_lowercase()
                )));
            }
        }
        Ok(fields)
    }

    fn host(&self, minor_version: u8) -> Result<Option<&'a str>, Denial> {
        let Some(host) = self.host else {
            return if minor_version == 0 {
                Ok(None)
            } else {
                Err(malformed("an HTTP/1.1 request needs a `Host` header"))
            };
        };
        let allowed = |byte: &u8| byte.is_ascii_graphic() && !br#"@/\?#,"<>`{}|^"#.contains(byte);
        match std::str::from_utf8(host) {
            Ok(text) if host.iter().all(allowed) => Ok(Some(text)),
            _ => Err(malformed("the `Host` header is not `name` or `name:port`")),
        }
    }

    fn framing(&self, minor_version: u8) -> Result<BodyFraming, Denial> {
        match (self.content_length, self.transfer_encoding) {
            (None, None) => Ok(BodyFraming::Finished),
            (Some(_), Some(_)) => Err(malformed(
                "`content-length` and `transfer-encoding` stand together; one may",
            )),
            (None, Some(_)) if minor_version == 0 => Err(malformed(
                "an HTTP/1.0 request may not have a `transfer-encoding`",
            )),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyFraming::chunked()),
            (None, Some(_)) => Err(malformed("the `transfer-encoding` is not `chunked`")),
            (Some(length), None) => parse_length(length).map(BodyFraming::length),
        }
    }
}

fn parse_length(value: &[u8]) -> Result<u64, Denial> {
    // the sign that Rust's parser takes is not allowed here; neither is what no body can have
    let digits = std::str::from_utf8(value)
        .ok()
        .filter(|text| (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("the `content-length` is not a number of bytes"))
}

/// The target as a path with its query; absolute form is turned into it.
fn origin_form<'a>(method: &str, target: &'a str, host: Option<&str>) -> Result<Cow<'a, str>, Denial> {
    if target.contains('#') {
        return Err(malformed("the request target has a fragment (`#`)"));
    }
    if target.starts_with('/') {
        return Ok(Cow::Borrowed(target));
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(Cow::Borrowed(target));
    }
    let (scheme, rest) = target
        .split_once("://")
        .ok_or_else(|| malformed("the request target is not a path that begins with `/`"))?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => {
            return Err(malformed(
                "the scheme of the request target is not `http` or `https`",
            ));
        }
    };
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path_and_query) = rest.split_at(split);
    if authority.is_empty() || authority.contains(['@', '\\']) {
        return Err(malformed("the request target names no plain host"));
    }
    let bare = |name: &str| {
        name.strip_suffix(default_port)
            .unwrap_or(name)
            .to_ascii_lowercase()
    };
    if host.is_some_and(|host| bare(host) != bare(authority)) {
        return Err(malformed(
            "the `Host` header differs from the host in the request target",
        ));
    }
    Ok(Cow::Owned(match path_and_query.as_bytes().first() {
        None if method == "OPTIONS" => "*".to_owned(),
        None => "/".to_owned(),
        Some(b'?') => format!("/{path_and_query}"),
        Some(_) => path_and_query.to_owned(),
    }))
}

/// `head` with its request target exchanged.
fn with_target(head: &[u8], target: &str, replacement: &str) -> Vec<u8> {
    // the method is a token and the target follows its single space
    let start = memchr::memchr(b' ', head).map_or(0, |space| space + 1);
    let mut rewritten = Vec::with_capacity(head.len() - target.len() + replacement.len());
    rewritten.extend_from_slice(&head[..start]);
    rewritten.extend_from_slice(replacement.as_bytes());
    rewritten.extend_from_slice(&head[start + target.len()..]);
    rewritten
}

#[cfg(test)]
mod tests;
