//! Heads both ways: what must not pass is dropped, what is ours is added.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};

/// Credentials in which a client may send its token.
const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Hop-by-hop fields (RFC 9110 §7.6.1), and those that this proxy frames anew.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "host",
    "content-length",
    "http2-settings",
];

/// Fields that would tell a provider about the client or its network.
const CLIENT_NETWORK: [&str; 9] = [
    "cookie",
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-original-forwarded-for",
    "fastly-client-ip",
    "x-body-hash",
];

/// Prefixes of the same, and of our own fields.
const DROPPED_PREFIXES: [&str; 5] = ["x-forwarded-", "cf-", "fly-", "proxy-", "x-llm-proxy-"];

/// Fields that choose an account of the provider; only the owner of the key may.
const ACCOUNT_UP: [&str; 3] = ["openai-organization", "openai-project", "x-goog-user-project"];

/// Fields of an answer that name an account of the provider.
const ACCOUNT_DOWN: [&str; 3] = [
    "openai-organization",
    "openai-project",
    "anthropic-organization-id",
];

/// Fields of an answer that are the provider's own business, or ours to write.
const DROPPED_DOWN: [&str; 14] = [
    "set-cookie",
    "server",
    "alt-svc",
    "strict-transport-security",
    "nel",
    "report-to",
    "date",
    "x-request-id",
    "x-proxy",
    "x-proxy-cache",
    "x-proxy-cache-key",
    "cache-status",
    "x-should-retry-proxy",
    "proxy-authenticate",
];

/// What decides about a request's fields on their way up.
#[derive(Debug, Clone, Copy)]
pub struct UpRules {
    /// The project pays with its own key.
    pub own_key: bool,
    /// The answer must come unencoded, so that it can be metered (inference paths).
    pub plain_answer: bool,
    /// The answer may be stored: validators and ranges of the client must not shape it.
    pub filling_cache: bool,
}

/// The names listed in `Connection`, which are hop-by-hop too.
fn connection_names(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

fn passes_up(name: &str, rules: UpRules) -> bool {
    let dropped = CREDENTIALS.contains(&name)
        || HOP_BY_HOP.contains(&name)
        || CLIENT_NETWORK.contains(&name)
        || name == "x-request-id"
        || name == "x-proxy"
        || DROPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || (!rules.own_key && ACCOUNT_UP.contains(&name))
        || (rules.plain_answer && name == "accept-encoding")
        || (rules.filling_cache && (name.starts_with("if-") || name == "range"));
    !dropped
}

/// Copies the client's fields that may go to a provider onto `up`.
pub fn copy_request_fields(
    client: &RequestHeader,
    up: &mut RequestHeader,
    rules: UpRules,
) -> pingora_core::Result<()> {
    let named = connection_names(&client.headers);
    for (name, value) in &client.headers {
        if passes_up(name.as_str(), rules) && !named.contains(name) {
            up.append_header(name.clone(), value.clone())?;
        }
    }
    if rules.plain_answer {
        up.insert_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))?;
    }
    Ok(())
}

fn passes_down(name: &str, rules: DownRules) -> bool {
    let dropped = HOP_BY_HOP.contains(&name)
        || DROPPED_DOWN.contains(&name)
        || name.starts_with("access-control-")
        || name.starts_with("x-llm-proxy-")
        || (!rules.own_key && ACCOUNT_DOWN.contains(&name))
        || (rules.own_rates && is_rate_of(name, "-requests"))
        || (rules.own_token_rates && is_rate_of(name, "-tokens"));
    !dropped
}

fn is_rate_of(name: &str, what: &str) -> bool {
    name.strip_suffix(what).is_some_and(|rate| {
        matches!(
            rate,
            "x-ratelimit-limit" | "x-ratelimit-remaining" | "x-ratelimit-reset"
        )
    })
}

/// What decides about an answer's fields on their way down.
#[derive(Debug, Clone, Copy)]
pub struct DownRules {
    /// The project pays with its own key.
    pub own_key: bool,
    /// Our own request rate replaces the provider's.
    pub own_rates: bool,
    /// Our own rate of tokens replaces the provider's.
    pub own_token_rates: bool,
}

/// The provider's answer head without what must not pass; framing fields are left out.
pub fn answer_head(upstream: &ResponseHeader, rules: DownRules) -> pingora_core::Result<ResponseHeader> {
    let mut down = ResponseHeader::build_no_case(upstream.status, Some(upstream.headers.len() + 16))?;
    let named = connection_names(&upstream.headers);
    for (name, value) in &upstream.headers {
        if passes_down(name.as_str(), rules) && !named.contains(name) {
            down.append_header(name.clone(), value.clone())?;
        }
    }
    Ok(down)
}

/// How the body of a provider's answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body at all.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Ends with a last chunk or END_STREAM.
    Marked,
    /// Ends when the connection closes: an end that proves nothing.
    Close,
}

