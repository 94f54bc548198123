//! The ledger: one durable record for each request that reached a provider.
//!
//! Records come through a bounded queue (`gather`) to one writer, which gives them to the store in groups. Under `strict` the end of an
//! answer waits for that commit. A store that does not answer within [`PATIENCE`] does not hold it up: its records go to
//! the spool on the local disk, synced, and are given to the store when it is back. Survives the death of this
//! process at any moment (what a client saw whole is recorded), the store's absence, and both at once; with
//! `ledger.fsync` also a loss of power.
//!
//! When neither takes records, [`Ledger::is_stuck`]: under `on_full: refuse` new requests are refused and those under
//! way wait, so that nothing is lost and nothing grows; under `drop` records are dropped and counted.

mod gather;
mod reservations;
mod spool;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use self::gather::{Entry, Gather};
use self::reservations::{Left, Reservations};
use self::spool::{Spool, SpoolError};
use crate::config::{Durability, LedgerSettings, OnFull};
use crate::domain::{Clock, Timestamp, UsageRecord, Windows, spawn};
use crate::store::{LedgerStore, SPEND_DAYS_KEPT, StoreError};

pub use self::reservations::{NotWritten, Opened, Reserved};

/// Records in one transaction.
const GROUP: usize = 500;

/// Groups that the writer takes at once.
const GROUPS: usize = 64;

/// How long the end of an answer waits for the store before its record goes to the spool.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// How long the store may take over a group from the spool, where nobody waits.
const REPLAY_PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries of a store that was away, and of a disk that was full.
const RETRY: Duration = Duration::from_millis(500);

/// Between two looks whether the spool is in the store.
const SPOOL_LOOK: Duration = Duration::from_millis(20);

/// Between two looks for records that are too old.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

/// What operators see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerStats {
    /// Records in the store.
    pub committed: u64,
    /// Records that went to the spool.
    pub spooled: u64,
    /// Bytes in the spool now.
    pub spool_bytes: u64,
    /// Records that are lost: dropped under `on_full: drop`, or unreadable in the spool.
    pub lost: u64,
}

struct Shared {
    store: Arc<dyn LedgerStore>,
    spool: Spool,
    settings: Arc<ArcSwap<LedgerSettings>>,
    clock: Arc<dyn Clock>,
    /// The store did not take the last records: everything goes to the spool until it has been replayed.
    store_is_away: AtomicBool,
    is_stuck: AtomicBool,
    /// The spool is asked for now.
    wanted: Notify,
    committed: AtomicU64,
    spooled: AtomicU64,
    lost: Arc<AtomicU64>,
}

struct Group {
    entries: Vec<Entry>,
    /// All of them are safe.
    done: Option<oneshot::Sender<()>>,
}

enum Message {
    Group(Group),
    /// Everything before is to be safe.
    Flush(oneshot::Sender<()>),
}

/// The way to the writer.
pub struct Ledger {
    gather: Gather,
    shared: Arc<Shared>,
    reservations: Reservations,
    tasks: [JoinHandle<()>; 2],
}

impl Ledger {
    /// Starts the writer and the replay on the current runtime. The spool, and what running requests have reserved, are
    /// in `folder`; what a process that died had reserved there is recorded first.
    pub fn start(
        store: Arc<dyn LedgerStore>,
        folder: &Path,
        settings: Arc<ArcSwap<LedgerSettings>>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let lost = Arc::new(AtomicU64::new(0));
        let (gather, receiver, room) = Gather::new(Arc::clone(&lost));
        let spool = Spool::in_folder(folder);
        let shared = Arc::new(Shared {
            // what a former process spooled comes first
            store_is_away: AtomicBool::new(false),
            store,
            spool,
            settings,
            clock,
            is_stuck: AtomicBool::new(false),
            wanted: Notify::new(),
            committed: AtomicU64::new(0),
            spooled: AtomicU64::new(0),
            lost,
        });
        let of_log = Arc::clone(&shared.settings);
        let (reservations, mut left) = Reservations::start(folder, move || of_log.load().fsync);
        if !left.records.is_empty() {
            // whose record is in the spool had ended: its own figure stands
            let spooled = shared.spool.record_ids();
            left.records.retain(|record| !spooled.contains(&record.record_id));
        }
        let tasks = [
            spawn::spawn("ledger writer", Arc::clone(&shared).write(receiver, room, left)),
            spawn::spawn("ledger replay", Arc::clone(&shared).replay()),
        ];
        Arc::new(Self {
            gather,
            shared,
            reservations,
            tasks,
        })
    }

    /// Writes down what a request has reserved: if this process dies, the next one records it.
    ///
    /// # Errors
    /// The local disk does not take it; the request must not leave.
    pub async fn reserve(&self, reserved: Reserved) -> Result<Opened, NotWritten> {
        self.reservations.open(reserved).await
    }

