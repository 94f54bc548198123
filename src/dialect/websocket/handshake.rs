//! The handshake (RFC 6455 §4): whether a request is one, and what of it goes to the provider.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Version};

/// Subprotocols in which browsers send a provider's key: never a credential here, and never a provider's business.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// Subprotocols that choose an account of the provider; only the owner of the key may.
const ACCOUNT_PROTOCOLS: [&str; 2] = ["openai-organization.", "openai-project."];

/// Whether the request asks for a WebSocket in the one way that is understood: HTTP/1.1, version 13.
///
/// # Errors
/// What is missing or wrong, for people.
pub fn asks_for_websocket(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), &'static str> {
    if version != Version::HTTP_11 {
        return Err("a WebSocket needs HTTP/1.1");
    }
    if method != Method::GET {
        return Err("a WebSocket begins with GET");
    }
    if !lists(headers, &header::UPGRADE, "websocket") || !lists(headers, &header::CONNECTION, "upgrade") {
        return Err("`Connection: Upgrade` and `Upgrade: websocket` are missing");
    }
    let only = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    if only(&header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("`Sec-WebSocket-Version` must be 13");
    }
    // 16 bytes in base64
    if only(&header::SEC_WEBSOCKET_KEY).is_none_or(|key| key.len() != 24) {
        return Err("`Sec-WebSocket-Key` must be 16 bytes in base64");
    }
    Ok(())
}

/// The fields of a handshake that are hop-by-hop and so must be said anew.
pub fn ask(mut field: impl FnMut(HeaderName, &'static str)) {
    field(header::CONNECTION, "Upgrade");
    field(header::UPGRADE, "websocket");
}

/// The subprotocols that a provider may see; `None` when none is left.
pub fn protocols_up(headers: &HeaderMap, own_key: bool) -> Option<String> {
    let kept: Vec<&str> = items(headers, &header::SEC_WEBSOCKET_PROTOCOL)
        .filter(|protocol| !protocol.starts_with(KEY_PROTOCOL))
        .filter(|protocol| {
            own_key
                || !ACCOUNT_PROTOCOLS
                    .iter()
                    .any(|account| protocol.starts_with(account))
        })
        .collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted))
}

fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn a_handshake_has_all_its_parts() {
        let asks = |method: Method, version, fields: &[(&'static str, &'static str)]| {
            asks_for_websocket(&method, version, &headers(fields)).is_ok()
        };
        assert!(asks(Method::GET, Version::HTTP_11, &GOOD));
        assert!(!asks(Method::GET, Version::HTTP_10, &GOOD));
        assert!(!asks(Method::GET, Version::HTTP_2, &GOOD));
        assert!(!asks(Method::POST, Version::HTTP_11, &GOOD));
        for missing in 0..GOOD.len() {
            let mut fields = GOOD.to_vec();
            fields.remove(missing);
            assert!(!asks(Method::GET, Version::HTTP_11, &fields), "{missing}");
        }
        for wrong in [
            ("upgrade", "h2c"),
            ("connection", "close"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "short"),
        ] {
            let mut fields: Vec<_> = GOOD.into_iter().filter(|(name, _)| *name != wrong.0).collect();
            fields.push(wrong);
            assert!(!asks(Method::GET, Version::HTTP_11, &fields), "{wrong:?}");
        }
        let mut twice = headers(&GOOD);
        twice.append(
            header::SEC_WEBSOCKET_KEY,
            "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap(),
        );
        assert!(asks_for_websocket(&Method::GET, Version::HTTP_11, &twice).is_err());
    }

    #[test]
    fn keys_in_subprotocols_never_go_up_and_accounts_only_with_an_own_key() {
        let fields = headers(&[(
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.sk-x, openai-organization.o,openai-project.p, openai-beta.realtime-v1",
        )]);
        assert_eq!(
            protocols_up(&fields, false).as_deref(),
            Some("realtime, openai-beta.realtime-v1")
        );
        assert_eq!(
            protocols_up(&fields, true).as_deref(),
            Some("realtime, openai-organization.o, openai-project.p, openai-beta.realtime-v1")
        );
        let key_alone = headers(&[("sec-websocket-protocol", "openai-insecure-api-key.sk-x")]);
        assert_eq!(protocols_up(&key_alone, true), None);
    }
}
