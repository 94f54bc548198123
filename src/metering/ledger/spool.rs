//! The spool: records on the local disk while the store does not take them.
//!
//! Lines of JSON, appended and synced before anyone is told that they are safe. To replay them the file is set aside under
//! another name, so that new lines come into a new one; it goes once the store has them all. A process that dies leaves both
//! files for the next one. The store knows each record by its id, so that a line which is given twice counts once.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::domain::{AttemptRecord, NanoUsd, RecordId, Timestamp, TokenUsage, UsageRecord};

/// The longest line that is read; longer ones were not written here.
const MOST_LINE_BYTES: u64 = 1 << 20;

/// Lines that are read at once where only their ids are wanted.
const GROUP_READ: usize = 500;

/// Where the lines are.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    aside: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

/// Why nothing was spooled.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    /// `ledger.spool_max` is reached.
    #[error("the spool is full")]
    Full,
    /// The disk.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl Spool {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self {
            path: folder.join("ledger-spool.jsonl"),
            aside: folder.join("ledger-spool.replay.jsonl"),
            open: Mutex::new(None),
        }
    }

    /// Appends and syncs. Blocks. All of the records or, as far as a reader can tell, none.
    pub(super) fn append(&self, records: &[UsageRecord], most_bytes: u64) -> Result<(), SpoolError> {
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, &Line::of(record)).map_err(io::Error::other)?;
            lines.push(b'\n');
        }
        let mut guard = self.open.lock();
        let open = match &mut *guard {
            Some(open) => open,
            none => none.insert(self.open_file()?),
        };
        let aside = std::fs::metadata(&self.aside).map_or(0, |file| file.len());
        if open.bytes + aside + lines.len() as u64 > most_bytes {
            return Err(SpoolError::Full);
        }
        let written = open.file.write_all(&lines).and_then(|()| open.file.sync_data());
        if let Err(error) = written {
            // what was half written is no line, and must not run into the next one
            let _ = open.file.set_len(open.bytes);
            *guard = None;
            return Err(error.into());
        }
        open.bytes += lines.len() as u64;
        Ok(())
    }

    fn open_file(&self) -> io::Result<Open> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        let mut bytes = file.metadata()?.len();
        if bytes > 0 && !ends_with_newline(&self.path)? {
            // a line that a dying process left unfinished ends here
            file.write_all(b"\n")?;
            bytes += 1;
        }
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Open { file, bytes })
    }

    /// Whether there is anything to replay.
    pub(super) fn has_lines(&self) -> bool {
        let is_filled = |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
        is_filled(&self.aside) || is_filled(&self.path)
    }

    /// The records in both files. Blocks; before anybody else moves them. What cannot be read is no record here: the replay
    /// says so.
    pub(super) fn record_ids(&self) -> HashSet<RecordId> {
        let mut ids = HashSet::new();
        for path in [&self.aside, &self.path] {
            let Ok(file) = File::open(path) else { continue };
            let mut aside = Aside {
                lines: BufReader::new(file),
                unreadable: 0,
            };
            while let Ok(records) = aside.next(GROUP_READ)
                && !records.is_empty()
            {
                ids.extend(records.iter().map(|record| record.record_id));
            }
        }
        ids
    }

    /// Bytes in both files, for metrics.
    pub(super) fn bytes(&self) -> u64 {
        [&self.path, &self.aside]
            .into_iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|file| file.len())
            .sum()
    }

    /// The records that are set aside, or that are set aside now. Blocks. Lines that cannot be read are counted.
    pub(super) fn set_aside(&self) -> io::Result<Option<Aside>> {
        if !self.aside.exists() {
            let mut open = self.open.lock();
            match std::fs::metadata(&self.path) {
                Ok(file) if file.len() > 0 => {}
                _ => return Ok(None),
            }
            *open = None;
            std::fs::rename(&self.path, &self.aside)?;
        }
        Ok(Some(Aside {
            lines: BufReader::new(File::open(&self.aside)?),
            unreadable: 0,
        }))
    }

    /// The store has everything that was set aside.
    pub(super) fn forget_aside(&self) -> io::Result<()> {
        std::fs::remove_file(&self.aside)
    }
}

fn ends_with_newline(path: &Path) -> io::Result<bool> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Records being replayed.
pub(super) struct Aside {
    lines: BufReader<File>,
    /// Lines that could not be read.
    pub(super) unreadable: u64,
}

impl Aside {
    /// The next records, at most so many; empty at the end. Blocks.
    pub(super) fn next(&mut self, most: usize) -> io::Result<Vec<UsageRecord>> {
        use std::io::Read as _;
        let mut records = Vec::new();
        let mut line = Vec::new();
        while records.len() < most {
            line.clear();
            let read = (&mut self.lines)
                .take(MOST_LINE_BYTES)
                .read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            let parsed: Option<UsageRecord> =
                serde_json::from_slice::<Line>(&line).ok().and_then(Line::record);
            match parsed {
                Some(record) => records.push(record),
                None if line.trim_ascii().is_empty() => {}
                None => self.unreadable += 1,
            }
        }
        Ok(records)
    }
}

