//! What of the control plane a reload may change, and the tokens that open it.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::Secret;

/// The actor that the main management token stands for.
pub const MAIN_ACTOR: &str = "management_api";

/// The live settings; swapped whole.
#[derive(Debug, Clone)]
pub struct ManagementSettings {
    /// Who may come in.
    pub tokens: ManagementTokens,
    /// Whether the metrics paths exist.
    pub metrics_enabled: bool,
    /// The JSON metrics' path; Prometheus' is below it at `/prometheus`.
    pub metrics_path: String,
    /// Where the sidecar listens, if it does. On a loopback address its metrics need no bearer.
    pub sidecar: Option<SocketAddr>,
}

/// What the bearer of a management token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Every GET but audit.
    Viewer,
    /// The metrics paths.
    Metrics,
}

impl Role {
    /// Its word in configuration and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
            Self::Metrics => "metrics",
        }
    }
}

/// The management tokens, by SHA-256 alone.
#[derive(Clone, Default)]
pub struct ManagementTokens {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    role: Role,
    hash: [u8; 32],
}

/// Whose token was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The actor in audit events.
    pub actor: String,
    /// What it may do.
    pub role: Role,
}

impl ManagementTokens {
    /// The main token (`management.token`), which is an admin's.
    pub fn main(token: &Secret) -> Self {
        Self::default().and(MAIN_ACTOR, token, Role::Admin)
    }

    /// One more of `management.tokens`.
    pub fn and(mut self, name: &str, token: &Secret, role: Role) -> Self {
        self.entries.push(Entry {
            name: name.to_owned(),
            role,
            hash: hash_of(token.expose()),
        });
        self
    }

    /// Whose token `presented` is. Every entry is compared in full, whichever matches.
    pub fn find(&self, presented: &str) -> Option<Bearer> {
        let hash = hash_of(presented);
        let mut found = None;
        for entry in &self.entries {
            if bool::from(entry.hash.ct_eq(&hash)) && found.is_none() {
                found = Some(entry);
            }
        }
        found.map(|entry| Bearer {
            actor: entry.name.clone(),
            role: entry.role,
        })
    }
}

impl std::fmt::Debug for ManagementTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|entry| (&entry.name, entry.role)))
            .finish()
    }
}

fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_whole_text_and_never_printed() {
        let tokens = ManagementTokens::main(&Secret::new("main-secret-text")).and(
            "grafana",
            &Secret::new("other-secret-text"),
            Role::Metrics,
        );
        assert_eq!(tokens.find("main-secret-text").unwrap().actor, "management_api");
        assert_eq!(tokens.find("other-secret-text").unwrap().role, Role::Metrics);
        for wrong in ["", "main", "main-secret-tex", "main-secret-text "] {
            assert_eq!(tokens.find(wrong), None, "{wrong}");
        }
        assert!(!format!("{tokens:?}").contains("secret"));
    }
}
