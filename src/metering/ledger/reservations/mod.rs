//! What running requests have reserved, on the local disk, so that the death of the process forgets no money.
//!
//! A line is written before a request leaves for a provider, another once its record is safe. A line without a second one
//! was left by a process that died: the next one makes a record of what was reserved. A record that is there already under
//! that id stays as it is, so that a second line that was not written in time changes nothing. Lines are written with one
//! system call for all who wait (process death loses nothing); with `ledger.fsync` they are synced as well (nor does power
//! loss).

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::domain::together::Together;
use crate::domain::{
    AttemptRecord, NanoUsd, ProjectId, RecordId, Timestamp, TokenId, TokenUsage, UsageRecord,
};

/// The longest line that is read; longer ones were not written here.
const MOST_LINE_BYTES: u64 = 64 << 10;

/// Lines that are written at once.
const BATCH: usize = 1024;

/// Reservations that were closed before their lines came; such a line comes within a turn of a worker's loop.
const MOST_EARLY: usize = 4096;

/// A file longer than this is made anew with what is open.
const REWRITE_ABOVE_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 1 << 20 };

/// How long a request waits for its line.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a request has reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The id that its record will have.
    pub record_id: RecordId,
    /// The client's name for it, or ours.
    pub request_id: String,
    /// Whose project.
    pub project_id: ProjectId,
    /// Whose token.
    pub token_id: TokenId,
    /// The path below `/v1`.
    pub endpoint: String,
    /// The model asked for; empty: none was named.
    pub model: String,
    /// The provider that is asked first.
    pub provider: String,
    /// When the request came.
    pub received_at: Timestamp,
    /// What it may cost.
    pub amount: NanoUsd,
}

impl Reserved {
    /// The record of a request whose process died.
    fn into_record(self) -> UsageRecord {
        UsageRecord {
            record_id: self.record_id,
            request_id: self.request_id,
            project_id: self.project_id,
            token_id: self.token_id,
            endpoint: self.endpoint,
            attempts: vec![AttemptRecord {
                provider: self.provider.clone(),
                model: (!self.model.is_empty()).then(|| self.model.clone()),
                key_id: "none".to_owned(),
                status: 0,
                usage: TokenUsage::default(),
                cost_nano_usd: self.amount.nanos(),
                estimated: true,
            }],
            model: self.model,
            provider: self.provider.into(),
            served_model: None,
            status: 0,
            usage: TokenUsage::default(),
            cost: self.amount,
            estimated: true,
            cut: true,
            received_at: self.received_at,
            finished_at: self.received_at,
            duration: Duration::ZERO,
            time_to_first_byte: None,
        }
    }
}

/// A reservation could not be written.
#[derive(Debug, thiserror::Error)]
#[error("what a request has reserved cannot be written to `{path}`: {why}")]
pub struct NotWritten {
    path: String,
    why: String,
}

/// A line that is written; dropping it writes the second one.
#[derive(Debug)]
#[must_use = "dropping it says that nothing is reserved any more"]
pub struct Opened {
    record_id: RecordId,
    log: Sender<Message>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // the thread ends after the last of these
        let _ = self.log.send(Message::Close(self.record_id));
    }
}

#[derive(Debug)]
enum Message {
    Open {
        lines: Vec<(RecordId, String)>,
        written: Option<Written>,
    },
    Close(RecordId),
}

/// Hears whether all lines of a message were written.
type Written = oneshot::Sender<Result<(), String>>;

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    #[serde(rename = "open")]
    Open {
        record_id: String,
        request_id: String,
        project_id: String,
        token_id: String,
        endpoint: String,
        model: String,
        provider: String,
        received_at_us: i64,
        nano_usd: i64,
    },
    #[serde(rename = "close")]
    Close(String),
}

/// The way to the thread that writes. The queue is as bounded as requests under way are: each waits for its line.
pub(super) struct Reservations {
    log: Sender<Message>,
    together: Together<(RecordId, String), Result<(), String>>,
    path: PathBuf,
}

/// What a process that died has left.
#[derive(Debug)]
pub(super) struct Left {
    /// The records of what it had reserved.
    pub(super) records: Vec<UsageRecord>,
    /// Where they are; `None`: in files that could not be read whole, and stay.
    aside: Option<PathBuf>,
}

impl Left {
    /// The records are safe. Blocks.
    pub(super) fn forget(&self) {
        let Some(aside) = &self.aside else { return };
        if let Err(error) = remove(aside) {
            log::warn!(
                "`{}` stays, and is read again at the next start: {error}",
                aside.display()
            );
        }
    }
}

