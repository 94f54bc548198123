//! `llm-proxy reload`: through the management API, else by SIGHUP and the result file.

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::Method;
use serde_json::Value;

use super::api::{Api, ApiFailure};
use super::source::Source;
use super::{Failure, Global, output};

/// How long the result of a SIGHUP is waited for.
const RESULT_WAIT: Duration = Duration::from_secs(10);

/// Runs `reload`.
pub fn run(global: &Global) -> Result<(), Failure> {
    match Api::find(global).map(|api| api.ask(&Method::POST, "/manage/config/reload", None)) {
        Ok(Ok(outcome)) => told(global, &outcome),
        Ok(Err(ApiFailure::Refused { status, message })) if status != 404 => {
            Err(Failure::Failed(format!("the configuration was not taken over: {message}")))
        }
        // the API cannot be used: the process itself can be asked
        Ok(Err(_)) | Err(_) => by_signal(global),
    }
}

fn told(global: &Global, outcome: &Value) -> Result<(), Failure> {
    if global.json {
        return output::json(outcome);
    }
    output::line("the configuration was taken over")?;
    for key in outcome.get("process_only").and_then(Value::as_array).into_iter().flatten() {
        output::line(&format!("needs a new process: {}", key.as_str().unwrap_or_default()))?;
    }
    Ok(())
}

fn by_signal(global: &Global) -> Result<(), Failure> {
    // a broken file must not keep the running process from saying so itself
    let state_dir = match Source::of(global)?.load() {
        Ok(loaded) => loaded.settings.server.state_dir,
        Err(errors) => {
            output::error(&format!("the configuration cannot be used:\n{errors}"), global.json);
            return Err(Failure::Reported);
        }
    };
    let pid_file = state_dir.join("llm-proxy.lock");
    let pid = std::fs::read_to_string(&pid_file)
        .ok()
        .and_then(|text| text.trim().lines().next().and_then(|line| line.trim().parse::<i32>().ok()))
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| Failure::Failed(format!("no running server is known in `{}`", state_dir.display())))?;
    let result_file = state_dir.join("reload-result.json");
    let before = modified(&result_file);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP)
        .map_err(|error| Failure::Failed(format!("the server (pid {}) cannot be told: {error}", pid.as_raw_nonzero())))?;
    let mut waited = Duration::ZERO;
    while waited < RESULT_WAIT {
        std::thread::sleep(Duration::from_millis(50));
        waited += Duration::from_millis(50);
        if modified(&result_file) == before {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&result_file) else { continue };
        let Ok(outcome) = serde_json::from_str::<Value>(&text) else { continue };
        let errors: Vec<&str> =
            outcome.get("errors").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        if errors.is_empty() {
            return told(global, &outcome);
        }
        return Err(Failure::Failed(format!("the configuration was not taken over: {}", errors.join("\n"))));
    }
    Err(Failure::Failed("the server was told, but said nothing about it in time; see its log".to_owned()))
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
