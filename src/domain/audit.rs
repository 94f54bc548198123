//! Audit events: who did what, with which outcome.

use super::{ProjectId, Timestamp, TokenId, ids::AuditId};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was done.
    Success,
    /// It was tried and not done.
    Failure,
    /// It was refused.
    Denied,
    /// Something broke.
    Error,
}

impl AuditOutcome {
    /// Its word in API and store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }

    /// From its word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Success, Self::Failure, Self::Denied, Self::Error]
            .into_iter()
            .find(|o| o.as_str() == text)
    }
}

/// One event. Actions are words such as `project.create`; actors `management_api`, `system` or a role's name.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// Identity.
    pub id: AuditId,
    /// When.
    pub timestamp: Timestamp,
    /// What: `project.create`, `token.revoke`, `management.denied`, `proxy.denied` …
    pub action: String,
    /// Who.
    pub actor: String,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The project concerned.
    pub project_id: Option<ProjectId>,
    /// The token concerned.
    pub token_id: Option<TokenId>,
    /// The request's id, as answered.
    pub request_id: Option<String>,
    /// The correlation id, as answered.
    pub correlation_id: Option<String>,
    /// The client's address.
    pub client_ip: Option<std::net::IpAddr>,
    /// HTTP method.
    pub method: Option<String>,
    /// Path without query.
    pub path: Option<String>,
    /// User agent, cut to 256 characters.
    pub user_agent: Option<String>,
    /// Why it ended so.
    pub reason: Option<String>,
    /// More, a JSON object without secrets.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

impl AuditEvent {
    /// An event with the required parts only.
    pub fn new(timestamp: Timestamp, action: &str, actor: &str, outcome: AuditOutcome) -> Self {
        Self {
            id: AuditId::random(),
            timestamp,
            action: action.to_owned(),
            actor: actor.to_owned(),
            outcome,
            project_id: None,
            token_id: None,
            request_id: None,
            correlation_id: None,
            client_ip: None,
            method: None,
            path: None,
            user_agent: None,
            reason: None,
            metadata: serde_json::Map::new(),
        }
    }
}

/// Where audit events go. `offer` never blocks: a full queue counts the loss.
pub trait AuditSink: Send + Sync + 'static {
    /// Takes an event for file and store.
    fn offer(&self, event: AuditEvent);
}
