//! What SQLite says, named by situation.

use std::io;
use std::path::Path;

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::StoreError;
use crate::store::state_dir::in_words;

/// A failure inside a job: ours, or SQLite's, which is named once the job is over.
#[derive(Debug)]
pub(super) enum Failure {
    Store(StoreError),
    Sqlite(Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<crate::domain::patch::PatchRefused> for Failure {
    fn from(error: crate::domain::patch::PatchRefused) -> Self {
        Self::Store(error.into())
    }
}

impl Failure {
    /// The situation in words. `path` is asked about its file system where SQLite only says "I/O error".
    pub(super) fn named(self, path: Option<&Path>) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Sqlite(error) => named(&error, path),
        }
    }
}

/// What the system says of a file of ours beside the database.
pub(super) fn of_file(path: &Path, error: &io::Error) -> StoreError {
    let text = format!("`{}`: {}", path.display(), in_words(error));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(text),
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(text),
        _ => StoreError::Unavailable(text),
    }
}

/// Whether the error is a broken `UNIQUE` or primary key.
pub(super) fn is_duplicate(error: &Error) -> bool {
    extended_code(error).is_some_and(|code| {
        code == ffi::SQLITE_CONSTRAINT_UNIQUE || code == ffi::SQLITE_CONSTRAINT_PRIMARYKEY
    })
}

/// Whether the error is a reference to a row that does not exist.
pub(super) fn is_dangling(error: &Error) -> bool {
    extended_code(error) == Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
}

fn extended_code(error: &Error) -> Option<i32> {
    match error {
        Error::SqliteFailure(failure, _) => Some(failure.extended_code),
        _ => None,
    }
}

fn named(error: &Error, path: Option<&Path>) -> StoreError {
    let place = path.map_or_else(|| ":memory:".to_owned(), |path| path.display().to_string());
    let text = format!("`{place}`: {error}");
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged(text),
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly(text),
        Some(ErrorCode::DiskFull) => StoreError::Full(text),
        Some(ErrorCode::PermissionDenied) => StoreError::Unavailable(format!("{text}: permission denied")),
        Some(ErrorCode::CannotOpen) => cannot_open(text, path),
        Some(ErrorCode::SystemIoFailure) => disk_failure(text, path),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) | None => StoreError::Inconsistent {
            table: "sqlite",
            row: place,
            why: error.to_string(),
        },
        Some(_) => StoreError::Unavailable(text),
    }
}

/// SQLite does not say why it cannot open a file; the system does.
fn cannot_open(text: String, path: Option<&Path>) -> StoreError {
    let why = path.and_then(|path| {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .err()
    });
    let text = if text.contains("unable to open database file") {
        text
    } else {
        format!("{text}: unable to open database file")
    };
    match why {
        Some(error) => StoreError::Unavailable(format!("{text}: {}", in_words(&error))),
        None => StoreError::Unavailable(text),
    }
}

fn disk_failure(text: String, path: Option<&Path>) -> StoreError {
    let folder = path.and_then(Path::parent).filter(|p| !p.as_os_str().is_empty());
    let Ok(facts) = rustix::fs::statvfs(folder.unwrap_or(Path::new("."))) else {
        return StoreError::Unavailable(text);
    };
    if facts.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        StoreError::ReadOnly(text)
    } else if facts.f_bavail == 0 {
        StoreError::Full(text)
    } else {
        StoreError::Unavailable(text)
    }
}
