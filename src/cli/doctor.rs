//! `llm-proxy doctor`: what is wrong, and what to do.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::api::Api;
use super::source::Source;
use super::{Failure, Global, output};
use crate::app::doctor::{Finding, Verdict, examine};
use crate::config::{OnProxyListener, Settings};
use crate::domain::Secret;

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// A token of the proxy: why does it not work? The running server is asked.
    #[arg(long, env = "PROXY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// Runs `doctor`.
pub fn run(global: &Global, arguments: &DoctorArguments) -> Result<(), Failure> {
    let mut source = Source::of(global)?;
    source.needs_management_token = true;
    let findings = match source.load() {
        Ok(loaded) => {
            let settings = &loaded.settings;
            let pid = running_pid(settings);
            let mut findings = examine(&loaded, pid)?;
            findings.push(server(settings, pid));
            findings.extend(reverse_proxy(settings));
            if let Some(token) = &arguments.token {
                findings.push(credential(settings, token));
            }
            findings
        }
        Err(errors) => vec![Finding::failure(
            "configuration",
            errors.to_string(),
            "correct it; `llm-proxy config check` says the same",
        )],
    };
    tell(global, &findings)
}

fn tell(global: &Global, findings: &[Finding]) -> Result<(), Failure> {
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    let (failures, warnings) = (count(Verdict::Failure), count(Verdict::Warning));
    if global.json {
        let list: Vec<Value> = findings
            .iter()
            .map(|one| {
                json!({"check": one.check, "verdict": one.verdict.as_str(), "found": one.found, "remedy": one.remedy})
            })
            .collect();
        output::json(&json!({"findings": list, "failures": failures, "warnings": warnings}))?;
    } else {
        for one in findings {
            output::line(&format!(
                "{:7}  {}: {}",
                one.verdict.as_str(),
                one.check,
                one.found
            ))?;
            if !one.remedy.is_empty() {
                output::line(&format!("         -> {}", one.remedy))?;
            }
        }
        output::line(&format!("{failures} failures, {warnings} warnings"))?;
    }
    if failures == 0 {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

/// The pid of the server that holds the state directory now.
fn running_pid(settings: &Settings) -> Option<u32> {
    use crate::store::state_dir::{LockError, ProcessLock};
    let lock = settings.server.state_dir.join("llm-proxy.lock");
    if !lock.exists() {
        return None;
    }
    match ProcessLock::acquire(&lock) {
        Err(LockError::Held { pid, .. }) => pid.parse().ok(),
        _ => None,
    }
}

fn server(settings: &Settings, pid: Option<u32>) -> Finding {
    let Some(pid) = pid else {
        return Finding::warning(
            "server",
            "none runs with this configuration",
            "llm-proxy server -c FILE",
        );
    };
    let base = Api::address_of(settings);
    let answer = Api::new(&base, None).map(|api| api.patient(Duration::from_secs(3)).get("/ready"));
    match answer {
        Ok(Ok(answer)) if answer.status == 200 && answer.body["status"] == "ready" => {
            Finding::good("server", format!("pid {pid} is ready at {base}"))
        }
        Ok(Ok(answer)) => Finding::failure(
            "server",
            format!("pid {pid} at {base} is not ready: {}", answer.body),
            "the reason names the part that is away; see the check of that part above",
        ),
        Ok(Err(error)) => Finding::failure(
            "server",
            format!("pid {pid} runs and does not answer: {error}"),
            "see its log; `management.listen` may differ from the running one",
        ),
        Err(_) => Finding::failure(
            "server",
            format!("`{base}` is no address"),
            "correct `management.listen`",
        ),
    }
}

/// A reverse proxy on this machine looks like a local user to `on_proxy_listener: local`.
fn reverse_proxy(settings: &Settings) -> Option<Finding> {
    let ours = |port: u16| settings.server.listen.iter().any(|address| address.port == port);
    let taken = [80, 443].into_iter().find(|port| {
        !ours(*port)
            && std::net::TcpListener::bind(("0.0.0.0", *port))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    })?;
    (settings.management.on_proxy_listener == OnProxyListener::Local).then(|| {
        Finding::warning(
            "own paths",
            format!("something else listens on port {taken}, and `management.on_proxy_listener` is `local`"),
            "a reverse proxy in front can look like a local user: set it to `off`",
        )
    })
}

/// Asks the running proxy for its model list with the token: it refuses a token as it refuses any request.
fn credential(settings: &Settings, token: &str) -> Finding {
    let check = "token";
    let Some(listen) = settings.server.listen.first() else {
        return Finding::failure(check, "there is no proxy listener", "set `server.listen`");
    };
    let base = Api::reachable(listen);
    let asked = Api::new(&base, Some(Secret::new(token)))
        .map(|api| api.patient(Duration::from_secs(10)).get("/v1/models"));
    match asked {
        Ok(Ok(answer)) if answer.status == 200 => {
            let models = answer.body["data"].as_array().map_or(0, Vec::len);
            Finding::good(check, format!("it works, and may ask for {models} listed models"))
        }
        Ok(Ok(answer)) => {
            let error = &answer.body["error"];
            let code = error["code"].as_str().unwrap_or("none");
            let remedy = match code {
                "token_expired" | "token_inactive" => "make a new one: llm-proxy manage token generate",
                "token_not_found" => {
                    "see that it was copied whole, and that this is the server which made it"
                }
                "invalid_token" => "it is too short or too long to be a token",
                "project_inactive" => {
                    "activate its project: llm-proxy manage project update ID --active true"
                }
                "ip_not_allowed" => "use it from an address in its `allowed_ips`, or change these",
                "endpoint_not_allowed" => {
                    "it works for other paths: its `allowed_endpoints` leave the model list out"
                }
                "rate_limit_exceeded" => "wait, or raise the limit",
                _ => "see docs/contract.md for the code",
            };
            let said = error["message"].as_str().unwrap_or_default();
            Finding::failure(
                check,
                format!("status {}, `{code}`: {said}", answer.status),
                remedy,
            )
        }
        Ok(Err(error)) => Finding::failure(check, error.to_string(), "start the server; it alone can tell"),
        Err(_) => Finding::failure(
            check,
            format!("`{base}` cannot be asked"),
            "correct `server.listen`",
        ),
    }
}
