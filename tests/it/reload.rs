//! A configuration edit: noticed in every way it is made, whole or refused, never a failed request.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::provider::{Gate, Provider, Reply, chat_chunks};
use crate::wait::wait_until;

fn model(name: &str) -> Value {
    json!({"models": {name: {"targets": [{"provider": "openai", "model": "gpt-a"}]}}})
}

fn start() -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"unknown_models": "reject"}))
        .with(model("first"))
        .start();
    let user = edge.token(json!({}));
    user.chat("first").expect(200);
    user.chat("second").refused(404, "model_not_found");
    (provider, edge, user)
}

#[track_caller]
fn assert_holds(user: &TokenUser) {
    let holds = wait_until(Duration::from_secs(8), || user.chat("second").status == 200);
    assert!(holds, "the edit never holds");
    user.chat("first").expect(200);
}

#[test]
fn file_saved_in_place_is_noticed() {
    let (_provider, mut edge, user) = start();
    edge.save_config(model("second"));
    assert_holds(&user);
}

#[test]
fn file_replaced_by_rename_is_noticed_again_and_again() {
    let (_provider, mut edge, user) = start();
    for name in ["second", "third", "fourth"] {
        edge.set_config(model(name));
        let new = edge.folder().join("llm-proxy.yaml.new");
        std::fs::write(&new, edge.config_text()).expect("write the new file");
        std::fs::rename(&new, edge.config_path()).expect("replace the file");
        assert!(
            wait_until(Duration::from_secs(8), || user.chat(name).status == 200),
            "{name} never holds"
        );
    }
}

#[test]
fn symlink_swapped_like_a_kubernetes_volume_is_noticed() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"unknown_models": "reject"}))
        .with(model("first"));
    let mut edge = edge.prepare();
    let version = |edge: &TestEdge, name: &str| {
        let folder = edge.folder().join(name);
        std::fs::create_dir_all(&folder).expect("a version's folder");
        std::fs::write(folder.join("llm-proxy.yaml"), edge.config_text()).expect("a version");
    };
    let point = |edge: &TestEdge, name: &str| {
        let new = edge.folder().join("..data.new");
        std::os::unix::fs::symlink(name, &new).expect("a link");
        std::fs::rename(&new, edge.folder().join("..data")).expect("swap the link");
    };
    version(&edge, "v1");
    point(&edge, "v1");
    std::fs::remove_file(edge.config_path()).expect("make room");
    std::os::unix::fs::symlink("..data/llm-proxy.yaml", edge.config_path()).expect("a link");
    edge.start_again();
    let user = edge.token(json!({}));
    user.chat("first").expect(200);
    edge.set_config(model("second"));
    version(&edge, "v2");
    point(&edge, "v2");
    assert_holds(&user);
}

#[test]
fn hangup_signal_reloads() {
    let (_provider, mut edge, user) = start();
    edge.save_config(model("second"));
    edge.signal(Signal::HUP);
    assert_holds(&user);
}

#[test]
fn management_api_reloads_and_holds_at_once() {
    let (_provider, mut edge, user) = start();
    edge.save_config(model("second"));
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
    user.chat("second").expect(200);
}

#[test]
fn reload_command_tells_by_its_exit_code() {
    let (_provider, mut edge, user) = start();
    edge.save_config(model("second"));
    let config = edge.config_path();
    let config = config.to_str().expect("a path");
    let output = edge.run(&["reload", "-c", config]);
    assert!(output.status.success(), "{output:?}");
    user.chat("second").expect(200);
    std::fs::write(edge.config_path(), "server: {wrong_key: 1}\n").expect("a bad file");
    let output = edge.run(&["reload", "-c", config]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn broken_edit_changes_nothing_and_is_reported_everywhere() {
    let (_provider, edge, user) = start();
    let good = edge.config_text();
    let broken = format!("{good}\nmodles:\n  x: 1\n");
    let line = broken
        .lines()
        .position(|line| line.starts_with("modles"))
        .expect("the line")
        + 1;
    std::fs::write(edge.config_path(), &broken).expect("a bad file");
    let place = format!("llm-proxy.yaml:{line}:1");
    let refusal = edge.admin().post("/manage/config/reload", json!({}));
    assert!(
        (400..500).contains(&refusal.status),
        "{} {}",
        refusal.status,
        refusal.text()
    );
    assert!(
        refusal.text().contains(&place) && refusal.text().contains("models"),
        "{}",
        refusal.text()
    );
    user.chat("first").expect(200);
    edge.wait_for_log(&place);
    assert!(
        edge.admin()
            .get("/manage/config")
            .expect(200)
            .text()
            .contains(&place)
    );
    let metrics = edge.sidecar().get("/metrics/prometheus").expect(200).text();
    let failed = |line: &str| {
        line.starts_with("llm_proxy_config_reloads_total")
            && !line.contains("success")
            && !line.ends_with(" 0")
    };
    assert!(metrics.lines().any(failed), "{metrics}");
    std::fs::write(edge.config_path(), good).expect("the good file again");
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
}

#[test]
fn edits_under_load_fail_no_request() {
    let (_provider, mut edge, user) = start();
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        user.chat("first").expect(200);
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for round in 0..5 {
            edge.save_config(model(&format!("round-{round}")));
            edge.admin().post("/manage/config/reload", json!({})).expect(200);
            user.chat(&format!("round-{round}")).expect(200);
            std::fs::write(edge.config_path(), "no: [yaml").expect("a bad file");
            let refused = edge.admin().post("/manage/config/reload", json!({}));
            assert!(refused.status >= 400);
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("no request fails");
        }
    });
    assert!(sent.load(Ordering::Relaxed) > 20);
}

