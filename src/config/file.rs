//! Reads small regular files without ever waiting on a pipe or a device.

use std::io::Read as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Why a file was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileFault {
    /// It could not be opened or read; the system's words.
    #[error("{0}")]
    Unreadable(String),
    /// It is a folder, a pipe, a device.
    #[error("not a regular file")]
    NotRegular,
    /// It is larger than allowed.
    #[error("too large")]
    TooLarge,
    /// It is not UTF-8.
    #[error("not UTF-8 text")]
    NotUtf8,
}

impl FileFault {
    fn of(error: &std::io::Error) -> Self {
        Self::Unreadable(match error.kind() {
            std::io::ErrorKind::NotFound => "no such file".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// The whole text of a regular file of at most `max_bytes`.
pub(super) fn read_regular(path: &Path, max_bytes: u64) -> Result<String, FileFault> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| FileFault::of(&e.into()))?;
    let file = std::fs::File::from(handle);
    let metadata = file.metadata().map_err(|e| FileFault::of(&e))?;
    if !metadata.is_file() {
        return Err(FileFault::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| FileFault::of(&e))?;
    if bytes.len() as u64 > max_bytes {
        return Err(FileFault::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| FileFault::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_text_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_regular(&path, 5).unwrap(), "12345");
        assert_eq!(read_regular(&path, 4), Err(FileFault::TooLarge));
        assert_eq!(read_regular(folder.path(), 4), Err(FileFault::NotRegular));
        assert_eq!(
            read_regular(Path::new("/dev/zero"), 4),
            Err(FileFault::NotRegular)
        );
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_regular(&path, 4), Err(FileFault::NotUtf8));
        let gone = read_regular(&folder.path().join("gone"), 4);
        assert_eq!(gone, Err(FileFault::Unreadable("no such file".to_owned())));
    }

    #[test]
    fn a_pipe_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(read_regular(&path, 4), Err(FileFault::NotRegular));
    }
}
