//! One audit event as one line of JSON.

use serde_json::{Map, Value};

use crate::domain::audit::AuditEvent;

/// Appends the line of `event`, with its line end.
pub fn append(event: &AuditEvent, lines: &mut Vec<u8>) {
    let start = lines.len();
    if let Err(error) = serde_json::to_writer(&mut *lines, &object_of(event)) {
        lines.truncate(start);
        log::error!("an audit event cannot be written as JSON: {error}");
        return;
    }
    lines.push(b'\n');
}

fn object_of(event: &AuditEvent) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.into());
        }
    };
    put("id", Some(event.id.to_string()));
    put("timestamp", Some(event.timestamp.to_rfc3339()));
    put("action", Some(event.action.clone()));
    put("actor", Some(event.actor.clone()));
    put("result", Some(event.outcome.as_str().to_owned()));
    put("project_id", event.project_id.map(|id| id.to_string()));
    put("token_id", event.token_id.map(|id| id.to_string()));
    put("request_id", event.request_id.clone());
    put("correlation_id", event.correlation_id.clone());
    put("client_ip", event.client_ip.map(|ip| ip.to_string()));
    let details = details_of(event);
    if !details.is_empty() {
        object.insert("details".to_owned(), details.into());
    }
    object
}

fn details_of(event: &AuditEvent) -> Map<String, Value> {
    let mut details = event.metadata.clone();
    let more = [
        ("http_method", &event.method),
        ("endpoint", &event.path),
        ("user_agent", &event.user_agent),
        ("error", &event.reason),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            details.insert(name.to_owned(), value.as_str().into());
        }
    }
    details
}
