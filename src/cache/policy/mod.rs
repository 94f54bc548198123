//! What may be answered from the cache, what may be stored in it, and for how long.
//!
//! RFC 9111 for a shared cache whose every request carries a credential, and one way around it: a request
//! that says `Cache-Control: public` asks for its answer to be kept, and only the answer's `no-store`,
//! `private` and `Vary: *` prevent that. What would need variants or revalidation is not stored.

use std::time::Duration;

use http::HeaderMap;
use http::header;

use crate::config::CacheSettings;
use crate::domain::{Denial, DenialCode, Timestamp};

/// The longest freshness, as RFC 9111 caps ages.
const MAX_SECONDS: u64 = 1 << 31;

/// The directives of a `Cache-Control` field, of a request or of an answer. Unknown ones are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// Nothing may be kept.
    pub no_store: bool,
    /// Request: ask the provider. Answer: ask again before each use.
    pub no_cache: bool,
    /// Request: never ask the provider.
    pub only_if_cached: bool,
    /// Request: keep the answer. Answer: everybody may keep it.
    pub public: bool,
    /// Answer: nobody shared may keep it.
    pub private: bool,
    /// Answer: never serve it stale.
    pub must_revalidate: bool,
    /// Seconds; an unreadable number is 0, the smaller of two counts.
    pub max_age: Option<u64>,
    /// Seconds for shared caches.
    pub s_maxage: Option<u64>,
    /// Request: seconds that must be left.
    pub min_fresh: Option<u64>,
}

impl CacheControl {
    /// Reads all `Cache-Control` lines of a head.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            for part in split_outside_quotes(line.as_bytes()) {
                directives.read(part);
            }
        }
        directives
    }

    fn read(&mut self, part: &[u8]) {
        let Ok(part) = std::str::from_utf8(part) else {
            return;
        };
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        let least = |slot: &mut Option<u64>| {
            let seconds = value.parse::<u64>().unwrap_or_else(|error| match error.kind() {
                std::num::IntErrorKind::PosOverflow => MAX_SECONDS,
                _ => 0,
            });
            let seconds = seconds.min(MAX_SECONDS);
            *slot = Some(slot.map_or(seconds, |before| before.min(seconds)));
        };
        match name.to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "only-if-cached" => self.only_if_cached = true,
            "public" => self.public = true,
            "private" => self.private = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "max-age" => least(&mut self.max_age),
            "s-maxage" => least(&mut self.s_maxage),
            "min-fresh" => least(&mut self.min_fresh),
            _ => {}
        }
    }

    fn number(&self) -> Option<u64> {
        self.s_maxage.or(self.max_age)
    }
}

fn split_outside_quotes(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    line.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    })
}

/// Why a request is not looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// The cache is off.
    Off,
    /// The method: neither GET nor HEAD, and no POST that asks for it.
    Method,
    /// The request says `no-store`.
    NoStore,
}

/// How the cache treats one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Not looked up, nothing stored.
    Bypass(Bypass),
    /// Looked up.
    Lookup(Lookup),
}

/// What a request allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// It says `public`: keep the answer.
    pub forced: bool,
    /// An answer may be stored (not for HEAD).
    pub may_store: bool,
    /// It says `no-cache`: the provider is asked, the answer replaces what is stored.
    pub refresh: bool,
    /// Without a hit the answer is 504 `not_cached`.
    pub only_if_cached: bool,
    max_age: Option<u64>,
    min_fresh: Option<u64>,
    forced_seconds: Option<u64>,
}

impl Plan {
    /// The plan for a request by its method and head.
    pub fn of(settings: &CacheSettings, method: &str, headers: &HeaderMap) -> Self {
        if !settings.enabled {
            return Self::Bypass(Bypass::Off);
        }
        let request = CacheControl::of(headers);
        if request.no_store {
            return Self::Bypass(Bypass::NoStore);
        }
        match method {
            "GET" | "HEAD" => {}
            "POST" if request.public => {}
            _ => return Self::Bypass(Bypass::Method),
        }
        Self::Lookup(Lookup {
            forced: request.public,
            may_store: method != "HEAD",
            refresh: request.no_cache || (!request.public && request.max_age == Some(0)),
            only_if_cached: request.only_if_cached,
            // In a request that forces storing, the number is the time to keep, not the age to accept.
            max_age: request.max_age.filter(|_| !request.public),
            min_fresh: request.min_fresh,
            forced_seconds: request.number(),
        })
    }

