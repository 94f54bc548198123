//! What makes two requests the same question.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::domain::{ProjectId, TokenId};

/// Headers that are part of the question.
const HEADERS: [&str; 5] = [
    "anthropic-version",
    "anthropic-beta",
    "openai-beta",
    "openai-organization",
    "openai-project",
];

/// Everything a key is made of. Nothing else of a request has any influence.
#[derive(Debug, Clone, Copy)]
pub struct KeyParts<'a> {
    /// Whose answers these are.
    pub project: ProjectId,
    /// Whose alone, where tokens do not share (`scope: token`).
    pub token: Option<TokenId>,
    /// The method; HEAD looks for what GET stored.
    pub method: &'a str,
    /// The path without query, without our own prefixes.
    pub path: &'a str,
    /// The query as sent.
    pub query: Option<&'a str>,
    /// The providers and models it resolves to.
    pub targets: &'a [(&'a str, &'a str)],
    /// The request's header fields.
    pub headers: &'a HeaderMap,
    /// The body in canonical form; empty for GET.
    pub body: &'a [u8],
}

/// A key, and by what a purge finds its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryKey {
    /// 128 bits of SHA-256.
    pub hash: [u8; 16],
    /// Whose entry it is.
    pub project: ProjectId,
    /// The method and the address it answers, query sorted.
    pub address: Arc<Address>,
}

/// A method and a path with its sorted query.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    /// In upper case.
    pub method: String,
    /// The path, and after `?` the sorted query if there is one.
    pub url: String,
}

impl Address {
    /// From what a purge names: a whole URL or a path, with or without query.
    pub fn new(method: &str, url: &str) -> Self {
        let path = match url.split_once("://") {
            Some((_, rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
            None => url,
        };
        let path = path.split('#').next().unwrap_or(path);
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        Self::of(method, path, query)
    }

    fn of(method: &str, path: &str, query: Option<&str>) -> Self {
        let mut url = path.to_owned();
        if let Some(query) = query {
            let sorted = sorted_query(query);
            if !sorted.is_empty() {
                url.push('?');
                url.push_str(&sorted);
            }
        }
        let method = if method.eq_ignore_ascii_case("HEAD") {
            "GET"
        } else {
            method
        };
        Self {
            method: method.to_ascii_uppercase(),
            url,
        }
    }
}

impl EntryKey {
    /// The key of a request.
    pub fn of(parts: &KeyParts<'_>) -> Self {
        let address = Address::of(parts.method, parts.path, parts.query);
        let mut framed = Framed::new();
        framed.part(parts.project.as_bytes());
        framed.count(usize::from(parts.token.is_some()));
        if let Some(token) = &parts.token {
            framed.part(token.as_bytes());
        }
        framed.part(address.method.as_bytes());
        framed.part(address.url.as_bytes());
        framed.count(parts.targets.len());
        for (provider, model) in parts.targets {
            framed.part(provider.as_bytes());
            framed.part(model.as_bytes());
        }
        for name in HEADERS {
            let values = parts.headers.get_all(name);
            framed.count(values.iter().count());
            for value in values {
                framed.part(value.as_bytes());
            }
        }
        framed.part(parts.body);
        Self {
            hash: framed.hash(),
            project: parts.project,
            address: Arc::new(address),
        }
    }
}

/// The shown key: 32 hexadecimal digits.
impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.hash))
    }
}

/// A hash as it is shown.
pub(super) fn shown(hash: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*hash))
}

/// Hashes each part after its length, so that no two lists of parts are the same bytes.
pub(super) struct Framed(Sha256);

impl Framed {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(super) fn count(&mut self, number: usize) {
        self.0.update((number as u64).to_be_bytes());
    }

    /// 128 bits of the whole.
    pub(super) fn hash(self) -> [u8; 16] {
        let digest = self.0.finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        hash
    }

    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }
}

/// The parts of a query sorted by name; the values of one name keep their order.
fn sorted_query(query: &str) -> String {
    let mut parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    parts.sort_by_key(|part| part.split('=').next());
    parts.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(headers: &'a HeaderMap, targets: &'a [(&'a str, &'a str)]) -> KeyParts<'a> {
        KeyParts {
            project: ProjectId::from_bytes([1; 16]),
            token: None,
            method: "POST",
            path: "/v1/chat/completions",
            query: Some("b=2&a=1"),
            targets,
            headers,
            body: b"{}",
        }
    }

    #[test]
    fn each_part_changes_the_key_and_nothing_else_does() {
        let mut headers = HeaderMap::new();
        headers.insert("openai-beta", "x".parse().unwrap());
        let targets = [("openai", "gpt-4o")];
        let base = parts(&headers, &targets);
        let key = |parts: KeyParts<'_>| EntryKey::of(&parts).hash;
        let mut internal = headers.clone();
        internal.insert("x-body-hash", "evil".parse().unwrap());
        internal.insert("authorization", "Bearer other".parse().unwrap());
        let same = [
            base,
            KeyParts {
                query: Some("a=1&b=2"),
                ..base
            },
            KeyParts {
                headers: &internal,
                ..base
            },
        ];
        assert!(same.iter().all(|parts| key(*parts) == key(base)));
        let mut anthropic = headers.clone();
        anthropic.insert("anthropic-version", "2023-06-01".parse().unwrap());
        let different = [
            KeyParts {
                project: ProjectId::from_bytes([2; 16]),
                ..base
            },
            KeyParts {
                token: Some(TokenId::from_bytes([1; 16])),
                ..base
            },
            KeyParts {
                token: Some(TokenId::from_bytes([2; 16])),
                ..base
            },
            KeyParts {
                method: "GET",
                ..base
            },
            KeyParts {
                path: "/v1/completions",
                ..base
            },
            KeyParts {
                query: Some("a=1"),
                ..base
            },
            KeyParts { query: None, ..base },
            KeyParts {
                targets: &[("groq", "gpt-4o")],
                ..base
            },
            KeyParts {
                targets: &[("openai", "gpt-4o-mini")],
                ..base
            },
            KeyParts {
                targets: &[("openaigpt-4o", "")],
                ..base
            },
            KeyParts {
                headers: &anthropic,
                ..base
            },
            KeyParts {
                body: b"{\"a\":1}",
                ..base
            },
        ];
        let mut seen: Vec<_> = different.into_iter().map(key).collect();
        seen.push(key(base));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 13);
    }

    #[test]
    fn repeated_names_in_a_query_keep_their_order() {
        assert_eq!(sorted_query("b=1&a=2&a=1&&c"), "a=2&a=1&b=1&c");
        assert_ne!(sorted_query("a=1&a=2"), sorted_query("a=2&a=1"));
    }

    #[test]
    fn a_purge_names_an_address_by_url_or_path() {
        let expected = Address::of("GET", "/v1/models", Some("a=1&b=2"));
        for url in [
            "/v1/models?b=2&a=1",
            "http://localhost:8080/v1/models?a=1&b=2#x",
            "https://h/v1/models?b=2&a=1",
        ] {
            assert_eq!(Address::new("get", url), expected, "{url}");
        }
        assert_eq!(Address::new("GET", "https://h").url, "/");
        assert_eq!(Address::new("HEAD", "/x"), Address::new("GET", "/x"));
    }

    #[test]
    fn the_shown_key_has_32_digits() {
        let headers = HeaderMap::new();
        let key = EntryKey::of(&parts(&headers, &[]));
        assert_eq!(key.to_string().len(), 32);
        assert_eq!(shown(&[0x0a; 16]), "0a".repeat(16));
    }
}
