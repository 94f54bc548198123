//! `providers.*.api_key` and `api_keys`: the installation's keys for one provider.

use super::section::Section;
use crate::domain::Secret;

/// Keys of one provider; more would be looked through for each request.
const MOST_KEYS: usize = 256;

/// One key of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySettings {
    /// Its name, for people.
    pub id: String,
    /// The key.
    pub key: Secret,
    /// Requests a minute that the provider allows it.
    pub rpm: Option<u64>,
    /// Tokens a minute that the provider allows it.
    pub tpm: Option<u64>,
}

impl KeySettings {
    /// The only key of a provider.
    pub fn single(key: Secret) -> Self {
        Self {
            id: "installation".to_owned(),
            key,
            rpm: None,
            tpm: None,
        }
    }
}

/// All keys of one provider.
pub(super) fn read_api_keys(own: &Section<'_>) -> Vec<KeySettings> {
    if own.has("api_key") && own.has("api_keys") {
        own.refuse("api_keys", "stands beside `api_key`; keep one of them");
    }
    if let Some(key) = own.secret("api_key") {
        return vec![KeySettings::single(key)];
    }
    let secrets = own.secrets("api_keys");
    let is_alone = secrets.len() == 1;
    let mut keys: Vec<KeySettings> = Vec::with_capacity(secrets.len());
    for (index, (section, key)) in secrets.into_iter().enumerate() {
        let named = section.as_ref().and_then(|section| section.text("id"));
        let id = named.unwrap_or_else(|| {
            if is_alone {
                "installation".to_owned()
            } else {
                format!("key-{}", index + 1)
            }
        });
        if let Some(section) = &section {
            let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if id.is_empty() || id.len() > 64 || !id.bytes().all(sane) || matches!(&*id, "project" | "none") {
                section.refuse("id", "is no name for a key; use letters, digits, `-`, `_`, `.`, at most 64, but not `project` or `none`");
            } else if keys.iter().any(|other| other.id == id) {
                section.refuse("id", "is the name of another key of this provider");
            }
        }
        let limits = section.as_ref().map(|section| section.section("limits"));
        let limit = |name: &str, most| {
            let limits = limits.as_ref()?;
            limits.optional_number(name, 1..=most)
        };
        let (rpm, tpm) = (limit("rpm", 1_000_000_000), limit("tpm", 1_000_000_000_000));
        keys.push(KeySettings { id, key, rpm, tpm });
    }
    if keys.len() > MOST_KEYS {
        own.refuse("api_keys", &format!("has more than {MOST_KEYS} keys"));
    }
    keys
}
