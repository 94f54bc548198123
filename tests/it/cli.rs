//! The commands: what they print and how they exit.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{MANAGEMENT_TOKEN, OPENAI_KEY, PROGRAM, Plan, Store, TestEdge, text};
use crate::for_both_stores;
use crate::provider::Provider;
use crate::servers::free_port;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn all(output: &Output) -> String {
    format!("{}{}", out(output), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", all(output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {}", all(output)))
}

#[test]
fn version_and_help_exit_0_and_bad_usage_exits_2() {
    let edge = TestEdge::plan(&Provider::start()).prepare();
    let version = edge.run(&["version"]);
    assert!(version.status.success() && out(&version).contains(env!("CARGO_PKG_VERSION")));
    assert!(json_of(&edge.run(&["version", "--json"]))["version"].is_string());
    assert!(edge.run(&["--help"]).status.success());
    for command in [
        "server",
        "quickstart",
        "config",
        "reload",
        "migrate",
        "manage",
        "healthcheck",
    ] {
        let help = edge.run(&[command, "--help"]);
        assert!(
            help.status.success() && out(&help).len() > 60,
            "{command}: {}",
            all(&help)
        );
    }
    assert_eq!(edge.run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(edge.run(&["server", "--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn config_check_lists_every_fault_with_its_place() {
    let edge = Plan::new(json!({}))
        .raw("server:\n  listn: :1\nlimits:\n  global: {rpm: -1}\n")
        .prepare();
    let config = edge.config_path();
    let output = edge.run(&["config", "check", "-c", config.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(1));
    let said = all(&output);
    assert!(
        said.contains(":2:3") && said.contains("listn") && said.contains("`listen`"),
        "{said}"
    );
    assert!(
        said.contains(":4:") && said.contains("limits.global.rpm"),
        "{said}"
    );
    let good = TestEdge::plan(&Provider::start()).prepare();
    let config = good.config_path();
    assert!(
        good.run(&["config", "check", "-c", config.to_str().expect("a path")])
            .status
            .success()
    );
    let gone = good.run(&["config", "check", "-c", "/no/such/file.yaml"]);
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn config_show_tells_the_effective_values_and_masks_secrets() {
    let edge = TestEdge::plan(&Provider::start())
        .env("REQUEST_TIMEOUT", "77s")
        .prepare();
    let config = edge.config_path();
    let output = edge.run(&["config", "show", "-c", config.to_str().expect("a path")]);
    assert!(output.status.success(), "{}", all(&output));
    let shown = out(&output);
    assert!(
        shown.contains("77s") || shown.contains("1m17s"),
        "the environment wins: {shown}"
    );
    assert!(
        shown.contains("stream_idle_timeout"),
        "defaults are shown: {shown}"
    );
    assert!(
        !shown.contains(MANAGEMENT_TOKEN) && !shown.contains(OPENAI_KEY),
        "{shown}"
    );
}

#[test]
fn keys_of_later_versions_are_accepted_off_and_refused_on() {
    let provider = Provider::start();
    let check = |over: Value| {
        let edge = TestEdge::plan(&provider).with(over).prepare();
        let config = edge.config_path();
        edge.run(&["config", "check", "-c", config.to_str().expect("a path")])
    };
    let off = check(json!({"server": {"proxy_protocol": "off"}, "ledger": {"retention": "400d"}}));
    assert!(off.status.success(), "{}", all(&off));
    let on = check(json!({"server": {"proxy_protocol": "v1v2"}}));
    assert_eq!(on.status.code(), Some(1));
    assert!(
        all(&on).contains("not supported in this version") && all(&on).contains("proxy_protocol"),
        "{}",
        all(&on)
    );
}

for_both_stores! {
    fn migrate_brings_the_schema_up_and_tells_its_state(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).prepare();
        let config = edge.config_path();
        let config = config.to_str().expect("a path");
        let before = edge.run(&["migrate", "status", "-c", config]);
        assert!(all(&before).contains("0001") || all(&before).contains("pending"), "{}", all(&before));
        let up = edge.run(&["migrate", "up", "-c", config]);
        assert!(up.status.success(), "{}", all(&up));
        let after = edge.run(&["migrate", "status", "-c", config]);
        assert!(after.status.success() && !all(&after).contains("pending"), "{}", all(&after));
        assert!(edge.run(&["migrate", "up", "-c", config]).status.success(), "twice is harmless");
    }

    fn manage_works_through_the_api(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let base = format!("http://{}", edge.management);
        let run = |arguments: &[&str]| {
            let common = ["--manage-api-base-url", &base, "--management-token", MANAGEMENT_TOKEN, "--json"];
            let all: Vec<&str> = ["manage"].iter().chain(arguments).chain(&common).copied().collect();
            edge.run(&all)
        };
        let project = json_of(&run(&["project", "create", "--name", "by hand", "--openai-key", "sk-key-given-by-hand-000"]));
        let id = text(&project, "id");
        assert_eq!(json_of(&run(&["project", "list"])).as_array().map(Vec::len), Some(1));
        assert_eq!(json_of(&run(&["project", "get", &id]))["name"], "by hand");
        json_of(&run(&["project", "update", &id, "--name", "renamed"]));
        let token = json_of(&run(&["token", "generate", "--project-id", &id, "--duration", "30"]));
        let user = crate::edge::TokenUser::new(&edge.anonymous(), &text(&token, "id"), &id, &text(&token, "token"));
        user.chat("gpt-a").expect(200);
        assert_eq!(json_of(&run(&["token", "list"])).as_array().map(Vec::len), Some(1));
        let revoked = run(&["token", "revoke", &user.id]);
        assert!(revoked.status.success(), "{}", all(&revoked));
        user.chat("gpt-a").refused(401, "token_inactive");
        json_of(&run(&["cache", "purge", "--method", "GET", "--url", "/v1/models"]));
        let missing = run(&["project", "get", "00000000-0000-4000-8000-000000000000"]);
        assert_eq!(missing.status.code(), Some(1));
        assert!(all(&missing).contains("project not found"), "{}", all(&missing));
    }
}

#[test]
fn manage_prints_a_table_for_people() {
    let edge = TestEdge::start(&Provider::start());
    edge.project(json!({"name": "seen in a table"}));
    let base = format!("http://{}", edge.management);
    let output = edge.run(&[
        "manage",
        "project",
        "list",
        "--manage-api-base-url",
        &base,
        "--management-token",
        MANAGEMENT_TOKEN,
    ]);
    assert!(output.status.success(), "{}", all(&output));
    assert!(
        out(&output).contains("seen in a table") && out(&output).contains("Name"),
        "{}",
        out(&output)
    );
}

#[test]
fn healthcheck_exits_by_readiness() {
    let mut edge = TestEdge::plan(&Provider::start())
        .with(json!({"management": {"listen": format!("127.0.0.1:{}", free_port())}}))
        .start();
    let config = edge.config_path();
    let config = config.to_str().expect("a path").to_owned();
    let up = edge.run(&["healthcheck", "-c", &config]);
    assert!(up.status.success(), "{}", all(&up));
    edge.stop();
    assert_eq!(edge.run(&["healthcheck", "-c", &config]).status.code(), Some(1));
}

#[test]
fn quickstart_streams_an_answer_and_prints_what_a_client_needs() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("conf")).expect("a folder");
    std::fs::write(
        folder.path().join("conf/llm-proxy.yaml"),
        "this: [is no configuration",
    )
    .expect("a file that lies around");
    let mut command = Command::new(PROGRAM);
    command
        .args(["quickstart", "--once"])
        .env_clear()
        .current_dir(folder.path());
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.path());
    command
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("MANAGEMENT_LISTEN_ADDR", "127.0.0.1:0");
    let from = std::time::Instant::now();
    let output = command.output().expect("run quickstart");
    assert!(output.status.success(), "{}", all(&output));
    assert!(from.elapsed() < Duration::from_secs(20));
    let said = out(&output);
    for word in ["sk-", "/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY", "demo"] {
        assert!(said.contains(word), "`{word}` in: {said}");
    }
    assert!(folder.path().join("data").is_dir(), "its data are below ./data");
}

#[test]
fn environment_overrides_the_file_and_bad_values_name_the_variable() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"limits": {"global": {"rpm": 1000}}}))
        .env("GLOBAL_RATE_LIMIT", "1")
        .start();
    let user = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    user.chat("gpt-a").refused(429, "rate_limit_exceeded");
    for (name, value) in [
        ("REQUEST_TIMEOUT", "soon"),
        ("DB_DRIVER", "mysql"),
        ("ADMIN_PASSWORD", "x"),
        ("MAX_REQUEST_SIZE", "lots"),
    ] {
        let output = TestEdge::plan(&provider).env(name, value).fails();
        assert_eq!(output.status.code(), Some(1));
        assert!(all(&output).contains(name), "{name}: {}", all(&output));
    }
}

