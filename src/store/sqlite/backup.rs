//! A copy of the database that holds everything, made while a server runs or not; and its way back.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, backup::Backup};

use super::failure::Failure;
use super::grants::{GrantFiles, replay};
use super::{lock_beside, records, schema};
use crate::domain::Timestamp;
use crate::store::StoreError;
use crate::store::migrate::{SQLITE, missing};
use crate::store::state_dir::{StateDir, in_words};

/// Copies `database` into the new file `to` (0600), with the grants and usage records that `state_dir` holds apart from
/// it. A server may run meanwhile: the copy is of one moment, and nothing that was given or spent before is missing in it.
///
/// # Errors
/// `to` exists, or one of the files cannot be read or written.
pub fn backup(database: &Path, state_dir: &Path, to: &Path) -> Result<(), StoreError> {
    if to.exists() {
        return Err(unusable(to, "exists already; name another file"));
    }
    if !database.exists() {
        return Err(unusable(database, "unable to open database file: no such file"));
    }
    let part = beside(to, "part");
    let grants = beside(to, "grants");
    let records = [0, 1].map(|number| beside(to, &format!("usage-records.{number}")));
    let copied = copy_with_logs(database, state_dir, &part, (&grants, &records));
    for log in [&grants, &records[0], &records[1]] {
        // WHY: an error here leaves a file of no use behind, and the copy's own error says more
        let _ = fs::remove_file(log);
    }
    copied.inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })?;
    fs::rename(&part, to).map_err(|error| unusable(to, &in_words(&error)))
}

fn copy_with_logs(
    database: &Path,
    state_dir: &Path,
    part: &Path,
    (grants, records): (&Path, &[PathBuf; 2]),
) -> Result<(), StoreError> {
    private_file(part)?;
    // first: what is folded and taken out of them afterwards is in the database by then
    copy_log(&state_dir.join("grants.log"), grants)?;
    for (log, copy) in records::paths(state_dir).iter().zip(records) {
        copy_log(log, copy)?;
    }
    let copy = || -> Result<(), Failure> {
        let from = Connection::open_with_flags(
            database,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        from.busy_timeout(std::time::Duration::from_secs(10))?;
        let mut into = Connection::open(part)?;
        Backup::new(&from, &mut into)?.step(-1)?;
        let _: String = into.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0))?;
        let files = GrantFiles {
            grants: grants.to_owned(),
            write_ahead: part.to_owned(),
        };
        if missing(SQLITE, &schema::applied(&into)?)?.is_empty() {
            replay(&into, Some(&files))?;
            records::replay(&into, records)?;
        }
        Ok(check(&into)?)
    };
    copy().map_err(|failure| failure.named(Some(database)))?;
    File::open(part)
        .and_then(|file| file.sync_all())
        .map_err(|error| unusable(part, &in_words(&error)))
}

fn copy_log(log: &Path, copy: &Path) -> Result<(), StoreError> {
    private_file(copy)?;
    match fs::read(log) {
        Ok(bytes) => fs::write(copy, bytes).map_err(|error| unusable(copy, &in_words(&error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unusable(log, &in_words(&error))),
    }
}

/// Puts a backup into the place of `database`, which no server may use now. What was there is kept beside it; the
/// answer is where.
///
/// # Errors
/// The backup is damaged, of another program or of a newer version; a server runs; a file cannot be written.
pub fn restore(
    from: &Path,
    database: &Path,
    state_dir: &Path,
    now: Timestamp,
) -> Result<Option<PathBuf>, StoreError> {
    let usable = || -> Result<(), Failure> {
        let backup = Connection::open_with_flags(
            from,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        let applied = schema::applied(&backup)?;
        missing(SQLITE, &applied)?;
        if applied.is_empty() {
            return Err(StoreError::Damaged("it holds no database of this program".to_owned()).into());
        }
        Ok(check(&backup)?)
    };
    usable().map_err(|failure| failure.named(Some(from)))?;
    let _state = StateDir::open(state_dir).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let _lock = lock_beside(database)?;
    let arriving = beside(database, "restoring");
    private_file(&arriving)?;
    let place = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| unusable(&path, &in_words(&error))
    };
    fs::copy(from, &arriving).map_err(place(&arriving))?;
    File::open(&arriving)
        .and_then(|file| file.sync_all())
        .map_err(place(&arriving))?;
    let kept = if database.exists() {
        let kept = beside(database, &format!("before-restore-{}", now.as_seconds()));
        set_aside_write_ahead(database, &kept)?;
        fs::hard_link(database, &kept).map_err(place(&kept))?;
        Some(kept)
    } else {
        None
    };
    fs::rename(&arriving, database).map_err(place(database))?;
    // what they hold is counted in the backup, as far as it is older
    let [first, second] = records::paths(state_dir);
    for log in [state_dir.join("grants.log"), first, second] {
        match fs::remove_file(&log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(place(&log)(error)),
            _ => {}
        }
    }
    Ok(kept)
}

/// A write-ahead log that stayed beside a new database would be read into it.
fn set_aside_write_ahead(database: &Path, kept: &Path) -> Result<(), StoreError> {
    // WHY: a database so damaged that its log cannot be taken in is one reason for a restore
    let _ = Connection::open(database)
        .and_then(|old| old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    for ending in ["-wal", "-shm"] {
        let (from, mut to) = (with_ending(database, ending), kept.as_os_str().to_owned());
        to.push(ending);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(&from, &in_words(&error)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check(connection: &Connection) -> rusqlite::Result<()> {
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(verdict),
    ))
}

fn private_file(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map(|_| ())
        .map_err(|error| unusable(path, &in_words(&error)))
}

fn beside(path: &Path, word: &str) -> PathBuf {
    with_ending(path, &format!(".{word}"))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn unusable(path: &Path, why: &str) -> StoreError {
    StoreError::Unavailable(format!("`{}`: {why}", path.display()))
}
