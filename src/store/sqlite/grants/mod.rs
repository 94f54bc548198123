//! `max_requests` on SQLite: one thread counts, logs, then answers; the database learns of it in groups.
//!
//! A take is granted once its record is written to `grants.log`: the process may die, the record stays. What is logged
//! goes into `tokens.request_count` each second and at a flush, in one transaction that also notes up to which record
//! the log is counted. A fold whose outcome is unknown is repeated unchanged until the database says whether it has it.
//! The log is synced to the disk within 100 ms of a write, and emptied only after the database's own log was synced.
//! While the database is away, tokens whose counter is known go on; the log is rewritten as sums when it grows.

mod message;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::oneshot;

use self::message::{Answer, Message, Take, Taken, Ticket};
use super::failure::{Failure, of_file};
use super::grant_counters::{Base, Counters, Verdict};
use super::grant_log::{GrantLog, GrantRecord};
use super::threads::{Threads, start_thread};
use crate::domain::together::Together;
use crate::domain::{Clock, TokenId};
use crate::store::columns::signed;
use crate::store::{GrantOutcome, Grants, StoreError};

const QUEUE: usize = 16_384;
const BATCH: usize = 1024;
const FOLD_EVERY: Duration = Duration::from_secs(1);
const SYNC_AFTER: Duration = Duration::from_millis(40);
/// A folded log longer than this is emptied.
const EMPTY_ABOVE_BYTES: u64 = 1 << 20;
/// A log longer than this, that the database does not take, is rewritten as sums.
const REWRITE_ABOVE_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };

const COUNT: &str = "SELECT request_count FROM tokens WHERE id = ?1";
const FOLDED: &str = "SELECT sequence FROM grant_folds WHERE id = 1";
const SET_FOLDED: &str = "UPDATE grant_folds SET sequence = ?1 WHERE id = 1";
const ADD: &str =
    "UPDATE tokens SET request_count = MAX(0, request_count + ?2) WHERE id = ?1 RETURNING request_count";

/// Grants of this process.
pub(super) struct SqliteGrants {
    queue: Arc<SyncSender<Message>>,
    takes: Together<Take, ()>,
    threads: Threads,
    timeout: Duration,
}

/// What the thread needs beside the counters.
pub(super) struct GrantSettings {
    /// `state_dir/grants.log` and SQLite's own log; absent when the database is in memory.
    pub files: Option<GrantFiles>,
    /// How long a caller waits.
    pub timeout: Duration,
    /// For idleness.
    pub clock: Arc<dyn Clock>,
}

/// Two files that are synced.
#[derive(Clone)]
pub(super) struct GrantFiles {
    pub grants: PathBuf,
    pub write_ahead: PathBuf,
}

/// A log that is counted in the database.
pub(super) struct Replayed {
    log: GrantLog,
    folded: u64,
}

/// Reads the log and counts in the database what is not counted there; before anything is granted.
pub(super) fn replay(connection: &Connection, files: Option<&GrantFiles>) -> Result<Replayed, Failure> {
    let folded: i64 = connection.query_row(FOLDED, [], |row| row.get(0))?;
    let folded = u64::try_from(folded).unwrap_or(0);
    let Some(files) = files else {
        return Ok(Replayed {
            log: GrantLog::nowhere(folded),
            folded,
        });
    };
    let opened = GrantLog::open(&files.grants, folded);
    let (mut log, records) = opened.map_err(|error| of_file(&files.grants, &error))?;
    let newest = log.last_sequence();
    if newest > folded {
        let changes: Vec<(TokenId, i64)> = records
            .iter()
            .map(|record| (record.token, record.count))
            .collect();
        let transaction = connection.unchecked_transaction()?;
        fold(&transaction, folded, newest, &changes)?;
        transaction.commit()?;
        log::info!(records = records.len(); "grants of the last run were taken over from `grants.log`");
    }
    if log.length() > 0 && sync_write_ahead(&files.write_ahead).is_ok() {
        log.clear().map_err(|error| of_file(&files.grants, &error))?;
    }
    Ok(Replayed { log, folded: newest })
}

