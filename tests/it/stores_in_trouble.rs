//! A store that is damaged, gone, full or away: named errors, known tokens go on, nothing is a 401.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::edge::{Store, TestEdge, TokenUser};
use crate::http::Client;
use crate::provider::Provider;
use crate::servers::Postgres;
use crate::wait::{is_long_run, wait_until};

#[track_caller]
fn assert_degraded(edge: &TestEdge) {
    let mut last = String::new();
    let degraded = wait_until(Duration::from_secs(10), || {
        // Somebody must touch the store for its loss to be seen at the latest.
        let _ = edge
            .admin()
            .try_send(crate::http::Request::new("GET", "/manage/projects"));
        let answer = edge.sidecar().get("/ready");
        last = format!("{} {}", answer.status, answer.text());
        answer.status == 200 && answer.json()["status"] == "degraded"
    });
    assert!(degraded, "/ready never says degraded: {last}");
    let ready = edge.sidecar().get("/ready").json();
    assert_eq!(ready["reasons"], json!(["store_unavailable"]));
    let outside = edge.anonymous().get("/ready").expect(200).json();
    assert!(outside.get("reasons").is_none(), "{outside}");
}

fn unknown(edge: &TestEdge) -> Client {
    edge.anonymous()
        .with("Authorization", "Bearer sk-nobody-has-seen-this-one-yet")
}

/// A user whose token has been used, so that the proxy knows it.
fn known(edge: &TestEdge) -> TokenUser {
    let user = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    user
}

#[test]
fn removed_sqlite_file_degrades_by_name() {
    let edge = TestEdge::start(&Provider::start());
    let user = known(&edge);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", edge.database_path().display()));
    }
    assert_degraded(&edge);
    user.chat("gpt-a").expect(200);
    unknown(&edge).chat("gpt-a").refused(503, "store_unavailable");
    assert_eq!(
        edge.admin().post("/manage/projects", json!({"name": "x"})).status,
        503
    );
}

#[test]
fn replaced_sqlite_file_degrades_by_name() {
    let edge = TestEdge::start(&Provider::start());
    let user = known(&edge);
    let path = edge.database_path();
    std::fs::copy(&path, path.with_extension("copy")).expect("a copy");
    std::fs::rename(path.with_extension("copy"), &path).expect("replace the file");
    assert_degraded(&edge);
    user.chat("gpt-a").expect(200);
    unknown(&edge).chat("gpt-a").refused(503, "store_unavailable");
}

/// Mounts a small file system in memory; `None` where that is not allowed.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, kib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a mount point");
        let options = format!("size={kib}k");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .output()
            .ok()?
            .status;
        // Only somebody who may not mount is excused.
        assert!(
            status.success() || !rustix::process::geteuid().is_root(),
            "root cannot mount a small disk"
        );
        status.success().then_some(Self(at))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.0)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "remount {options}");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn full_disk_refuses_changes_by_name_and_serves_known_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("disk");
    let Some(disk) = SmallDisk::mount(&at, 4096) else {
        return;
    };
    let over = json!({"database": {"path": at.join("llm-proxy.db")}});
    let edge = TestEdge::plan(&Provider::start()).with(over).start();
    let user = known(&edge);
    let _ = std::fs::write(at.join("filler"), vec![b'x'; 8 << 20]);
    let project = user.project_id.clone();
    let refused = wait_until(Duration::from_secs(10), || {
        let fields =
            json!({"project_id": project, "duration_minutes": 5, "metadata": {"pad": "y".repeat(20_000)}});
        edge.admin().post("/manage/tokens", fields).status == 503
    });
    assert!(refused, "a full disk never refuses a change:\n{}", edge.logs());
    user.chat("gpt-a").expect(200);
    std::fs::remove_file(at.join("filler")).expect("room again");
    let recovered = wait_until(Duration::from_secs(10), || {
        edge.admin()
            .post(
                "/manage/tokens",
                json!({"project_id": project, "duration_minutes": 5}),
            )
            .status
            == 200
    });
    assert!(recovered, "room again does not help:\n{}", edge.logs());
    drop(edge);
    drop(disk);
}

#[test]
fn read_only_disk_ends_the_start_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("disk");
    let Some(disk) = SmallDisk::mount(&at, 16_384) else {
        return;
    };
    let over = json!({"database": {"path": at.join("llm-proxy.db")}});
    let mut edge = TestEdge::plan(&Provider::start()).with(over).start();
    edge.stop();
    disk.remount("ro");
    let output = edge.fails_again();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("unable to open database file") && said.contains("read-only"),
        "{said}"
    );
    drop(edge);
    drop(disk);
}

/// Lets nobody write these files, root and holders of open descriptors included; undone when dropped.
struct Immutable(Vec<std::path::PathBuf>);

