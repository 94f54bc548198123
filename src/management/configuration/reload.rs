//! `POST /manage/config/reload`.

use axum::extract::State;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::ports::ReloadAnswer;
use super::super::services::Shared;

/// Reads the configuration anew; a bad one changes nothing and is answered with its faults.
pub async fn reload(State(services): State<Shared>) -> Result<Answer, ApiError> {
    match services.configuration.reload().await {
        ReloadAnswer::Applied(outcome) => Ok(Answer::ok(&outcome)),
        ReloadAnswer::Refused(errors) => Err(ApiError::ConfigurationRefused(errors)),
    }
}