/// Adds `changes` and notes that the log is counted up to `newest`; a second time it only reads.
fn fold(
    connection: &Connection,
    folded: u64,
    newest: u64,
    changes: &[(TokenId, i64)],
) -> Result<Vec<(TokenId, u64)>, Failure> {
    let stored: i64 = connection
        .prepare_cached(FOLDED)?
        .query_row([], |row| row.get(0))?;
    let is_done = stored == signed(newest) && newest != folded;
    if stored != signed(folded) && !is_done {
        return Err(StoreError::Inconsistent {
            table: "grant_folds",
            row: "1".to_owned(),
            why: format!(
                "`sequence` is {stored}, it should be {folded}: another process writes to this database"
            ),
        }
        .into());
    }
    let mut add = connection.prepare_cached(ADD)?;
    let mut counts = Vec::with_capacity(changes.len());
    for (token, change) in changes {
        let change = if is_done { 0 } else { *change };
        let count: Option<i64> = add
            .query_row(params![token.to_string(), change], |row| row.get(0))
            .optional()?;
        counts.extend(
            count
                .and_then(|count| u64::try_from(count).ok())
                .map(|count| (*token, count)),
        );
    }
    connection
        .prepare_cached(SET_FOLDED)?
        .execute(params![signed(newest)])?;
    Ok(counts)
}

/// Makes commits durable that are in SQLite's write-ahead log. (Not the database file: closing a second handle on it
/// would drop SQLite's locks.)
pub(super) fn sync_write_ahead(path: &std::path::Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_data()
}

impl SqliteGrants {
    /// Starts the threads.
    pub(super) fn start(
        replayed: Replayed,
        threads: Threads,
        settings: GrantSettings,
    ) -> Result<Self, StoreError> {
        let (send, receive) = sync_channel(QUEUE);
        let queue = Arc::new(send);
        let (sync, syncing) = sync_channel(1);
        let timeout = settings.timeout;
        let keeper = Keeper {
            counters: Counters::default(),
            log: replayed.log,
            folded: replayed.folded,
            fold: None,
            rounds: 0,
            waiting: Vec::new(),
            also: Vec::new(),
            threads: threads.clone(),
            queue: Arc::downgrade(&queue),
            settings,
            sync,
        };
        let way = Arc::downgrade(&queue);
        let takes = Together::new(move |takes, done| {
            if let Some(queue) = way.upgrade() {
                // a full queue: who waits hears that nobody answers
                let _ = queue.try_send(Message::Take { takes, done });
            }
        });
        start_thread("grants", move || keeper.run(&receive))?;
        start_thread("grants-sync", move || sync_when_asked(&syncing))?;
        Ok(Self {
            queue,
            takes,
            threads,
            timeout,
        })
    }

    /// Folds everything, empties the log and ends the threads.
    pub(super) async fn stop(&self) {
        if let Err(error) = self.flush().await {
            log::warn!("grants stay in `grants.log` until the next start: {error}");
        }
        let (send, stopped) = oneshot::channel();
        if self.queue.try_send(Message::Stop(send)).is_ok() {
            // An error means that the thread has ended; the log keeps everything.
            let _ = tokio::time::timeout(self.timeout, stopped).await;
        }
    }

    async fn ask<T>(&self, message: Message, answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Unavailable("too many grants are waiting".to_owned()),
            TrySendError::Disconnected(_) => ended(),
        })?;
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(|_| ended()),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no grant within {:?}",
                self.timeout
            ))),
        }
    }

    async fn take_once(&self, token: TokenId, cap: u64, base: Option<Base>) -> Result<Taken, StoreError> {
        let answer = Arc::<Answer>::default();
        let take = Take {
            token,
            cap,
            base,
            answer: Arc::clone(&answer),
        };
        match tokio::time::timeout(self.timeout, self.takes.ask(take)).await {
            Ok(Some(())) => answer.get().ok_or_else(ended),
            Ok(None) => Err(StoreError::Unavailable(
                "too many grants are waiting, or their thread has stopped".to_owned(),
            )),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no grant within {:?}",
                self.timeout
            ))),
        }
    }

    async fn count_of(&self, token: TokenId) -> Result<u64, StoreError> {
        let count: Option<i64> = self
            .threads
            .read(move |connection| {
                Ok(connection
                    .prepare_cached(COUNT)?
                    .query_row(params![token.to_string()], |row| row.get(0))
                    .optional()?)
            })
            .await?;
        count
            .and_then(|count| u64::try_from(count).ok())
            .ok_or_else(|| no_such_token(token))
    }
}