#[test]
fn running_requests_keep_the_configuration_they_began_with() {
    let (provider, mut edge, user) = start();
    let gate = Gate::new();
    provider.next(Reply::events(&chat_chunks("m")).piece_behind(2, &gate));
    let mut stream = user.chat_stream("first");
    assert!(stream.next_event().is_some());
    edge.set_config(json!({"models": null}));
    edge.save_config(model("second"));
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
    user.chat("first").refused(404, "model_not_found");
    gate.open();
    assert!(stream.finish().is_done());
}

#[test]
fn changed_limits_hold_and_unchanged_ones_keep_their_state() {
    let (_provider, mut edge, _user) = start();
    let limited = edge.token(json!({"limits": {"rpm": 2}}));
    limited.chat("first").expect(200);
    limited.chat("first").expect(200);
    edge.save_config(json!({"limits": {"default_token": {"rpm": 1}}}));
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
    limited.chat("first").refused(429, "rate_limit_exceeded");
    let fresh = edge.token(json!({}));
    fresh.chat("first").expect(200);
    fresh.chat("first").refused(429, "rate_limit_exceeded");
}

#[test]
fn what_needs_a_new_process_is_named_and_left_as_it_was() {
    let (_provider, mut edge, user) = start();
    edge.save_config(json!({"server": {"listen": "127.0.0.1:1"}}));
    edge.save_config(model("second"));
    let answer = edge.admin().post("/manage/config/reload", json!({})).expect(200);
    assert!(answer.text().contains("server.listen"), "{}", answer.text());
    user.chat("second").expect(200);
}

#[test]
fn changed_provider_key_is_used_for_the_next_request() {
    let (provider, mut edge, user) = start();
    edge.save_config(json!({"providers": {"openai": {"api_key": "sk-rotated-provider-key-0001"}}}));
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
    user.chat("first").expect(200);
    assert_eq!(
        provider.last().header("authorization"),
        Some("Bearer sk-rotated-provider-key-0001")
    );
}

#[test]
fn changed_management_token_replaces_the_old_one() {
    let (_provider, mut edge, _user) = start();
    edge.save_config(json!({"management": {"token": "another-management-bearer-000"}}));
    edge.admin().post("/manage/config/reload", json!({})).expect(200);
    edge.admin().get("/manage/projects").expect(401);
    let other = edge
        .sidecar()
        .with("Authorization", "Bearer another-management-bearer-000");
    other.get("/manage/projects").expect(200);
}

#[test]
fn file_that_a_value_refers_to_is_watched_too() {
    let provider = Provider::start();
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    std::fs::write(&key, "sk-first-key-in-a-file-00\n").expect("the key file");
    let over = json!({"providers": {"openai": {"api_key": format!("${{file:{}}}", key.display())}}});
    let edge = TestEdge::plan(&provider).with(over).start();
    let user = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    assert_eq!(
        provider.last().header("authorization"),
        Some("Bearer sk-first-key-in-a-file-00")
    );
    std::fs::write(&key, "sk-second-key-in-a-file-00\n").expect("the key file");
    let holds = wait_until(Duration::from_secs(8), || {
        user.chat("gpt-a").expect(200);
        provider.last().header("authorization") == Some("Bearer sk-second-key-in-a-file-00")
    });
    assert!(holds, "the new key is never used");
}
