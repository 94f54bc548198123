//! `/manage/projects`: tenants, their provider keys and rules.

mod create;
mod list;
mod provider_keys;
mod refuse;
mod revoke_tokens;
mod show;
mod update;
mod view;

#[cfg(test)]
pub use create::FIELDS as CREATE_FIELDS;
pub use create::create;
pub use list::list;
pub use refuse::{invalid_id, refuse_other_method};
pub use revoke_tokens::revoke_tokens;
pub use show::show;
#[cfg(test)]
pub use update::FIELDS as UPDATE_FIELDS;
pub use update::update;
pub use view::ProjectView;

use super::error::ApiError;
use crate::domain::ProjectId;

const NOT_FOUND: ApiError = ApiError::NotFound("project not found");

/// The id in a path.
fn parse_id(text: &str) -> Result<ProjectId, ApiError> {
    if text.is_empty() || text.contains('/') {
        return Err(refuse::INVALID_ID);
    }
    text.parse().map_err(|_| NOT_FOUND)
}
