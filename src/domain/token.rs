//! A token: the credential a client sends. It expires, can be revoked, limited and budgeted.

use std::fmt;
use std::num::NonZeroU64;

use sha2::{Digest, Sha256};

use super::{Budget, Glob, Limits, ProjectId, Secret, Timestamp, TokenId, obfuscate};

/// The SHA-256 of a credential: the only form in which a token's secret is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a credential.
    pub fn of(credential: &str) -> Self {
        Self(Sha256::digest(credential.as_bytes()).into())
    }

    /// From its stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// A new secret: what is shown once, and what is kept of it.
#[derive(Debug, Clone)]
pub struct NewSecret {
    /// Shown once, then forgotten.
    pub secret: Secret,
    /// Kept for looking it up.
    pub hash: TokenHash,
    /// Kept for people to recognise it.
    pub obfuscated: String,
}

impl NewSecret {
    /// `sk-` and the base64url form of 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        use base64::Engine as _;
        let text = format!(
            "sk-{}",
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
        );
        Self {
            hash: TokenHash::of(&text),
            obfuscated: obfuscate::token(&text),
            secret: Secret::new(text),
        }
    }
}

/// A token as stored. Its current secret is known by hash only.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Identity; not the secret.
    pub id: TokenId,
    /// The owner.
    pub project_id: ProjectId,
    /// A name for people.
    pub name: Option<String>,
    /// The current secret, obfuscated.
    pub obfuscated: String,
    /// When it stops working; never later than at creation.
    pub expires_at: Timestamp,
    /// Revoked or not.
    pub is_active: bool,
    /// When it was revoked.
    pub deactivated_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last sent a request that was admitted.
    pub last_used_at: Option<Timestamp>,
    /// Client requests that were let through to a provider; for limited tokens the grants taken.
    pub request_count: u64,
    /// Answers from the cache.
    pub cache_hit_count: u64,
    /// How many client requests it may make in all.
    pub max_requests: Option<NonZeroU64>,
    /// Models it may ask for; empty = all.
    pub allowed_models: Vec<Glob>,
    /// Paths it may call; empty = all.
    pub allowed_endpoints: Vec<String>,
    /// Addresses it may come from; empty = all.
    pub allowed_ips: Vec<ipnet::IpNet>,
    /// Rates and concurrency.
    pub limits: Limits,
    /// Money (kept, not enforced in this version).
    pub budget: Option<Budget>,
    /// The owner's own notes, a JSON object.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}
