//! The file `grants.log`: what was granted and is perhaps not yet counted in the database.
//!
//! Records of 40 bytes: sequence, token, count (grants minus returned ones), checksum. They are written at a kept
//! offset in one `write(2)` a batch, so a write that failed half-way is overwritten by the next one. Reading stops at
//! the first record whose checksum is wrong or whose sequence does not rise: the torn tail of a death. The database
//! says up to which sequence records are counted there; those are skipped, so no order of fold, truncation and death
//! counts a grant twice or not at all.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::domain::TokenId;
use crate::store::state_dir::open_private_file;

const RECORD: usize = 40;
const SUMMED: usize = 32;

/// A record as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GrantRecord {
    pub sequence: u64,
    pub token: TokenId,
    pub count: i64,
}

/// The open log; without a file (the database is in memory) it only counts sequences.
pub(super) struct GrantLog {
    file: Option<(Arc<File>, PathBuf)>,
    length: u64,
    last_sequence: u64,
}

impl GrantLog {
    /// A log that keeps nothing.
    pub(super) fn nowhere(folded: u64) -> Self {
        Self {
            file: None,
            length: 0,
            last_sequence: folded,
        }
    }

    /// Opens the log and answers what is not counted in the database yet, which counts up to `folded`.
    pub(super) fn open(path: &Path, folded: u64) -> io::Result<(Self, Vec<GrantRecord>)> {
        let mut file = open_private_file(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let records = decode(&bytes);
        let log = Self {
            file: Some((Arc::new(file), path.to_owned())),
            length: (records.len() * RECORD) as u64,
            last_sequence: records.last().map_or(0, |record| record.sequence).max(folded),
        };
        let unfolded = records
            .into_iter()
            .filter(|record| record.sequence > folded)
            .collect();
        Ok((log, unfolded))
    }

    /// The sequence of the newest record.
    pub(super) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Bytes in the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The file, for syncing it elsewhere.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.file.as_ref().map(|(file, _)| Arc::clone(file))
    }

    /// Writes one record an entry. After an error nothing of it counts.
    pub(super) fn append(&mut self, entries: &[(TokenId, i64)]) -> io::Result<()> {
        let last = self.last_sequence + entries.len() as u64;
        if let Some((file, _)) = &self.file {
            let mut bytes = Vec::with_capacity(entries.len() * RECORD);
            for (sequence, (token, count)) in (self.last_sequence + 1..).zip(entries) {
                encode(sequence, *token, *count, &mut bytes);
            }
            if let Err(error) = file.write_all_at(&bytes, self.length) {
                // Left behind it would at worst lose these grants, which is allowed.
                let _ = file.set_len(self.length);
                return Err(error);
            }
            self.length += bytes.len() as u64;
        }
        self.last_sequence = last;
        Ok(())
    }

    /// Replaces the file by one that holds `records` alone (their sequences rise, none is above the last).
    pub(super) fn rewrite(&mut self, records: &[GrantRecord]) -> io::Result<()> {
        let Some((file, path)) = &mut self.file else {
            return Ok(());
        };
        let beside = path.with_extension("log.new");
        let mut bytes = Vec::with_capacity(records.len() * RECORD);
        for record in records {
            encode(record.sequence, record.token, record.count, &mut bytes);
        }
        let new = open_private_file(&beside)?;
        new.set_len(0)?;
        new.write_all_at(&bytes, 0)?;
        new.sync_all()?;
        std::fs::rename(&beside, &*path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        *file = Arc::new(new);
        self.length = bytes.len() as u64;
        Ok(())
    }

    /// Empties the file. Only when the database has everything, durably.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if let Some((file, _)) = &self.file {
            file.set_len(0)?;
        }
        self.length = 0;
        Ok(())
    }
}

