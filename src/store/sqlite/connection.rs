//! Opens connections with the pragmas every one of them needs.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::failure::Failure;
use crate::store::StoreError;
use crate::store::state_dir::{LockError, create_private_dir, in_words};

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqliteLocation {
    /// A file.
    File(std::path::PathBuf),
    /// In memory: gone when the process ends.
    Memory,
}

impl SqliteLocation {
    /// Reads `database.path`; `:memory:` is no file.
    pub fn parse(path: &str) -> Self {
        if path == ":memory:" {
            Self::Memory
        } else {
            Self::File(path.into())
        }
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory => None,
        }
    }
}

/// How a connection behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionSettings {
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// `synchronous=FULL` instead of `NORMAL`.
    pub fsync: bool,
}

/// Opens the connection that writes; makes the file (0600) and its folder (0700) when missing.
pub(super) fn open_writer(
    location: &SqliteLocation,
    settings: ConnectionSettings,
) -> Result<Connection, StoreError> {
    if let Some(path) = location.path() {
        prepare_file(path)?;
    }
    open(location, settings, false).map_err(|failure| failure.named(location.path()))
}

/// Opens a connection that only reads.
pub(super) fn open_reader(
    location: &SqliteLocation,
    settings: ConnectionSettings,
) -> Result<Connection, StoreError> {
    open(location, settings, true).map_err(|failure| failure.named(location.path()))
}

fn open(
    location: &SqliteLocation,
    settings: ConnectionSettings,
    query_only: bool,
) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match location {
        SqliteLocation::File(path) => Connection::open_with_flags(path, flags)?,
        SqliteLocation::Memory => Connection::open_in_memory()?,
    };
    connection.busy_timeout(settings.busy_timeout)?;
    // A damaged file shows itself here, at the first read.
    let _: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    let synchronous = if settings.fsync { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "query_only", query_only)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn prepare_file(path: &Path) -> Result<(), StoreError> {
    if let Some(folder) = path.parent() {
        create_private_dir(folder).map_err(|error| match error {
            LockError::Refused { why, .. } => cannot_open(path, &why),
            held @ LockError::Held { .. } => StoreError::Unavailable(held.to_string()),
        })?;
    }
    if path.exists() {
        return Ok(());
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(|_| ())
        .map_err(|error| cannot_open(path, &in_words(&error)))
}

fn cannot_open(path: &Path, why: &str) -> StoreError {
    StoreError::Unavailable(format!(
        "`{}`: unable to open database file: {why}",
        path.display()
    ))
}
