//! Usage records across the death of the process, played with copies of its files, and without a database.

use std::path::Path;
use std::time::Duration;

use super::files::write_line;
use super::{CHUNK, RecordLog, RecordSettings, Records, paths};
use crate::domain::{ProjectId, SystemClock, TokenId, UsageRecord};
use crate::store::contract::ledger::record;
use crate::store::ledger_columns::RecordColumns;
use crate::store::sqlite::backup::backup;
use crate::store::sqlite::{SqliteLocation, SqliteOptions, open, open_with_threads};
use crate::store::{INSTALLATION, Page, RecordFilter, Store, UsageQuery};

const FILES: [&str; 4] = [
    "edge.db",
    "edge.db-wal",
    "usage-records.0.jsonl",
    "usage-records.1.jsonl",
];

fn options(folder: &Path) -> SqliteOptions {
    SqliteOptions {
        location: SqliteLocation::File(folder.join("edge.db")),
        state_dir: folder.to_owned(),
        timeout: Duration::from_millis(1500),
        fsync: crate::store::Fsync::default(),
        clock: SystemClock::shared(),
    }
}

/// What a killed process leaves behind.
fn copy_files(from: &Path, files: &[&str]) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in files {
        if from.join(file).exists() {
            std::fs::copy(from.join(file), to.path().join(file)).unwrap();
        }
    }
    to
}

fn records(count: i64) -> Vec<UsageRecord> {
    let (project, token) = (ProjectId::random(), TokenId::random());
    (0..count)
        .map(|second| record(project, token, second, 1))
        .collect()
}

/// Records, requests of the sums, and what was spent in all.
async fn known(store: &Store) -> (u64, u64, i64) {
    let page = Page { number: 1, size: 1 };
    let listed = store
        .ledger
        .records(&RecordFilter::default(), page)
        .await
        .unwrap();
    let sums = store.ledger.usage(&UsageQuery::default()).await.unwrap();
    let spent = store.ledger.spending(INSTALLATION, 0).await.unwrap();
    let requests = sums.first().map_or(0, |row| row.sums.requests);
    (listed.total, requests, spent.total.nanos())
}

/// Lines are let go after those are answered who waited for the database.
async fn wait_until_let_go(folder: &Path) {
    let began = tokio::time::Instant::now();
    while logged_bytes(folder) > 0 {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "nobody lets go of them"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn logged_bytes(folder: &Path) -> u64 {
    paths(folder)
        .iter()
        .map(|path| std::fs::metadata(path).map_or(0, |file| file.len()))
        .sum()
}

#[tokio::test]
async fn a_killed_process_has_neither_lost_nor_doubled_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&options(folder.path())).unwrap();
    let all = records(7);
    store.ledger.append(&all[..3]).await.unwrap();
    let only_logged = copy_files(folder.path(), &FILES);
    assert!(
        logged_bytes(only_logged.path()) > 0,
        "safe before it is in the database"
    );
    assert_eq!(known(&store).await, (3, 3, 3), "seen at once");
    wait_until_let_go(folder.path()).await;
    // the process dies after the commit and before it lets go of the lines
    let folded = copy_files(folder.path(), &FILES[..2]);
    for log in &FILES[2..] {
        std::fs::copy(only_logged.path().join(log), folded.path().join(log)).unwrap();
    }
    store.ledger.append(&all[3..]).await.unwrap();
    let both = copy_files(folder.path(), &FILES);
    store.close().await;
    assert_eq!(logged_bytes(folder.path()), 0);
    for (left, expected) in [(&only_logged, 3u64), (&folded, 3), (&both, 7), (&folder, 7)] {
        let store = open(&options(left.path())).unwrap();
        assert_eq!(known(&store).await, (expected, expected, expected.cast_signed()));
        assert_eq!(logged_bytes(left.path()), 0);
        store.close().await;
    }
}