    /// What a request that must not leave the cache gets when it finds nothing there, whether or not it was
    /// looked up.
    pub fn only_if_cached_denial(headers: &HeaderMap) -> Option<Denial> {
        CacheControl::of(headers).only_if_cached.then(not_cached)
    }
}

/// 504 `not_cached`.
pub fn not_cached() -> Denial {
    Denial::new(
        DenialCode::NotCached,
        "nothing stored answers this request, and `Cache-Control: only-if-cached` forbids to ask the provider",
    )
}

impl Lookup {
    /// Whether something stored is good enough for this request.
    pub fn accepts(&self, age: Duration, fresh_for: Duration) -> bool {
        !self.refresh
            && self.max_age.is_none_or(|most| age.as_secs() <= most)
            && self.min_fresh.is_none_or(|least| fresh_for.as_secs() >= least)
    }
}

/// How the end of an answer's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, in bytes.
    Length(u64),
    /// The last chunk, or HTTP/2's END_STREAM.
    Marked,
    /// The connection closes: a cut one looks the same.
    Close,
}

/// What the policy looks at in an answer.
#[derive(Debug, Clone, Copy)]
pub struct AnswerFacts<'a> {
    /// Its status.
    pub status: u16,
    /// Its header fields as the provider sent them.
    pub headers: &'a HeaderMap,
    /// How its end is known.
    pub framing: Framing,
    /// Whether the provider was asked with an `Accept-Encoding` of our own, which makes `Vary:
    /// Accept-Encoding` mean nothing.
    pub encoding_is_ours: bool,
    /// When it came.
    pub now: Timestamp,
}

/// An answer that may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storable {
    /// How long it is fresh from now.
    pub fresh_for: Duration,
    /// How old it was when it came.
    pub age: Duration,
    /// Whether only the request's `public` allows it.
    pub forced: bool,
    /// Whether it is a stream of events, to be kept only with its end marker.
    pub is_stream: bool,
    /// Its announced length.
    pub content_length: Option<u64>,
}

/// Why an answer is not stored; a word for logs and `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// A HEAD request's.
    Method,
    /// Not a complete 2xx.
    Status,
    /// It says `no-store`, `private` or `Vary: *`.
    Forbidden,
    /// Nothing says that a shared cache may keep it.
    NotShared,
    /// It is not fresh for any time, or must be revalidated.
    NotFresh,
    /// It varies by request headers.
    Varies,
    /// It is encoded.
    Encoded,
    /// A cut one could not be told from a whole one.
    NoEnd,
    /// Streams are not stored.
    Stream,
    /// Too large.
    Size,
}

impl NotStored {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::Forbidden => "forbidden",
            Self::NotShared => "not-shared",
            Self::NotFresh => "not-fresh",
            Self::Varies => "varies",
            Self::Encoded => "encoded",
            Self::NoEnd => "no-end",
            Self::Stream => "stream",
            Self::Size => "size",
        }
    }
}

/// Whether an answer may be stored, and how long it is fresh.
pub fn storable(
    lookup: &Lookup,
    settings: &CacheSettings,
    answer: &AnswerFacts<'_>,
) -> Result<Storable, NotStored> {
    if !lookup.may_store {
        return Err(NotStored::Method);
    }
    if !(200..300).contains(&answer.status) || answer.status == 206 {
        return Err(NotStored::Status);
    }
    let control = CacheControl::of(answer.headers);
    let vary = Vary::of(answer);
    if control.no_store || control.private || vary == Vary::Anything {
        return Err(NotStored::Forbidden);
    }
    if vary == Vary::Headers {
        return Err(NotStored::Varies);
    }
    let encoding = answer.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(NotStored::Encoded);
    }
    let content_length = match answer.framing {
        Framing::Close => return Err(NotStored::NoEnd),
        Framing::Length(bytes) => Some(bytes),
        Framing::Marked => None,
    };
    if content_length.is_some_and(|bytes| bytes > settings.max_object_bytes) {
        return Err(NotStored::Size);
    }
    let is_stream = is_event_stream(answer.headers);
    if is_stream && !settings.stream_responses {
        return Err(NotStored::Stream);
    }
    let age = age_of(answer.headers);
    let (fresh_for, forced) = freshness(lookup, settings, answer, &control, age)?;
    Ok(Storable {
        fresh_for: Duration::from_secs(fresh_for),
        age: Duration::from_secs(age),
        forced,
        is_stream,
        content_length,
    })
}

