//! `DELETE /manage/tokens/{id}`: revokes; a PATCH brings the token back.

use axum::extract::{Path, State};

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::services::Shared;
use crate::domain::patch::TokenPatch;
use crate::fleet::Changed;

/// Revokes a token; revoking a revoked one is fine.
pub async fn revoke(State(services): State<Shared>, Path(id): Path<String>) -> Result<Answer, ApiError> {
    let id = super::parse_id(&id)?;
    let patch = TokenPatch {
        is_active: Some(false),
        ..TokenPatch::default()
    };
    let written = services.tokens.patch(id, &patch, services.clock.now()).await;
    services.changes.changed(Changed::Token(id));
    let token = written?.ok_or(super::NOT_FOUND)?;
    Ok(Answer::no_content().about_project(token.project_id))
}
