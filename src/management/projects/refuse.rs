//! What the project paths refuse whatever the body says.

use axum::response::{IntoResponse as _, Response};
use http::Method;

use super::super::audit::event::Action;
use super::super::error::ApiError;

pub(super) const INVALID_ID: ApiError = ApiError::Rule(
    "invalid project id",
    "the path must end in one project id: `/manage/projects/{id}`",
);

/// Answers a path whose id is empty or has a slash in it.
pub async fn invalid_id() -> ApiError {
    INVALID_ID
}

/// Answers a method that projects do not have. Deletion gets words of its own and is an audited failure.
pub async fn refuse_other_method(method: Method) -> Response {
    if method != Method::DELETE {
        return ApiError::MethodNotAllowed.into_response();
    }
    let mut response = ApiError::ProjectDeletion.into_response();
    response.extensions_mut().insert(Action("project.delete"));
    response
}
