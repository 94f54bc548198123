//! What browsers are told: preflights, and the CORS fields of every other answer.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The answer fields a browser may read.
const EXPOSED: &str = "X-Request-ID, X-Proxy, X-LLM-Proxy-Origin, X-LLM-Proxy-Provider, X-LLM-Proxy-Model, \
X-LLM-Proxy-Attempts, X-LLM-Proxy-Waited-Ms, X-LLM-Proxy-Error-Code, X-PROXY-CACHE, X-PROXY-CACHE-KEY, Cache-Status, Age, Retry-After, \
X-Proxy-Received-At, X-Proxy-First-Response-At, X-Proxy-Final-Response-At, X-Upstream-Request-Start, \
X-Upstream-Request-Stop, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests";

/// `cors` of the configuration, prepared.
#[derive(Debug, Clone)]
pub struct CorsRules {
    any_origin: bool,
    origins: Vec<String>,
    methods: HeaderValue,
    /// `None`: what was asked for is allowed.
    allowed_headers: Option<HeaderValue>,
    max_age: HeaderValue,
}

impl CorsRules {
    /// From lists of words; `*` among origins or headers means any.
    pub fn new(origins: &[String], methods: &[String], headers: &[String], max_age_seconds: u64) -> Self {
        let joined = |words: &[String]| {
            HeaderValue::from_str(&words.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        Self {
            any_origin: origins.iter().any(|origin| origin == "*"),
            origins: origins.to_vec(),
            methods: joined(methods),
            allowed_headers: (!headers.iter().any(|name| name == "*")).then(|| joined(headers)),
            max_age: HeaderValue::from(max_age_seconds),
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.any_origin
            || self
                .origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
    }

    /// The fields of a preflight's 204, given to `insert` one by one.
    pub fn preflight(&self, request: &HeaderMap, mut insert: impl FnMut(HeaderName, HeaderValue)) {
        let Some(origin) = request.get(header::ORIGIN).filter(|origin| self.allows(origin)) else {
            return;
        };
        if self.any_origin {
            insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            insert(header::VARY, HeaderValue::from_static("Origin"));
        }
        insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        let headers = self.allowed_headers.clone().unwrap_or_else(|| {
            request
                .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
                .cloned()
                .unwrap_or_else(|| HeaderValue::from_static("Authorization, Content-Type, X-Requested-With"))
        });
        insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
        insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
    }

    /// The fields of any other answer to a request with an `Origin`, given to `insert` one by one.
    pub fn decorate(&self, origin: Option<&HeaderValue>, mut insert: impl FnMut(HeaderName, HeaderValue)) {
        let Some(origin) = origin.filter(|origin| self.allows(origin)) else {
            return;
        };
        insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
        insert(header::VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(rules: &CorsRules, origin: &str, preflight: bool) -> HeaderMap {
        let mut request = HeaderMap::new();
        request.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        request.insert(
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            HeaderValue::from_static("x-custom"),
        );
        let mut answer = HeaderMap::new();
        let insert = |name, value| {
            answer.insert(name, value);
        };
        if preflight {
            rules.preflight(&request, insert);
        } else {
            rules.decorate(request.get(header::ORIGIN), insert);
        }
        answer
    }

    fn field<'a>(answer: &'a HeaderMap, name: &str) -> Option<&'a str> {
        answer.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn any_origin_is_answered_with_a_star_on_preflight_and_by_name_otherwise() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let rules = CorsRules::new(&words(&["*"]), &words(&["GET", "POST"]), &words(&["*"]), 86400);
        let preflight = answer_to(&rules, "https://a.example", true);
        assert_eq!(field(&preflight, "access-control-allow-origin"), Some("*"));
        assert_eq!(
            field(&preflight, "access-control-allow-headers"),
            Some("x-custom")
        );
        assert_eq!(field(&preflight, "access-control-max-age"), Some("86400"));
        let other = answer_to(&rules, "https://a.example", false);
        assert_eq!(
            field(&other, "access-control-allow-origin"),
            Some("https://a.example")
        );
        assert_eq!(field(&other, "vary"), Some("Origin"));
    }

    #[test]
    fn a_listed_origin_alone_is_allowed() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let rules = CorsRules::new(
            &words(&["https://a.example"]),
            &words(&["GET"]),
            &words(&["x-a"]),
            5,
        );
        assert_eq!(
            field(
                &answer_to(&rules, "https://a.example", true),
                "access-control-allow-origin"
            ),
            Some("https://a.example")
        );
        assert_eq!(
            field(
                &answer_to(&rules, "https://b.example", true),
                "access-control-allow-origin"
            ),
            None
        );
        assert_eq!(
            field(
                &answer_to(&rules, "https://b.example", false),
                "access-control-allow-origin"
            ),
            None
        );
    }
}
