//! Who a request acts for: a token and its project as one immutable value.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::domain::crypto::{SealError, Sealer};
use crate::domain::{
    Budget, Denial, DenialCode, EndpointPattern, Glob, Limits, ProjectId, Secret, Timestamp, TokenId,
};
use crate::store::StoredPrincipal;

/// A token that was found in the store, with everything a request needs to know of it and its project.
/// Counters and times of use are not here: they change, this does not.
#[derive(Debug)]
pub struct Principal {
    /// The token.
    pub token_id: TokenId,
    /// Its project.
    pub project_id: ProjectId,
    /// The token's id as text, for logs and keys.
    pub token_id_text: Arc<str>,
    /// The project's id as text, for logs, labels and cache keys.
    pub project_id_text: Arc<str>,
    /// The project's name.
    pub project_name: String,
    /// The token's secret, obfuscated.
    pub obfuscated: String,
    /// The end of the token or of the secret that was sent (rotation), whichever comes first.
    pub expires_at: Timestamp,
    /// Whether the token is not revoked.
    pub token_is_active: bool,
    /// Whether the project is active.
    pub project_is_active: bool,
    /// How many client requests it may make in all.
    pub max_requests: Option<NonZeroU64>,
    /// The token's own limits.
    pub token_limits: Limits,
    /// The project's own limits.
    pub project_limits: Limits,
    /// The token's own budget.
    pub token_budget: Option<Budget>,
    /// The project's own budget.
    pub project_budget: Option<Budget>,
    /// Models the token may ask for; empty = all.
    pub token_allowed_models: Vec<Glob>,
    /// Models the project may ask for; empty = all.
    pub project_allowed_models: Vec<Glob>,
    /// The project's own keys, by provider name, opened; an error if one cannot be.
    pub provider_keys: BTreeMap<String, Result<Secret, SealError>>,
    allowed_endpoints: Vec<EndpointPattern>,
    allowed_ips: Vec<ipnet::IpNet>,
}

impl Principal {
    /// Makes one of what the store holds, opening the project's keys.
    pub fn from_stored(stored: StoredPrincipal, sealer: &Sealer) -> Self {
        let StoredPrincipal {
            token,
            project,
            secret_expires_at,
        } = stored;
        Self {
            token_id: token.id,
            project_id: project.id,
            token_id_text: token.id.to_string().into(),
            project_id_text: project.id.to_string().into(),
            project_name: project.name,
            obfuscated: token.obfuscated,
            expires_at: secret_expires_at.map_or(token.expires_at, |end| end.min(token.expires_at)),
            token_is_active: token.is_active,
            project_is_active: project.is_active,
            max_requests: token.max_requests,
            token_limits: token.limits,
            project_limits: project.limits,
            token_budget: token.budget,
            project_budget: project.budget,
            token_allowed_models: token.allowed_models,
            project_allowed_models: project.allowed_models,
            provider_keys: project
                .provider_keys
                .into_iter()
                .map(|(provider, key)| (provider, sealer.open(&key.sealed)))
                .collect(),
            allowed_endpoints: token
                .allowed_endpoints
                .iter()
                .map(|p| EndpointPattern::new(p))
                .collect(),
            allowed_ips: token.allowed_ips,
        }
    }

    /// Whether the token works at `now`: it is neither revoked nor expired, and its project is active.
    ///
    /// # Errors
    /// `token_inactive`, `token_expired`, `project_inactive`, in this order.
    pub fn check_alive(&self, now: Timestamp) -> Result<(), Denial> {
        if !self.token_is_active {
            return Err(Denial::new(
                DenialCode::TokenInactive,
                "this token was revoked; ask for a new one",
            ));
        }
        if now >= self.expires_at {
            return Err(Denial::new(
                DenialCode::TokenExpired,
                format!("this token expired at `{}`; ask for a new one", self.expires_at),
            ));
        }
        if !self.project_is_active {
            return Err(Denial::new(
                DenialCode::ProjectInactive,
                "the project of this token is inactive; its operator can activate it",
            ));
        }
        Ok(())
    }

    /// Whether the token may be used from this address.
    ///
    /// # Errors
    /// `ip_not_allowed`.
    pub fn check_ip(&self, client: IpAddr) -> Result<(), Denial> {
        let client = client.to_canonical();
        if self.allowed_ips.is_empty() || self.allowed_ips.iter().any(|net| net.contains(&client)) {
            return Ok(());
        }
        Err(Denial::new(
            DenialCode::IpNotAllowed,
            format!("this token may not be used from `{client}`; its `allowed_ips` do not contain it"),
        ))
    }

