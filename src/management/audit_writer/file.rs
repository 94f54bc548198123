//! The audit log file: append only, 0600, rotated by size, opened anew when somebody else rotated it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{AuditError, AuditSettings};

/// The open file, if there is to be one.
pub struct AuditFile {
    open: Option<Open>,
}

struct Open {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// The last write broke off: the next one starts a new line.
    torn: bool,
}

impl AuditFile {
    /// Opens the file that `settings` name, with the folders above it.
    pub fn open(settings: &AuditSettings) -> Result<Self, AuditError> {
        let Some(path) = settings.file.as_ref().filter(|_| settings.enabled) else {
            return Ok(Self { open: None });
        };
        let open = Open::at(path).map_err(|source| AuditError::File {
            path: path.clone(),
            source,
        })?;
        Ok(Self { open: Some(open) })
    }

    /// Appends whole lines and makes them durable.
    pub fn append(&mut self, lines: &[u8], settings: &AuditSettings) -> io::Result<()> {
        let Some(path) = &settings.file else {
            self.open = None;
            return Ok(());
        };
        let mut open = match self.open.take() {
            Some(open) if open.path == *path && open.is_still_there() => open,
            _ => Open::at(path)?,
        };
        if open.bytes > 0 && open.bytes + lines.len() as u64 > settings.max_size_bytes {
            rotate(path, settings.max_backups)?;
            open = Open::at(path)?;
        }
        let open = self.open.insert(open);
        let written = open.write(lines);
        open.torn = written.is_err();
        written
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            torn: false,
        })
    }

    /// Whether the path still names the file that is open.
    fn is_still_there(&self) -> bool {
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(named), Ok(held)) => (named.dev(), named.ino()) == (held.dev(), held.ino()),
            _ => false,
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.bytes += 1;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        self.file.sync_data()
    }
}

/// `audit.log` becomes `audit.log.1`, that `audit.log.2` and so on; the oldest goes.
fn rotate(path: &Path, max_backups: u32) -> io::Result<()> {
    if max_backups == 0 {
        return std::fs::remove_file(path);
    }
    for number in (1..max_backups).rev() {
        let from = backup(path, number);
        if from.exists() {
            std::fs::rename(from, backup(path, number + 1))?;
        }
    }
    std::fs::rename(path, backup(path, 1))
}

fn backup(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}
