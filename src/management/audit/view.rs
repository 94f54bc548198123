//! An audit event as the API shows it.

use schemars::JsonSchema;
use serde::Serialize;

use super::super::openapi::shapes::{Id, Outcome, Time};
use crate::domain::audit::{AuditEvent, AuditOutcome};
use crate::domain::ids::AuditId;
use crate::domain::{ProjectId, Timestamp, TokenId};

/// The shape of `GET /manage/audit/{id}` and of each event in the list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AuditEvent")]
pub struct AuditView<'a> {
    #[schemars(with = "String")]
    id: AuditId,
    #[schemars(with = "Time")]
    timestamp: Timestamp,
    action: &'a str,
    actor: &'a str,
    #[schemars(with = "Outcome")]
    outcome: AuditOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Id>")]
    project_id: Option<ProjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    client_ip: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Id>")]
    token_id: Option<TokenId>,
    /// A JSON object as text, as clients of the old program expect it.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
}

impl<'a> AuditView<'a> {
    /// What is shown of `event`.
    pub fn of(event: &'a AuditEvent) -> Self {
        Self {
            id: event.id,
            timestamp: event.timestamp,
            action: &event.action,
            actor: &event.actor,
            outcome: event.outcome,
            project_id: event.project_id,
            request_id: event.request_id.as_deref(),
            correlation_id: event.correlation_id.as_deref(),
            client_ip: event.client_ip,
            method: event.method.as_deref(),
            path: event.path.as_deref(),
            user_agent: event.user_agent.as_deref(),
            reason: event.reason.as_deref(),
            token_id: event.token_id,
            metadata: (!event.metadata.is_empty())
                .then(|| serde_json::to_string(&event.metadata).unwrap_or_default()),
        }
    }
}
