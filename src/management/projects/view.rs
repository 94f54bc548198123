//! A project as the API shows it: never a key, only its obfuscated form.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::budget_view::BudgetView;
use super::super::openapi::shapes::{self, Id, Notes, Time};
use crate::domain::{Glob, Limits, NanoUsd, Project, ProjectId, Timestamp};

/// The shape of every answer with a project in it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Project")]
pub struct ProjectView {
    #[schemars(with = "Id")]
    id: ProjectId,
    name: String,
    /// The key for the default provider, obfuscated; empty when the project has none of its own.
    api_key: String,
    is_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    deactivated_at: Option<Timestamp>,
    #[schemars(with = "Time")]
    created_at: Timestamp,
    #[schemars(with = "Time")]
    updated_at: Timestamp,
    /// All keys of its own by provider, obfuscated.
    providers: BTreeMap<String, String>,
    #[schemars(with = "Vec<String>")]
    allowed_models: Vec<Glob>,
    #[schemars(with = "shapes::Limits")]
    limits: Limits,
    #[schemars(with = "Option<shapes::Budget>")]
    budget: Option<BudgetView>,
    /// What it has cost in all.
    spend_usd: f64,
    #[schemars(with = "Notes")]
    metadata: Map<String, Value>,
}

impl ProjectView {
    /// What is shown of `project` while `default_provider` is the default.
    pub fn of(project: &Project, default_provider: &str, spent: NanoUsd) -> Self {
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
            budget: project.budget.map(BudgetView::of),
            spend_usd: spent.as_usd(),
            metadata: project.metadata.clone(),
        }
    }
}
