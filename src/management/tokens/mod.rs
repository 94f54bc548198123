//! `/manage/tokens`: the credentials that clients send.

mod create;
mod list;
mod revoke;
mod rotate;
mod show;
mod update;
mod view;

#[cfg(test)]
pub use create::FIELDS as CREATE_FIELDS;
pub use create::{Created, create};
pub use list::list;
pub use revoke::revoke;
pub use rotate::{Rotated, rotate};
pub use show::{missing_id, show};
#[cfg(test)]
pub use update::FIELDS as UPDATE_FIELDS;
pub use update::update;
pub use view::TokenView;

use super::error::ApiError;
use super::json_fields::JsonFields;
use super::restrictions::{budget, endpoints, globs, limits, max_requests, networks};
use crate::domain::TokenId;
use crate::domain::patch::TokenPatch;

const NOT_FOUND: ApiError = ApiError::NotFound("token not found");

/// The id in a path; not the secret.
fn parse_id(text: &str) -> Result<TokenId, ApiError> {
    text.parse().map_err(|_| NOT_FOUND)
}

/// The fields that creation and change read alike.
fn read_rules(fields: &JsonFields, has_budget: bool) -> Result<TokenPatch, ApiError> {
    Ok(TokenPatch {
        max_requests: max_requests(fields)?,
        allowed_models: fields.change("allowed_models", globs)?,
        allowed_endpoints: fields.change("allowed_endpoints", endpoints)?,
        allowed_ips: fields.change("allowed_ips", networks)?,
        limits: fields.change("limits", limits)?,
        budget: fields.change("budget", |field, value| budget(field, value, has_budget))?,
        ..TokenPatch::default()
    })
}
