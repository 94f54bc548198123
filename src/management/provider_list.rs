//! `GET /manage/providers`: health, cool-downs and requests under way of each provider.

use axum::extract::State;

use super::answer::Answer;
use super::services::Shared;

/// Lists the configured providers.
pub async fn list(State(services): State<Shared>) -> Answer {
    Answer::ok(&services.providers.list())
}
