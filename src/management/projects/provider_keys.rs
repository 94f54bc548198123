//! Reads `api_key` and `providers`, checks and seals the keys.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::error::ApiError;
use super::super::json_fields::{JsonFields, object, shortened, wrong_type};
use super::super::services::Services;
use crate::domain::patch::Change;
use crate::domain::project::ProviderKey;
use crate::domain::{Secret, obfuscate};

/// Characters of a key at most.
const LONGEST_KEY: usize = 4096;

/// Keys to set or remove, by provider.
pub type KeyChanges = BTreeMap<String, Change<ProviderKey>>;

/// Both fields together. An empty `api_key` says nothing.
pub fn read(fields: &JsonFields, services: &Services) -> Result<KeyChanges, ApiError> {
    let mut plain: BTreeMap<String, Change<Secret>> = BTreeMap::new();
    let providers = fields.optional("providers", |name, value| object(name, value).cloned())?;
    for (provider, value) in providers.unwrap_or_default() {
        if services.providers.has_configured_key(&provider).is_none() {
            return Err(unknown_provider(&provider, services));
        }
        let field = format!("providers.{}", shortened(&provider));
        plain.insert(provider, key_change(&field, &value)?);
    }
    let api_key = fields.change("api_key", |_, value| Ok(value.clone()))?;
    let api_key = match api_key {
        Change::Keep => Change::Keep,
        Change::Remove => Change::Remove,
        Change::Set(Value::String(text)) if text.is_empty() => Change::Keep,
        Change::Set(value) => key_change("api_key", &value)?,
    };
    if !api_key.is_keep() {
        let provider = services.providers.default_provider();
        if plain.get(&provider).is_some_and(|other| *other != api_key) {
            return Err(ApiError::Invalid(format!(
                "`api_key` and `providers.{provider}` are the key of one provider and differ; give one of them"
            )));
        }
        plain.insert(provider, api_key);
    }
    plain
        .into_iter()
        .map(|(provider, change)| Ok((provider, seal(change, services)?)))
        .collect()
}

fn key_change(field: &str, value: &Value) -> Result<Change<Secret>, ApiError> {
    let text = match value {
        Value::Null => return Ok(Change::Remove),
        Value::String(text) => text,
        other => return Err(wrong_type(field, "a string", other)),
    };
    if obfuscate::looks_obfuscated(text) {
        return Err(ApiError::Rule(
            "cannot save obfuscated API key - please provide the full API key",
            "what answers show of a key is not the key",
        ));
    }
    let fits = (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        return Err(ApiError::Invalid(format!(
            "`{field}` must have 1 to {LONGEST_KEY} visible ASCII characters and no spaces or line ends"
        )));
    }
    Ok(Change::Set(Secret::new(text.as_str())))
}

fn seal(change: Change<Secret>, services: &Services) -> Result<Change<ProviderKey>, ApiError> {
    Ok(match change {
        Change::Keep => Change::Keep,
        Change::Remove => Change::Remove,
        Change::Set(key) => Change::Set(ProviderKey {
            obfuscated: obfuscate::key(key.expose()),
            sealed: services.sealer.seal(&key)?,
        }),
    })
}

fn unknown_provider(name: &str, services: &Services) -> ApiError {
    let known: Vec<String> = services
        .providers
        .list()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    ApiError::Invalid(format!(
        "`providers`: there is no provider `{}`; configured are `{}`",
        shortened(name),
        known.join("`, `")
    ))
}
