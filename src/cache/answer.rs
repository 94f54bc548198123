//! An answer that is kept: its head, its whole body, and the times that belong to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, header};
use pingora_cache::CacheMeta;
use pingora_http::ResponseHeader;

use super::key::EntryKey;
use super::policy::Storable;
use crate::domain::{Clock, Timestamp};

/// What an entry weighs beside its body and head: map, key, counters.
pub(super) const OVERHEAD_BYTES: u64 = 600;

/// A head with the times that belong to it. Monotonic: a jump of the wall clock neither revives nor ends an answer.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) header: ResponseHeader,
    /// When it came, how old it was then, until when it is fresh.
    came_at: Duration,
    age_then: Duration,
    fresh_until: Duration,
}

impl Head {
    pub(super) fn new(header: ResponseHeader, now: Duration, answer: &Storable) -> Self {
        Self {
            header,
            came_at: now,
            age_then: answer.age,
            fresh_until: now + answer.fresh_for,
        }
    }

    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.came_at) + self.age_then
    }

    pub(super) fn fresh_for(&self, now: Duration) -> Duration {
        self.fresh_until.saturating_sub(now)
    }

    /// Pingora's form, in the wall time of this moment.
    pub(super) fn meta(&self, clock: &dyn Clock) -> CacheMeta {
        let now = clock.monotonic();
        let wall = system_time(clock.now());
        let created = wall.checked_sub(self.age(now)).unwrap_or(UNIX_EPOCH);
        CacheMeta::new(wall + self.fresh_for(now), created, 0, 0, self.header.clone())
    }

    pub(super) fn bytes(&self) -> u64 {
        let fields = self.header.headers.iter();
        fields
            .map(|(name, value)| (name.as_str().len() + value.len() + 64) as u64)
            .sum()
    }
}

fn system_time(timestamp: Timestamp) -> SystemTime {
    let micros = u64::try_from(timestamp.as_micros()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_micros(micros)
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub(super) head: Head,
    pub(super) body: Bytes,
    pub(super) owner: EntryKey,
    /// Under what it is kept: the key, or one of its variants.
    pub(super) hash: [u8; 16],
}

impl Answer {
    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The head as it is sent, with its `Age`.
    pub fn head(&self, clock: &dyn Clock) -> ResponseHeader {
        let mut head = self.head.header.clone();
        let age = self.head.age(clock.monotonic()).as_secs();
        // a number is always a valid value
        let _ = head.insert_header(header::AGE, age);
        head
    }

    /// By what the provider can be asked whether it still holds; `None`: it says nothing of the kind.
    pub fn validators(&self) -> Option<Validators<'_>> {
        let headers = &self.head.header.headers;
        let found = Validators {
            etag: headers.get(header::ETAG),
            last_modified: headers.get(header::LAST_MODIFIED),
        };
        (found.etag.is_some() || found.last_modified.is_some()).then_some(found)
    }

    pub(super) fn weight(&self) -> u64 {
        OVERHEAD_BYTES + self.head.bytes() + self.body.len() as u64
    }

    /// The head of the kept answer with what a 304 says anew: RFC 9111 §3.2.
    pub(super) fn refreshed_head(&self, not_modified: &ResponseHeader) -> ResponseHeader {
        let mut head = self.head.header.clone();
        for name in not_modified.headers.keys() {
            if BELONGS_TO_THE_BODY.contains(name) {
                continue;
            }
            head.remove_header(name);
            for value in not_modified.headers.get_all(name) {
                // it was a valid value where it comes from
                let _ = head.append_header(name.clone(), value.clone());
            }
        }
        head
    }
}

/// Fields that a 304 does not change, for they describe the body that is kept.
const BELONGS_TO_THE_BODY: [http::HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::TRANSFER_ENCODING,
];

/// What a conditional request carries.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// For `If-None-Match`.
    pub etag: Option<&'a http::HeaderValue>,
    /// For `If-Modified-Since`.
    pub last_modified: Option<&'a http::HeaderValue>,
}

/// Whether an answer can be asked about later.
pub(super) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}
