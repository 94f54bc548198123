//! Two files in the state directory, `usage-records.0.jsonl` and `.1`: usage records that are safe and perhaps not yet in
//! the database.
//!
//! Lines of JSON. One file is written while the other is brought into the database, then they change places. A line is
//! written at a kept offset, so that a write that failed half-way is overwritten by the next one. A process that dies
//! leaves both for the next one; the database knows each record by its id, so a line that is given twice counts once.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::store::ledger_columns::RecordColumns;
use crate::store::state_dir::open_private_file;

/// The two paths.
pub(in crate::store::sqlite) fn paths(state_dir: &Path) -> [PathBuf; 2] {
    [0, 1].map(|number| state_dir.join(format!("usage-records.{number}.jsonl")))
}

/// The open files.
pub(in crate::store::sqlite) struct RecordLog {
    files: [LogFile; 2],
    /// The one that is written.
    current: usize,
}

struct LogFile {
    file: File,
    path: PathBuf,
    length: u64,
}

/// What a former process left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub rows: Vec<RecordColumns>,
    /// Whole lines that are no record. (A torn last line is none: nobody was told that it was safe.)
    pub unreadable: u64,
}

impl RecordLog {
    /// Opens both files; what is in them stays there until [`Self::clear`].
    pub(super) fn open(paths: &[PathBuf; 2]) -> Result<(Self, Left), (PathBuf, io::Error)> {
        let mut left = Left::default();
        let mut open = |path: &PathBuf| LogFile::open(path, &mut left).map_err(|error| (path.clone(), error));
        let files = [open(&paths[0])?, open(&paths[1])?];
        Ok((Self { files, current: 0 }, left))
    }

    /// A log that takes nothing.
    #[cfg(test)]
    pub(super) fn broken(paths: &[PathBuf; 2]) -> Self {
        let (mut log, _) = Self::open(paths).unwrap();
        for file in &mut log.files {
            file.file = File::open(&file.path).unwrap();
        }
        log
    }

    /// Writes lines, all of them or none; `durably`: they are on the disk then.
    pub(super) fn append(&mut self, lines: &[u8], durably: bool) -> io::Result<()> {
        let open = &mut self.files[self.current];
        let written = open
            .file
            .write_all_at(lines, open.length)
            .and_then(|()| if durably { open.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Left behind it would be a record that the ledger spools as well: the same one, by its id.
            let _ = open.file.set_len(open.length);
            return Err(error);
        }
        open.length += lines.len() as u64;
        Ok(())
    }

    /// The file that is written.
    pub(super) fn path(&self) -> &Path {
        &self.files[self.current].path
    }

    /// The files change places: what was written so far stays in the one that is not.
    pub(super) fn swap(&mut self) {
        self.current = 1 - self.current;
    }

    /// Whether there is anything in the file that is not written.
    pub(super) fn other_has_lines(&self) -> bool {
        self.files[1 - self.current].length > 0
    }

    /// Empties the file that is not written. Only when the database has everything in it.
    pub(super) fn clear_other(&mut self) -> io::Result<()> {
        self.files[1 - self.current].clear()
    }

    /// Empties both.
    pub(super) fn clear(&mut self) -> Result<(), (PathBuf, io::Error)> {
        for file in &mut self.files {
            file.clear().map_err(|error| (file.path.clone(), error))?;
        }
        Ok(())
    }

    /// Copies both beside themselves, over older copies, for somebody to look at. Answers the copies' names.
    pub(super) fn keep_copies(&self) -> Result<String, (PathBuf, io::Error)> {
        let mut names = Vec::new();
        for file in &self.files {
            let copy = file.path.with_extension("jsonl.unreadable");
            std::fs::copy(&file.path, &copy).map_err(|error| (copy.clone(), error))?;
            names.push(format!("`{}`", copy.display()));
        }
        Ok(names.join(" and "))
    }
}

impl LogFile {
    fn open(path: &Path, left: &mut Left) -> io::Result<Self> {
        let mut file = open_private_file(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        for line in bytes[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            match serde_json::from_slice(line) {
                Ok(row) => left.rows.push(row),
                Err(_) => left.unreadable += 1,
            }
        }
        if whole < bytes.len() {
            file.set_len(whole as u64)?;
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            length: whole as u64,
        })
    }