/// A record as a line.
#[derive(Serialize, Deserialize)]
struct Line {
    record_id: String,
    request_id: String,
    project_id: String,
    token_id: String,
    endpoint: String,
    model: String,
    provider: String,
    served_model: Option<String>,
    status: u16,
    usage: TokenUsage,
    cost_nano_usd: i64,
    estimated: bool,
    cut: bool,
    received_at_us: i64,
    finished_at_us: i64,
    duration_us: u64,
    first_byte_us: Option<u64>,
    attempts: Vec<AttemptRecord>,
}

impl Line {
    fn of(record: &UsageRecord) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            record_id: record.record_id.to_string(),
            request_id: record.request_id.clone(),
            project_id: record.project_id.to_string(),
            token_id: record.token_id.to_string(),
            endpoint: record.endpoint.clone(),
            model: record.model.clone(),
            provider: record.provider.to_string(),
            served_model: record.served_model.as_deref().map(str::to_owned),
            status: record.status,
            usage: record.usage,
            cost_nano_usd: record.cost.nanos(),
            estimated: record.estimated,
            cut: record.cut,
            received_at_us: record.received_at.as_micros(),
            finished_at_us: record.finished_at.as_micros(),
            duration_us: micros(record.duration),
            first_byte_us: record.time_to_first_byte.map(micros),
            attempts: record.attempts.clone(),
        }
    }

    fn record(self) -> Option<UsageRecord> {
        Some(UsageRecord {
            record_id: self.record_id.parse().ok()?,
            request_id: self.request_id,
            project_id: self.project_id.parse().ok()?,
            token_id: self.token_id.parse().ok()?,
            endpoint: self.endpoint,
            model: self.model,
            provider: Arc::from(self.provider),
            served_model: self.served_model.map(Arc::from),
            status: self.status,
            usage: self.usage,
            cost: NanoUsd::from_nanos(self.cost_nano_usd),
            estimated: self.estimated,
            cut: self.cut,
            received_at: Timestamp::from_micros(self.received_at_us),
            finished_at: Timestamp::from_micros(self.finished_at_us),
            duration: Duration::from_micros(self.duration_us),
            time_to_first_byte: self.first_byte_us.map(Duration::from_micros),
            attempts: self.attempts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::known;
    use super::*;

    const MOST: u64 = 1 << 20;

    fn all(spool: &Spool) -> (Vec<UsageRecord>, u64) {
        let mut records = Vec::new();
        let mut unreadable = 0;
        while let Some(mut aside) = spool.set_aside().unwrap() {
            loop {
                let some = aside.next(2).unwrap();
                if some.is_empty() {
                    break;
                }
                records.extend(some);
            }
            unreadable += aside.unreadable;
            spool.forget_aside().unwrap();
        }
        (records, unreadable)
    }

    #[test]
    fn lines_are_read_back_also_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let records: Vec<UsageRecord> = (0..5).map(known).collect();
        let spool = Spool::in_folder(folder.path());
        assert!(!spool.has_lines() && spool.set_aside().unwrap().is_none());
        spool.append(&records[..2], MOST).unwrap();
        let mut aside = spool.set_aside().unwrap().unwrap();
        assert_eq!(aside.next(1).unwrap(), records[..1]);
        // what comes meanwhile goes into a new file; the process dies with both
        spool.append(&records[2..], MOST).unwrap();
        let next = Spool::in_folder(folder.path());
        assert!(next.has_lines() && next.bytes() > 0);
        assert_eq!(all(&next), (records, 0));
        assert!(!next.has_lines());
    }

    #[test]
    fn a_line_that_was_not_finished_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::in_folder(folder.path());
        spool.append(&[known(1)], MOST).unwrap();
        let path = folder.path().join("ledger-spool.jsonl");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
        let next = Spool::in_folder(folder.path());
        next.append(&[known(2)], MOST).unwrap();
        assert_eq!(all(&next), (vec![known(1), known(2)], 1));
    }

    #[test]
    fn a_full_spool_and_a_broken_disk_say_so_and_keep_what_they_have() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::in_folder(folder.path());
        spool.append(&[known(1)], MOST).unwrap();
        let most = spool.bytes() + 10;
        assert!(matches!(spool.append(&[known(2)], most), Err(SpoolError::Full)));
        assert_eq!(all(&spool), (vec![known(1)], 0));
        let nowhere = Spool::in_folder(&folder.path().join("missing"));
        assert!(matches!(
            nowhere.append(&[known(1)], MOST),
            Err(SpoolError::Disk(_))
        ));
    }
}
