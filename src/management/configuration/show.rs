//! `GET /manage/config`.

use axum::extract::State;

use super::super::answer::Answer;
use super::super::services::Shared;

/// Shows the effective configuration, secrets masked.
pub async fn show(State(services): State<Shared>) -> Answer {
    Answer::ok(&services.configuration.show())
}
