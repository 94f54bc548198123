//! `POST /manage/projects`.

use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::{JsonFields, text};
use super::super::restrictions::{budget, globs, limits, metadata, name};
use super::super::services::{Services, Shared};
use super::provider_keys;
use super::view::ProjectView;
use crate::domain::patch::{Change, ProjectPatch};
use crate::domain::{Limits, NanoUsd, Project, ProjectId};
use crate::fleet::Changed;

/// The fields that are read.
pub const FIELDS: &[&str] = &[
    "name",
    "api_key",
    "providers",
    "allowed_models",
    "limits",
    "budget",
    "metadata",
];

/// Makes a project; it is active at once.
pub async fn create(State(services): State<Shared>, body: Bytes) -> Result<Answer, ApiError> {
    let fields = JsonFields::parse(&body, FIELDS)?;
    let project = read(&fields, &services)?;
    let written = services.projects.create(&project).await;
    services.changes.changed(Changed::Project(project.id));
    written.map_err(|error| ApiError::from_taken_name(error, "project"))?;
    let view = ProjectView::of(&project, &services.providers.default_provider(), NanoUsd::ZERO);
    Ok(Answer::json(StatusCode::CREATED, &view)
        .about_project(project.id)
        .noting("name", project.name))
}

fn read(fields: &JsonFields, services: &Services) -> Result<Project, ApiError> {
    let given_name = fields.optional("name", text)?.unwrap_or_default();
    if given_name.is_empty() {
        return Err(ApiError::Rule(
            "name and api_key are required",
            "`name` must not be empty",
        ));
    }
    let provider_keys = provider_keys::read(fields, services)?;
    let default_provider = services.providers.default_provider();
    let has_key = matches!(provider_keys.get(&default_provider), Some(Change::Set(_)))
        || services.providers.has_configured_key(&default_provider) == Some(true);
    if !has_key {
        return Err(ApiError::Rule(
            "name and api_key are required",
            "`api_key` may be left out only when the default provider has a key in the configuration",
        ));
    }
    let notes = fields.optional("metadata", metadata)?.unwrap_or_default();
    let patch = ProjectPatch {
        name: fields.optional("name", name)?,
        provider_keys,
        allowed_models: fields.change("allowed_models", globs)?,
        limits: fields.change("limits", limits)?,
        budget: fields.change("budget", |field, value| budget(field, value, false))?,
        ..ProjectPatch::default()
    };
    let now = services.clock.now();
    let mut project = Project {
        id: ProjectId::random(),
        name: given_name,
        is_active: true,
        deactivated_at: None,
        created_at: now,
        updated_at: now,
        provider_keys: std::collections::BTreeMap::new(),
        allowed_models: Vec::new(),
        limits: Limits::default(),
        budget: None,
        metadata: notes,
    };
    patch.apply(&mut project, now);
    Ok(project)
}
