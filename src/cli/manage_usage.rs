//! `llm-proxy manage usage`: what was used and what it cost.

use clap::Args;
use http::Method;
use serde_json::Value;

use super::Failure;
use super::api::Api;
use super::manage::Shown;
use super::manage_audit::encoded;

/// What `manage usage` adds up, or lists.
#[derive(Debug, Args)]
pub struct UsageArguments {
    /// Add up by these, with commas between them: `project`, `token`, `model`, `provider`, `day`.
    #[arg(long, value_name = "GROUPS", default_value = "model")]
    group_by: String,
    /// Not over before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    start_time: Option<String>,
    /// Over before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    end_time: Option<String>,
    /// The records themselves, newest first.
    #[arg(long)]
    records: bool,
    /// Records of this project.
    #[arg(long, requires = "records")]
    project_id: Option<String>,
    /// Records of this token.
    #[arg(long, requires = "records")]
    token_id: Option<String>,
    /// Records of this request.
    #[arg(long, requires = "records")]
    request_id: Option<String>,
    /// Which page of the records, from 1.
    #[arg(long, requires = "records", default_value_t = 1)]
    page: u32,
    /// Records a page, at most 100.
    #[arg(long, requires = "records", default_value_t = 20)]
    page_size: u32,
}

/// Runs `manage usage`.
pub fn run(api: &Api, shown: Shown, arguments: &UsageArguments) -> Result<(), Failure> {
    let mut pairs = vec![
        ("start_time", arguments.start_time.clone()),
        ("end_time", arguments.end_time.clone()),
    ];
    let path = if arguments.records {
        pairs.extend([
            ("project_id", arguments.project_id.clone()),
            ("token_id", arguments.token_id.clone()),
            ("request_id", arguments.request_id.clone()),
            ("page", Some(arguments.page.to_string())),
            ("page_size", Some(arguments.page_size.to_string())),
        ]);
        "/manage/usage/records"
    } else {
        pairs.push(("group_by", Some(arguments.group_by.clone())));
        "/manage/usage"
    };
    let query: Vec<String> = pairs
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))))
        .collect();
    let answer = api.ask(&Method::GET, &format!("{path}?{}", query.join("&")), None)?;
    if shown.is_json() {
        return shown.object(&answer);
    }
    if arguments.records {
        return shown.list(
            &answer,
            &[
                ("Time", "/finished_at"),
                ("Model", "/model"),
                ("Provider", "/provider"),
                ("Status", "/status"),
                ("Prompt", "/prompt_tokens"),
                ("Completion", "/completion_tokens"),
                ("USD", "/cost_usd"),
                ("Estimated", "/estimated"),
                ("Cut", "/cut"),
                ("Request", "/request_id"),
            ],
        );
    }
    let groups = [
        ("Project", "/project"),
        ("Token", "/token"),
        ("Model", "/model"),
        ("Provider", "/provider"),
        ("Day", "/day"),
    ];
    let asked: Vec<&str> = arguments.group_by.split(',').map(str::trim).collect();
    let columns: Vec<(&str, &str)> = groups
        .into_iter()
        .filter(|(_, pointer)| asked.contains(&&pointer[1..]))
        .chain([
            ("Requests", "/requests"),
            ("Prompt", "/prompt_tokens"),
            ("Completion", "/completion_tokens"),
            ("USD", "/cost_usd"),
            ("Estimated", "/estimated"),
            ("Cut", "/cut"),
        ])
        .collect();
    shown.list(answer.get("data").unwrap_or(&Value::Null), &columns)
}
