//! `config diff`, `config rollback` and `reload` without an API: the file against what is in force.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::TestEdge;
use crate::provider::Provider;
use crate::wait::wait_until;

fn config(edge: &TestEdge, arguments: &[&str]) -> (i32, String) {
    let path = edge.config_path();
    let mut all = vec!["config"];
    all.extend(arguments);
    all.extend(["-c", path.to_str().expect("a path")]);
    let output = edge.run(&all);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn level(edge: &TestEdge) -> Value {
    edge.admin().get("/manage/config").expect(200).json()["configuration"]["limits"]["default_token"]["rpm"]
        .clone()
}

fn rpm(number: u32) -> Value {
    json!({"limits": {"default_token": {"rpm": number}}})
}

#[test]
fn a_changed_file_is_told_from_what_is_in_force_and_can_be_taken_back() {
    let mut edge = TestEdge::plan(&Provider::start()).with(rpm(100)).start();
    assert_eq!(
        config(&edge, &["diff"]),
        (0, "the file says what is in force\n".to_owned())
    );
    edge.save_config(rpm(200));
    assert!(wait_until(Duration::from_secs(10), || level(&edge) == 200));
    let (code, list) = config(&edge, &["rollback", "--list"]);
    assert_eq!((code, list.lines().count()), (0, 3), "{list}");

    // back to what was before, and the running server takes it over
    let (code, said) = config(&edge, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    assert!(wait_until(Duration::from_secs(10), || level(&edge) == 100));
    let text = std::fs::read_to_string(edge.config_path()).expect("the file");
    assert!(text.contains("rpm: 100"), "{text}");
    // and forth again, by number
    let (code, said) = config(&edge, &["rollback", "--to", "2"]);
    assert_eq!(code, 0, "{said}");
    assert!(wait_until(Duration::from_secs(10), || level(&edge) == 200));
    assert_eq!(config(&edge, &["rollback", "--to", "99"]).0, 1);
}

#[test]
fn a_diff_names_keys_values_and_what_needs_a_new_process_but_no_secret() {
    let mut edge = TestEdge::plan(&Provider::start()).with(rpm(100)).start();
    edge.stop();
    edge.save_config(json!({
        "limits": {"default_token": {"rpm": 7}},
        "server": {"threads": 1},
        "providers": {"openai": {"api_key": "sk-another-key-that-nobody-may-see"}},
    }));
    let (code, said) = config(&edge, &["diff"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("limits.default_token.rpm: 100 -> 7\n"), "{said}");
    assert!(
        said.lines()
            .any(|line| line.starts_with("server.threads: ") && line.ends_with("(needs a new process)")),
        "{said}"
    );
    assert!(
        said.contains("providers.openai.api_key: ") && !said.contains("nobody-may-see"),
        "{said}"
    );
    let (code, said) = config(&edge, &["diff", "--json"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (code, said["changes"].as_array().map(Vec::len)),
        (1, Some(3)),
        "{said}"
    );
}

#[test]
fn a_file_that_cannot_be_used_is_rolled_back_to_what_runs() {
    let edge = TestEdge::plan(&Provider::start()).with(rpm(100)).start();
    let good = edge.config_text();
    let broken = good.replace("rpm: 100", "rpm: many");
    assert_ne!(good, broken);
    std::fs::write(edge.config_path(), broken).expect("a broken file");
    assert_eq!(config(&edge, &["check"]).0, 1);
    let (code, said) = config(&edge, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        std::fs::read_to_string(edge.config_path()).expect("the file"),
        good
    );
    assert_eq!(level(&edge), 100);
}

#[test]
fn a_reload_by_signal_says_what_became_of_it() {
    let edge = TestEdge::plan(&Provider::start())
        .with(rpm(100))
        .with(json!({"management": {"listen": ""}}))
        .start();
    let path = edge.config_path();
    let reload = || {
        edge.run(&[
            "reload",
            "-c",
            path.to_str().expect("a path"),
            "--manage-api-base-url",
            "http://127.0.0.1:9",
        ])
    };
    let output = reload();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let good = std::fs::read_to_string(&path).expect("the file");
    // readable for the command, but not for the server: it names a port that needs a new process and a missing file
    std::fs::write(&path, good.replace("rpm: 100", "rpm: 0")).expect("a bad file");
    let output = reload();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
