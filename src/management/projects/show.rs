//! `GET /manage/projects/{id}`.

use axum::extract::{Path, State};

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::services::Shared;
use super::view::ProjectView;

/// Shows one project.
pub async fn show(State(services): State<Shared>, Path(id): Path<String>) -> Result<Answer, ApiError> {
    let id = super::parse_id(&id)?;
    let project = services.projects.get(id).await?.ok_or(super::NOT_FOUND)?;
    let spent = services.spent(&project.id).await?;
    Ok(Answer::ok(&ProjectView::of(
        &project,
        &services.providers.default_provider(),
        spent,
    )))
}
