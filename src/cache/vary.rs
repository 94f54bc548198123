//! Which fields of a request an answer depends on: `Vary`, RFC 9111 §4.1.

use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::key::{EntryKey, Framed};

/// An answer that names more fields than this varies by anything: it cannot be found again.
const MOST_NAMES: usize = 16;

/// Fields of the client's request that do not reach the provider as they are, so that no answer depends on what the
/// client wrote there: the key is chosen by the project, the host by the provider.
const NEVER_THE_CLIENTS: [HeaderName; 5] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    header::HOST,
    HeaderName::from_static("x-proxy"),
];

/// The names, in lower case, sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VaryNames(Option<Arc<[HeaderName]>>);

/// What an answer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// It depends on these fields; on none when they are empty.
    By(VaryNames),
    /// `*`, or what cannot be understood: no other request is known to have this answer.
    Anything,
}

impl Vary {
    /// Reads all `Vary` lines. `encoding_is_ours`: the provider was asked with an `Accept-Encoding` of our own.
    pub fn of(answer: &HeaderMap, encoding_is_ours: bool) -> Self {
        let mut names: Vec<HeaderName> = Vec::new();
        for line in answer.get_all(header::VARY) {
            for name in line.as_bytes().split(|byte| *byte == b',') {
                let name = name.trim_ascii();
                if name.is_empty() {
                    continue;
                }
                match HeaderName::from_bytes(name) {
                    // `*` would be a field's name by its letters
                    Ok(field) if name != b"*" => names.push(field),
                    _ => return Self::Anything,
                }
            }
        }
        names.retain(|name| {
            let ours =
                NEVER_THE_CLIENTS.contains(name) || (encoding_is_ours && *name == header::ACCEPT_ENCODING);
            !ours
        });
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.len() > MOST_NAMES {
            return Self::Anything;
        }
        Self::By(VaryNames((!names.is_empty()).then(|| names.into())))
    }
}

impl VaryNames {
    /// Whether it depends on no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it depends on this field.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.iter().any(|one| one == name)
    }

    /// How many bytes the names have.
    pub(super) fn bytes(&self) -> u64 {
        self.iter().map(|name| name.as_str().len() as u64 + 32).sum()
    }

    fn iter(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().flat_map(|names| names.iter())
    }

    /// Under what the answer to a request with these fields is kept: the key itself when it depends on none.
    pub fn hash(&self, key: &EntryKey, request: &HeaderMap) -> [u8; 16] {
        let Some(names) = &self.0 else {
            return key.hash;
        };
        let mut framed = Framed::new();
        framed.part(&key.hash);
        framed.count(names.len());
        for name in names.iter() {
            framed.part(name.as_str().as_bytes());
            let mut values = request.get_all(name).iter().map(HeaderValue::as_bytes);
            match values.next() {
                // absent and empty are different answers to the provider
                None => framed.count(usize::MAX),
                Some(first) => {
                    let mut all = first.trim_ascii().to_vec();
                    for value in values {
                        all.extend_from_slice(b", ");
                        all.extend_from_slice(value.trim_ascii());
                    }
                    framed.part(&all);
                }
            }
        }
        framed.hash()
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeyParts;
    use super::*;
    use crate::domain::ProjectId;

    fn fields(list: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        map
    }

    fn names(vary: &[&str]) -> VaryNames {
        let lines: Vec<_> = vary.iter().map(|line| ("vary", *line)).collect();
        match Vary::of(&fields(&lines), true) {
            Vary::By(names) => names,
            Vary::Anything => panic!("anything"),
        }
    }

    fn key() -> EntryKey {
        EntryKey::of(&KeyParts {
            project: ProjectId::from_bytes([1; 16]),
            token: None,
            method: "GET",
            path: "/a",
            query: None,
            targets: &[],
            headers: &HeaderMap::new(),
            body: b"",
        })
    }

    #[test]
    fn names_are_a_set_without_what_the_client_does_not_say_to_the_provider() {
        assert_eq!(names(&["Origin, accept", "ACCEPT"]), names(&["accept,origin,,"]));
        assert!(names(&["Authorization, X-Api-Key, Host, Accept-Encoding", ""]).is_empty());
        assert!(names(&[]).is_empty());
        assert!(names(&["accept"]).contains(&header::ACCEPT));
        let theirs = Vary::of(&fields(&[("vary", "Accept-Encoding")]), false);
        assert!(matches!(theirs, Vary::By(names) if names.contains(&header::ACCEPT_ENCODING)));
        let many = (0..17).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(",");
        for anything in ["*", "accept, *", "a b", "a(b)", &many] {
            assert_eq!(
                Vary::of(&fields(&[("vary", anything)]), true),
                Vary::Anything,
                "{anything}"
            );
        }
    }

    #[test]
    fn requests_that_say_the_same_there_have_the_same_answer() {
        let by = names(&["accept-language, accept"]);
        let hash = |list: &[(&str, &str)]| by.hash(&key(), &fields(list));
        let base = hash(&[("accept-language", "de"), ("accept", "a/b"), ("other", "1")]);
        assert_eq!(base, hash(&[("accept", " a/b "), ("accept-language", "de")]));
        assert_eq!(
            hash(&[("accept", "a/b"), ("accept", "c/d")]),
            hash(&[("accept", "a/b, c/d")])
        );
        for other in [
            &[("accept-language", "en"), ("accept", "a/b")][..],
            &[("accept-language", "de")],
            &[("accept-language", "de"), ("accept", "")],
            &[("accept-language", "a/b"), ("accept", "de")],
            &[],
        ] {
            assert_ne!(base, hash(other), "{other:?}");
        }
        assert_ne!(hash(&[("accept", "")]), hash(&[]));
        assert_eq!(VaryNames::default().hash(&key(), &fields(&[])), key().hash);
    }
}