impl Reservations {
    /// Sets aside what a former process left, and starts the thread. Blocks for as long as reading takes.
    pub(super) fn start(folder: &Path, fsync: impl Fn() -> bool + Send + 'static) -> (Self, Left) {
        let path = folder.join("reservations.jsonl");
        let aside = folder.join("reservations.replay.jsonl");
        let left = set_aside(&path, &aside);
        let (log, messages) = channel();
        let writer = Writer {
            path: path.clone(),
            file: None,
            bytes: 0,
            open: HashMap::new(),
            early: HashSet::new(),
            fsync: Box::new(fsync),
        };
        let started = std::thread::Builder::new()
            .name("reservations".to_owned())
            .spawn(move || writer.run(&messages));
        if let Err(error) = started {
            // whoever reserves is told: nobody answers
            log::error!("the thread of reservations did not start: {error}");
        }
        let way = log.clone();
        let together = Together::new(move |lines, written| {
            // an error: the thread has ended, and who waits hears of it by the sender that is dropped
            let _ = way.send(Message::Open { lines, written });
        });
        let own = Self { log, together, path };
        (own, left)
    }

    /// Writes down what a request has reserved; it may leave afterwards.
    pub(super) async fn open(&self, reserved: Reserved) -> Result<Opened, NotWritten> {
        // from here on a caller that leaves closes what it opened
        let opened = Opened {
            record_id: reserved.record_id,
            log: self.log.clone(),
        };
        self.write(reserved).await?;
        Ok(opened)
    }

    /// Writes down what a request has reserved now, in the place of what it had.
    pub(super) async fn write(&self, reserved: Reserved) -> Result<(), NotWritten> {
        let line = (reserved.record_id, line_of(reserved));
        let not_written = |why: &str| NotWritten {
            path: self.path.display().to_string(),
            why: why.to_owned(),
        };
        match tokio::time::timeout(PATIENCE, self.together.ask(line)).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(why))) => Err(not_written(&why)),
            Ok(None) => Err(not_written("its thread has ended")),
            Err(_) => Err(not_written(&format!("it took longer than {PATIENCE:?}"))),
        }
    }
}

fn line_of(reserved: Reserved) -> String {
    let line = Line::Open {
        record_id: reserved.record_id.to_string(),
        request_id: reserved.request_id,
        project_id: reserved.project_id.to_string(),
        token_id: reserved.token_id.to_string(),
        endpoint: reserved.endpoint,
        model: reserved.model,
        provider: reserved.provider,
        received_at_us: reserved.received_at.as_micros(),
        nano_usd: reserved.amount.nanos(),
    };
    in_json(&line)
}

fn in_json(line: &Line) -> String {
    // there is nothing that could not be written
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

impl Line {
    fn reserved(self) -> Option<Reserved> {
        let Self::Open {
            record_id,
            request_id,
            project_id,
            token_id,
            endpoint,
            model,
            provider,
            received_at_us,
            nano_usd,
        } = self
        else {
            return None;
        };
        Some(Reserved {
            record_id: record_id.parse().ok()?,
            request_id,
            project_id: project_id.parse().ok()?,
            token_id: token_id.parse().ok()?,
            endpoint,
            model,
            provider,
            received_at: Timestamp::from_micros(received_at_us),
            amount: NanoUsd::from_nanos(nano_usd),
        })
    }
}

/// Reads what both files leave open, and puts it into the one that stays until it is safe.
fn set_aside(path: &Path, aside: &Path) -> Left {
    let mut open: HashMap<RecordId, Reserved> = HashMap::new();
    let mut unreadable = false;
    for file in [aside, path] {
        if let Err(error) = read(file, &mut open)
            && error.kind() != io::ErrorKind::NotFound
        {
            unreadable = true;
            log::error!(
                "`{}` could not be read; it stays, and is read again at the next start: {error}",
                file.display()
            );
        }
    }
    let lines: String = open.values().cloned().map(line_of).collect();
    let records = records_of(open);
    if unreadable {
        // a record that is made again at the next start counts once
        return Left { records, aside: None };
    }
    let kept = if records.is_empty() {
        // empty or closed files say nothing
        remove(aside)
    } else {
        replace(aside, lines.as_bytes()).map(|_| ())
    };
    if let Err(error) = kept.and_then(|()| remove(path)) {
        log::error!("`{}` could not be written anew: {error}", aside.display());
    }
    Left {
        records,
        aside: Some(aside.to_owned()),
    }
}

/// Whether it was there or not.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn records_of(open: HashMap<RecordId, Reserved>) -> Vec<UsageRecord> {
    let mut records: Vec<UsageRecord> = open.into_values().map(Reserved::into_record).collect();
    records.sort_by_key(|record| record.record_id);
    if records.is_empty() {
        return records;
    }
    log::warn!(
        records = records.len();
        "{} requests were under way when the last process died: what they had reserved is charged", records.len()
    );
    records
}

