//! `service install|status|uninstall`, into a folder instead of a system.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn service(root: &Path, arguments: &[&str]) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_llm-proxy"))
        .arg("service")
        .args(arguments)
        .arg("--root")
        .arg(root)
        .current_dir(root)
        .output()
        .expect("the program runs");
    (
        status.code().unwrap_or(-1),
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned(),
    )
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

/// What was installed can be used with what the unit gives it.
fn assert_starts_with_what_the_unit_gives(root: &Path, secrets: &str) {
    let at = |below: &str| root.join(below);
    let unit_text = std::fs::read_to_string(at("etc/systemd/system/llm-proxy.service")).expect("the unit");
    assert!(
        unit_text.contains("Environment=ENCRYPTION_KEY_FILE=")
            && unit_text.contains("EnvironmentFile=-/etc/llm-proxy/environment")
    );
    let key = at("encryption.key");
    std::fs::write(&key, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").expect("a key");
    let variables = secrets
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| !name.starts_with('#'));
    let output = Command::new(at("usr/local/bin/llm-proxy"))
        .args(["config", "check", "--config"])
        .arg(at("etc/llm-proxy/llm-proxy.yaml"))
        .env_clear()
        .envs(variables)
        .env("OPENAI_API_KEY", "sk-of-the-operator")
        .env("ENCRYPTION_KEY_FILE", &key)
        .env("MANAGEMENT_ON_PROXY_LISTENER", "off")
        .current_dir(root)
        .output()
        .expect("the copy runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_service_is_put_in_place_kept_and_taken_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let at = |below: &str| root.join(below);
    let (code, said) = service(root, &["install", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("to be run systemctl daemon-reload"), "{said}");
    assert_eq!(
        std::fs::read_dir(root).expect("the folder").count(),
        0,
        "a dry run writes nothing"
    );
    assert_eq!(service(root, &["status"]).0, 1);

    let (code, said) = service(root, &["install"]);
    assert_eq!(code, 0, "{said}");
    let unit = at("etc/systemd/system/llm-proxy.service");
    assert_eq!(
        std::fs::read_to_string(&unit).expect("the unit"),
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/llm-proxy.service"))
            .expect("the source")
    );
    assert_eq!(
        (mode(&unit), mode(&at("usr/local/bin/llm-proxy"))),
        (0o644, 0o755)
    );
    let secrets = at("etc/llm-proxy/environment");
    assert_eq!(mode(&secrets), 0o600);
    let text = std::fs::read_to_string(&secrets).expect("the secrets");
    let token = text
        .lines()
        .find_map(|line| line.strip_prefix("MANAGEMENT_TOKEN="))
        .expect("a token");
    assert!(token.len() >= 43 && !said.contains(token), "{said}");
    assert!(said.contains("put a provider's key into"), "{said}");
    let works = Command::new(at("usr/local/bin/llm-proxy"))
        .arg("version")
        .status()
        .expect("the copy runs");
    assert!(works.success());

    assert_starts_with_what_the_unit_gives(root, &text);

    // what the operator wrote stays; program and unit are replaced
    std::fs::write(at("etc/llm-proxy/llm-proxy.yaml"), "# mine\n").expect("a file");
    std::fs::write(&secrets, text.replace("OPENAI_API_KEY=", "OPENAI_API_KEY=sk-x")).expect("a file");
    std::fs::write(&unit, "old").expect("a file");
    let (code, said) = service(root, &["install"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        std::fs::read_to_string(at("etc/llm-proxy/llm-proxy.yaml")).expect("the file"),
        "# mine\n"
    );
    assert!(
        std::fs::read_to_string(&unit)
            .expect("the unit")
            .contains("ExecStart=")
    );
    assert!(
        said.contains("to be run systemctl enable --now llm-proxy.service"),
        "{said}"
    );

    let (code, said) = service(root, &["uninstall"]);
    assert_eq!(code, 0, "{said}");
    assert!(!unit.exists() && at("etc/llm-proxy/llm-proxy.yaml").exists() && secrets.exists());
    assert_eq!(service(root, &["uninstall"]).0, 1);
}
