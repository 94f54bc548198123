//! What is known of a request the moment its head is there: when, from where, under which names.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderValue;
use ipnet::IpNet;
use pingora_proxy::Session;

use crate::domain::client_address::client_address;
use crate::domain::{Clock, Dialect, RecordId, Timestamp};

/// Longest request id taken over from a client.
const REQUEST_ID_BYTES: usize = 128;

/// When a request came, from where, and its names.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The server-made identity.
    pub record_id: RecordId,
    /// The client's request id, or the record id.
    pub request_id: HeaderValue,
    /// Wall time of arrival.
    pub received_at: Timestamp,
    /// Monotonic time of arrival.
    pub started: Duration,
    /// The TCP peer.
    pub peer: Option<IpAddr>,
    /// The client's address.
    pub client: IpAddr,
    /// The dialect in which refusals are written.
    pub dialect: Dialect,
    /// A health probe: it writes no access line.
    pub is_quiet: bool,
    /// One of our own paths: it is no request of the data plane.
    pub is_own: bool,
}

impl Arrival {
    /// Nothing is known yet but the time.
    pub fn at(clock: &dyn Clock) -> Self {
        let received_at = clock.now();
        let record_id = RecordId::new(received_at);
        Self {
            record_id,
            request_id: HeaderValue::from_static(""),
            received_at,
            started: clock.monotonic(),
            peer: None,
            client: IpAddr::from([0, 0, 0, 0]),
            dialect: Dialect::OpenAi,
            is_quiet: false,
            is_own: false,
        }
    }

    /// Reads names and addresses off the head.
    pub fn read_head(&mut self, session: &Session, trusted_proxies: &[IpNet]) {
        let headers = &session.req_header().headers;
        self.request_id = client_request_id(headers).unwrap_or_else(|| {
            HeaderValue::from_str(&self.record_id.to_string())
                .unwrap_or_else(|_| HeaderValue::from_static("-"))
        });
        self.peer = session
            .client_addr()
            .and_then(|address| address.as_inet())
            .map(std::net::SocketAddr::ip);
        let peer = self.peer.unwrap_or(self.client);
        self.client = if trusted_proxies.is_empty() {
            peer.to_canonical()
        } else {
            let lines = headers
                .get_all("x-forwarded-for")
                .iter()
                .map(HeaderValue::as_bytes);
            client_address(peer, trusted_proxies, lines)
        };
        if headers.contains_key("anthropic-version") {
            self.dialect = Dialect::Anthropic;
        }
    }

    /// The request id as text.
    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or("-")
    }
}

fn client_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get("x-request-id")?;
    let sane = (1..=REQUEST_ID_BYTES).contains(&value.len())
        && value
            .as_bytes()
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    sane.then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_request_ids_are_taken_over() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_str(text).unwrap());
            client_request_id(&headers).is_some()
        };
        assert!(id("abc-1.2_3"));
        assert!(id(&"a".repeat(128)));
        for text in ["", &"a".repeat(129), "a b", "ü", "a/b"] {
            assert!(!id(text), "`{text}`");
        }
    }
}
