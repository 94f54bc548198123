//! `llm-proxy manage audit`: who did what, newest first.

use clap::Args;
use http::Method;
use serde_json::Value;

use super::Failure;
use super::api::Api;
use super::manage::Shown;

/// Filters of `manage audit`; all must hold.
#[derive(Debug, Args)]
pub struct AuditArguments {
    /// One event, by its id.
    id: Option<String>,
    /// What was done, such as `token.create`.
    #[arg(long)]
    action: Option<String>,
    /// Who did it.
    #[arg(long)]
    actor: Option<String>,
    /// `success`, `failure`, `denied` or `error`.
    #[arg(long)]
    outcome: Option<String>,
    /// In which project.
    #[arg(long)]
    project_id: Option<String>,
    /// From which address.
    #[arg(long)]
    client_ip: Option<String>,
    /// In which request.
    #[arg(long)]
    request_id: Option<String>,
    /// Words anywhere in it.
    #[arg(long)]
    search: Option<String>,
    /// Not before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    start_time: Option<String>,
    /// Before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    end_time: Option<String>,
    /// Which page, from 1.
    #[arg(long, default_value_t = 1)]
    page: u32,
    /// Events a page, at most 100.
    #[arg(long, default_value_t = 20)]
    page_size: u32,
}

/// Runs `manage audit`.
pub fn run(api: &Api, shown: Shown, arguments: &AuditArguments) -> Result<(), Failure> {
    if let Some(id) = &arguments.id {
        return shown.object(&api.ask(&Method::GET, &format!("/manage/audit/{}", encoded(id)), None)?);
    }
    let mut query = format!("page={}&page_size={}", arguments.page, arguments.page_size);
    for (name, value) in [
        ("action", &arguments.action),
        ("actor", &arguments.actor),
        ("outcome", &arguments.outcome),
        ("project_id", &arguments.project_id),
        ("client_ip", &arguments.client_ip),
        ("request_id", &arguments.request_id),
        ("search", &arguments.search),
        ("start_time", &arguments.start_time),
        ("end_time", &arguments.end_time),
    ] {
        if let Some(value) = value {
            query = format!("{query}&{name}={}", encoded(value));
        }
    }
    let answer = api.ask(&Method::GET, &format!("/manage/audit?{query}"), None)?;
    if shown.is_json() {
        return shown.object(&answer);
    }
    let events = answer.get("events").unwrap_or(&Value::Null);
    shown.list(
        events,
        &[
            ("Time", "/timestamp"),
            ("Action", "/action"),
            ("Actor", "/actor"),
            ("Outcome", "/outcome"),
            ("Client", "/client_ip"),
            ("Project", "/project_id"),
            ("Reason", "/reason"),
            ("ID", "/id"),
        ],
    )
}

/// A value for a query or a path.
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
