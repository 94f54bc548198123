//! `GET /manage/models`: the public models and where they go.

use axum::extract::State;

use super::answer::Answer;
use super::services::Shared;

/// Lists the configured models.
pub async fn list(State(services): State<Shared>) -> Answer {
    Answer::ok(&services.models.list())
}
