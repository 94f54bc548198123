//! The encryption of provider keys at rest, and its rotation, beside a running server.

use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::edge::TestEdge;
use crate::for_both_stores;
use crate::provider::Provider;

const OWN_KEY: &str = "sk-own-key-of-the-project-4242";

fn key(fill: u8) -> String {
    STANDARD.encode([fill; 32])
}

fn all(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn encrypt(edge: &TestEdge, arguments: &[&str]) -> Output {
    let config = edge.config_path();
    let config = config.to_str().expect("a path");
    edge.run(&[&["migrate", "encrypt", "--json", "-c", config], arguments].concat())
}

#[track_caller]
fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {}", all(output)))
}

/// How many keys stand how, such as `current key 3, older key b 1`.
fn found(report: &Value) -> String {
    let list = report["found"].as_array().expect("a list");
    let parts: Vec<String> = list
        .iter()
        .map(|row| {
            let id = row["key_id"]
                .as_str()
                .map(|id| format!(" {id}"))
                .unwrap_or_default();
            format!(
                "{}{id} {}",
                row["standing"].as_str().unwrap_or_default(),
                row["provider_keys"]
            )
        })
        .collect();
    parts.join(", ")
}

for_both_stores! {
    fn keys_are_sealed_and_rotated_beside_a_running_server(store) {
        let provider = Provider::start();
        let mut edge = TestEdge::plan(&provider).on(store).start();
        let mut users = Vec::new();
        for _ in 0..3 {
            let project = edge.project(json!({"api_key": OWN_KEY}));
            users.push(edge.token_of(&project, json!({})));
        }
        let works = |edge: &TestEdge, users: &[crate::edge::TokenUser]| {
            for user in users {
                user.at(&edge.anonymous()).chat("gpt-a").expect(200);
                assert_eq!(provider.last().header("authorization"), Some(&*format!("Bearer {OWN_KEY}")));
            }
        };
        works(&edge, &users);
        assert_eq!(found(&report(&encrypt(&edge, &["--status"]))), "not sealed 3");
        assert_eq!(encrypt(&edge, &[]).status.code(), Some(1), "there is no key yet");

        edge.save_config(json!({"encryption": {"key": key(1)}}));
        let sealed = report(&encrypt(&edge, &[]));
        assert_eq!((found(&sealed), &sealed["sealed"]), ("not sealed 3".to_owned(), &json!(3)));
        edge.stop();
        edge.start_again();
        works(&edge, &users);

        edge.save_config(json!({"encryption": {"key": key(1), "keys": [{"id": "new", "key": key(2)}]}}));
        edge.stop();
        edge.start_again();
        works(&edge, &users);
        assert_eq!(found(&report(&encrypt(&edge, &["--status"]))), "older key 3");
        assert_eq!(report(&encrypt(&edge, &[]))["sealed"], 0, "they are sealed, with another key");
        let project = edge.project(json!({"api_key": OWN_KEY}));
        users.push(edge.token_of(&project, json!({})));
        let rotated = report(&encrypt(&edge, &["--rotate"]));
        assert_eq!((found(&rotated), &rotated["sealed"]), ("current key 1, older key 3".to_owned(), &json!(3)));
        works(&edge, &users);

        edge.save_config(json!({"encryption": {"key": null, "keys": [{"id": "new", "key": key(2)}]}}));
        edge.stop();
        edge.start_again();
        works(&edge, &users);
        assert_eq!(found(&report(&encrypt(&edge, &["--status"]))), "current key 4");
    }

    fn a_key_that_is_gone_is_named_and_is_no_401(store) {
        let provider = Provider::start();
        let with = |id: &str, fill: u8| json!({"encryption": {"keys": [{"id": id, "key": key(fill)}]}});
        let mut edge = TestEdge::plan(&provider).on(store).with(with("old", 1)).start();
        let project = edge.project(json!({"api_key": OWN_KEY}));
        let user = edge.token_of(&project, json!({}));
        user.chat("gpt-a").expect(200);
        edge.save_config(with("other", 2));
        edge.stop();
        edge.start_again();
        let answer = user.at(&edge.anonymous()).chat("gpt-a").refused(502, "upstream_auth_error");
        assert!(answer.text().contains("encryption.keys"), "{}", answer.text());
        assert_eq!(provider.count(), 1);
        let output = encrypt(&edge, &["--rotate"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(found(&report(&output)), "unreadable old 1");
        assert!(!all(&output).contains(&key(2)), "{}", all(&output));
        edge.admin().change_project(&project.id, json!({"api_key": OWN_KEY})).expect(200);
        user.at(&edge.anonymous()).chat("gpt-a").expect(200);
    }

    fn a_rotation_that_is_killed_is_begun_again(store) {
        let provider = Provider::start();
        let mut edge = TestEdge::plan(&provider).on(store).with(json!({"encryption": {"key": key(1)}})).start();
        let mut users = Vec::new();
        for _ in 0..40 {
            let project = edge.project(json!({"api_key": OWN_KEY}));
            users.push(edge.token_of(&project, json!({})));
        }
        edge.save_config(json!({"encryption": {"key": key(1), "keys": [{"id": "new", "key": key(2)}]}}));
        edge.stop();
        edge.start_again();
        let config = edge.config_path();
        for _ in 0..4 {
            let mut child = std::process::Command::new(crate::edge::PROGRAM)
                .args(["migrate", "encrypt", "--rotate", "-c", config.to_str().expect("a path")])
                .current_dir(edge.folder())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("the program");
            std::thread::sleep(std::time::Duration::from_millis(60));
            child.kill().expect("to kill it");
            child.wait().expect("its end");
        }
        for user in &users {
            user.at(&edge.anonymous()).chat("gpt-a").expect(200);
        }
        report(&encrypt(&edge, &["--rotate"]));
        assert_eq!(found(&report(&encrypt(&edge, &["--status"]))), "current key 40");
    }
}