    /// Writes down that a request has reserved more, in the place of what it had.
    ///
    /// # Errors
    /// As of [`Self::reserve`].
    pub async fn reserve_more(&self, _: &Opened, reserved: Reserved) -> Result<(), NotWritten> {
        self.reservations.write(reserved).await
    }

    /// Hands a record over, and what its request had reserved. Under `strict` this ends when it is safe, else when it is
    /// in the queue. Goes on to the end even if the caller leaves.
    pub async fn record(&self, record: UsageRecord, opened: Option<Opened>) {
        let durability = self.shared.settings.load().durability;
        if durability == Durability::Off && opened.is_none() {
            return;
        }
        let (done, safe) = (durability == Durability::Strict).then(oneshot::channel).unzip();
        if self.gather.push(Entry { record, opened }, done).await.is_err() {
            log::error!("a usage record came after the ledger had ended");
            return;
        }
        if let Some(safe) = safe {
            // an error: the writer has ended, and has said so
            let _ = safe.await;
        }
    }

    /// Hands a record over without waiting, for a request that is gone. It is lost, and counted, when the queue is full.
    pub fn offer(&self, record: UsageRecord, opened: Option<Opened>) {
        if self.shared.settings.load().durability == Durability::Off && opened.is_none() {
            return;
        }
        if self.gather.offer(Entry { record, opened }).is_err() {
            log::error!(
                "the usage record of a request that was cut is lost: the ledger's queue is full or has ended"
            );
        }
    }

    /// Waits until everything handed over before is in the store, and not only safe. Whoever calls says how long.
    pub async fn all_in_store(&self) {
        self.flush().await;
        loop {
            let shared = Arc::clone(&self.shared);
            let waits = tokio::task::spawn_blocking(move || shared.spool.has_lines()).await;
            if !waits.unwrap_or(false) {
                return;
            }
            self.shared.wanted.notify_one();
            tokio::time::sleep(SPOOL_LOOK).await;
        }
    }

    /// Whether neither store nor spool takes records, and new requests are to be refused.
    pub fn is_stuck(&self) -> bool {
        self.shared.is_stuck.load(Ordering::Relaxed)
    }

    /// Waits until everything handed over before is safe.
    pub async fn flush(&self) {
        let (done, safe) = oneshot::channel();
        self.gather.flush(done);
        // an error: the writer has ended
        let _ = safe.await;
    }

    /// What operators see.
    pub fn stats(&self) -> LedgerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LedgerStats {
            committed: read(&self.shared.committed),
            spooled: read(&self.shared.spooled),
            spool_bytes: self.shared.spool.bytes(),
            lost: read(&self.shared.lost),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // the writer ends by itself when its queue is closed
        self.tasks[1].abort();
    }
}

impl Shared {
    async fn write(
        self: Arc<Self>,
        mut receiver: mpsc::UnboundedReceiver<Message>,
        room: Arc<Semaphore>,
        left: Left,
    ) {
        self.make_safe(left.records.clone()).await;
        let forgotten = tokio::task::spawn_blocking(move || left.forget()).await;
        if let Err(error) = forgotten {
            log::warn!("what a former process had reserved is read again at the next start: {error}");
        }
        let mut messages = Vec::with_capacity(GROUPS);
        while receiver.recv_many(&mut messages, GROUPS).await > 0 {
            let mut records = Vec::new();
            let mut waiting = Vec::new();
            let mut closing = Vec::new();
            for message in messages.drain(..) {
                match message {
                    Message::Group(group) => {
                        for entry in group.entries {
                            records.push(entry.record);
                            closing.extend(entry.opened);
                        }
                        waiting.extend(group.done);
                    }
                    Message::Flush(done) => waiting.push(done),
                }
            }
            let count = records.len();
            while records.len() > GROUP {
                let rest = records.split_off(GROUP);
                self.make_safe(std::mem::replace(&mut records, rest)).await;
            }
            self.make_safe(records).await;
            drop(closing);
            for done in waiting {
                // who has left need not hear of it
                let _ = done.send(());
            }
            room.add_permits(count);
        }
    }

