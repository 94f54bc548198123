//! The SQLite back end: one writer thread with group commit, a few readers, and logs for grants and
//! usage records.

mod audit;
pub mod backup;
mod connection;
mod failure;
mod grant_counters;
mod grant_log;
mod grants;
mod health;
mod ledger;
mod presence;
mod projects;
mod records;
mod rows;
mod schema;
mod sealed_keys;
mod threads;
mod tokens;
mod usage;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use self::connection::{ConnectionSettings, open_reader, open_writer};
use self::grants::{GrantFiles, GrantSettings, SqliteGrants};
use self::presence::Presence;
use self::records::{RecordLog, RecordSettings, Records};
use self::threads::Threads;
use super::migrate::Schema;
use super::state_dir::{LockError, ProcessLock};
use super::{Fsync, Grants, SealedKeys, Store, StoreClose, StoreError};
use crate::domain::Clock;

pub use self::connection::SqliteLocation;

/// What the back end needs to know.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The database.
    pub location: SqliteLocation,
    /// Where `grants.log` and `usage-records.*.jsonl` are; it exists already.
    pub state_dir: PathBuf,
    /// How long a caller waits for an answer.
    pub timeout: Duration,
    /// `synchronous=FULL` instead of `NORMAL`.
    pub fsync: Fsync,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Opens the database, makes it when missing, migrates it and starts its threads. Blocks; call it before or beside
/// the runtimes. A second process on the same file is refused by the lock `<file>.lock`.
pub fn open(options: &SqliteOptions) -> Result<Store, StoreError> {
    open_with_threads(options).map(|(store, _)| store)
}

fn open_with_threads(options: &SqliteOptions) -> Result<(Store, Threads), StoreError> {
    let location = &options.location;
    let settings = ConnectionSettings {
        busy_timeout: options.timeout,
        fsync: options.fsync.is_on(),
    };
    let lock = location.path().map(lock_beside).transpose()?;
    let writer = open_writer(location, settings)?;
    schema::up(&writer, options.clock.now()).map_err(|failure| failure.named(location.path()))?;
    let presence = location
        .path()
        .map(|path| Presence::of(path, Arc::clone(&options.clock)))
        .transpose()
        .map_err(|error| StoreError::Unavailable(error.to_string()))?
        .map(Arc::new);
    let readers = match location {
        SqliteLocation::File(_) => (0..Threads::reader_count())
            .map(|_| open_reader(location, settings))
            .collect::<Result<_, _>>()?,
        SqliteLocation::Memory => Vec::new(),
    };
    let files = location.path().map(|path| grant_files(path, &options.state_dir));
    let replayed =
        grants::replay(&writer, files.as_ref()).map_err(|failure| failure.named(location.path()))?;
    let record_log = files
        .as_ref()
        .map(|_| records::replay(&writer, &records::paths(&options.state_dir)))
        .transpose()
        .map_err(|failure| failure.named(location.path()))?;
    let threads = Threads::start(writer, readers, presence, options.timeout, options.fsync.clone())?;
    let records = match (record_log, &files) {
        (Some(log), Some(files)) => Some(start_records(log, threads.clone(), options, files)?),
        _ => None,
    };
    let settings = GrantSettings {
        files,
        timeout: options.timeout,
        clock: Arc::clone(&options.clock),
    };
    let grants = Arc::new(SqliteGrants::start(replayed, threads.clone(), settings)?);
    let store = Store {
        driver: "sqlite",
        tokens: Arc::new(tokens::SqliteTokens {
            threads: threads.clone(),
        }),
        projects: Arc::new(projects::SqliteProjects {
            threads: threads.clone(),
        }),
        audit: Arc::new(audit::SqliteAudit {
            threads: threads.clone(),
        }),
        usage: Arc::new(usage::SqliteUsage {
            threads: threads.clone(),
        }),
        ledger: Arc::new(ledger::SqliteLedger {
            threads: threads.clone(),
            records: records.clone(),
        }),
        grants: Arc::clone(&grants) as Arc<dyn Grants>,
        fsync: options.fsync.clone(),
        health: Arc::new(health::SqliteHealth {
            threads: threads.clone(),
            clock: Arc::clone(&options.clock),
        }),
        schema: Arc::new(schema::OpenSchema {
            threads: threads.clone(),
        }),
        closing: Arc::new(Closing {
            threads: threads.clone(),
            grants,
            records,
            lock: Mutex::new(lock),
        }),
    };
    Ok((store, threads))
}

fn start_records(
    log: RecordLog,
    threads: Threads,
    options: &SqliteOptions,
    files: &GrantFiles,
) -> Result<Records, StoreError> {
    let settings = RecordSettings {
        write_ahead: files.write_ahead.clone(),
        fsync: options.fsync.clone(),
        timeout: options.timeout,
        clock: Arc::clone(&options.clock),
    };
    Records::start(log, threads, settings)
}

/// The schema alone, for `migrate up` and `migrate status` while no server runs.
pub fn schema(location: SqliteLocation, clock: Arc<dyn Clock>) -> Arc<dyn Schema> {
    Arc::new(schema::SqliteSchema { location, clock })
}

/// The provider keys at rest, while a server may run.
pub fn sealed_keys(location: SqliteLocation) -> Arc<dyn SealedKeys> {
    Arc::new(sealed_keys::SqliteSealedKeys { location })
}

struct Closing {
    threads: Threads,
    grants: Arc<SqliteGrants>,
    records: Option<Records>,
    lock: Mutex<Option<ProcessLock>>,
}

#[async_trait]
impl StoreClose for Closing {
    async fn close(&self) {
        self.grants.stop().await;
        if let Some(records) = &self.records {
            records.stop().await;
        }
        self.threads.stop().await;
        self.lock.lock().take();
    }
}

fn grant_files(database: &Path, state_dir: &Path) -> GrantFiles {
    let mut write_ahead = database.as_os_str().to_owned();
    write_ahead.push("-wal");
    GrantFiles {
        grants: state_dir.join("grants.log"),
        write_ahead: write_ahead.into(),
    }
}

fn lock_beside(path: &Path) -> Result<ProcessLock, StoreError> {
    if let Some(folder) = path.parent() {
        super::state_dir::create_private_dir(folder).map_err(|error| cannot_lock(&error))?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    ProcessLock::acquire(Path::new(&name)).map_err(|error| cannot_lock(&error))
}

fn cannot_lock(error: &LockError) -> StoreError {
    match error {
        LockError::Held { .. } => StoreError::Unavailable(error.to_string()),
        LockError::Refused { .. } => {
            StoreError::Unavailable(format!("unable to open database file: {error}"))
        }
    }
}