    fn clear(&mut self) -> io::Result<()> {
        if self.length > 0 {
            self.file.set_len(0)?;
            self.length = 0;
        }
        Ok(())
    }
}

/// Adds a record's line.
pub(super) fn write_line(row: &RecordColumns, lines: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, row)?;
    lines.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ProjectId, TokenId};
    use crate::store::contract::ledger::record;

    fn rows(count: i64) -> Vec<RecordColumns> {
        let (project, token) = (ProjectId::random(), TokenId::random());
        (0..count)
            .map(|second| RecordColumns::of(&record(project, token, second, 1)))
            .collect()
    }

    fn lines(rows: &[RecordColumns]) -> Vec<u8> {
        let mut lines = Vec::new();
        for row in rows {
            write_line(row, &mut lines).unwrap();
        }
        lines
    }

    fn read(paths: &[PathBuf; 2]) -> Vec<RecordColumns> {
        let (_, left) = RecordLog::open(paths).unwrap();
        assert_eq!(left.unreadable, 0);
        left.rows
    }

    #[test]
    fn a_torn_tail_is_no_record_and_is_overwritten_at_every_cut() {
        let folder = tempfile::tempdir().unwrap();
        let files = paths(folder.path());
        let some = rows(3);
        let whole = lines(&some[..2]);
        let first = lines(&some[..1]).len();
        for cut in 0..=whole.len() {
            std::fs::write(&files[0], &whole[..cut]).unwrap();
            let (mut log, left) = RecordLog::open(&files).unwrap();
            let expected = usize::from(cut >= first) + usize::from(cut == whole.len());
            assert_eq!(left.rows, some[..expected], "cut at {cut}");
            log.append(&lines(&some[2..]), false).unwrap();
            assert_eq!(read(&files).last(), some.last(), "cut at {cut}");
            assert_eq!(read(&files).len(), expected + 1, "cut at {cut}");
        }
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let files = paths(folder.path());
        let some = rows(2);
        let (mut log, _) = RecordLog::open(&files).unwrap();
        log.append(&lines(&some[..1]), true).unwrap();
        let working = std::mem::replace(&mut log.files[0].file, File::open(&files[0]).unwrap());
        log.append(&lines(&some[1..]), false).unwrap_err();
        log.files[0].file = working;
        assert_eq!(read(&files), some[..1]);
        log.append(&lines(&some[1..]), false).unwrap();
        assert_eq!(read(&files), some);
    }

    #[test]
    fn one_file_is_emptied_while_the_other_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let files = paths(folder.path());
        let some = rows(3);
        let (mut log, _) = RecordLog::open(&files).unwrap();
        for row in &some {
            log.append(&lines(std::slice::from_ref(row)), false).unwrap();
            log.swap();
        }
        log.clear_other().unwrap();
        assert_eq!(
            read(&files),
            some[1..2],
            "the first and the third were in the other one"
        );
        log.clear().unwrap();
        assert!(read(&files).is_empty());
    }

    /// What a version wrote the next one reads.
    #[test]
    fn a_line_of_the_first_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let files = paths(folder.path());
        let line = br#"{"record_id":"01KYTB0M7R6W2Z0A8C6V1T3N5P","request_id":"r","project_id":"3f2b8c1e-8f0a-4a53-9a57-0a4a2b8f3f10","token_id":"3f2b8c1e-8f0a-4a53-9a57-0a4a2b8f3f11","endpoint":"/v1/chat/completions","model":"gpt-a","provider":"openai","served_model":null,"numbers":[200,1,2,0,0,0,0,5,6,7,8],"first_byte_us":null,"estimated":false,"cut":true,"attempts":"[]"}"#;
        std::fs::write(&files[1], [&line[..], b"\n"].concat()).unwrap();
        let left = read(&files);
        let record = left[0].clone().read().unwrap();
        assert!(record.cut && record.status == 200 && record.usage.completion == 2);
        assert_eq!(lines(&left), [&line[..], b"\n"].concat());
    }
}
