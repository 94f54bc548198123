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
    let api = match Api::find(global) {
        Ok(api) => api,
        // the file cannot be used and its faults are printed: the server would say the same
        Err(Failure::Reported) => return Err(Failure::Reported),
        Err(_) => return by_signal(global),
    };
    match api.ask(&Method::POST, "/manage/config/reload", None) {
        Ok(outcome) => told(global, &outcome),
        Err(ApiFailure::Refused { status, message }) if status != 404 => Err(Failure::Failed(format!(
            "the configuration was not taken over: {message}"
        ))),
        // the API cannot be used: the process itself can be asked
        Err(_) => by_signal(global),
    }
}

fn told(global: &Global, outcome: &Value) -> Result<(), Failure> {
    if global.json {
        return output::json(outcome);
    }
    output::line("the configuration was taken over")?;
    for key in outcome
        .get("process_only")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        output::line(&format!(
            "needs a new process: {}",
            key.as_str().unwrap_or_default()
        ))?;
    }
    Ok(())
}

fn by_signal(global: &Global) -> Result<(), Failure> {
    let state_dir = Source::of(global)?
        .load_or_report(global.json)?
        .settings
        .server
        .state_dir;
    let pid = running_pid(&state_dir)
        .ok_or_else(|| Failure::Failed(format!("no server is running on `{}`", state_dir.display())))?;
    let result_file = state_dir.join("reload-result.json");
    let before = modified(&result_file);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).map_err(|error| {
        Failure::Failed(format!(
            "the server (pid {}) cannot be told: {error}",
            pid.as_raw_nonzero()
        ))
    })?;
    let mut waited = Duration::ZERO;
    while waited < RESULT_WAIT {
        std::thread::sleep(Duration::from_millis(50));
        waited += Duration::from_millis(50);
        if modified(&result_file) == before {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&result_file) else {
            continue;
        };
        let Ok(outcome) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        if outcome.get("ok") == Some(&Value::Bool(true)) {
            return told(global, &outcome);
        }
        let why = outcome
            .get("error")
            .and_then(Value::as_str)
            .unwrap_or("see the log");
        return Err(Failure::Failed(format!(
            "the configuration was not taken over: {why}"
        )));
    }
    Err(Failure::Failed(
        "the server was told, but said nothing about it in time; see its log".to_owned(),
    ))
}

/// Whether a server runs with this state directory.
pub fn is_running(state_dir: &Path) -> bool {
    running_pid(state_dir).is_some()
}

/// The server that holds the lock of a state directory. A lock that nobody holds names a process that is gone, and
/// its number may be another's by now.
fn running_pid(state_dir: &Path) -> Option<rustix::process::Pid> {
    let path = state_dir.join("llm-proxy.lock");
    let file = std::fs::File::open(&path).ok()?;
    if file.try_lock().is_ok() {
        return None;
    }
    let text = std::fs::read_to_string(&path).ok()?;
    rustix::process::Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}