    /// Whether the token may call this path: decoded, in normal form, without query, in its form below `/v1`
    /// whichever alias the client used. A rule matches whole segments and everything below; a segment
    /// may hold `*`.
    ///
    /// # Errors
    /// `endpoint_not_allowed`.
    pub fn check_endpoint(&self, path: &str) -> Result<(), Denial> {
        if self.allowed_endpoints.is_empty() || self.allowed_endpoints.iter().any(|p| p.matches(path)) {
            return Ok(());
        }
        let rules: Vec<String> = self
            .allowed_endpoints
            .iter()
            .take(5)
            .map(|rule| format!("`{}`", rule.shown()))
            .collect();
        Err(Denial::new(
            DenialCode::EndpointNotAllowed,
            format!(
                "this token may not call this path; its `allowed_endpoints` are {}",
                rules.join(", ")
            ),
        ))
    }

    /// Whether token and project both allow a model that can be named by any of `names`
    /// (for `provider/model`: that and `model`).
    pub fn allows_model(&self, names: &[&str]) -> bool {
        [&self.token_allowed_models, &self.project_allowed_models]
            .into_iter()
            .all(|allowed| allowed.is_empty() || names.iter().any(|name| Glob::any(allowed, name)))
    }

    /// Whether token or project restricts models, so that a request must name one.
    pub fn restricts_models(&self) -> bool {
        !self.token_allowed_models.is_empty() || !self.project_allowed_models.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests::stored;

    fn principal(change: impl FnOnce(&mut StoredPrincipal)) -> Principal {
        let mut stored = stored(1);
        change(&mut stored);
        Principal::from_stored(stored, &Sealer::plain())
    }

    #[test]
    fn an_endpoint_rule_matches_whole_segments_and_what_is_below() {
        let principal = principal(|stored| {
            stored.token.allowed_endpoints = vec![
                "/v1/chat/completions".into(),
                "/v1/models".into(),
                "/v1/files/*/content".into(),
            ];
        });
        let table = [
            ("/v1/chat/completions", true),
            ("/v1/models", true),
            ("/v1/models/gpt-4o", true),
            ("/v1/modelsXYZ", false),
            ("/v1/chat", false),
            ("/v1/files/file-1/content", true),
            ("/v1/files/file-1", false),
            ("/", false),
        ];
        for (path, allowed) in table {
            assert_eq!(principal.check_endpoint(path).is_ok(), allowed, "{path}");
        }
        let denial = principal.check_endpoint("/v1/embeddings").unwrap_err();
        assert_eq!(denial.code, DenialCode::EndpointNotAllowed);
        assert!(denial.message.contains("`/v1/chat/completions`"));
    }

    #[test]
    fn an_address_outside_allowed_ips_is_refused() {
        let principal = principal(|stored| {
            stored.token.allowed_ips = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        });
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", true),
            ("192.0.2.1", false),
        ] {
            assert_eq!(
                principal.check_ip(address.parse().unwrap()).is_ok(),
                allowed,
                "{address}"
            );
        }
    }

    #[test]
    fn token_and_project_must_both_allow_the_model() {
        let principal = principal(|stored| {
            stored.token.allowed_models = vec![Glob::new("gpt-*")];
            stored.project.allowed_models = vec![Glob::new("*-mini"), Glob::new("openai/gpt-4o")];
        });
        assert!(principal.restricts_models());
        assert!(principal.allows_model(&["gpt-4o-mini"]));
        assert!(!principal.allows_model(&["gpt-4o"]));
        assert!(!principal.allows_model(&["claude-mini"]));
        assert!(principal.allows_model(&["openai/gpt-4o", "gpt-4o"]));
    }

    #[test]
    fn a_key_that_cannot_be_opened_is_kept_as_that_error() {
        let principal = principal(|stored| {
            let key = |sealed: &str| crate::domain::project::ProviderKey {
                sealed: Secret::new(sealed),
                obfuscated: "***".into(),
            };
            stored
                .project
                .provider_keys
                .insert("openai".into(), key("sk-provider-key"));
            stored
                .project
                .provider_keys
                .insert("anthropic".into(), key("enc:v1:AAAA"));
        });
        assert_eq!(
            principal.provider_keys["openai"].as_ref().unwrap().expose(),
            "sk-provider-key"
        );
        assert_eq!(principal.provider_keys["anthropic"], Err(SealError::NoKey));
        assert!(!format!("{principal:?}").contains("sk-provider-key"));
    }
}
