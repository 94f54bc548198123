//! What is shipped beside the program: configurations, the unit, the image.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::edge::PROGRAM;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program with every variable that a shipped configuration may name.
fn program(folder: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().current_dir(folder).env("HOME", folder);
    for (name, value) in [
        ("MANAGEMENT_TOKEN", "management-bearer-of-the-bench"),
        ("OPENAI_API_KEY", "sk-key-from-the-environment"),
        ("ANTHROPIC_API_KEY", "sk-ant-key-from-the-environment"),
        ("DATABASE_URL", "postgres://llm_proxy@127.0.0.1/llm_proxy"),
        ("REDIS_URL", "redis://127.0.0.1:6379/0"),
        ("ENCRYPTION_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ] {
        command.env(name, value);
    }
    command
}

fn configurations() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("conf"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect()
}

#[test]
fn every_shipped_configuration_passes_its_own_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = configurations();
    for name in ["minimal", "reference", "production", "fleet"] {
        assert!(
            files.iter().any(|file| file.ends_with(format!("{name}.yaml"))),
            "conf/{name}.yaml is missing"
        );
    }
    for file in files {
        let output = program(folder.path())
            .args(["config", "check", "-c"])
            .arg(&file)
            .output()
            .expect("run the check");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{}: {said}", file.display());
    }
}

#[test]
fn shipped_configurations_for_many_users_keep_own_paths_off_the_proxy_listener() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["production", "fleet"] {
        let file = root().join(format!("conf/{name}.yaml"));
        let output = program(folder.path())
            .args(["config", "show", "--json", "-c"])
            .arg(&file)
            .output()
            .expect("run it");
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = shown.to_string();
        assert!(text.contains("\"on_proxy_listener\":\"off\""), "{name}: {text}");
        assert!(
            text.contains("\"drain_timeout\":\"600s\"") || text.contains("\"drain_timeout\":\"10m\""),
            "{name}: {text}"
        );
    }
}

#[test]
fn unit_passes_the_verification_of_systemd() {
    let unit = std::fs::read_to_string(root().join("systemd/llm-proxy.service")).expect("the unit");
    for line in [
        "Type=notify",
        "KillMode=mixed",
        "TimeoutStopSec=90",
        "ExecReload=",
    ] {
        assert!(unit.contains(line), "{line} is missing");
    }
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    // The program is not installed here: the unit is checked with the one that was built.
    let here = unit
        .replace("/usr/local/bin/llm-proxy", PROGRAM)
        .replace("/usr/bin/llm-proxy", PROGRAM);
    let path = folder.path().join("llm-proxy.service");
    std::fs::write(&path, here).expect("a copy of the unit");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .expect("run it");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("llm-proxy")).collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn image_runs_as_somebody_and_checks_its_health_by_the_program() {
    let file = std::fs::read_to_string(root().join("Dockerfile")).expect("the Dockerfile");
    for word in [
        "USER ",
        "HEALTHCHECK",
        "healthcheck",
        "VOLUME",
        "/app/data",
        "server",
        "WORKDIR /app",
    ] {
        assert!(file.contains(word), "`{word}` in the Dockerfile");
    }
    assert!(file.matches("FROM ").count() >= 2, "built in stages");
}

#[test]
fn readme_shows_the_minimal_configuration_as_it_is() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the readme");
    let minimal = std::fs::read_to_string(root().join("conf/minimal.yaml")).expect("the example");
    assert!(readme.contains(minimal.trim()), "README.md and conf/minimal.yaml differ");
}
