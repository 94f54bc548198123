//! `PATCH /manage/projects/{id}`: a merge patch; `revoke_tokens` takes the tokens along.

use axum::extract::{Path, State};
use bytes::Bytes;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::{JsonFields, boolean, object};
use super::super::restrictions::{budget, check_metadata, globs, limits, metadata, name};
use super::super::services::{Services, Shared};
use super::provider_keys;
use super::view::ProjectView;
use crate::domain::Project;
use crate::domain::patch::{Change, ProjectPatch};
use crate::fleet::Changed;

/// The fields that are read.
pub const FIELDS: &[&str] = &[
    "name",
    "api_key",
    "is_active",
    "revoke_tokens",
    "providers",
    "allowed_models",
    "limits",
    "budget",
    "metadata",
];

/// Changes a project.
pub async fn update(
    State(services): State<Shared>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let id = super::parse_id(&id)?;
    let fields = JsonFields::parse(&body, FIELDS)?;
    let revoke_tokens = read_revoke_tokens(&fields)?;
    let current = services.projects.get(id).await?.ok_or(super::NOT_FOUND)?;
    // read before it is changed: a change that was made is not answered as an error
    let spent = services.spent(&id).await?;
    let patch = read(&fields, &services, current)?;
    let now = services.clock.now();
    let written = services.projects.patch(id, &patch, now).await;
    services.changes.changed(Changed::Project(id));
    let project = written
        .map_err(|error| ApiError::from_taken_name(error, "project"))?
        .ok_or(super::NOT_FOUND)?;
    let view = ProjectView::of(&project, &services.providers.default_provider(), spent);
    let answer = Answer::ok(&view).noting("fields", fields.names());
    if !revoke_tokens {
        return Ok(answer);
    }
    let revoked = services.tokens.revoke_all(id, now).await;
    services.changes.changed(Changed::Project(id));
    Ok(answer.noting("tokens_revoked", revoked?.revoked_count))
}

fn read_revoke_tokens(fields: &JsonFields) -> Result<bool, ApiError> {
    let revoke = fields.not_null("revoke_tokens", boolean)?.unwrap_or(false);
    let deactivates = fields.not_null("is_active", boolean)? == Some(false);
    if revoke && !deactivates {
        return Err(ApiError::Rule(
            "revoke_tokens requires is_active=false",
            "to revoke the tokens of an active project, POST to `/manage/projects/{id}/tokens/revoke`",
        ));
    }
    Ok(revoke)
}

fn read(fields: &JsonFields, services: &Services, current: Project) -> Result<ProjectPatch, ApiError> {
    let has_budget = current.budget.is_some();
    fields.not_null("providers", |name, value| object(name, value).map(|_| ()))?;
    let patch = ProjectPatch {
        name: fields.not_null("name", name)?,
        is_active: fields.not_null("is_active", boolean)?,
        provider_keys: provider_keys::read(fields, services)?,
        allowed_models: fields.change("allowed_models", globs)?,
        limits: fields.change("limits", limits)?,
        budget: fields.change("budget", |field, value| budget(field, value, has_budget))?,
        metadata: fields.change("metadata", metadata)?,
    };
    let default_provider = services.providers.default_provider();
    if patch.provider_keys.get(&default_provider) == Some(&Change::Remove)
        && services.providers.has_configured_key(&default_provider) != Some(true)
    {
        return Err(ApiError::Invalid(format!(
            "the key for `{default_provider}` cannot be removed: the configuration has none to use instead"
        )));
    }
    let mut merged = current;
    patch.apply(&mut merged, services.clock.now());
    check_metadata(&merged.metadata)?;
    Ok(patch)
}
