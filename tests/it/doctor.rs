//! `doctor` finds each trouble, and names cause and remedy.

use std::net::TcpListener;
use std::process::Output;

use serde_json::{Value, json};

use crate::edge::{Plan, TestEdge};
use crate::provider::{Provider, Reply};
use crate::servers::{free_port, tls_provider};

fn all(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn examine(edge: &TestEdge, more: &[&str]) -> (Option<i32>, Value) {
    let config = edge.config_path();
    let output = edge.run(
        &[
            &["doctor", "--json", "-c", config.to_str().expect("a path")],
            more,
        ]
        .concat(),
    );
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {}", all(&output)));
    (output.status.code(), report)
}

/// The finding of `check` that is not as it should be.
#[track_caller]
fn trouble(report: &Value, check: &str) -> String {
    let list = report["findings"].as_array().expect("findings");
    let found = list.iter().find(|one| {
        one["check"].as_str().is_some_and(|name| name.starts_with(check)) && one["verdict"] != "ok"
    });
    let found = found.unwrap_or_else(|| panic!("nothing is wrong with `{check}`: {report:#}"));
    assert!(
        found["remedy"].as_str().is_some_and(|text| !text.is_empty()),
        "{found}"
    );
    format!(
        "{}: {}",
        found["verdict"].as_str().unwrap_or_default(),
        found["found"].as_str().unwrap_or_default()
    )
}

#[test]
fn a_healthy_server_has_no_failures() {
    let edge = TestEdge::start(&Provider::start());
    let user = edge.token(json!({}));
    let port = edge.anonymous().address.port();
    let sidecar = edge.sidecar().address.port();
    let mut edge = edge;
    edge.save_config(json!({"server": {"listen": format!("127.0.0.1:{port}")}, "management": {"listen": format!("127.0.0.1:{sidecar}")}}));
    let (code, report) = examine(&edge, &["--token", &user.secret]);
    assert_eq!((code, &report["failures"]), (Some(0), &json!(0)), "{report:#}");
    let modes = report["findings"]
        .as_array()
        .is_some_and(|list| list.iter().any(|one| one["check"] == "file modes"));
    assert!(!modes, "the configuration itself may be read: {report:#}");
    let text = report.to_string();
    assert!(text.contains("is ready") && text.contains("it works"), "{text}");
    assert!(!text.contains(&user.secret), "{text}");

    let (code, report) = examine(&edge, &["--token", "sk-nobody-ever-made-this-token"]);
    assert_eq!(code, Some(1));
    assert!(trouble(&report, "token").contains("token_not_found"));
    edge.admin().revoke(&user.id);
    let (_, report) = examine(&edge, &["--token", &user.secret]);
    assert!(trouble(&report, "token").contains("token_inactive"));
}

#[test]
fn each_planted_trouble_is_found() {
    let provider = Provider::start();
    let refusing = Provider::start();
    refusing.always(Reply::json(401, &json!({"error": {"code": "invalid_api_key"}})));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_at = taken.local_addr().expect("its address").to_string();
    let nobody = free_port();
    for (over, check, says) in [
        (
            json!({"server": {"listen": taken_at}}),
            "proxy listener",
            "address already in use",
        ),
        (
            json!({"management": {"listen": taken_at}}),
            "management listener",
            "address already in use",
        ),
        (
            json!({"management": {"token": null}}),
            "configuration",
            "MANAGEMENT_TOKEN environment variable is required",
        ),
        (json!({"server": {"listn": ":1"}}), "configuration", "`listen`"),
        (
            json!({"providers": {"openai": {"base_url": format!("http://127.0.0.1:{nobody}")}}}),
            "provider openai",
            "nobody listens",
        ),
        (
            json!({"providers": {"openai": {"base_url": "http://no-such-host.invalid"}}}),
            "provider openai",
            "has no address",
        ),
        (
            json!({"providers": {"openai": {"base_url": refusing.url()}}}),
            "provider openai",
            "refuses the key",
        ),
        (
            json!({"providers": {"openai": {"api_key": null}}}),
            "provider openai",
            "no key is configured",
        ),
        (
            json!({"redis": {"url": format!("redis://127.0.0.1:{nobody}")}}),
            "redis",
            "no answer",
        ),
        (
            json!({"database": {"url": format!("postgres://u@127.0.0.1:{nobody}/d")}}),
            "store (postgres)",
            "unavailable",
        ),
        (
            json!({"database": {"path": "/proc/no/such.db"}, "server": {"state_dir": "./state"}}),
            "server",
            "none runs",
        ),
    ] {
        let edge = TestEdge::plan(&provider).with(over.clone()).prepare();
        let (code, report) = examine(&edge, &[]);
        let found = trouble(&report, check);
        assert!(found.contains(says), "{over}: {found}");
        assert_eq!(
            code,
            Some(i32::from(found.starts_with("failure"))),
            "{over}: {report:#}"
        );
    }
}

#[test]
fn a_damaged_database_and_open_file_modes_are_found() {
    use std::os::unix::fs::PermissionsExt as _;
    let edge = TestEdge::plan(&Provider::start()).prepare();
    std::fs::create_dir_all(edge.database_path().parent().expect("a folder")).expect("a folder");
    std::fs::write(
        edge.database_path(),
        "this is no database, whatever its name says",
    )
    .expect("a file");
    std::fs::set_permissions(edge.database_path(), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let (code, report) = examine(&edge, &[]);
    assert_eq!(code, Some(1));
    assert!(trouble(&report, "store").contains("damaged"), "{report:#}");
    assert!(
        trouble(&report, "file modes").contains("every user"),
        "{report:#}"
    );
    let nothing = Plan::new(json!({})).prepare();
    assert_eq!(nothing.run(&["doctor", "--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn tls_troubles_are_told_apart() {
    let provider = Provider::start();
    let (behind_tls, _) = tls_provider();
    let plain = provider.url().replace("http:", "https:");
    for (openai, says) in [
        (
            json!({"base_url": behind_tls}),
            "is of no authority that is trusted here",
        ),
        (
            json!({"base_url": plain, "timeouts": {"connect": "1s"}}),
            "does not speak TLS",
        ),
    ] {
        let edge = TestEdge::plan(&provider)
            .with(json!({"providers": {"openai": openai}}))
            .prepare();
        let (code, report) = examine(&edge, &[]);
        let found = trouble(&report, "provider openai");
        assert!(code == Some(1) && found.contains(says), "{found}");
    }
}
