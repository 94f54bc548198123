//! Which entries a purge removes.

use super::key::Address;
use crate::domain::ProjectId;

/// What is to be removed.
#[derive(Debug, PartialEq, Eq)]
pub enum Purge {
    /// Every variant of a method and URL, of one project or of all.
    Address {
        /// The method and URL.
        address: Address,
        /// The project; `None` for all.
        project: Option<ProjectId>,
    },
    /// Every entry whose shown key starts so.
    KeyPrefix(String),
    /// Every entry of a project.
    Project(ProjectId),
    /// Everything.
    All,
}

impl Purge {
    /// By method and URL: a whole URL or a path, with or without query.
    pub fn address(method: &str, url: &str, project: Option<ProjectId>) -> Self {
        Self::Address {
            address: Address::new(method, url),
            project,
        }
    }

    /// By a prefix of the shown key, in either case.
    pub fn key_prefix(prefix: &str) -> Self {
        Self::KeyPrefix(prefix.to_ascii_lowercase())
    }
}
