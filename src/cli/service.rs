//! `llm-proxy service`: the systemd unit, put in place, looked at, and taken away.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Global, output};
use crate::domain::crypto::random_bytes;

const UNIT: &str = include_str!("../../systemd/llm-proxy.service");
const CONFIGURATION: &str = include_str!("../../conf/production.yaml");
const NAME: &str = "llm-proxy.service";

/// `service …`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Put program, unit, configuration and secrets in place, and start the service.
    Install(ServiceArguments),
    /// Say whether it is installed, enabled and running; exit 1 when it does not run.
    Status(ServiceArguments),
    /// Stop the service and take the unit away; configuration and data stay.
    Uninstall(ServiceArguments),
}

/// Where a service is, or is to be.
#[derive(Debug, Args)]
pub struct ServiceArguments {
    /// Below this folder instead of `/`: for packages and images. Nothing is started there.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print what would be written and run, and do none of it.
    #[arg(long)]
    dry_run: bool,
}

/// Runs `service`.
pub fn run(global: &Global, command: &ServiceCommand) -> Result<(), Failure> {
    match command {
        ServiceCommand::Install(arguments) => install(&Place::of(arguments)?),
        ServiceCommand::Status(arguments) => status(global, &Place::of(arguments)?),
        ServiceCommand::Uninstall(arguments) => uninstall(&Place::of(arguments)?),
    }
}

struct Place {
    root: PathBuf,
    dry_run: bool,
}

impl Place {
    fn of(arguments: &ServiceArguments) -> Result<Self, Failure> {
        if !arguments.root.is_absolute() {
            return Err(Failure::Usage("`--root` must be an absolute path".to_owned()));
        }
        Ok(Self {
            root: arguments.root.clone(),
            dry_run: arguments.dry_run,
        })
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    fn unit(&self) -> PathBuf {
        self.path("etc/systemd/system/llm-proxy.service")
    }

    /// Whether this is the running system, where services can be started.
    fn is_live(&self) -> bool {
        self.root == Path::new("/") && !self.dry_run
    }

    /// Writes a file unless it is there; configuration and secrets are the operator's.
    fn write(&self, path: &Path, text: &[u8], mode: u32, replace: bool) -> Result<(), Failure> {
        if path.exists() && !replace {
            return output::line(&format!("kept      {}", path.display()));
        }
        output::line(&format!("written   {} ({mode:o})", path.display()))?;
        if self.dry_run {
            return Ok(());
        }
        let failed =
            |error: std::io::Error| Failure::Failed(format!("`{}`: {error}{}", path.display(), hint(&error)));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        // beside and renamed over: a program that runs is not written into
        let unfinished = path.with_extension("unfinished");
        std::fs::write(&unfinished, text).map_err(failed)?;
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        std::fs::rename(&unfinished, path).map_err(failed)
    }

    /// Runs `systemctl` on the running system, elsewhere says what is to be run.
    fn systemctl(&self, arguments: &[&str]) -> Result<(), Failure> {
        let line = ["systemctl", &arguments.join(" ")].join(" ");
        if !self.is_live() {
            return output::line(&format!("to be run {line}"));
        }
        output::line(&format!("run       {line}"))?;
        match Command::new("systemctl").args(arguments).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Failed(format!(
                "`{line}` failed ({status}); `journalctl -u llm-proxy` says why"
            ))),
            Err(error) => Err(Failure::Failed(format!(
                "`{line}`: {error}; is this a system with systemd?"
            ))),
        }
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        "; run it as root"
    } else {
        ""
    }
}

fn install(place: &Place) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let target = place.path("usr/local/bin/llm-proxy");
    if std::fs::canonicalize(&target).ok() != std::fs::canonicalize(&program).ok() {
        place.write(&target, &std::fs::read(&program)?, 0o755, true)?;
    }
    place.write(&place.unit(), UNIT.as_bytes(), 0o644, true)?;
    place.write(
        &place.path("etc/llm-proxy/llm-proxy.yaml"),
        CONFIGURATION.as_bytes(),
        0o644,
        false,
    )?;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random_bytes::<32>()?);
    let environment = format!(
        "# Secrets of the service; read by systemd, never by other users.\n\
         MANAGEMENT_TOKEN={token}\n\
         OPENAI_API_KEY=\n\
         ANTHROPIC_API_KEY=\n"
    );
    let secrets = place.path("etc/llm-proxy/environment");
    place.write(&secrets, environment.as_bytes(), 0o600, false)?;
    place.systemctl(&["daemon-reload"])?;
    if has_provider_key(&secrets) {
        place.systemctl(&["enable", "--now", NAME])?;
        return output::line("the service runs; `llm-proxy service status` looks at it");
    }
    place.systemctl(&["enable", NAME])?;
    output::line(&format!(
        "put a provider's key into {}, then: systemctl start {NAME}",
        secrets.display()
    ))
}

fn has_provider_key(secrets: &Path) -> bool {
    std::fs::read_to_string(secrets).is_ok_and(|text| {
        let keys = ["OPENAI_API_KEY=", "ANTHROPIC_API_KEY="];
        text.lines().any(|line| {
            keys.iter().any(|key| {
                line.strip_prefix(key)
                    .is_some_and(|value| !value.trim().is_empty())
            })
        })
    })
}

fn status(global: &Global, place: &Place) -> Result<(), Failure> {
    let installed = place.unit().exists();
    let asked = |word: &str| {
        let answer = Command::new("systemctl").args([word, NAME]).output();
        answer.map_or_else(
            |_| "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let (active, enabled) = if installed && place.is_live() {
        (asked("is-active"), asked("is-enabled"))
    } else {
        ("unknown".to_owned(), "unknown".to_owned())
    };
    if global.json {
        output::json(
            &json!({"installed": installed, "unit": place.unit(), "active": active, "enabled": enabled}),
        )?;
    } else {
        let word = if installed { "installed" } else { "not installed" };
        output::line(&format!("unit     {word}: {}", place.unit().display()))?;
        output::line(&format!("active   {active}"))?;
        output::line(&format!("enabled  {enabled}"))?;
    }
    if active == "active" {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

fn uninstall(place: &Place) -> Result<(), Failure> {
    let unit = place.unit();
    if !unit.exists() {
        return Err(Failure::Failed(format!(
            "no service is installed: there is no `{}`",
            unit.display()
        )));
    }
    place.systemctl(&["disable", "--now", NAME])?;
    output::line(&format!("removed   {}", unit.display()))?;
    if !place.dry_run {
        std::fs::remove_file(&unit)
            .map_err(|error| Failure::Failed(format!("`{}`: {error}{}", unit.display(), hint(&error))))?;
    }
    place.systemctl(&["daemon-reload"])?;
    for stays in ["etc/llm-proxy", "var/lib/llm-proxy", "usr/local/bin/llm-proxy"] {
        output::line(&format!("stays     {}", place.path(stays).display()))?;
    }
    Ok(())
}