    async fn make_safe(self: &Arc<Self>, records: Vec<UsageRecord>) {
        if records.is_empty() {
            return;
        }
        let records = Arc::new(records);
        loop {
            if !self.store_is_away.load(Ordering::Acquire) {
                match self.give(&records, PATIENCE).await {
                    Ok(()) => break,
                    Err(error) => {
                        self.store_is_away.store(true, Ordering::Release);
                        if !self.is_stuck.load(Ordering::Relaxed) {
                            log::warn!(kind = error.kind(); "usage records go to the spool: {error}");
                        }
                    }
                }
            }
            let settings = self.settings.load_full();
            match self.spool(&records, settings.spool_max_bytes).await {
                Ok(()) => break,
                Err(error) if settings.on_full == OnFull::Drop => {
                    let lost = records.len() as u64;
                    if self.lost.fetch_add(lost, Ordering::Relaxed) == 0 {
                        log::error!(
                            "usage records are dropped: the store is away and the spool fails: {error}"
                        );
                    }
                    break;
                }
                Err(error) => {
                    if !self.is_stuck.swap(true, Ordering::Relaxed) {
                        log::error!("requests are refused: the store is away and the spool fails: {error}");
                    }
                    tokio::time::sleep(RETRY).await;
                    // the store may be back, and then the spool is not needed
                    self.store_is_away.store(false, Ordering::Release);
                }
            }
        }
        if self.is_stuck.swap(false, Ordering::Relaxed) {
            log::info!("usage records are safe again");
        }
    }

    async fn give(&self, records: &[UsageRecord], patience: Duration) -> Result<(), StoreError> {
        match tokio::time::timeout(patience, self.store.append(records)).await {
            Ok(Ok(())) => {
                self.committed.fetch_add(records.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {patience:?}"))),
        }
    }

    async fn spool(self: &Arc<Self>, records: &Arc<Vec<UsageRecord>>, most: u64) -> Result<(), SpoolError> {
        let (shared, records) = (Arc::clone(self), Arc::clone(records));
        let count = records.len() as u64;
        tokio::task::spawn_blocking(move || shared.spool.append(&records, most))
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the spool's thread broke").into()))?;
        self.spooled.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Brings the spool into the store whenever there is one, and lets go of records that are too old.
    async fn replay(self: Arc<Self>) {
        let mut next_prune = self.clock.monotonic() + PRUNE_EVERY;
        let mut forgotten = i64::MIN;
        loop {
            let shared = Arc::clone(&self);
            let has_lines = tokio::task::spawn_blocking(move || shared.spool.has_lines()).await;
            if has_lines.unwrap_or(false) {
                match self.replay_once().await {
                    Ok(0) => {}
                    Ok(count) => log::info!("{count} usage records came from the spool into the store"),
                    Err(why) => log::debug!("the spool waits: {why}"),
                }
            }
            if self.clock.monotonic() >= next_prune {
                next_prune = self.clock.monotonic() + PRUNE_EVERY;
                self.prune().await;
                self.forget_days(&mut forgotten).await;
            }
            let _ = tokio::time::timeout(RETRY, self.wanted.notified()).await;
        }
    }

    async fn replay_once(self: &Arc<Self>) -> Result<u64, String> {
        let blocking = |error: tokio::task::JoinError| error.to_string();
        let shared = Arc::clone(self);
        let aside = tokio::task::spawn_blocking(move || shared.spool.set_aside())
            .await
            .map_err(blocking)?
            .map_err(|error| error.to_string())?;
        let Some(mut aside) = aside else { return Ok(0) };
        let mut count = 0;
        loop {
            let (back, records) = tokio::task::spawn_blocking(move || {
                let records = aside.next(GROUP);
                (aside, records)
            })
            .await
            .map_err(blocking)?;
            aside = back;
            let records = records.map_err(|error| error.to_string())?;
            if records.is_empty() {
                break;
            }
            self.give(&records, REPLAY_PATIENCE)
                .await
                .map_err(|error| error.to_string())?;
            count += records.len() as u64;
        }
        if aside.unreadable > 0 {
            self.lost.fetch_add(aside.unreadable, Ordering::Relaxed);
            log::error!(
                "{} lines of the ledger's spool could not be read",
                aside.unreadable
            );
        }
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || shared.spool.forget_aside())
            .await
            .map_err(blocking)?
            .map_err(|error| error.to_string())?;
        // the store answers again
        self.store_is_away.store(false, Ordering::Release);
        Ok(count)
    }

    /// Once a day, and again while the store does not answer.
    async fn forget_days(&self, forgotten: &mut i64) {
        let first = Windows::day_of(self.clock.now()) - SPEND_DAYS_KEPT;
        if *forgotten == first {
            return;
        }
        match self.store.forget_spend_before(first).await {
            Ok(()) => *forgotten = first,
            Err(error) => log::debug!("what was spent on days long ago stays: {error}"),
        }
    }

    async fn prune(&self) {
        let kept = i64::try_from(self.settings.load().retention.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_micros(self.clock.now().as_micros().saturating_sub(kept));
        // a thousand at a time, so that nothing else waits long
        while let Ok(1000) = self.store.prune(before).await {
            tokio::task::yield_now().await;
        }
    }
}