#[test]
fn environment_alone_is_enough() {
    let provider = Provider::start();
    let text = "server:\n  listen: 127.0.0.1:0\n  state_dir: state\nmanagement:\n  listen: 127.0.0.1:0\n";
    let edge = Plan::new(json!({}))
        .raw(text)
        .env("MANAGEMENT_TOKEN", MANAGEMENT_TOKEN)
        .env("OPENAI_API_URL", &provider.url())
        .env("OPENAI_API_KEY", OPENAI_KEY)
        .env("DATABASE_PATH", "state/llm-proxy.db")
        .env("API_ENV", "production")
        .start();
    edge.token(json!({})).chat("gpt-a").expect(200);
    assert_eq!(
        provider.last().header("authorization"),
        Some(format!("Bearer {OPENAI_KEY}").as_str())
    );
    edge.wait_for_log("API_ENV");
}

#[test]
fn old_provider_file_works_as_it_is() {
    let provider = Provider::start();
    let text = format!(
        "default_api: openai\napis:\n  openai:\n    base_url: {}\n    allowed_endpoints:\n      - /v1/chat/completions\n      - /v1/models\n    allowed_methods: [GET, POST, OPTIONS]\n    timeouts:\n      request: 300s\n      response_header: 30s\n      idle_connection: 90s\n      flush_interval: 10ms\n    connection:\n      max_idle_conns: 100\n      max_idle_conns_per_host: 20\n    param_whitelist:\n      model: [gpt-4o, gpt-4o-*]\n",
        provider.url()
    );
    let mut edge = Plan::new(json!({}))
        .raw(&text)
        .env("MANAGEMENT_TOKEN", MANAGEMENT_TOKEN)
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("MANAGEMENT_LISTEN_ADDR", "127.0.0.1:0")
        .env("DATABASE_PATH", "state/llm-proxy.db")
        .prepare();
    edge.start_again();
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    user.chat("gpt-4o-mini").expect(200);
    user.chat("o1").refused(400, "param_not_allowed");
    user.post("/v1/embeddings", json!({"model": "gpt-4o", "input": "x"}))
        .refused(404, "endpoint_not_found");
}

