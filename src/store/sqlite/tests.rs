//! SQLite in a file and in memory passes the suite, and names what is wrong with its file.

use std::path::PathBuf;
use std::time::Duration;

use super::{SqliteLocation, SqliteOptions, open};
use crate::domain::{ManualClock, SystemClock};
use crate::store::contract::{at, full_project};
use crate::store::{Store, StoreError};

/// A store in a folder that goes with it.
pub(super) struct Bench {
    pub(super) store: Store,
    _folder: tempfile::TempDir,
}

pub(super) fn options(location: SqliteLocation, state_dir: PathBuf) -> SqliteOptions {
    SqliteOptions {
        location,
        state_dir,
        timeout: Duration::from_secs(5),
        fsync: crate::store::Fsync::default(),
        clock: SystemClock::shared(),
    }
}

async fn in_file() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let location = SqliteLocation::File(folder.path().join("deep/edge.db"));
    let store = open(&options(location, folder.path().to_owned())).unwrap();
    Bench {
        store,
        _folder: folder,
    }
}

async fn in_memory() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&options(SqliteLocation::Memory, folder.path().to_owned())).unwrap();
    Bench {
        store,
        _folder: folder,
    }
}

mod file {
    use crate::store::contract::{tests_of_cases, with_cases};

    with_cases!(tests_of_cases, super::super::in_file);
}

mod memory {
    use crate::store::contract::{tests_of_cases, with_cases};

    with_cases!(tests_of_cases, super::super::in_memory);
}

fn file_bench() -> (tempfile::TempDir, SqliteOptions) {
    let folder = tempfile::tempdir().unwrap();
    let location = SqliteLocation::File(folder.path().join("edge.db"));
    let options = options(location, folder.path().to_owned());
    (folder, options)
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, options) = file_bench();
    let project = full_project("edge");
    let store = open(&options).unwrap();
    store.projects.create(&project).await.unwrap();
    store.close().await;
    let refused = store.projects.get(project.id).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))) || refused.is_ok());
    drop(store);
    let mode = std::fs::metadata(folder.path().join("edge.db"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let store = open(&options).unwrap();
    assert_eq!(store.projects.get(project.id).await.unwrap(), Some(project));
    store.close().await;
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused_naming_the_pid() {
    let (_folder, options) = file_bench();
    let store = open(&options).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = SqliteOptions {
        state_dir: elsewhere.path().to_owned(),
        ..options.clone()
    };
    let refused = open(&other).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("pid {}", std::process::id())),
        "{refused}"
    );
    store.close().await;
}

#[test]
fn what_is_no_database_is_damaged_and_what_cannot_be_opened_says_so() {
    let (folder, options) = file_bench();
    std::fs::write(
        folder.path().join("edge.db"),
        "this is not a database, it is a note".repeat(99),
    )
    .unwrap();
    let error = open(&options).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");

    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE photos (id INTEGER)")
        .unwrap();
    let error = open(&SqliteOptions {
        location: SqliteLocation::File(foreign),
        ..options.clone()
    });
    assert!(matches!(error, Err(StoreError::Damaged(_))));

    std::fs::create_dir(folder.path().join("folder.db")).unwrap();
    for path in ["folder.db", "foreign.db/edge.db"] {
        let error = open(&SqliteOptions {
            location: SqliteLocation::File(folder.path().join(path)),
            ..options.clone()
        })
        .unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(
            error.to_string().contains("unable to open database file"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_newer_schema_is_named_and_left_alone() {
    let (folder, options) = file_bench();
    open(&options).unwrap().close().await;
    let connection = rusqlite::Connection::open(folder.path().join("edge.db")).unwrap();
    connection
        .execute("INSERT INTO schema_migrations VALUES (99, 'future', '', 0)", [])
        .unwrap();
    drop(connection);
    let error = open(&options).unwrap_err();
    assert!(
        matches!(error, StoreError::NewerSchema { found: 99, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn migrate_up_and_status_work_without_a_server() {
    let (_folder, options) = file_bench();
    let schema = super::schema(options.location.clone(), SystemClock::shared());
    let before = schema.status().await.unwrap();
    assert!(before.iter().all(|migration| migration.applied_at.is_none()));
    assert_eq!(schema.up().await.unwrap().len(), before.len());
    assert!(schema.up().await.unwrap().is_empty());
    assert!(
        schema
            .status()
            .await
            .unwrap()
            .iter()
            .all(|m| m.applied_at.is_some())
    );
    open(&options).unwrap().close().await;
}

#[tokio::test]
async fn a_removed_or_replaced_file_is_noticed_and_its_return_too() {
    let (folder, options) = file_bench();
    let clock = ManualClock::at(at(0));
    let options = SqliteOptions {
        clock: clock.clone(),
        ..options
    };
    let store = open(&options).unwrap();
    let (path, aside) = (folder.path().join("edge.db"), folder.path().join("aside"));
    store.health.ping().await.unwrap();

    std::fs::rename(&path, &aside).unwrap();
    clock.advance(Duration::from_millis(100));
    for result in [
        store.health.ping().await,
        store.projects.create(&full_project("lost")).await,
    ] {
        assert!(matches!(result, Err(StoreError::Replaced(_))), "{result:?}");
    }
    std::fs::write(&path, "").unwrap();
    let replaced = store
        .projects
        .list(crate::store::contract::ALL)
        .await
        .unwrap_err();
    assert!(replaced.to_string().contains("another file"), "{replaced}");

    std::fs::rename(&aside, &path).unwrap();
    store.health.ping().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_full_database_is_named_and_reading_goes_on() {
    let (folder, options) = file_bench();
    let (store, threads) = super::open_with_threads(&options).unwrap();
    let kept = full_project("kept");
    store.projects.create(&kept).await.unwrap();
    let pages = {
        let connection = rusqlite::Connection::open(folder.path().join("edge.db")).unwrap();
        connection
            .query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let limit = |pages: i64| {
        threads.write(move |connection| {
            connection.pragma_update(None, "max_page_count", pages)?;
            Ok(())
        })
    };
    limit(pages).await.unwrap();
    let mut big = full_project("big");
    big.metadata.insert("x".to_owned(), "y".repeat(1_000_000).into());
    let full = store.projects.create(&big).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    assert_eq!(store.projects.get(kept.id).await.unwrap(), Some(kept));
    limit(1_000_000).await.unwrap();
    store.projects.create(&big).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_database_locked_by_another_program_is_unavailable_within_the_time_out() {
    let (folder, options) = file_bench();
    let options = SqliteOptions {
        timeout: Duration::from_millis(200),
        ..options
    };
    let store = open(&options).unwrap();
    let other = rusqlite::Connection::open(folder.path().join("edge.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.projects.create(&full_project("late")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(
        store
            .projects
            .list(crate::store::contract::ALL)
            .await
            .unwrap()
            .total,
        0
    );
    other.execute_batch("ROLLBACK").unwrap();
    store.projects.create(&full_project("now")).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn whether_commits_wait_for_the_disk_changes_while_the_store_is_open() {
    let (_folder, options) = file_bench();
    let (store, threads) = super::open_with_threads(&options).unwrap();
    let level = async || -> i64 {
        let read =
            threads.write(|connection| Ok(connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?));
        read.await.unwrap()
    };
    let (normal, full) = (1, 2);
    assert_eq!(level().await, normal);
    for (is_on, expected) in [(true, full), (true, full), (false, normal), (true, full)] {
        store.fsync.set(is_on);
        assert_eq!(level().await, expected);
    }
    store.close().await;
}
