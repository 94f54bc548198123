use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::domain::{ManualClock, Timestamp};
use crate::management::fakes::{World, until};
use crate::store::StoreError;

struct Trail {
    writer: Arc<AuditWriter>,
    store: Arc<World>,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

impl Trail {
    fn new(change: impl FnOnce(&mut AuditSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&folder.path().join("sub/audit.log"));
        change(&mut settings);
        let store = Arc::new(World::default());
        let clock = ManualClock::at(Timestamp::parse_rfc3339("2026-01-31T12:00:00Z").unwrap());
        let writer = AuditWriter::start(settings, Some(store.clone()), clock.clone()).unwrap();
        Self {
            writer,
            store,
            clock,
            folder,
        }
    }

    fn offer(&self, action: &str, outcome: AuditOutcome) {
        let mut event = AuditEvent::new(self.clock.now(), action, "management_api", outcome);
        event.metadata.insert("name".to_owned(), "x".into());
        event.path = Some("/manage/projects".to_owned());
        self.writer.offer(event);
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        std::fs::read_to_string(self.folder.path().join("sub").join(name))
            .unwrap_or_default()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn settings(file: &Path) -> AuditSettings {
    AuditSettings {
        enabled: true,
        file: Some(file.to_owned()),
        store_in_database: true,
        retention: Some(Duration::from_hours(1)),
        max_size_bytes: 1 << 20,
        max_backups: 2,
    }
}

#[tokio::test]
async fn events_reach_file_and_store_before_a_flush_returns() {
    let trail = Trail::new(|_| {});
    trail.offer("project.create", AuditOutcome::Success);
    trail.writer.flush().await;
    assert_eq!(trail.store.events.lock().len(), 1);
    let line = &trail.lines("audit.log")[0];
    assert_eq!(line["timestamp"], "2026-01-31T12:00:00Z");
    assert_eq!(
        (&line["action"], &line["result"]),
        (&"project.create".into(), &"success".into())
    );
    assert_eq!(line["details"]["endpoint"], "/manage/projects");
    assert_eq!(line["details"]["name"], "x");
    let mode = std::fs::metadata(trail.folder.path().join("sub/audit.log"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    trail.writer.stop().await;
}

#[tokio::test]
async fn a_clean_stop_loses_nothing() {
    let trail = Trail::new(|_| {});
    for _ in 0..3000 {
        trail.offer("token.list", AuditOutcome::Success);
    }
    trail.writer.stop().await;
    assert_eq!(trail.lines("audit.log").len(), 3000);
    assert_eq!(trail.store.events.lock().len(), 3000);
    trail.offer("token.list", AuditOutcome::Success);
    assert_eq!(trail.writer.counts().dropped, 1);
}

#[tokio::test]
async fn while_the_store_is_away_the_file_gets_everything_and_the_store_later() {
    let trail = Trail::new(|_| {});
    *trail.store.trouble.lock() = Some(StoreError::Unavailable("gone".to_owned()));
    trail.offer("project.create", AuditOutcome::Success);
    until(|| trail.lines("audit.log").len() == 1).await;
    assert!(trail.store.events.lock().is_empty());
    *trail.store.trouble.lock() = None;
    until(|| trail.store.events.lock().len() == 1).await;
    trail.writer.stop().await;
}

#[tokio::test]
async fn a_flood_of_denials_is_summed_up() {
    let trail = Trail::new(|_| {});
    for _ in 0..500 {
        trail.offer("management.denied", AuditOutcome::Denied);
    }
    trail.offer("project.create", AuditOutcome::Success);
    trail.writer.flush().await;
    let events = trail.store.events.lock().clone();
    let count = |action: &str| events.iter().filter(|e| e.action == action).count();
    assert_eq!(count("management.denied"), 100);
    assert_eq!(count("project.create"), 1);
    let summary = events.iter().find(|e| e.action == "audit.suppressed").unwrap();
    assert_eq!(summary.metadata["denied"], 400);
    trail.writer.stop().await;
}

#[tokio::test]
async fn the_file_is_rotated_by_size_and_the_oldest_goes() {
    let trail = Trail::new(|settings| settings.max_size_bytes = 300);
    for number in 0..4 {
        trail.offer(&format!("action.{number}"), AuditOutcome::Success);
        trail.writer.flush().await;
    }
    let actions = |name| -> Vec<Value> { trail.lines(name).iter().map(|l| l["action"].clone()).collect() };
    assert_eq!(actions("audit.log"), ["action.3"]);
    assert_eq!(actions("audit.log.1"), ["action.2"]);
    assert_eq!(actions("audit.log.2"), ["action.1"]);
    assert!(actions("audit.log.3").is_empty());
    trail.writer.stop().await;
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_opened_anew() {
    let trail = Trail::new(|_| {});
    trail.offer("action.0", AuditOutcome::Success);
    trail.writer.flush().await;
    let folder = trail.folder.path().join("sub");
    std::fs::rename(folder.join("audit.log"), folder.join("taken")).unwrap();
    trail.offer("action.1", AuditOutcome::Success);
    trail.writer.flush().await;
    assert_eq!(trail.lines("audit.log")[0]["action"], "action.1");
    assert_eq!(trail.lines("taken").len(), 1);
    trail.writer.stop().await;
}

#[tokio::test]
async fn settings_change_while_running() {
    let trail = Trail::new(|settings| settings.store_in_database = false);
    trail.offer("action.0", AuditOutcome::Success);
    trail.writer.flush().await;
    assert!(trail.store.events.lock().is_empty());
    let mut changed = settings(&trail.folder.path().join("sub/other.log"));
    trail.writer.configure(changed.clone());
    trail.offer("action.1", AuditOutcome::Success);
    trail.writer.flush().await;
    assert_eq!(trail.lines("other.log")[0]["action"], "action.1");
    assert_eq!(trail.store.events.lock().len(), 1);
    changed.enabled = false;
    trail.writer.configure(changed);
    trail.offer("action.2", AuditOutcome::Success);
    trail.writer.stop().await;
    assert_eq!(trail.lines("other.log").len(), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(Timestamp::EPOCH);
    let Err(error) = AuditWriter::start(settings(folder.path()), None, clock) else {
        panic!("a folder was opened as a file");
    };
    assert!(
        error.to_string().starts_with("cannot open the audit log `/"),
        "{error}"
    );
}

#[tokio::test]
async fn old_events_are_deleted_from_the_store() {
    let trail = Trail::new(|_| {});
    trail.offer("old", AuditOutcome::Success);
    trail.writer.flush().await;
    trail.clock.advance(Duration::from_hours(2));
    trail.offer("new", AuditOutcome::Success);
    trail.writer.flush().await;
    retention::prune(
        trail.store.as_ref(),
        trail.clock.as_ref(),
        Duration::from_hours(1),
    )
    .await;
    let left: Vec<String> = trail
        .store
        .events
        .lock()
        .iter()
        .map(|e| e.action.clone())
        .collect();
    assert_eq!(left, ["new"]);
    trail.writer.stop().await;
}
