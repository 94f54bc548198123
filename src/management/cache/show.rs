//! `GET /manage/cache`.

use axum::extract::State;

use super::super::answer::Answer;
use super::super::services::Shared;

/// Shows counters and sizes of the cache.
pub async fn show(State(services): State<Shared>) -> Answer {
    Answer::ok(&services.cache.stats())
}