#[tokio::test]
async fn records_come_into_the_database_by_themselves_also_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&options(folder.path())).unwrap();
    let count = CHUNK as i64 * 2 + 10;
    for some in records(count).chunks(500) {
        store.ledger.append(some).await.unwrap();
    }
    wait_until_let_go(folder.path()).await;
    let database = rusqlite::Connection::open(folder.path().join("edge.db")).unwrap();
    let stored: i64 = database
        .query_row("SELECT COUNT(*) FROM usage_records", [], |row| row.get(0))
        .unwrap();
    assert_eq!(stored, count);
    store.close().await;
}

#[tokio::test]
async fn while_the_database_is_away_nothing_more_is_taken_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = options(folder.path());
    settings.timeout = Duration::from_millis(200);
    let store = open(&settings).unwrap();
    let all = records(4);
    let other = rusqlite::Connection::open(folder.path().join("edge.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.ledger.append(&all[..1]).await.unwrap();
    assert!(
        store.ledger.spending(INSTALLATION, 0).await.is_err(),
        "money is never half known"
    );
    let page = Page { number: 1, size: 1 };
    let shown = store
        .ledger
        .records(&RecordFilter::default(), page)
        .await
        .unwrap();
    assert_eq!(shown.total, 0, "a person sees what the database has");
    let refused = store.ledger.append(&all[1..2]).await;
    assert!(refused.is_err(), "the ledger's spool is for that");
    let died = copy_files(folder.path(), &FILES);
    other.execute_batch("COMMIT").unwrap();
    let mut tries = 0;
    while store.ledger.append(&all[2..]).await.is_err() {
        tries += 1;
        assert!(tries < 100, "it never comes back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(known(&store).await, (3, 3, 3));
    store.close().await;
    let store = open(&options(died.path())).unwrap();
    assert_eq!(known(&store).await, (1, 1, 1));
    store.close().await;
}

#[tokio::test]
async fn while_the_log_cannot_be_written_the_database_takes_records_by_itself() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = options(folder.path());
    let (store, threads) = open_with_threads(&options).unwrap();
    let settings = RecordSettings {
        write_ahead: folder.path().join("edge.db-wal"),
        fsync: options.fsync.clone(),
        timeout: options.timeout,
        clock: options.clock.clone(),
    };
    let log = RecordLog::broken(&paths(elsewhere.path()));
    let broken = Records::start(log, threads, settings).unwrap();
    let rows: Vec<RecordColumns> = records(3).iter().map(RecordColumns::of).collect();
    broken.append(rows.clone()).await.unwrap();
    assert_eq!(known(&store).await, (3, 3, 3));
    broken.append(rows).await.unwrap();
    assert_eq!(known(&store).await, (3, 3, 3));
    store.close().await;
}

#[tokio::test]
async fn a_copy_of_a_running_database_holds_what_is_only_logged() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&options(folder.path())).unwrap();
    store.ledger.append(&records(5)).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    backup(&database, folder.path(), &copy.path().join("edge.db")).unwrap();
    store.close().await;
    let names: Vec<_> = std::fs::read_dir(copy.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let store = open(&options(copy.path())).unwrap();
    assert_eq!(known(&store).await, (5, 5, 5));
    store.close().await;
}

#[tokio::test]
async fn a_line_that_is_no_record_takes_no_other_with_it_and_is_kept_to_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let files = paths(folder.path());
    let mut damaged = Vec::new();
    for record in records(2) {
        write_line(&RecordColumns::of(&record), &mut damaged).unwrap();
    }
    damaged[3] = b'\xff';
    std::fs::write(&files[1], &damaged).unwrap();
    let store = open(&options(folder.path())).unwrap();
    assert_eq!(known(&store).await, (1, 1, 1));
    store.close().await;
    let kept = files[1].with_extension("jsonl.unreadable");
    assert_eq!(std::fs::read(kept).unwrap(), damaged);
    assert_eq!(logged_bytes(folder.path()), 0);
}
