//! Usage records on their way into the database.
//!
//! A record is safe once its line is in the log (`files.rs`): the process may die, the line stays. One thread brings
//! what is logged into the database each second, and before anything that reads it, in large transactions, for five
//! B-trees are written in a tenth of the time when a thousand records come at once. The database's own log is synced
//! before lines are let go. While the database does not take them nothing more is logged: the ledger's spool is for that.

mod files;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Notify, oneshot};

use self::files::write_line;
use super::failure::{Failure, of_file};
use super::grants::sync_write_ahead;
use super::ledger::insert;
use super::threads::{Threads, start_thread};
use crate::domain::Clock;
use crate::store::ledger_columns::RecordColumns;
use crate::store::{Fsync, StoreError};

const FOLD_EVERY: Duration = Duration::from_secs(1);

/// So many wait for no second to end.
const FOLD_AT: usize = 8192;

/// Records that are logged and not yet being brought into the database; who comes with more waits.
const MOST: usize = 4 * FOLD_AT;

/// Records in one transaction: what else is to be written waits some 50 ms for it.
const CHUNK: usize = 4096;

/// A write that takes longer shows a disk that is behind: for a minute a thread that may wait does the writing.
const SLOW_WRITE_MILLIS: u64 = 5;
const SLOW_FOR_MILLIS: u64 = 60_000;

/// What a line mostly has.
const LINE_BYTES: usize = 1024;

pub(super) use self::files::{RecordLog, paths};

enum Message {
    /// Also: there are many.
    Fold(Option<oneshot::Sender<Result<(), StoreError>>>),
    Stop(oneshot::Sender<()>),
}

struct State {
    log: RecordLog,
    /// In the file that is written.
    fresh: Vec<RecordColumns>,
    /// In the other one: being brought into the database, or waiting for the next try.
    folding: Option<Arc<Vec<RecordColumns>>>,
    /// Why the last try failed.
    failure: Option<StoreError>,
}

/// Files and time.
pub(super) struct RecordSettings {
    /// SQLite's own log.
    pub write_ahead: PathBuf,
    /// Whether each write waits for the disk.
    pub fsync: Fsync,
    /// How long a caller waits.
    pub timeout: Duration,
    /// For how long a write took.
    pub clock: Arc<dyn Clock>,
}

struct Shared {
    state: Mutex<State>,
    /// What waited was taken.
    room: Notify,
    threads: Threads,
    settings: RecordSettings,
    /// Milliseconds of the monotonic clock; before, the disk counts as slow.
    slow_until: AtomicU64,
}

/// The way of records into the database.
#[derive(Clone)]
pub(super) struct Records {
    shared: Arc<Shared>,
    thread: Sender<Message>,
}

/// Brings what a former process left into the database, before anything else is.
pub(super) fn replay(connection: &Connection, paths: &[PathBuf; 2]) -> Result<RecordLog, Failure> {
    let named = |(path, error): (PathBuf, io::Error)| of_file(&path, &error);
    let (mut log, left) = RecordLog::open(paths).map_err(named)?;
    for rows in left.rows.chunks(CHUNK) {
        let transaction = connection.unchecked_transaction()?;
        insert(&transaction, rows)?;
        transaction.commit()?;
    }
    if !left.rows.is_empty() {
        log::info!(records = left.rows.len(); "usage records of the last run were taken over from `usage-records.*.jsonl`");
    }
    if left.unreadable > 0 {
        let kept = log.keep_copies().map_err(named)?;
        log::error!(
            "{} lines of `usage-records.*.jsonl` could not be read; the files are kept as {kept}",
            left.unreadable
        );
    }
    log.clear().map_err(named)?;
    Ok(log)
}

impl Records {
    /// Starts the thread.
    pub(super) fn start(
        log: RecordLog,
        threads: Threads,
        settings: RecordSettings,
    ) -> Result<Self, StoreError> {
        let (thread, receive) = channel();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                log,
                fresh: Vec::new(),
                folding: None,
                failure: None,
            }),
            room: Notify::new(),
            threads,
            settings,
            slow_until: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&shared);
        start_thread("usage-records", move || of_thread.run(&receive))?;
        Ok(Self { shared, thread })
    }

    /// Makes records safe. May take this thread for as long as the system takes a few kilobytes into its memory.
    pub(super) async fn append(&self, rows: Vec<RecordColumns>) -> Result<(), StoreError> {
        let mut lines = Vec::with_capacity(rows.len() * LINE_BYTES);
        for row in &rows {
            write_line(row, &mut lines).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        }
        let count = rows.len();
        let room = self.room_for(count);
        tokio::time::timeout(self.shared.settings.timeout, room)
            .await
            .map_err(|_| {
                StoreError::Unavailable("too many usage records wait for the database".to_owned())
            })??;
        let written = if self.shared.is_slow() {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || shared.write(&lines, rows))
                .await
                .map_err(|error| StoreError::Unavailable(error.to_string()))?
        } else {
            self.shared.write(&lines, rows)
        };
        let waits = match written {
            Ok(waits) => waits,
            Err((error, rows)) => {
                // the database may be on another disk, and is safe too
                log::debug!("usage records go past their log: {error}");
                let insert = move |connection: &Connection| insert(connection, &rows);
                return self.shared.threads.write(insert).await;
            }
        };
        // once, by who makes it so many: one message for each record would be a fold for each
        if waits >= FOLD_AT && waits - count < FOLD_AT {
            // the thread that has ended says so where somebody waits for it
            let _ = self.thread.send(Message::Fold(None));
        }
        Ok(())
    }

    async fn room_for(&self, count: usize) -> Result<(), StoreError> {
        loop {
            let taken = self.shared.room.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            {
                let state = self.shared.state.lock();
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
                if state.fresh.is_empty() || state.fresh.len() + count <= MOST {
                    return Ok(());
                }
            }
            taken.await;
        }
    }

    /// Brings everything that is safe into the database.
    pub(super) async fn fold(&self) -> Result<(), StoreError> {
        {
            let state = self.shared.state.lock();
            if state.fresh.is_empty() && state.folding.is_none() {
                return Ok(());
            }
        }
        let (done, answer) = oneshot::channel();
        self.thread.send(Message::Fold(Some(done))).map_err(|_| ended())?;
        match tokio::time::timeout(self.shared.settings.timeout, answer).await {
            Ok(answer) => answer.map_err(|_| ended())?,
            Err(_) => Err(StoreError::Unavailable(
                "usage records were not brought into the database in time".to_owned(),
            )),
        }
    }

    /// Brings everything into the database and ends the thread.
    pub(super) async fn stop(&self) {
        if let Err(error) = self.fold().await {
            log::warn!("usage records stay in `usage-records.*.jsonl` until the next start: {error}");
        }
        let (done, stopped) = oneshot::channel();
        if self.thread.send(Message::Stop(done)).is_ok() {
            // an error means that the thread has ended
            let _ = tokio::time::timeout(self.shared.settings.timeout, stopped).await;
        }
    }
}