fn encode(sequence: u64, token: TokenId, count: i64, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(token.as_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    let sum = checksum(&bytes[start..]);
    bytes.extend_from_slice(&sum);
}

fn decode(bytes: &[u8]) -> Vec<GrantRecord> {
    let mut records: Vec<GrantRecord> = Vec::with_capacity(bytes.len() / RECORD);
    for record in bytes.chunks_exact(RECORD) {
        let (summed, sum) = record.split_at(SUMMED);
        let (Ok(sequence), Ok(token), Ok(count)) = (
            summed[..8].try_into(),
            summed[8..24].try_into(),
            summed[24..].try_into(),
        ) else {
            break;
        };
        let sequence = u64::from_le_bytes(sequence);
        let rises = records.last().is_none_or(|last| last.sequence < sequence);
        if checksum(summed) != sum || !rises {
            break;
        }
        records.push(GrantRecord {
            sequence,
            token: TokenId::from_bytes(token),
            count: i64::from_le_bytes(count),
        });
    }
    records
}

fn checksum(summed: &[u8]) -> [u8; RECORD - SUMMED] {
    let digest = Sha256::digest(summed);
    let mut sum = [0; RECORD - SUMMED];
    sum.copy_from_slice(&digest[..RECORD - SUMMED]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(records: &[GrantRecord]) -> Vec<i64> {
        records.iter().map(|record| record.count).collect()
    }

    #[test]
    fn what_was_appended_reads_back_and_what_is_folded_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.log");
        let token = TokenId::random();
        let (mut log, none) = GrantLog::open(&path, 0).unwrap();
        assert!(none.is_empty());
        log.append(&[(token, 1), (token, 2)]).unwrap();
        log.append(&[(token, 3)]).unwrap();
        assert_eq!(log.last_sequence(), 3);
        let (log, records) = GrantLog::open(&path, 1).unwrap();
        assert_eq!(counts(&records), [2, 3]);
        assert_eq!(log.last_sequence(), 3);
        let (log, records) = GrantLog::open(&path, 50).unwrap();
        assert!(records.is_empty());
        assert_eq!(log.last_sequence(), 50, "a sequence is never used twice");
    }

    #[test]
    fn a_torn_tail_is_ignored_and_overwritten_at_every_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.log");
        let token = TokenId::random();
        let (mut log, _) = GrantLog::open(&path, 0).unwrap();
        log.append(&[(token, 1), (token, 2), (token, 3)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, records) = GrantLog::open(&path, 0).unwrap();
            assert_eq!(records.len(), cut / RECORD);
            log.append(&[(token, 9)]).unwrap();
            let (_, records) = GrantLog::open(&path, 0).unwrap();
            assert_eq!(records.last().unwrap().count, 9);
            assert_eq!(records.len(), cut / RECORD + 1);
        }
        for flipped in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let (_, records) = GrantLog::open(&path, 0).unwrap();
            assert!(records.len() <= flipped / RECORD, "no damaged record is believed");
        }
    }

    #[test]
    fn a_failed_write_counts_nothing_and_the_next_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.log");
        let token = TokenId::random();
        let (mut log, _) = GrantLog::open(&path, 0).unwrap();
        log.append(&[(token, 1)]).unwrap();
        let working = log.file.clone();
        log.file = Some((Arc::new(File::open(&path).unwrap()), path.clone()));
        log.append(&[(token, 2)]).unwrap_err();
        assert_eq!((log.length(), log.last_sequence()), (RECORD as u64, 1));
        log.file = working;
        log.append(&[(token, 3)]).unwrap();
        assert_eq!(counts(&GrantLog::open(&path, 0).unwrap().1), [1, 3]);
    }

    #[test]
    fn a_rewritten_log_is_small_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.log");
        let token = TokenId::random();
        let (mut log, _) = GrantLog::open(&path, 0).unwrap();
        for _ in 0..100 {
            log.append(&[(token, 1)]).unwrap();
        }
        log.rewrite(&[GrantRecord {
            sequence: 1,
            token,
            count: 100,
        }])
        .unwrap();
        log.append(&[(token, 5)]).unwrap();
        let (log, records) = GrantLog::open(&path, 0).unwrap();
        assert_eq!(counts(&records), [100, 5]);
        assert_eq!((log.length(), log.last_sequence()), (80, 101));
    }
}
