//! The port for projects.

use async_trait::async_trait;

use super::{Page, Paged, StoreError};
use crate::domain::patch::ProjectPatch;
use crate::domain::{Project, ProjectId, Timestamp};

/// Projects. Every write also tells the other instances.
#[async_trait]
pub trait ProjectStore: Send + Sync + 'static {
    /// One project.
    async fn get(&self, id: ProjectId) -> Result<Option<Project>, StoreError>;
    /// By name.
    async fn list(&self, page: Page) -> Result<Paged<Project>, StoreError>;
    /// Adds one; a taken name is [`StoreError::Conflict`].
    async fn create(&self, project: &Project) -> Result<(), StoreError>;
    /// Reads, patches and writes in one transaction. `None`: no such project.
    async fn patch(
        &self,
        id: ProjectId,
        patch: &ProjectPatch,
        now: Timestamp,
    ) -> Result<Option<Project>, StoreError>;
}
