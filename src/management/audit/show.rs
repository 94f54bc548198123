//! `GET /manage/audit/{id}`.

use axum::extract::{Path, State};

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::services::Shared;
use super::view::AuditView;
use crate::domain::ids::AuditId;

/// Shows one event.
pub async fn show(State(services): State<Shared>, Path(id): Path<String>) -> Result<Answer, ApiError> {
    let store = services
        .audit_store
        .as_ref()
        .ok_or(ApiError::NotAvailable("audit event not available"))?;
    let not_found = ApiError::NotFound("audit event not found");
    let Ok(id) = id.parse::<AuditId>() else {
        return Err(not_found);
    };
    services.audit.flush().await;
    let event = store.get(id).await?.ok_or(not_found)?;
    Ok(Answer::ok(&AuditView::of(&event)))
}

/// Answers a path that ends where the id should be.
pub async fn missing_id() -> ApiError {
    ApiError::Rule(
        "audit event ID is required",
        "name it in the path: `/manage/audit/{id}`",
    )
}
