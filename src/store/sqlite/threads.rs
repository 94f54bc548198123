//! The threads that do SQLite's work: one writes with group commit, a few read; callers await.
//!
//! A write is a job in a savepoint inside a batch transaction; its caller hears of it after the `COMMIT` that holds
//! it. Both queues are bounded: a caller waits for a place, and for its answer, at most the store's time-out. A job
//! whose caller has gone before it began is not done.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::failure::Failure;
use super::presence::Presence;
use crate::store::{Fsync, StoreError};

const QUEUE: usize = 1024;
const BATCH: usize = 256;
const READERS: usize = 3;

/// Tells the caller how it ended; `Some` = the job itself went well but its transaction did not.
type Report = Box<dyn FnOnce(Option<StoreError>) + Send>;
/// Given a connection, or the reason why there is none.
type Job = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Outcome + Send>;
type ReadJob = Box<dyn FnOnce(Result<&Connection, StoreError>) + Send>;

struct Outcome {
    /// Why the job's own changes are taken back.
    failure: Option<StoreError>,
    report: Report,
}

enum Message {
    Job(Job),
    /// Ends the thread; everything sent before is done first.
    Stop(oneshot::Sender<()>),
}

/// The way to the threads. Cheap to clone.
#[derive(Clone)]
pub(super) struct Threads {
    writer: mpsc::Sender<Message>,
    /// Absent in memory, where the one connection does everything.
    readers: Option<mpsc::Sender<ReadJob>>,
    timeout: Duration,
    path: Option<Arc<PathBuf>>,
}

impl Threads {
    /// Starts the threads on open connections.
    pub(super) fn start(
        writer: Connection,
        readers: Vec<Connection>,
        presence: Option<Arc<Presence>>,
        timeout: Duration,
        fsync: Fsync,
    ) -> Result<Self, StoreError> {
        let (send, receive) = mpsc::channel(QUEUE);
        let path = presence
            .as_ref()
            .map(|presence| Arc::new(presence.path().to_owned()));
        let writing = Writer {
            connection: writer,
            presence: presence.clone(),
            is_full: Cell::new(fsync.is_on()),
            fsync,
        };
        start_thread("store-writer", move || writing.run(receive))?;
        let readers = if readers.is_empty() {
            None
        } else {
            Some(start_readers(readers, presence.as_ref())?)
        };
        Ok(Self {
            writer: send,
            readers,
            timeout,
            path,
        })
    }

    /// How many readers a file has.
    pub(super) fn reader_count() -> usize {
        READERS
    }

    /// Does `work` in the writer's next transaction and answers after its commit.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let (job, answer) = self.write_job(work);
        self.deliver(self.writer.send(Message::Job(job)), answer).await
    }

    /// Hands a write to the thread from a thread that may not wait; `done` hears of it on the writer's thread.
    /// Answers whether the queue had a place.
    pub(super) fn write_detached<T, W, D>(&self, work: W, done: D) -> bool
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
        D: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        let path = self.path.clone();
        let job: Job = Box::new(move |connection| {
            let result = run_job(connection, work, path.as_deref().map(PathBuf::as_path));
            Outcome {
                failure: result.as_ref().err().cloned(),
                report: Box::new(move |commit_failure| done(whole(result, commit_failure))),
            }
        });
        self.writer.try_send(Message::Job(job)).is_ok()
    }

    /// Does `work` on a connection that only reads, in one read transaction.
    pub(super) async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let Some(readers) = &self.readers else {
            let (job, answer) = self.write_job(work);
            return self.deliver(self.writer.send(Message::Job(job)), answer).await;
        };
        let (send, answer) = oneshot::channel();
        let path = self.path.clone();
        let job: ReadJob = Box::new(move |connection| {
            if send.is_closed() {
                return;
            }
            let path = path.as_deref().map(PathBuf::as_path);
            let result = run_job(
                connection,
                |connection| {
                    let transaction = connection.unchecked_transaction()?;
                    let value = work(&transaction)?;
                    transaction.commit()?;
                    Ok(value)
                },
                path,
            );
            // The caller may have stopped waiting.
            let _ = send.send(result);
        });
        self.deliver(readers.send(job), answer).await
    }

    /// Waits for everything sent before, then ends the writer; gives up after some time-outs.
    pub(super) async fn stop(&self) {
        let stop = async {
            let (send, stopped) = oneshot::channel();
            if self.writer.send(Message::Stop(send)).await.is_ok() {
                // An error here means that the thread has ended already.
                let _ = stopped.await;
            }
        };
        if tokio::time::timeout(self.timeout * 4, stop).await.is_err() {
            log::warn!("the store's writer did not end in time");
        }
    }

    fn write_job<T, W>(&self, work: W) -> (Job, oneshot::Receiver<Result<T, StoreError>>)
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let (send, answer) = oneshot::channel();
        let path = self.path.clone();
        let job: Job = Box::new(move |connection| {
            if send.is_closed() {
                return Outcome {
                    failure: None,
                    report: Box::new(|_| {}),
                };
            }
            let result = run_job(connection, work, path.as_deref().map(PathBuf::as_path));
            Outcome {
                failure: result.as_ref().err().cloned(),
                report: Box::new(move |commit_failure| {
                    // The caller may have stopped waiting.
                    let _ = send.send(whole(result, commit_failure));
                }),
            }
        });
        (job, answer)
    }

    async fn deliver<T, M>(
        &self,
        sending: impl Future<Output = Result<(), mpsc::error::SendError<M>>>,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let exchange = async {
            sending.await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!(
                    "no answer within {:?}",
                    self.timeout
                )))
            })
    }
}

