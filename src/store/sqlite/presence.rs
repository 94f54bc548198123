//! Notices that the database file was removed or replaced while it is open.
//!
//! SQLite goes on reading and writing a file that has no name any more, and all of it is lost at the end. So the
//! device and inode behind the path are compared with those of the file that was opened, at most every 100 ms,
//! before work is done. While they differ all work is refused with [`StoreError::Replaced`]. It ends when the very
//! file is back at its path; a new file is opened by a new start of the process only, for what is in memory
//! (known tokens, counters) belongs to the old one.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::Clock;
use crate::store::StoreError;

const CHECK_EVERY: Duration = Duration::from_millis(100);

/// The identity of the opened file.
pub(super) struct Presence {
    path: PathBuf,
    device: u64,
    inode: u64,
    clock: Arc<dyn Clock>,
    checked_at_micros: AtomicU64,
    away: AtomicBool,
}

impl Presence {
    /// Remembers which file is at `path` now.
    pub(super) fn of(path: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let facts = std::fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: facts.dev(),
            inode: facts.ino(),
            checked_at_micros: AtomicU64::new(micros(clock.monotonic())),
            clock,
            away: AtomicBool::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses while the path names another file than the one opened.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let now = micros(self.clock.monotonic());
        let last = self.checked_at_micros.load(Ordering::Relaxed);
        let is_fresh = now.saturating_sub(last) < micros(CHECK_EVERY);
        if is_fresh && !self.away.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.checked_at_micros.store(now, Ordering::Relaxed);
        let verdict = self.look();
        self.away.store(verdict.is_err(), Ordering::Relaxed);
        verdict
    }

    fn look(&self) -> Result<(), StoreError> {
        let place = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(facts) if facts.dev() == self.device && facts.ino() == self.inode => Ok(()),
            Ok(_) => Err(StoreError::Replaced(format!(
                "`{place}` is another file than the one opened; put it back, or restart to use the new one"
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Replaced(format!(
                "`{place}` is gone; put it back, or restart to begin a new one"
            ))),
            Err(error) => Err(StoreError::Unavailable(format!(
                "`{place}`: unable to open database file: {}",
                crate::store::state_dir::in_words(&error)
            ))),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
