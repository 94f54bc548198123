//! Makes the audit event of a management request.

use axum::response::Response;
use http::{StatusCode, header};

use super::super::answer::AuditNotes;
use super::super::own_paths::Head;
use super::super::request_ids::RequestIds;
use crate::domain::Timestamp;
use crate::domain::audit::{AuditEvent, AuditOutcome};

/// The word of the action that a route stands for; travels with the response.
#[derive(Debug, Clone, Copy)]
pub struct Action(pub &'static str);

/// What happened, in the words of an event.
pub struct Happening<'a> {
    /// The action's word.
    pub action: &'a str,
    /// Who did it.
    pub actor: &'a str,
    /// How it ended.
    pub outcome: AuditOutcome,
}

/// An event with everything that the head says.
pub(in super::super) fn event_of(
    now: Timestamp,
    happening: Happening<'_>,
    head: &Head,
    ids: &RequestIds,
) -> AuditEvent {
    const LONGEST_USER_AGENT: usize = 256;
    const LONGEST_PATH: usize = 512;
    let mut event = AuditEvent::new(now, happening.action, happening.actor, happening.outcome);
    event.request_id = Some(ids.request_id.clone());
    event.correlation_id = Some(ids.correlation_id.clone());
    event.client_ip = Some(head.client.to_canonical());
    event.method = Some(head.method.as_str().chars().take(32).collect());
    event.path = Some(head.uri.path().chars().take(LONGEST_PATH).collect());
    event.user_agent = head.headers.get(header::USER_AGENT).map(|value| {
        String::from_utf8_lossy(value.as_bytes())
            .chars()
            .take(LONGEST_USER_AGENT)
            .collect()
    });
    let mut segments = head.uri.path().split('/').skip(2);
    match (segments.next(), segments.next()) {
        (Some("projects"), Some(id)) => event.project_id = id.parse().ok(),
        (Some("tokens"), Some(id)) => event.token_id = id.parse().ok(),
        _ => {}
    }
    event
}

/// The event of an answered request; `None` when it was for no route.
pub(in super::super) fn event_of_response(
    now: Timestamp,
    head: &Head,
    ids: &RequestIds,
    actor: &str,
    response: &Response,
) -> Option<AuditEvent> {
    let Action(action) = response.extensions().get::<Action>().copied()?;
    let happening = Happening {
        action,
        actor,
        outcome: outcome_of(response.status()),
    };
    let mut event = event_of(now, happening, head, ids);
    if let Some(notes) = response.extensions().get::<AuditNotes>() {
        event.project_id = notes.project_id.or(event.project_id);
        event.token_id = notes.token_id.or(event.token_id);
        event.reason.clone_from(&notes.reason);
        event.metadata.clone_from(&notes.metadata);
    }
    Some(event)
}

fn outcome_of(status: StatusCode) -> AuditOutcome {
    match status.as_u16() {
        401 | 403 => AuditOutcome::Denied,
        500.. => AuditOutcome::Error,
        400..500 => AuditOutcome::Failure,
        _ => AuditOutcome::Success,
    }
}
