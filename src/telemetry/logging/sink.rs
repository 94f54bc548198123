//! Writes lines to their file or to standard error, on a thread of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::super::access_log::AccessLine;
use super::{LogError, LogSettings};

/// Lines that wait to be written; more are dropped.
const QUEUE_LINES: usize = 8192;

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 64 * 1024;

/// Longest line that is kept whole.
pub(super) const LINE_BYTES: usize = 64 * 1024;

/// How often a full queue is looked at again by those who may wait.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// How long lines are gathered after a write: whoever hands one over meanwhile need not wake the thread.
const GATHER: Duration = Duration::from_millis(1);

enum Message {
    Line(Vec<u8>),
    Access(Box<AccessLine>),
    Flush(SyncSender<()>),
}

/// The queue to the writing thread.
#[derive(Debug)]
pub(in crate::telemetry) struct Sink {
    queue: SyncSender<Message>,
    settings: Arc<ArcSwap<LogSettings>>,
    losses: Arc<Losses>,
}

/// Lines that were never written.
#[derive(Debug, Default)]
struct Losses {
    lines: AtomicU64,
    access_lines: AtomicU64,
}

impl Sink {
    /// Opens the output and starts the thread.
    pub(super) fn start(settings: &LogSettings) -> Result<Arc<Self>, LogError> {
        let output = Output::open(settings)?;
        let shared = Arc::new(settings.clone());
        let settings = Arc::new(ArcSwap::new(Arc::clone(&shared)));
        let losses = Arc::<Losses>::default();
        let (queue, messages) = sync_channel(QUEUE_LINES);
        let mut writer = Writer {
            output,
            current: shared,
            settings: Arc::clone(&settings),
            losses: Arc::clone(&losses),
            pending: Pending::default(),
        };
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(&messages))
            .map_err(LogError::Thread)?;
        Ok(Arc::new(Self {
            queue,
            settings,
            losses,
        }))
    }

    pub(in crate::telemetry) fn settings(&self) -> arc_swap::Guard<Arc<LogSettings>> {
        self.settings.load()
    }

    pub(super) fn configure(&self, settings: &LogSettings) {
        self.settings.store(Arc::new(settings.clone()));
    }

    pub(super) fn offer_line(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.losses.lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(in crate::telemetry) fn offer_access(&self, line: Box<AccessLine>) {
        if self.queue.try_send(Message::Access(line)).is_err() {
            self.losses.access_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lines_lost(&self) -> u64 {
        self.losses.lines.load(Ordering::Relaxed)
    }

    pub(super) fn access_lines_lost(&self) -> u64 {
        self.losses.access_lines.load(Ordering::Relaxed)
    }

    /// Waits until everything before is written; false when that took longer than `timeout`.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        let mut left = timeout;
        while let Err(refused) = self.queue.try_send(message) {
            match refused {
                TrySendError::Full(again) if !left.is_zero() => message = again,
                _ => return false,
            }
            std::thread::sleep(FULL_QUEUE_PAUSE);
            left = left.saturating_sub(FULL_QUEUE_PAUSE);
        }
        written.recv_timeout(left).is_ok()
    }
}

/// Lines that are formatted and not written.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    lines: u64,
    access_lines: u64,
}

struct Writer {
    output: Output,
    current: Arc<LogSettings>,
    settings: Arc<ArcSwap<LogSettings>>,
    losses: Arc<Losses>,
    pending: Pending,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            self.take(first);
            for next in messages.try_iter().take(QUEUE_LINES) {
                self.take(next);
            }
            self.write_out();
            std::thread::sleep(GATHER);
        }
    }

    fn take(&mut self, message: Message) {
        self.follow_settings();
        match message {
            Message::Line(line) => {
                self.pending.bytes.extend_from_slice(&line);
                self.pending.lines += 1;
            }
            Message::Access(line) => {
                line.write(self.current.format, &mut self.pending.bytes);
                self.pending.access_lines += 1;
            }
            Message::Flush(done) => {
                self.write_out();
                // who asked may have stopped waiting
                let _ = done.try_send(());
            }
        }
        if self.pending.bytes.len() >= WRITE_BYTES {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        if self.pending.bytes.is_empty() {
            return;
        }
        if self.output.write(&self.pending.bytes, &self.current).is_err() {
            self.losses.lines.fetch_add(self.pending.lines, Ordering::Relaxed);
            self.losses
                .access_lines
                .fetch_add(self.pending.access_lines, Ordering::Relaxed);
        }
        self.pending.bytes.clear();
        (self.pending.lines, self.pending.access_lines) = (0, 0);
    }

    /// Lines from before the change still go where they were meant to go.
    fn follow_settings(&mut self) {
        if Arc::ptr_eq(&self.settings.load(), &self.current) {
            return;
        }
        self.write_out();
        let wanted = self.settings.load_full();
        if wanted.file != self.current.file {
            match Output::open(&wanted) {
                Ok(output) => self.output = output,
                // the old output stays; the line below goes there
                Err(error) => log::error!("{error}; logs go where they went before"),
            }
        }
        self.current = wanted;
    }
}

enum Output {
    StandardError,
    File { file: File, path: PathBuf, written: u64 },
}

impl Output {
    fn open(settings: &LogSettings) -> Result<Self, LogError> {
        let Some(path) = &settings.file else {
            return Ok(Self::StandardError);
        };
        Self::open_file(path).map_err(|source| LogError::File {
            path: path.clone(),
            source,
        })
    }

    fn open_file(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)?;
        let written = file.metadata()?.len();
        Ok(Self::File {
            file,
            path: path.to_owned(),
            written,
        })
    }

    fn write(&mut self, bytes: &[u8], settings: &LogSettings) -> io::Result<()> {
        if let Self::File { path, written, .. } = self
            && *written > 0
            && *written + bytes.len() as u64 > settings.max_file_bytes
        {
            rotate(path, settings.max_backups)?;
            *self = Self::open_file(path)?;
        }
        match self {
            Self::StandardError => io::stderr().write_all(bytes),
            Self::File { file, written, .. } => {
                file.write_all(bytes)?;
                *written += bytes.len() as u64;
                Ok(())
            }
        }
    }
}

/// `log` becomes `log.1`, `log.1` becomes `log.2`; the oldest goes.
fn rotate(path: &Path, max_backups: u32) -> io::Result<()> {
    let backup = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    if max_backups == 0 {
        return fs::remove_file(path);
    }
    for number in (1..max_backups).rev() {
        match fs::rename(backup(number), backup(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, backup(1))
}