/// A job went well only if its transaction did.
fn whole<T>(result: Result<T, StoreError>, commit_failure: Option<StoreError>) -> Result<T, StoreError> {
    match commit_failure {
        Some(failure) => result.and(Err(failure)),
        None => result,
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store's thread has stopped".to_owned())
}

fn run_job<T>(
    connection: Result<&Connection, StoreError>,
    work: impl FnOnce(&Connection) -> Result<T, Failure>,
    path: Option<&Path>,
) -> Result<T, StoreError> {
    let connection = connection?;
    std::panic::catch_unwind(AssertUnwindSafe(|| work(connection)))
        .unwrap_or_else(|_| {
            Err(Failure::Store(StoreError::Unavailable(
                "a store job panicked".to_owned(),
            )))
        })
        .map_err(|failure| failure.named(path))
}

/// Starts a named thread.
pub(super) fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(|_| ())
        .map_err(|error| StoreError::Unavailable(format!("cannot start thread `{name}`: {error}")))
}

fn start_readers(
    connections: Vec<Connection>,
    presence: Option<&Arc<Presence>>,
) -> Result<mpsc::Sender<ReadJob>, StoreError> {
    let (send, receive) = mpsc::channel::<ReadJob>(QUEUE);
    let receive = Arc::new(Mutex::new(receive));
    for connection in connections {
        let receive = Arc::clone(&receive);
        let presence = presence.cloned();
        start_thread("store-reader", move || {
            loop {
                // One idle reader waits in the queue, the others for the lock.
                let job = receive.lock().blocking_recv();
                let Some(job) = job else { return };
                match presence.as_ref().map_or(Ok(()), |presence| presence.check()) {
                    Ok(()) => job(Ok(&connection)),
                    Err(error) => job(Err(error)),
                }
            }
        })?;
    }
    Ok(send)
}

struct Writer {
    connection: Connection,
    presence: Option<Arc<Presence>>,
    fsync: Fsync,
    /// `PRAGMA synchronous` is `FULL`, and not `NORMAL`.
    is_full: Cell<bool>,
}

impl Writer {
    fn run(self, mut receive: mpsc::Receiver<Message>) {
        while let Some(first) = receive.blocking_recv() {
            let mut jobs = Vec::new();
            let mut stop = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => jobs.push(job),
                    Message::Stop(done) => stop = Some(done),
                }
                if stop.is_some() || jobs.len() >= BATCH {
                    break;
                }
                next = receive.try_recv().ok();
            }
            self.batch(jobs);
            if let Some(done) = stop {
                // a stopped program leaves one whole file; readers that still read only leave the log behind
                if let Err(error) = self.execute("PRAGMA wal_checkpoint(TRUNCATE)") {
                    log::debug!("the write-ahead log could not be folded into the database: {error}");
                }
                drop(self);
                let _ = done.send(());
                return;
            }
        }
    }

    fn batch(&self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        if let Err(error) = self.begin() {
            refuse(jobs, &error);
            return;
        }
        let mut reports = Vec::with_capacity(jobs.len());
        let mut jobs = jobs.into_iter();
        for job in jobs.by_ref() {
            match self.in_savepoint(job) {
                Ok(report) => reports.push(report),
                Err((report, error)) => {
                    // The whole transaction is lost, and with it those that had gone well.
                    self.roll_back();
                    report_all(std::iter::once(report).chain(reports.drain(..)), Some(&error));
                    refuse(jobs.collect(), &error);
                    return;
                }
            }
        }
        match self.execute("COMMIT") {
            Ok(()) => report_all(reports, None),
            Err(error) => {
                self.roll_back();
                report_all(reports, Some(&error));
            }
        }
    }

    fn begin(&self) -> Result<(), StoreError> {
        if let Some(presence) = &self.presence {
            presence.check()?;
        }
        self.roll_back();
        let is_full = self.fsync.is_on();
        if self.is_full.get() != is_full {
            self.execute(if is_full {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
            self.is_full.set(is_full);
        }
        self.execute("BEGIN IMMEDIATE")
    }

    /// SQLite rolls back by itself after some failures; a failed rollback shows itself at the next `BEGIN`.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.execute("ROLLBACK");
        }
    }

    fn in_savepoint(&self, job: Job) -> Result<Report, (Report, StoreError)> {
        if let Err(error) = self.execute("SAVEPOINT job") {
            let outcome = job(Err(error.clone()));
            return Err((outcome.report, error));
        }
        let outcome = job(Ok(&self.connection));
        let end = match &outcome.failure {
            None => self.execute("RELEASE job"),
            Some(_) => self.execute("ROLLBACK TO job; RELEASE job"),
        };
        match end {
            Ok(()) => Ok(outcome.report),
            // What the job met is the cause; that its savepoint is gone is what came of it.
            Err(error) => Err((outcome.report, outcome.failure.unwrap_or(error))),
        }
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        let path = self.presence.as_ref().map(|presence| presence.path());
        self.connection
            .execute_batch(sql)
            .map_err(|error| Failure::Sqlite(error).named(path))
    }
}

fn refuse(jobs: Vec<Job>, error: &StoreError) {
    for job in jobs {
        let outcome = job(Err(error.clone()));
        (outcome.report)(Some(error.clone()));
    }
}

fn report_all(reports: impl IntoIterator<Item = Report>, error: Option<&StoreError>) {
    for report in reports {
        report(error.cloned());
    }
}
