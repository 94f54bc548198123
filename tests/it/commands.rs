//! Commands around a server: setting it up, keeping its data, talking through it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::edge::{MANAGEMENT_TOKEN, PROGRAM, Store, TestEdge, text};
use crate::provider::Provider;
use crate::servers::Postgres;

fn all(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn good(output: Output) -> String {
    assert!(output.status.success(), "{}", all(&output));
    all(&output)
}

#[track_caller]
fn json_of(output: Output) -> Value {
    let text = good(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

/// A command with the configuration of `edge`.
fn run(edge: &TestEdge, arguments: &[&str]) -> Output {
    let config = edge.config_path();
    edge.run(&[arguments, &["-c", config.to_str().expect("a path")]].concat())
}

/// A command of the management API of `edge`.
fn managed(edge: &TestEdge, arguments: &[&str]) -> Output {
    let base = format!("http://{}", edge.sidecar().address);
    edge.run(
        &[
            arguments,
            &[
                "--manage-api-base-url",
                &base,
                "--management-token",
                MANAGEMENT_TOKEN,
            ],
        ]
        .concat(),
    )
}

/// The program in an empty environment.
fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().current_dir(folder).args(arguments);
    command
}

#[test]
fn chat_streams_answers_and_names_what_is_refused() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let proxy = format!("http://{}", edge.anonymous().address);
    for verb in [&["chat"][..], &["openai", "chat"]] {
        for stream in ["--stream=true", "--stream=false"] {
            let arguments = [
                verb,
                &[
                    "hello",
                    "--proxy",
                    &proxy,
                    "--token",
                    &user.secret,
                    "--model",
                    "gpt-a",
                    stream,
                ],
            ]
            .concat();
            let said = good(edge.run(&arguments));
            assert!(said.contains("hello from the provider"), "{said}");
        }
    }
    let mut talk = program(edge.folder(), &["chat", "--proxy", &proxy, "--model", "gpt-a"])
        .env("PROXY_TOKEN", &user.secret)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    talk.stdin
        .take()
        .expect("its input")
        .write_all(b"one\ntwo\nexit\nthree\n")
        .expect("to talk");
    let said = good(talk.wait_with_output().expect("its answer"));
    assert_eq!(said.matches("hello from the provider").count(), 2, "{said}");
    let last = provider.last().json();
    let said_before = last["messages"].as_array().expect("messages").len();
    assert_eq!(said_before, 4, "system, one, its answer, two: {last}");
    let refused = edge.run(&[
        "chat",
        "x",
        "--proxy",
        &proxy,
        "--token",
        "sk-nobody-knows-this-one",
    ]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(all(&refused).contains("401"), "{}", all(&refused));
}

#[test]
fn client_settings_and_completions_are_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    for client in [
        "openai",
        "anthropic",
        "claude-code",
        "codex",
        "continue",
        "open-webui",
        "azure",
        "curl",
    ] {
        let arguments = [
            "client-config",
            client,
            "--proxy",
            "http://edge:8080/v1",
            "--token",
            "sk-token-of-the-test",
        ];
        let said = good(program(folder.path(), &arguments).output().expect("the program"));
        assert!(
            said.contains("http://edge:8080") && said.contains("sk-token-of-the-test"),
            "{client}: {said}"
        );
        assert!(!said.contains("/v1/v1"), "{client}: {said}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let said = good(
            program(folder.path(), &["completions", shell])
                .output()
                .expect("the program"),
        );
        assert!(said.contains("quickstart"), "{shell}");
    }
}

#[test]
fn audit_events_are_listed_filtered_and_shown() {
    let edge = TestEdge::start(&Provider::start());
    let project = edge.project(json!({"name": "audited"}));
    let list = good(managed(&edge, &["manage", "audit"]));
    assert!(
        list.contains("project.create") && list.contains("Outcome"),
        "{list}"
    );
    let events = json_of(managed(
        &edge,
        &[
            "manage",
            "audit",
            "--json",
            "--action",
            "project.create",
            "--project-id",
            &project.id,
        ],
    ));
    let event = events["events"][0].clone();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(1), "{events}");
    let one = json_of(managed(
        &edge,
        &["manage", "audit", "--json", &text(&event, "id")],
    ));
    assert_eq!(one["id"], event["id"]);
    let none = json_of(managed(
        &edge,
        &["manage", "audit", "--json", "--search", "no such & thing"],
    ));
    assert_eq!(none["events"], json!([]));
    assert_eq!(
        managed(&edge, &["manage", "audit", "--outcome", "perhaps"])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn setup_writes_a_configuration_that_serves() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let bare = program(folder.path(), &["setup"]).output().expect("the program");
    assert_eq!(bare.status.code(), Some(2), "{}", all(&bare));
    assert!(all(&bare).contains("--openai-key"));
    let arguments = [
        "setup",
        "--json",
        "--openai-key",
        "sk-key-of-the-operator-0123456789",
        "--project",
        "first",
        "--duration",
        "2",
    ];
    let made = json_of(program(folder.path(), &arguments).output().expect("the program"));
    assert!(text(&made, "token").starts_with("sk-"), "{made}");
    let conf = folder.path().join("conf");
    for file in ["management.token", "encryption.key", "openai.key"] {
        let mode = std::fs::metadata(conf.join(file))
            .expect(file)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let yaml = std::fs::read_to_string(conf.join("llm-proxy.yaml")).expect("the configuration");
    assert!(!yaml.contains("sk-key-of"), "{yaml}");
    good(
        program(folder.path(), &["config", "check"])
            .output()
            .expect("the program"),
    );
    let again = program(folder.path(), &arguments).output().expect("the program");
    assert_eq!(again.status.code(), Some(1));
    assert!(all(&again).contains("exists already"));

    let other = tempfile::tempdir().expect("a folder");
    let mut asked = program(other.path(), &["setup", "--interactive", "-c", "edge.yaml"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let answers = b"sk-typed-by-a-person-0123456789\n\n127.0.0.1:9099\n\n\nyes\nmine\n12\n";
    asked
        .stdin
        .take()
        .expect("its input")
        .write_all(answers)
        .expect("answers");
    let said = good(asked.wait_with_output().expect("its answer"));
    assert!(said.contains("project: mine") && said.contains("sk-"), "{said}");
    let yaml = std::fs::read_to_string(other.path().join("edge.yaml")).expect("the configuration");
    assert!(yaml.contains("127.0.0.1:9099"), "{yaml}");
}

#[test]
fn backup_of_a_running_server_holds_every_grant_and_comes_back() {
    let provider = Provider::start();
    let mut edge = TestEdge::start(&provider);
    let limited = edge.token(json!({"max_requests": 5}));
    for _ in 0..3 {
        limited.chat("gpt-a").expect(200);
    }
    let file = edge.folder().join("copy.db");
    let name = file.to_str().expect("a path").to_owned();
    let said = good(run(&edge, &["backup", &name]));
    assert!(said.contains("copy.db"), "{said}");
    assert_eq!(
        run(&edge, &["backup", &name]).status.code(),
        Some(1),
        "it is not written over"
    );
    let late = edge.token(json!({}));
    limited.chat("gpt-a").expect(200);

    let refused = run(&edge, &["restore", &name]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        all(&refused).contains("in use by the process"),
        "{}",
        all(&refused)
    );
    edge.stop();
    let junk = edge.folder().join("junk.db");
    std::fs::write(&junk, "no database").expect("a file");
    assert_eq!(
        run(&edge, &["restore", junk.to_str().expect("a path")])
            .status
            .code(),
        Some(1)
    );
    let said = good(run(&edge, &["restore", &name]));
    assert!(said.contains("before-restore"), "{said}");
    edge.start_again();
    let limited = limited.at(&edge.anonymous());
    limited.chat("gpt-a").expect(200);
    limited.chat("gpt-a").expect(200);
    limited.chat("gpt-a").refused(429, "token_quota_exceeded");
    late.at(&edge.anonymous())
        .chat("gpt-a")
        .refused(401, "token_not_found");
}

#[test]
fn backup_of_postgres_comes_back() {
    let store = Store::Url(Postgres::shared().new_database());
    let mut edge = TestEdge::plan(&Provider::start()).on(&store).start();
    let user = edge.token(json!({}));
    let file = edge.folder().join("copy.dump");
    let name = file.to_str().expect("a path").to_owned();
    good(run(&edge, &["backup", &name]));
    let late = edge.token(json!({}));
    edge.stop();
    good(run(&edge, &["restore", &name]));
    edge.start_again();
    user.at(&edge.anonymous()).chat("gpt-a").expect(200);
    late.at(&edge.anonymous())
        .chat("gpt-a")
        .refused(401, "token_not_found");
}

#[test]
fn codes_are_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| program(folder.path(), arguments).output().expect("the program");
    assert!(good(run(&["explain", "token_expired"])).contains("manage token generate"));
    assert!(good(run(&["explain"])).contains("circuit_open"));
    assert_eq!(json_of(run(&["explain", "--json", "overloaded"]))["status"], 503);
    assert_eq!(run(&["explain", "no_such_code"]).status.code(), Some(2));
}

#[test]
fn a_benchmark_counts_times_statuses_and_hits() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"cache": {"enabled": true}}))
        .start();
    let user = edge.token(json!({}));
    let base = format!("http://{}", edge.proxy);
    let run = |more: &[&str]| {
        let mut arguments = vec![
            "benchmark",
            "--json",
            "--base-url",
            &base,
            "--token",
            &user.secret,
        ];
        arguments.extend(more);
        let output = edge.run(&arguments);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        (output.status.code(), report)
    };
    let (code, report) = run(&["-r", "40", "-n", "4"]);
    assert_eq!(
        (code, &report["requests"], &report["statuses"]["200"]),
        (Some(0), &json!(40), &json!(40)),
        "{report}"
    );
    assert_eq!(provider.count(), 40);
    assert!(
        report["milliseconds"]["p99"].as_f64().is_some_and(|ms| ms > 0.0),
        "{report}"
    );
    let (code, report) = run(&["-r", "5", "--cache-ttl", "60"]);
    assert_eq!((code, &report["cache_hits"]), (Some(0), &json!(4)), "{report}");
    let (code, report) = run(&["-r", "2", "--endpoint", "/v1/nowhere"]);
    assert_eq!(
        (code, &report["statuses"]["404"]),
        (Some(1), &json!(2)),
        "{report}"
    );
    assert_eq!(
        edge.run(&["benchmark", "--token", "x", "-r", "0"]).status.code(),
        Some(2)
    );
}

#[test]
fn migrate_version_is_a_number_and_down_is_not_supported() {
    let edge = TestEdge::start(&Provider::start());
    let config = edge.config_path();
    let run = |word: &str| edge.run(&["migrate", word, "-c", config.to_str().expect("a path")]);
    let version = String::from_utf8_lossy(&run("version").stdout).trim().to_owned();
    assert!(
        version.len() == 4 && version.parse::<u32>().is_ok_and(|number| number >= 2),
        "{version}"
    );
    let down = run("down");
    assert_eq!(down.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&down.stderr).contains("restore"));
}