impl Immutable {
    /// `None` where the file system or our rights do not allow it.
    fn make(files: Vec<std::path::PathBuf>) -> Option<Self> {
        let status = Command::new("chattr")
            .arg("+i")
            .args(&files)
            .output()
            .ok()?
            .status;
        let made = Self(files);
        status.success().then_some(made)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").args(&self.0).output();
    }
}

#[test]
fn store_made_read_only_while_running_refuses_changes_by_name_and_serves_known_tokens() {
    let edge = TestEdge::start(&Provider::start());
    let user = known(&edge);
    // Not `-shm`: a first write to a mapped page of an immutable file is a SIGBUS, which no read-only disk sends.
    let files = ["", "-wal"].map(|end| format!("{}{end}", edge.database_path().display()).into());
    let files = files
        .into_iter()
        .filter(|file: &std::path::PathBuf| file.exists())
        .collect();
    let Some(immutable) = Immutable::make(files) else {
        eprintln!("not checked: files cannot be made immutable here");
        return;
    };
    let create = || edge.admin().post("/manage/projects", json!({"name": "x"}));
    let refused = wait_until(Duration::from_secs(10), || create().status == 503);
    assert!(
        refused,
        "a read-only store never refuses a change: {}",
        create().text()
    );
    user.chat("gpt-a").expect(200);
    assert_degraded(&edge);
    let status = unknown(&edge).chat("gpt-a").status;
    assert!(status == 401 || status == 503, "reading may still work: {status}");
    drop(immutable);
    assert!(wait_until(Duration::from_secs(10), || edge
        .admin()
        .post("/manage/projects", json!({"name": "y"}))
        .status
        == 201));
}

#[test]
fn damaged_sqlite_file_ends_the_start_by_name() {
    let mut edge = TestEdge::start(&Provider::start());
    edge.stop();
    std::fs::write(edge.database_path(), vec![b'?'; 8192]).expect("damage the file");
    let output = edge.fails_again();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("llm-proxy.db"), "{said}");
}

#[test]
fn unwritable_place_for_the_database_ends_the_start_by_name() {
    let over = json!({"database": {"path": "/proc/no-such-place/llm-proxy.db"}});
    let output = TestEdge::plan(&Provider::start()).with(over).fails();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("unable to open database file") || said.contains("permission denied"),
        "{said}"
    );
}

#[test]
fn postgres_that_stops_degrades_by_name_and_comes_back() {
    let outage = if is_long_run() {
        Duration::from_secs(65)
    } else {
        Duration::ZERO
    };
    let mut postgres = Postgres::start();
    let url = postgres.new_database();
    let provider = Provider::start();
    let over = json!({"database": {"timeout": "500ms"}, "auth": {"store_timeout": "500ms"}});
    let edge = TestEdge::plan(&provider).on(&Store::Url(url)).with(over).start();
    let user = known(&edge);
    let limited = edge.token(json!({"max_requests": 10}));
    limited.chat("gpt-a").expect(200);
    // PostgreSQL tells an instance of its own changes too, a moment later: the token is read once more then
    let mut calls = 0;
    assert!(wait_until(Duration::from_secs(10), || {
        user.chat("gpt-a").expect(200);
        calls += 1;
        calls > 50
    }));
    postgres.stop();
    assert_degraded(&edge);
    let from = Instant::now();
    loop {
        user.chat("gpt-a").expect(200);
        limited.chat("gpt-a").refused(503, "store_unavailable");
        let answer = unknown(&edge).chat("gpt-a").refused(503, "store_unavailable");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(edge.admin().get("/manage/projects").status, 503);
        if from.elapsed() >= outage {
            break;
        }
    }
    assert_degraded(&edge);
    let reached = provider.count();
    postgres.start_again();
    let back = wait_until(Duration::from_secs(20), || limited.chat("gpt-a").status == 200);
    assert!(back, "the limited token never works again:\n{}", edge.logs());
    assert!(wait_until(Duration::from_secs(10), || edge
        .sidecar()
        .get("/ready")
        .json()["status"]
        == "ready"));
    assert_eq!(provider.count(), reached + 1);
    unknown(&edge).chat("gpt-a").refused(401, "token_not_found");
}

#[test]
fn postgres_that_was_never_there_keeps_the_proxy_unready() {
    let mut postgres = Postgres::start();
    let url = postgres.new_database();
    postgres.stop();
    let plan = TestEdge::plan(&Provider::start())
        .on(&Store::Url(url))
        .with(json!({"database": {"timeout": "500ms"}}));
    let mut edge = plan.prepare();
    edge.launch_only();
    assert!(edge.is_running(), "it waits for its store:\n{}", edge.logs());
    assert_eq!(edge.sidecar().get("/ready").status, 503);
    unknown(&edge).chat("gpt-a").expect(503);
}
