//! The port for tokens.

use async_trait::async_trait;

use super::{Page, Paged, StoreError};
use crate::domain::patch::TokenPatch;
use crate::domain::{Project, ProjectId, Timestamp, Token, TokenHash, TokenId};

/// What one look-up by hash answers: the token, its project, and the end of this very secret.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPrincipal {
    /// The token.
    pub token: Token,
    /// Its project.
    pub project: Project,
    /// When this secret stops working although the token goes on (rotation).
    pub secret_expires_at: Option<Timestamp>,
}

/// Which tokens a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenFilter {
    /// Of this project only.
    pub project_id: Option<ProjectId>,
    /// Neither revoked nor expired at this time.
    pub active_at: Option<Timestamp>,
}

/// What a bulk revocation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct RevokeCounts {
    /// Revoked now.
    pub revoked_count: u64,
    /// Were revoked before.
    pub already_revoked_count: u64,
    /// Tokens of the project.
    pub total_tokens: u64,
}

/// Tokens. Every write also tells the other instances (in the same transaction where the store can).
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// Whose secret has this hash.
    async fn by_hash(&self, hash: TokenHash) -> Result<Option<StoredPrincipal>, StoreError>;
    /// One token.
    async fn get(&self, id: TokenId) -> Result<Option<Token>, StoreError>;
    /// Newest first.
    async fn list(&self, filter: TokenFilter, page: Page) -> Result<Paged<Token>, StoreError>;
    /// Adds a token with the hash of its first secret.
    async fn create(&self, token: &Token, hash: TokenHash) -> Result<(), StoreError>;
    /// Reads, patches and writes in one transaction. `None`: no such token.
    async fn patch(
        &self,
        id: TokenId,
        patch: &TokenPatch,
        now: Timestamp,
    ) -> Result<Option<Token>, StoreError>;
    /// Revokes every active token of a project.
    async fn revoke_all(&self, project: ProjectId, now: Timestamp) -> Result<RevokeCounts, StoreError>;
    /// Gives a new secret; all older ones stop working at `old_valid_until` at the latest.
    async fn rotate(
        &self,
        id: TokenId,
        hash: TokenHash,
        obfuscated: &str,
        old_valid_until: Timestamp,
    ) -> Result<Option<Token>, StoreError>;
}
