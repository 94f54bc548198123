//! The configurations that were in force: copies of the file, newest last, in the state folder.
//!
//! A copy is written when a configuration takes force, so that `config diff` can say what a changed file would change and
//! `config rollback` can put an older one back. Copies may hold secrets as the file does: folder 0700, files 0600.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::domain::{Secret, Timestamp};

/// Copies kept; the oldest goes first.
const KEPT: usize = 20;

/// The copies of one server.
#[derive(Debug, Clone)]
pub struct History {
    folder: PathBuf,
}

/// One copy.
#[derive(Debug, Clone)]
pub struct Kept {
    /// When it took force.
    pub since: Timestamp,
    /// The text of the file.
    pub text: Secret,
}

impl History {
    /// The history in a server's state folder.
    pub fn in_state_dir(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join("configurations"),
        }
    }

    /// Keeps a configuration that takes force at `now`; one that is the newest copy already is not kept twice.
    ///
    /// # Errors
    /// When the copy cannot be written.
    pub fn keep(&self, text: &Secret, now: Timestamp) -> io::Result<()> {
        let mut names = self.names()?;
        let newest = names.last();
        if let Some(newest) = newest
            && std::fs::read(self.folder.join(newest))? == text.expose().as_bytes()
        {
            return Ok(());
        }
        // a clock that was set back must not make an older copy the newest
        let after = newest.map_or(0, |newest| micros_of(newest) + 1);
        match std::fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let name = format!("{:020}.yaml", now.as_micros().max(after));
        let unfinished = self.folder.join("unfinished");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(text.expose().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, self.folder.join(&name))?;
        names.push(name);
        for old in &names[..names.len().saturating_sub(KEPT)] {
            std::fs::remove_file(self.folder.join(old))?;
        }
        Ok(())
    }

    /// All copies, newest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn all(&self) -> io::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for name in self.names()?.iter().rev() {
            kept.push(Kept {
                since: Timestamp::from_micros(micros_of(name)),
                text: Secret::new(std::fs::read_to_string(self.folder.join(name))?),
            });
        }
        Ok(kept)
    }

    /// Names of the copies, oldest first.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                name.strip_suffix(".yaml")
                    .is_some_and(|micros| micros.bytes().all(|byte| byte.is_ascii_digit()))
            })
            .collect();
        names.sort();
        Ok(names)
    }
}

fn micros_of(name: &str) -> i64 {
    name.trim_end_matches(".yaml").parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn copies_are_kept_once_in_order_and_in_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::in_state_dir(folder.path());
        assert!(history.all().unwrap().is_empty());
        let keep = |text: &str, at: i64| {
            history
                .keep(&Secret::new(text), Timestamp::from_micros(at))
                .unwrap();
        };
        keep("a: 1", 10);
        keep("a: 1", 20);
        keep("a: 2", 30);
        keep("a: 1", 40);
        let texts = || -> Vec<String> {
            let all = history.all().unwrap();
            all.iter().map(|kept| kept.text.expose().to_owned()).collect()
        };
        assert_eq!(texts(), ["a: 1", "a: 2", "a: 1"]);
        keep("set back", 5);
        assert_eq!(texts()[0], "set back");
        for number in 0..40 {
            keep(&format!("b: {number}"), 100 + number);
        }
        assert_eq!((texts().len(), texts()[0].as_str()), (KEPT, "b: 39"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("configurations")), 0o700);
        let file = std::fs::read_dir(folder.path().join("configurations"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(mode(&file.path()), 0o600);
    }
}
