//! The two ids that every management answer carries.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `X-Request-ID`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `X-Correlation-ID`.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The ids of one request: the client's where they are sane, else new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestIds {
    /// Of this request.
    pub request_id: String,
    /// Of what it belongs to.
    pub correlation_id: String,
}

impl RequestIds {
    /// Reads them from the request's head.
    pub fn of(headers: &HeaderMap) -> Self {
        Self {
            request_id: sane_or_new(headers, &REQUEST_ID),
            correlation_id: sane_or_new(headers, &CORRELATION_ID),
        }
    }

    /// Writes them into the answer's head.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        for (name, id) in [
            (REQUEST_ID, &self.request_id),
            (CORRELATION_ID, &self.correlation_id),
        ] {
            if let Ok(value) = HeaderValue::from_str(id) {
                headers.insert(name, value);
            }
        }
    }
}

fn sane_or_new(headers: &HeaderMap, name: &HeaderName) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .filter(|text| is_sane(text))
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

fn is_sane(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("My-id_1.2"));
        headers.insert(CORRELATION_ID, HeaderValue::from_static("with space"));
        let ids = RequestIds::of(&headers);
        assert_eq!(ids.request_id, "My-id_1.2");
        assert_eq!(ids.correlation_id.len(), 36);
        assert!(!is_sane("") && !is_sane(&"a".repeat(129)) && is_sane(&"a".repeat(128)));
    }
}