fn read(path: &Path, open: &mut HashMap<RecordId, Reserved>) -> io::Result<()> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut lines).take(MOST_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        // a line that was not finished was not answered: nothing left for a provider
        match serde_json::from_slice::<Line>(&line) {
            Ok(Line::Close(id)) => {
                if let Ok(id) = id.parse() {
                    open.remove(&id);
                }
            }
            Ok(line) => {
                if let Some(reserved) = line.reserved() {
                    open.insert(reserved.record_id, reserved);
                }
            }
            Err(_) => {}
        }
    }
}

/// Puts a new file in the place of another, whole.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// Lines on their way to the file, and who waits for them.
#[derive(Default)]
struct Coming {
    lines: Vec<(RecordId, String)>,
    waiting: Vec<Written>,
    closed: Vec<RecordId>,
}

impl Coming {
    fn take(&mut self, message: Message) {
        match message {
            Message::Open { lines, written } => {
                self.lines.extend(lines);
                self.waiting.extend(written);
            }
            Message::Close(record_id) => self.closed.push(record_id),
        }
    }

    /// What goes into the file: whatever is closed is so after it was opened.
    fn text(&self, text: &mut String) {
        text.clear();
        for (_, line) in &self.lines {
            text.push_str(line);
        }
        for record_id in &self.closed {
            text.push_str(&in_json(&Line::Close(record_id.to_string())));
        }
    }
}

/// The thread's state.
struct Writer {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    /// Lines that have no second one yet.
    open: HashMap<RecordId, String>,
    /// Closed and not open: their lines may still come, handed over behind a caller who left at once.
    early: HashSet<RecordId>,
    fsync: Box<dyn Fn() -> bool + Send>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut lines = String::new();
        while let Ok(first) = messages.recv() {
            let mut coming = Coming::default();
            let mut next = Some(first);
            let mut count = 0;
            while let Some(message) = next {
                coming.take(message);
                count += 1;
                next = if count < BATCH {
                    messages.try_recv().ok()
                } else {
                    None
                };
            }
            let left_before = coming.lines.iter().map(|(record_id, _)| *record_id);
            let left_before: Vec<_> = left_before.filter(|id| self.early.remove(id)).collect();
            coming.closed.extend(left_before);
            coming.text(&mut lines);
            let result = self.write(lines.as_bytes(), !coming.waiting.is_empty());
            if result.is_ok() {
                self.open.extend(coming.lines);
            }
            for record_id in coming.closed {
                if self.open.remove(&record_id).is_none() {
                    self.note_early(record_id);
                }
            }
            for written in coming.waiting {
                // who has left closes what it opened
                let _ = written.send(result.clone());
            }
            self.rewrite();
        }
    }

    /// Most of them never come: their lines could not be written.
    fn note_early(&mut self, record_id: RecordId) {
        if self.early.len() >= MOST_EARLY {
            self.early.clear();
        }
        self.early.insert(record_id);
    }

    fn write(&mut self, lines: &[u8], somebody_waits: bool) -> Result<(), String> {
        let written = self.append(lines, somebody_waits && (self.fsync)());
        written.map_err(|error| {
            if let Some(file) = &self.file {
                // what was half written is no line, and must not run into the next one
                let _ = file.set_len(self.bytes);
            }
            self.file = None;
            error.to_string()
        })
    }

    fn append(&mut self, lines: &[u8], sync: bool) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(&self.path)?;
                self.bytes = file.metadata()?.len();
                none.insert(file)
            }
        };
        file.write_all(lines)?;
        if sync {
            file.sync_data()?;
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Keeps the file short.
    fn rewrite(&mut self) {
        if self.bytes < REWRITE_ABOVE_BYTES {
            return;
        }
        if self.open.is_empty() {
            if let Some(file) = &self.file
                && file.set_len(0).is_ok()
            {
                self.bytes = 0;
            }
            return;
        }
        let live: usize = self.open.values().map(String::len).sum();
        if (live as u64).saturating_mul(4) > self.bytes {
            return;
        }
        let lines: String = self.open.values().map(String::as_str).collect();
        match replace(&self.path, lines.as_bytes()) {
            Ok(_) => {
                self.file = None;
                self.bytes = 0;
            }
            Err(error) => log::warn!("`{}` could not be made shorter: {error}", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