fn freshness(
    lookup: &Lookup,
    settings: &CacheSettings,
    answer: &AnswerFacts<'_>,
    control: &CacheControl,
    age: u64,
) -> Result<(u64, bool), NotStored> {
    let default_seconds = settings.default_ttl.as_secs();
    let by_answer = by_rfc(answer, control, lookup.forced_seconds, default_seconds, age);
    match by_answer {
        Ok(seconds) => Ok((seconds, false)),
        Err(reason) if !lookup.forced => Err(reason),
        Err(_) => {
            let seconds = lookup
                .forced_seconds
                .or_else(|| control.number().map(|seconds| seconds.saturating_sub(age)))
                .unwrap_or(default_seconds);
            if seconds == 0 {
                Err(NotStored::NotFresh)
            } else {
                Ok((seconds, true))
            }
        }
    }
}

/// RFC 9111 §3, §3.5 and §4.2 for a request with a credential.
fn by_rfc(
    answer: &AnswerFacts<'_>,
    control: &CacheControl,
    asked_seconds: Option<u64>,
    default_seconds: u64,
    age: u64,
) -> Result<u64, NotStored> {
    if !control.public && control.s_maxage.is_none() && !control.must_revalidate {
        return Err(NotStored::NotShared);
    }
    if control.no_cache {
        return Err(NotStored::NotFresh);
    }
    let seconds = match (control.number(), expires_in(answer)) {
        (Some(seconds), _) | (None, Some(seconds)) => seconds.saturating_sub(age),
        (None, None) if control.public => asked_seconds.unwrap_or(default_seconds),
        (None, None) => 0,
    };
    if seconds == 0 {
        return Err(NotStored::NotFresh);
    }
    Ok(seconds)
}

#[derive(Debug, PartialEq, Eq)]
enum Vary {
    Nothing,
    Headers,
    Anything,
}

impl Vary {
    fn of(answer: &AnswerFacts<'_>) -> Self {
        let mut vary = Self::Nothing;
        for line in answer.headers.get_all(header::VARY) {
            for name in line.as_bytes().split(|byte| *byte == b',') {
                let name = name.trim_ascii();
                if name == b"*" {
                    return Self::Anything;
                }
                let ours = answer.encoding_is_ours && name.eq_ignore_ascii_case(b"accept-encoding");
                if !name.is_empty() && !ours {
                    vary = Self::Headers;
                }
            }
        }
        vary
    }
}

/// Whether an answer is a stream of server-sent events.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let kind = value.as_bytes();
        let kind = kind
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or(kind)
            .trim_ascii();
        kind.eq_ignore_ascii_case(b"text/event-stream")
    })
}

fn age_of(headers: &HeaderMap) -> u64 {
    headers
        .get(header::AGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().parse::<u64>().ok())
        .map_or(0, |seconds| seconds.min(MAX_SECONDS))
}

/// Seconds from the answer's `Date` (else from now) to its `Expires`; an unreadable `Expires` is the past.
fn expires_in(answer: &AnswerFacts<'_>) -> Option<u64> {
    let expires = answer.headers.get(header::EXPIRES)?;
    let Some(expires) = http_date(expires) else {
        return Some(0);
    };
    let date = answer.headers.get(header::DATE).and_then(http_date);
    let from = date.unwrap_or_else(|| answer.now.as_seconds());
    Some(
        u64::try_from(expires.saturating_sub(from))
            .unwrap_or(0)
            .min(MAX_SECONDS),
    )
}

fn http_date(value: &http::HeaderValue) -> Option<i64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value.as_bytes())
        .ok()?;
    Some(time.as_second())
}

#[cfg(test)]
mod tests;
