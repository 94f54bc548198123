//! The provider keys of projects as they lie in the store, for sealing them anew.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::Secret;

/// One provider key of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKey {
    /// The id of the project whose key it is, as it is stored.
    pub project_id: String,
    /// For which provider.
    pub provider: String,
    /// As it is stored.
    pub sealed: Secret,
}

/// All provider keys, in steps, while a server may run.
#[async_trait]
pub trait SealedKeys: Send + Sync + 'static {
    /// The next keys after `last`, by project and provider; none: there are no more.
    async fn after(&self, last: Option<&SealedKey>, limit: u32) -> Result<Vec<SealedKey>, StoreError>;

    /// Stores another form of a key. False: it is not any more as it was read, and stays as it is.
    async fn replace(&self, key: &SealedKey, sealed: &Secret) -> Result<bool, StoreError>;
}