impl Framing {
    /// The framing of `answer` to a request that was (or was not) `HEAD`.
    pub fn of(answer: &ResponseHeader, head_request: bool) -> Self {
        let status = answer.status.as_u16();
        if head_request || status == 204 || status == 304 {
            return Self::Empty;
        }
        if answer.version == http::Version::HTTP_2 {
            return match content_length(&answer.headers) {
                Some(length) => Self::Length(length),
                None => Self::Marked,
            };
        }
        if answer.headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Marked;
        }
        content_length(&answer.headers).map_or(Self::Close, Self::Length)
    }
}

/// The declared length of a body, if there is one that can be read.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", b"/v1/chat/completions", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn names_up(fields: &[(&'static str, &'static str)], rules: UpRules) -> Vec<String> {
        let mut up = RequestHeader::build_no_case("POST", b"/", None).unwrap();
        copy_request_fields(&request(fields), &mut up, rules).unwrap();
        up.headers.keys().map(|name| name.as_str().to_owned()).collect()
    }

    const SHARED: UpRules = UpRules {
        own_key: false,
        plain_answer: true,
        filling_cache: false,
    };

    #[test]
    fn nothing_of_the_drop_list_goes_up() {
        let fields = [
            ("authorization", "Bearer sk-x"),
            ("x-api-key", "sk-x"),
            ("api-key", "sk-x"),
            ("cookie", "a=b"),
            ("forwarded", "for=1.1.1.1"),
            ("via", "1.1 x"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("x-client-ip", "1.1.1.1"),
            ("true-client-ip", "1.1.1.1"),
            ("x-original-forwarded-for", "1.1.1.1"),
            ("cf-connecting-ip", "1.1.1.1"),
            ("fly-client-ip", "1.1.1.1"),
            ("fastly-client-ip", "1.1.1.1"),
            ("proxy-authorization", "Basic x"),
            ("x-llm-proxy-provider", "x"),
            ("x-body-hash", "x"),
            ("connection", "close, x-private"),
            ("x-private", "x"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("openai-organization", "org"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/json"),
            ("openai-beta", "x"),
            ("x-custom", "kept"),
        ];
        assert_eq!(
            names_up(&fields, SHARED),
            ["content-type", "openai-beta", "x-custom", "accept-encoding"]
        );
    }

    #[test]
    fn an_own_key_may_choose_its_account() {
        let rules = UpRules {
            own_key: true,
            ..SHARED
        };
        assert!(
            names_up(&[("openai-organization", "org")], rules).contains(&"openai-organization".to_owned())
        );
    }

    #[test]
    fn a_fill_is_not_shaped_by_validators() {
        let rules = UpRules {
            filling_cache: true,
            plain_answer: false,
            own_key: false,
        };
        assert!(names_up(&[("if-none-match", "x"), ("range", "bytes=0-1")], rules).is_empty());
    }

    #[test]
    fn answers_lose_what_is_the_providers_business() {
        let mut answer = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("content-type", "application/json"),
            ("set-cookie", "a=b"),
            ("server", "x"),
            ("access-control-allow-origin", "*"),
            ("openai-organization", "org"),
            ("x-ratelimit-remaining-requests", "5"),
            ("x-ratelimit-remaining-tokens", "6"),
            ("x-llm-proxy-origin", "forged"),
            ("retry-after", "3"),
        ] {
            answer.append_header(name, value).unwrap();
        }
        let kept = |rules: DownRules| -> Vec<String> {
            answer_head(&answer, rules)
                .unwrap()
                .headers
                .keys()
                .map(|n| n.as_str().to_owned())
                .collect()
        };
        let shared = kept(DownRules {
            own_key: false,
            own_rates: true,
            own_token_rates: false,
        });
        assert_eq!(
            shared,
            ["content-type", "x-ratelimit-remaining-tokens", "retry-after"]
        );
        assert!(
            kept(DownRules {
                own_key: true,
                own_rates: false,
                own_token_rates: true,
            })
            .contains(&"openai-organization".to_owned())
        );
    }

    #[test]
    fn framing_tells_a_proved_end_from_a_mere_close() {
        let answer = |status: u16, fields: &[(&'static str, &'static str)]| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in fields {
                head.append_header(*name, *value).unwrap();
            }
            head
        };
        assert_eq!(
            Framing::of(&answer(200, &[("content-length", "7")]), false),
            Framing::Length(7)
        );
        assert_eq!(
            Framing::of(&answer(200, &[("transfer-encoding", "chunked")]), false),
            Framing::Marked
        );
        assert_eq!(Framing::of(&answer(200, &[]), false), Framing::Close);
        assert_eq!(Framing::of(&answer(204, &[]), false), Framing::Empty);
        assert_eq!(
            Framing::of(&answer(200, &[("content-length", "7")]), true),
            Framing::Empty
        );
    }
}
