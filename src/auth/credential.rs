//! Finds the client's credential in a request's headers and hashes it.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::domain::{Denial, DenialCode, TokenHash};

/// The headers that may carry the client's credential; none of them ever goes upstream.
pub const CREDENTIAL_HEADERS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

const SHORTEST: usize = 8;
const LONGEST: usize = 512;

/// The hash of the one credential that the request carries. Nothing is allocated unless it is refused.
///
/// `Authorization: Bearer`, `x-api-key` and `api-key` are looked at; the same credential may stand in
/// several of them. An empty `x-api-key` or `api-key` counts as absent (some SDKs always send one).
///
/// # Errors
/// `invalid_token`: none, two different ones, or one that cannot be a credential.
pub fn credential_hash(headers: &HeaderMap) -> Result<TokenHash, Denial> {
    find(headers).map(TokenHash::of)
}

fn find(headers: &HeaderMap) -> Result<&str, Denial> {
    let mut found: Option<&[u8]> = None;
    let mut other_scheme = false;
    for value in headers.get_all(AUTHORIZATION) {
        match bearer(value.as_bytes()) {
            Some(credential) => keep(&mut found, credential)?,
            None => other_scheme = true,
        }
    }
    for name in ["x-api-key", "api-key"] {
        for value in headers.get_all(name) {
            keep(&mut found, value.as_bytes().trim_ascii())?;
        }
    }
    match found {
        Some(credential) => check(credential),
        None if other_scheme => Err(invalid(
            "the `Authorization` header is not of the form `Bearer <token>`; send the token that way or in `x-api-key`",
        )),
        None => Err(invalid(
            "no token was sent; send one as `Authorization: Bearer <token>` or in `x-api-key`",
        )),
    }
}

fn keep<'a>(found: &mut Option<&'a [u8]>, credential: &'a [u8]) -> Result<(), Denial> {
    if credential.is_empty() {
        return Ok(());
    }
    match *found {
        None => *found = Some(credential),
        Some(first) if first == credential => {}
        Some(_) => {
            return Err(invalid(
                "two different tokens were sent in one request; send one, as `Authorization: Bearer <token>` or in `x-api-key`",
            ));
        }
    }
    Ok(())
}

/// What follows the scheme word `Bearer` (any case); `None` for another scheme, empty for none at all.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return Some(value);
    }
    let (scheme, rest) = value.split_at_checked(6)?;
    let separated = rest.first().is_none_or(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(b"bearer") && separated).then(|| rest.trim_ascii_start())
}

fn check(credential: &[u8]) -> Result<&str, Denial> {
    let length = credential.len();
    if !(SHORTEST..=LONGEST).contains(&length) {
        return Err(invalid(format!(
            "the token has {length} characters; tokens have {SHORTEST} to {LONGEST}"
        )));
    }
    std::str::from_utf8(credential)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| {
            invalid("the token has characters other than visible ASCII; was it copied whole and alone?")
        })
}

fn invalid(message: impl Into<String>) -> Denial {
    Denial::new(DenialCode::InvalidToken, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        map
    }

    #[test]
    fn the_credential_is_found_in_each_of_the_three_headers() {
        let long = "x".repeat(512);
        let bearer_long = format!("Bearer {long}");
        let table: &[(&[(&'static str, &str)], &str)] = &[
            (&[("authorization", "Bearer sk-secret1")], "sk-secret1"),
            (&[("authorization", "bEARER   sk-secret1 ")], "sk-secret1"),
            (&[("authorization", &bearer_long)], &long),
            (&[("x-api-key", "sk-secret1")], "sk-secret1"),
            (&[("api-key", "12345678")], "12345678"),
            (
                &[("api-key", "sk-secret1"), ("x-api-key", "sk-secret1")],
                "sk-secret1",
            ),
            (
                &[
                    ("authorization", "Bearer sk-secret1"),
                    ("x-api-key", "sk-secret1"),
                ],
                "sk-secret1",
            ),
            (
                &[("authorization", "Bearer sk-secret1"), ("x-api-key", "")],
                "sk-secret1",
            ),
            (
                &[("authorization", "Bearer"), ("x-api-key", "sk-secret1")],
                "sk-secret1",
            ),
            (
                &[
                    ("authorization", "Basic dXNlcjpwYXNz"),
                    ("x-api-key", "sk-secret1"),
                ],
                "sk-secret1",
            ),
        ];
        for (pairs, expected) in table {
            assert_eq!(find(&headers(pairs)).unwrap(), *expected, "{pairs:?}");
        }
        assert_eq!(
            credential_hash(&headers(&[("x-api-key", "sk-secret1")])).unwrap(),
            TokenHash::of("sk-secret1")
        );
    }

    #[test]
    fn what_cannot_be_a_credential_is_invalid_token_and_never_echoed() {
        let long = "x".repeat(513);
        let table: &[(&[(&'static str, &str)], &str)] = &[
            (&[], "no token was sent"),
            (&[("authorization", "Bearer ")], "no token was sent"),
            (&[("authorization", "Basic dXNlcjpwYXNz")], "`Bearer <token>`"),
            (&[("authorization", "sk-secret1")], "`Bearer <token>`"),
            (&[("authorization", "Bearersk-secret1")], "`Bearer <token>`"),
            (&[("x-api-key", "1234567")], "7 characters"),
            (&[("x-api-key", &long)], "513 characters"),
            (&[("x-api-key", "sk-sec ret1")], "visible ASCII"),
            (&[("x-api-key", "sk-sécret1")], "visible ASCII"),
            (
                &[("x-api-key", "sk-secret1"), ("api-key", "sk-secret2")],
                "two different",
            ),
            (
                &[
                    ("authorization", "Bearer sk-secret1"),
                    ("x-api-key", "sk-secret2"),
                ],
                "two different",
            ),
            (
                &[
                    ("authorization", "Bearer sk-secret1"),
                    ("authorization", "Bearer sk-secret2"),
                ],
                "two different",
            ),
        ];
        for (pairs, expected) in table {
            let denial = find(&headers(pairs)).unwrap_err();
            assert_eq!(denial.code, DenialCode::InvalidToken);
            assert!(denial.message.contains(expected), "{pairs:?}: {}", denial.message);
            assert!(!denial.message.contains("secret") && !denial.message.contains("dXN"));
        }
    }
}
