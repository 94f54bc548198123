//! `llm-proxy healthcheck`: exits by `/ready`, for container engines and scripts.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::api::Api;
use super::source::Source;
use super::{Failure, Global, output};

/// Flags of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArguments {
    /// Where to ask; else the configuration's sidecar, or the proxy listener when there is none.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Longest wait, in seconds.
    #[arg(long, default_value_t = 4, value_name = "SECONDS")]
    timeout: u64,
}

/// Runs `healthcheck`.
pub fn run(global: &Global, arguments: &HealthcheckArguments) -> Result<(), Failure> {
    let base = match (&arguments.url, &global.manage_api_base_url) {
        (Some(url), _) | (None, Some(url)) => url.clone(),
        (None, None) => Api::address_of(&Source::of(global)?.load_or_report(global.json)?.settings),
    };
    let api = Api::new(&base, None)?.patient(Duration::from_secs(arguments.timeout.max(1)));
    let answer = api.get("/ready");
    let (ready, detail) = match &answer {
        Ok(answer) => (answer.status == 200, answer.body.to_string()),
        Err(failure) => (false, failure.to_string()),
    };
    if global.json {
        output::json(&json!({"ready": ready, "url": base, "detail": detail}))?;
    } else {
        output::line(&format!(
            "{}: {detail}",
            if ready { "ready" } else { "not ready" }
        ))?;
    }
    if ready { Ok(()) } else { Err(Failure::Reported) }
}