fn no_such_token(token: TokenId) -> StoreError {
    StoreError::Inconsistent {
        table: "tokens",
        row: token.to_string(),
        why: "there is no such token".to_owned(),
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the grants' thread has stopped".to_owned())
}

#[async_trait]
impl Grants for SqliteGrants {
    async fn take(&self, token: TokenId, max_requests: u64) -> Result<GrantOutcome, StoreError> {
        /// An answer of the database is outdated only when counters were forgotten meanwhile.
        const ATTEMPTS: usize = 5;
        let mut base = None;
        for _ in 0..ATTEMPTS {
            match self.take_once(token, max_requests, base).await? {
                Taken::Granted(mut ticket) => {
                    ticket.back = None;
                    return Ok(GrantOutcome::Granted);
                }
                Taken::Exhausted => return Ok(GrantOutcome::Exhausted),
                Taken::Failed(error) => return Err(error),
                Taken::Unknown { epoch } => {
                    base = Some(Base {
                        count: self.count_of(token).await?,
                        epoch,
                    });
                }
            }
        }
        Err(StoreError::Unavailable(
            "too many limited tokens are active".to_owned(),
        ))
    }

    async fn give_back(&self, token: TokenId) {
        // A full queue loses the grant, which is allowed.
        let _ = self.queue.try_send(Message::GiveBack(token));
    }

    async fn forget(&self, token: TokenId) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        let also = Some(token);
        self.ask(Message::Fold { also, done }, answer).await?
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.ask(Message::Fold { also: None, done }, answer).await?
    }
}

/// A fold that was begun and is not known to be committed.
struct Fold {
    newest: u64,
    changes: Vec<(TokenId, i64)>,
    under_way: bool,
}

/// Somebody who waits until the fold of a round is done.
struct Waiting {
    round: u64,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The thread's state.
struct Keeper {
    counters: Counters,
    log: GrantLog,
    folded: u64,
    fold: Option<Fold>,
    /// Folds begun so far.
    rounds: u64,
    waiting: Vec<Waiting>,
    also: Vec<TokenId>,
    threads: Threads,
    queue: Weak<SyncSender<Message>>,
    settings: GrantSettings,
    sync: SyncSender<Arc<std::fs::File>>,
}

impl Keeper {
    fn run(mut self, receive: &Receiver<Message>) {
        let mut next_fold = self.settings.clock.monotonic() + FOLD_EVERY;
        loop {
            let now = self.settings.clock.monotonic();
            let first = match receive.recv_timeout(next_fold.saturating_sub(now).min(FOLD_EVERY)) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let is_quiet = first.is_none();
            if let Some(first) = first
                && let Some(stopped) = self.batch(first, receive)
            {
                self.empty_log(0);
                // Nobody may be waiting any more.
                let _ = stopped.send(());
                return;
            }
            let now = self.settings.clock.monotonic();
            if is_quiet || now >= next_fold {
                self.tick(now);
                next_fold = now + FOLD_EVERY;
            }
        }
    }