impl Shared {
    fn is_slow(&self) -> bool {
        self.settings.fsync.is_on() || self.now() < self.slow_until.load(Ordering::Relaxed)
    }

    /// Milliseconds of the monotonic clock.
    fn now(&self) -> u64 {
        u64::try_from(self.settings.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers how many wait now, or gives them back.
    fn write(
        &self,
        lines: &[u8],
        rows: Vec<RecordColumns>,
    ) -> Result<usize, (StoreError, Vec<RecordColumns>)> {
        let began = self.now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let written = state.log.append(lines, self.settings.fsync.is_on());
        if let Err(error) = written {
            return Err((of_file(state.log.path(), &error), rows));
        }
        state.fresh.extend(rows);
        let waits = state.fresh.len();
        drop(guard);
        let now = self.now();
        if now.saturating_sub(began) > SLOW_WRITE_MILLIS {
            self.slow_until
                .store(now.saturating_add(SLOW_FOR_MILLIS), Ordering::Relaxed);
        }
        Ok(waits)
    }

    fn run(&self, receive: &Receiver<Message>) {
        loop {
            match receive.recv_timeout(FOLD_EVERY) {
                Ok(Message::Fold(done)) => {
                    let result = self.fold_all();
                    if let Some(done) = done {
                        // who has left need not hear of it
                        let _ = done.send(result);
                    }
                    self.let_go();
                }
                Ok(Message::Stop(done)) => {
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.fold_all() {
                        log::debug!("usage records wait for the database: {error}");
                    }
                    self.let_go();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn fold_all(&self) -> Result<(), StoreError> {
        let is_left = self.state.lock().folding.is_some();
        self.fold_once()?;
        if is_left {
            // before its file is written again
            self.let_go();
            self.fold_once()?;
        }
        Ok(())
    }

    fn fold_once(&self) -> Result<(), StoreError> {
        let Some(rows) = self.take() else { return Ok(()) };
        let result = self.bring(&rows);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        match result {
            Ok(()) => {
                state.folding = None;
                state.failure = None;
                Ok(())
            }
            Err(error) => {
                state.failure = Some(error.clone());
                drop(guard);
                // who waits for room hears of it
                self.room.notify_waiters();
                Err(error)
            }
        }
    }

    fn take(&self) -> Option<Arc<Vec<RecordColumns>>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.folding.is_none() && !state.fresh.is_empty() {
            state.folding = Some(Arc::new(std::mem::take(&mut state.fresh)));
            state.log.swap();
        }
        let taken = state.folding.clone();
        drop(guard);
        self.room.notify_waiters();
        taken
    }

    /// Empties the file whose lines the database has, once that is durable. Nobody waits for it: left behind, its lines are
    /// given to the database again, which knows them.
    fn let_go(&self) {
        {
            let state = self.state.lock();
            if state.folding.is_some() || !state.log.other_has_lines() {
                return;
            }
        }
        let emptied = match sync_write_ahead(&self.settings.write_ahead) {
            // a log that is not there was emptied by a checkpoint, which synced it
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.state.lock().log.clear_other(),
        };
        if let Err(error) = emptied {
            log::warn!("lines of usage records that are in the database stay in their log: {error}");
        }
    }

    /// In transactions of [`CHUNK`]; one that is brought again changes nothing.
    fn bring(&self, rows: &Arc<Vec<RecordColumns>>) -> Result<(), StoreError> {
        for start in (0..rows.len()).step_by(CHUNK) {
            let (send, receive) = channel();
            let of_job = Arc::clone(rows);
            let is_sent = self.threads.write_detached(
                move |connection| insert(connection, &of_job[start..of_job.len().min(start + CHUNK)]),
                move |result| {
                    // an error: the thread that asked has ended
                    let _ = send.send(result);
                },
            );
            if !is_sent {
                return Err(StoreError::Unavailable("too many writes are waiting".to_owned()));
            }
            receive.recv().map_err(|_| ended())??;
        }
        Ok(())
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the thread of the usage records has stopped".to_owned())
}
