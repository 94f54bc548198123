//! Makes the state directory and keeps a second process out of it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a directory or lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("`{path}` is in use by the process with pid {pid}; stop it first, or use another directory")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as the file says.
        pid: String,
    },
    /// The system refused.
    #[error("cannot use `{path}`: {why}")]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// In words; `permission denied` where that is the reason.
        why: String,
    },
}

/// How often a lock that this very process held a moment ago is tried again, and after which pause.
const OWN_LOCK_TRIES: u32 = 100;
const OWN_LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// A lock on a file that names its holder's pid. Ends with the process, or on drop.
#[derive(Debug)]
pub struct ProcessLock {
    // The lock belongs to the open file; closing it gives it back.
    _file: File,
}

impl ProcessLock {
    /// Takes the lock, or says at once who holds it. The file stays behind when the lock ends.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let refused = |error: io::Error| refused(path, &error);
        let mut file = open_private_file(path).map_err(refused)?;
        let mut tries_left = OWN_LOCK_TRIES;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let pid = holder(&mut file);
                    if pid != std::process::id().to_string() || tries_left == 0 {
                        return Err(LockError::Held {
                            path: path.to_owned(),
                            pid,
                        });
                    }
                    // WHY: a child holds every open file of ours between its fork and its exec, locks that were
                    // given back meanwhile too.
                    tries_left -= 1;
                    std::thread::sleep(OWN_LOCK_PAUSE);
                }
                Err(TryLockError::Error(error)) => return Err(refused(error)),
            }
        }
        // WHY: a full disk must not keep the program from starting; the pid is for people.
        let named = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = named {
            log::warn!("cannot write the pid into `{}`: {error}", path.display());
        }
        Ok(Self { _file: file })
    }
}

/// The state directory, held by this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: ProcessLock,
}

impl StateDir {
    /// Makes the directory (0700) when it is missing and locks `llm-proxy.lock` in it.
    pub fn open(path: &Path) -> Result<Self, LockError> {
        create_private_dir(path)?;
        let lock = ProcessLock::acquire(&path.join("llm-proxy.lock"))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a directory and its parents for this user alone; one that exists stays as it is.
pub fn create_private_dir(path: &Path) -> Result<(), LockError> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &io::Error) -> LockError {
    LockError::Refused {
        path: path.to_owned(),
        why: in_words(error),
    }
}

/// Opens a file of this user's alone for reading and writing, empty when it was not there.
pub(super) fn open_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// An I/O error in the words that people search for.
pub(super) fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space left on device".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "read-only file system".to_owned(),
        _ => error.to_string(),
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(32).read_to_string(&mut text));
    match (read, text.trim()) {
        (Ok(_), pid) if !pid.is_empty() => pid.to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_the_pid_of_the_first() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/state");
        let first = StateDir::open(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let refused = StateDir::open(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("pid {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        StateDir::open(&path).unwrap();
    }
}