    /// Handles what has come in meanwhile with one write to the log.
    fn batch(&mut self, first: Message, receive: &Receiver<Message>) -> Option<oneshot::Sender<()>> {
        let mut entries = Vec::new();
        let mut granted = Vec::new();
        let mut waking = Vec::new();
        let mut stop = None;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Take { takes, done } => {
                    for take in takes {
                        if let Some(answer) = self.decide(take.token, take.cap, take.base) {
                            take.answer.put(answer);
                        } else {
                            entries.push((take.token, 1));
                            granted.push((take.token, take.answer));
                        }
                    }
                    waking.extend(done);
                }
                Message::GiveBack(token) if self.counters.give_back(token) => entries.push((token, -1)),
                Message::GiveBack(_) => {}
                Message::Fold { also, done } => {
                    self.also.extend(also);
                    let round = self.rounds + 1;
                    self.waiting.push(Waiting { round, done });
                }
                Message::Folded(result) => self.end_fold(result),
                Message::Stop(done) => stop = Some(done),
            }
            if entries.len() >= BATCH || stop.is_some() {
                break;
            }
            next = receive.try_recv().ok();
        }
        self.write(&entries, granted);
        for done in waking {
            // The callers may have stopped waiting.
            let _ = done.send(());
        }
        // Only now: what a fold counts has to be in the log.
        if !self.waiting.is_empty() {
            self.begin_fold();
        }
        stop
    }

    fn decide(&mut self, token: TokenId, cap: u64, base: Option<Base>) -> Option<Taken> {
        let now = self.settings.clock.monotonic();
        match self.counters.take(token, cap, base, now) {
            Verdict::Granted => None,
            Verdict::Exhausted => Some(Taken::Exhausted),
            Verdict::Unknown { epoch } => Some(Taken::Unknown { epoch }),
            Verdict::Crowded => {
                self.counters.trim(now);
                Some(Taken::Unknown {
                    epoch: self.counters.epoch(),
                })
            }
        }
    }

    fn write(&mut self, entries: &[(TokenId, i64)], granted: Vec<(TokenId, Arc<Answer>)>) {
        if entries.is_empty() {
            return;
        }
        match self.log.append(entries) {
            Ok(()) => {
                if let Some(file) = self.log.file() {
                    // A full queue: the sync that is asked for already covers this write.
                    let _ = self.sync.try_send(file);
                }
                for (token, answer) in granted {
                    let back = self.queue.upgrade();
                    answer.put(Taken::Granted(Ticket { token, back }));
                }
            }
            Err(error) => {
                let path = self.settings.files.as_ref().map(|files| files.grants.as_path());
                let failure = of_file(path.unwrap_or(std::path::Path::new("grants.log")), &error);
                for (token, answer) in granted {
                    self.counters.give_back(token);
                    answer.put(Taken::Failed(failure.clone()));
                }
            }
        }
    }

    fn tick(&mut self, now: Duration) {
        if !self.counters.is_clean() || self.fold.is_some() {
            self.begin_fold();
        }
        self.counters.trim(now);
        if self.log.length() > REWRITE_ABOVE_BYTES
            && let Err(error) = self.rewrite_log()
        {
            log::warn!("`grants.log` cannot be rewritten: {error}");
        }
    }

    /// Hands a new fold, or the one whose outcome is unknown, to the writer. One at a time.
    fn begin_fold(&mut self) {
        if self.fold.as_ref().is_some_and(|fold| fold.under_way) {
            return;
        }
        let mut fold = self.fold.take().unwrap_or_else(|| {
            self.rounds += 1;
            Fold {
                newest: self.log.last_sequence(),
                changes: self.counters.begin_fold(self.also.drain(..)),
                under_way: false,
            }
        });
        let Some(queue) = self.queue.upgrade() else {
            self.fold = Some(fold);
            return;
        };
        let (folded, newest, changes) = (self.folded, fold.newest, fold.changes.clone());
        fold.under_way = self.threads.write_detached(
            move |connection| self::fold(connection, folded, newest, &changes),
            move |result| {
                // The grants' thread never waits for the writer's, so there will be room.
                let _ = queue.send(Message::Folded(result));
            },
        );
        let is_refused = !fold.under_way;
        self.fold = Some(fold);
        if is_refused {
            self.answer_all(&StoreError::Unavailable(
                "the write queue is full or has ended".to_owned(),
            ));
        }
    }

    fn end_fold(&mut self, result: Result<Vec<(TokenId, u64)>, StoreError>) {
        match result {
            Ok(counts) => {
                if let Some(fold) = self.fold.take() {
                    self.folded = fold.newest;
                    self.counters.end_fold(&fold.changes, &counts);
                }
                let rounds = self.rounds;
                for waiting in self.waiting.extract_if(.., |waiting| waiting.round <= rounds) {
                    let _ = waiting.done.send(Ok(()));
                }
                self.empty_log(EMPTY_ABOVE_BYTES);
            }
            Err(error) => {
                if let Some(fold) = &mut self.fold {
                    fold.under_way = false;
                }
                self.answer_all(&error);
            }
        }
    }

    fn answer_all(&mut self, error: &StoreError) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.done.send(Err(error.clone()));
        }
    }

    /// Empties the log when the database has all of it.
    fn empty_log(&mut self, above_bytes: u64) {
        let is_folded = self.fold.is_none() && self.folded == self.log.last_sequence();
        if !is_folded || self.log.length() <= above_bytes {
            return;
        }
        let Some(files) = &self.settings.files else {
            return;
        };
        let emptied = sync_write_ahead(&files.write_ahead).and_then(|()| self.log.clear());
        if let Err(error) = emptied {
            log::warn!("`grants.log` cannot be emptied: {error}");
        }
    }

    /// Writes the log anew with one record a token for the fold in doubt, and one for what came after it.
    fn rewrite_log(&mut self) -> std::io::Result<()> {
        let (folding, pending) = self.counters.unfolded();
        let records = (folding.len() + pending.len()) as u64;
        let begun = self.fold.as_ref().map_or(self.folded, |fold| fold.newest);
        let fits = self.folded + folding.len() as u64 <= begun
            && begun + pending.len() as u64 <= self.log.last_sequence();
        if !fits || records * 80 > self.log.length() {
            return Ok(());
        }
        let number = |first: u64, sums: Vec<(TokenId, i64)>| {
            (first + 1..)
                .zip(sums)
                .map(|(sequence, (token, count))| GrantRecord {
                    sequence,
                    token,
                    count,
                })
        };
        let records: Vec<GrantRecord> = number(self.folded, folding)
            .chain(number(begun, pending))
            .collect();
        self.log.rewrite(&records)
    }
}

fn sync_when_asked(asked: &Receiver<Arc<std::fs::File>>) {
    while let Ok(file) = asked.recv() {
        std::thread::sleep(SYNC_AFTER);
        if let Err(error) = file.sync_data() {
            log::warn!("`grants.log` cannot be synced: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
