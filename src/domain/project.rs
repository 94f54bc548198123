//! A project: a tenant. It owns provider keys, tokens, limits and budgets.

use std::collections::BTreeMap;

use super::{Budget, Glob, Limits, ProjectId, Timestamp};

/// A provider key of a project as stored: sealed, and obfuscated for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderKey {
    /// `enc:v1:…` when an encryption key is configured, else the key itself.
    pub sealed: super::Secret,
    /// For people to recognise it.
    pub obfuscated: String,
}

/// A project as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// Identity.
    pub id: ProjectId,
    /// Unique name.
    pub name: String,
    /// Whether its tokens work.
    pub is_active: bool,
    /// When it was deactivated.
    pub deactivated_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The project's own keys, by provider name.
    pub provider_keys: BTreeMap<String, ProviderKey>,
    /// Models its tokens may ask for; empty = all.
    pub allowed_models: Vec<Glob>,
    /// Rates and concurrency of all its tokens together.
    pub limits: Limits,
    /// Money (kept, not enforced in this version).
    pub budget: Option<Budget>,
    /// The owner's own notes, a JSON object.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}
