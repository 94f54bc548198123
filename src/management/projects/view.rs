//! A project as the API shows it: never a key, only its obfuscated form.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::{Glob, Limits, Project, ProjectId, Timestamp};

/// The shape of every answer with a project in it.
#[derive(Debug, Serialize)]
pub struct ProjectView {
    id: ProjectId,
    name: String,
    /// The key for the default provider, obfuscated; empty when the project has none of its own.
    api_key: String,
    is_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deactivated_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// All keys of its own by provider, obfuscated.
    providers: BTreeMap<String, String>,
    allowed_models: Vec<Glob>,
    limits: Limits,
    metadata: Map<String, Value>,
}

impl ProjectView {
    /// What is shown of `project` while `default_provider` is the default.
    pub fn of(project: &Project, default_provider: &str) -> Self {
        let shown = |key: &crate::domain::project::ProviderKey| key.obfuscated.clone();
        Self {
            id: project.id,
            name: project.name.clone(),
            api_key: project
                .provider_keys
                .get(default_provider)
                .map(shown)
                .unwrap_or_default(),
            is_active: project.is_active,
            deactivated_at: project.deactivated_at,
            created_at: project.created_at,
            updated_at: project.updated_at,
            providers: project
                .provider_keys
                .iter()
                .map(|(name, key)| (name.clone(), shown(key)))
                .collect(),
            allowed_models: project.allowed_models.clone(),
            limits: project.limits,
            metadata: project.metadata.clone(),
        }
    }
}