#[test]
fn unknown_store_kind_is_never_started() {
    let output = TestEdge::plan(&Provider::start())
        .on(&Store::Url("postgres://127.0.0.1:1/x?sslmode=nonsense".into()))
        .fails();
    assert_eq!(output.status.code(), Some(1));
    assert!(all(&output).contains("sslmode"), "{}", all(&output));
}

#[test]
fn server_takes_its_variables_from_the_file_that_env_names() {
    let edge = TestEdge::plan(&Provider::start()).prepare();
    let refused = |file: &str| {
        let output = edge.run(&["server", "--env", file]);
        assert_eq!(output.status.code(), Some(1), "{}", all(&output));
        all(&output)
    };
    let missing = refused("no-such.env");
    assert!(
        missing.contains("no-such.env") && missing.contains("no such file"),
        "{missing}"
    );
    let write = |name: &str, text: &str| std::fs::write(edge.folder().join(name), text).expect("a file");
    write("broken.env", "A=1\nnonsense\n");
    let broken = refused("broken.env");
    assert!(
        broken.contains("broken.env") && broken.contains("line 2"),
        "{broken}"
    );
    write(".env", "LOG_LEVEL=of-no-use\n");
    write("other.env", "REQUEST_TIMEOUT=for-ever\n");
    let other = refused("other.env");
    assert!(
        other.contains("REQUEST_TIMEOUT") && !other.contains("LOG_LEVEL"),
        "{other}"
    );
}
