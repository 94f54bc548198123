//! `GET /manage/tokens/{id}`: with counters that are true now.

use axum::extract::{Path, State};

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::services::Shared;
use super::view::TokenView;

/// Shows one token.
pub async fn show(State(services): State<Shared>, Path(id): Path<String>) -> Result<Answer, ApiError> {
    let id = super::parse_id(&id)?;
    services.flush_counters().await;
    let token = services.tokens.get(id).await?.ok_or(super::NOT_FOUND)?;
    let spent = services.spent(&token.id).await?;
    Ok(Answer::ok(&TokenView::of(&token, spent)).about_project(token.project_id))
}

/// Answers a path that ends where the id should be.
pub async fn missing_id() -> ApiError {
    ApiError::Rule(
        "token ID is required",
        "name it in the path: `/manage/tokens/{id}`",
    )
}
