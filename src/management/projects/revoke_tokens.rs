//! `POST /manage/projects/{id}/tokens/revoke`: every active token of a project at once.

use axum::extract::{Path, State};

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::services::Shared;
use crate::fleet::Changed;

/// Revokes; a second time finds nothing left to do.
pub async fn revoke_tokens(
    State(services): State<Shared>,
    Path(id): Path<String>,
) -> Result<Answer, ApiError> {
    let id = super::parse_id(&id)?;
    services.projects.get(id).await?.ok_or(super::NOT_FOUND)?;
    let revoked = services.tokens.revoke_all(id, services.clock.now()).await;
    services.changes.changed(Changed::Project(id));
    let counts = revoked?;
    Ok(Answer::ok(&counts)
        .about_project(id)
        .noting("revoked_count", counts.revoked_count)
        .noting("total_tokens", counts.total_tokens))
}
