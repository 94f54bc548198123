//! What may be answered from the cache, what may be stored in it, and for how long.
//!
//! RFC 9111 for a shared cache whose every request carries a credential, and one way around it: a request
//! that says `Cache-Control: public` asks for its answer to be kept, and only the answer's `no-store`,
//! `private` and `Vary: *` prevent that. The operator can ask the same for POSTs of a kind (`cache.rules`). What is not
//! fresh for any time is kept only where the provider can be asked whether it still holds.

use std::time::Duration;

use http::HeaderMap;
use http::header;

use super::answer::has_validator;
use super::vary::{Vary, VaryNames};
use crate::config::{CacheRule, CacheScope, CacheSettings};
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

/// Who asks for the answer to be kept, whatever the answer says of shared caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The request: `Cache-Control: public`.
    Request,
    /// The operator: one of `cache.rules`.
    Rule,
}

/// What a request allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// Who asks for the answer to be kept.
    pub wish: Option<Wish>,
    /// An answer may be stored (not for HEAD).
    pub may_store: bool,
    /// A kept answer may be asked about at the provider (GET).
    pub may_revalidate: bool,
    /// It says `no-cache`: the provider is asked, the answer replaces what is stored.
    pub refresh: bool,
    /// Without a hit the answer is 504 `not_cached`.
    pub only_if_cached: bool,
    /// The answer is for this token alone.
    pub of_one_token: bool,
    max_age: Option<u64>,
    min_fresh: Option<u64>,
    /// How long the request or the rule wants the answer kept.
    asked_seconds: Option<u64>,
}

impl Plan {
    /// The plan for a request by its method and head, and by what `cache.rules` look at.
    pub fn of(settings: &CacheSettings, method: &str, headers: &HeaderMap, asked: RuleFacts<'_>) -> Self {
        if !settings.enabled {
            return Self::Bypass(Bypass::Off);
        }
        let rule = settings.rules.iter().find(|rule| asked.follow(rule));
        let request = CacheControl::of(headers);
        if request.no_store {
            return Self::Bypass(Bypass::NoStore);
        }
        match method {
            "GET" | "HEAD" => {}
            "POST" if request.public || rule.is_some() => {}
            _ => return Self::Bypass(Bypass::Method),
        }
        let wish = if request.public {
            Some(Wish::Request)
        } else {
            rule.map(|_| Wish::Rule)
        };
        let by_rule = rule
            .and_then(|rule| rule.ttl)
            .map(|ttl| ttl.as_secs().min(MAX_SECONDS));
        Self::Lookup(Lookup {
            wish,
            may_store: method != "HEAD",
            may_revalidate: method == "GET",
            refresh: request.no_cache || (!request.public && request.max_age == Some(0)),
            only_if_cached: request.only_if_cached,
            // In a request that forces storing, the number is the time to keep, not the age to accept.
            max_age: request.max_age.filter(|_| !request.public),
            min_fresh: request.min_fresh,
            of_one_token: rule.map_or(settings.scope, |rule| rule.scope) == CacheScope::Token,
            asked_seconds: if request.public { request.number() } else { by_rule },
        })
    }

    /// What a request that must not leave the cache gets when it finds nothing there, whether or not it was
    /// looked up.
    pub fn only_if_cached_denial(headers: &HeaderMap) -> Option<Denial> {
        CacheControl::of(headers).only_if_cached.then(not_cached)
    }
}

/// What `cache.rules` look at in a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct RuleFacts<'a> {
    /// The path below `/v1`.
    pub path: &'a str,
    /// The model asked for.
    pub model: Option<&'a str>,
    /// The JSON body; empty without one.
    pub json: &'a [u8],
}

impl RuleFacts<'_> {
    fn follow(&self, rule: &CacheRule) -> bool {
        rule.endpoint
            .as_ref()
            .is_none_or(|endpoint| endpoint.matches(self.path))
            && rule
                .model
                .as_ref()
                .is_none_or(|model| self.model.is_some_and(|asked| model.matches(asked)))
            && (!rule.temperature_zero || self.says_temperature_zero())
    }

    fn says_temperature_zero(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Sampling {
            temperature: Option<f64>,
        }
        serde_json::from_slice::<Sampling>(self.json)
            .is_ok_and(|sampling| sampling.temperature.is_some_and(|temperature| temperature == 0.0))
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storable {
    /// How long it is fresh from now.
    pub fresh_for: Duration,
    /// How old it was when it came.
    pub age: Duration,
    /// Whose wish alone allows it.
    pub forced: Option<Wish>,
    /// The request fields it depends on.
    pub vary: VaryNames,
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
    /// It is not fresh for any time, and nobody can be asked whether it still holds.
    NotFresh,
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
    let Vary::By(vary) = Vary::of(answer.headers, answer.encoding_is_ours) else {
        return Err(NotStored::Forbidden);
    };
    if control.no_store || control.private {
        return Err(NotStored::Forbidden);
    }
    let encoding = answer.headers.get(header::CONTENT_ENCODING);
    let encoded = encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    // given back only to who asked for the same encodings; the end of an encoded stream cannot be seen
    if encoded && (!vary.contains(&header::ACCEPT_ENCODING) || is_event_stream(answer.headers)) {
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
        vary,
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
) -> Result<(u64, Option<Wish>), NotStored> {
    let default_seconds = settings.default_ttl.as_secs();
    let asked = lookup.asked_seconds;
    if lookup.wish == Some(Wish::Rule)
        && let Some(seconds) = asked
    {
        // the operator's word stands above the provider's
        return Ok((seconds, Some(Wish::Rule)));
    }
    let reason = match by_rfc(answer, control, asked, default_seconds, age) {
        Ok(0) => NotStored::NotFresh,
        Ok(seconds) => return Ok((seconds, None)),
        Err(reason) => reason,
    };
    if let Some(wish) = lookup.wish {
        let seconds = asked
            .or_else(|| control.number().map(|seconds| seconds.saturating_sub(age)))
            .unwrap_or(default_seconds);
        if seconds > 0 {
            return Ok((seconds, Some(wish)));
        }
    }
    let can_be_asked_about = lookup.may_revalidate && has_validator(answer.headers);
    if reason == NotStored::NotFresh && can_be_asked_about {
        return Ok((0, None));
    }
    Err(if lookup.wish.is_some() {
        NotStored::NotFresh
    } else {
        reason
    })
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
        return Ok(0);
    }
    Ok(match (control.number(), expires_in(answer)) {
        (Some(seconds), _) | (None, Some(seconds)) => seconds.saturating_sub(age),
        (None, None) if control.public => asked_seconds.unwrap_or(default_seconds),
        (None, None) => 0,
    })
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
