//! The port that says whether the store works.

use async_trait::async_trait;

use super::StoreError;

/// Health of the store, for `/ready`.
#[async_trait]
pub trait StoreHealth: Send + Sync + 'static {
    /// Reads and writes a trifle. A store that cannot be written to answers an error.
    async fn ping(&self) -> Result<(), StoreError>;
}
