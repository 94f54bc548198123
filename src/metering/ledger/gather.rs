//! The way of records to the writer, those of one turn of a worker's loop together.
//!
//! WHY: the writer is another thread. Waking it, and being woken by it, costs more than the record itself; under load many
//! answers end in one turn of the loop, and go there and back at the price of one. A turn is over soon whatever the load,
//! so nobody waits for company.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Group, Message, Opened};
use crate::domain::{UsageRecord, spawn};

/// Records that wait for the writer or are with it; above, requests wait with theirs.
const MOST: usize = 8192;

/// More than workers mostly are. Two that share one take their records along.
const SHARDS: usize = 16;

/// A record, and who waits for it.
pub(super) struct Entry {
    pub record: UsageRecord,
    /// Closed once the record is safe.
    pub opened: Option<Opened>,
    pub done: Option<oneshot::Sender<()>>,
}

/// The writer has ended; the record is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended;

pub(super) struct Gather {
    shared: Arc<Shared>,
}

struct Shared {
    shards: [Mutex<Vec<Entry>>; SHARDS],
    /// Bounded by `room`.
    writer: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
    lost: Arc<AtomicU64>,
}

impl Gather {
    /// The way, its other end, and the room that the writer gives back. What cannot be handed over is counted in `lost`.
    pub(super) fn new(lost: Arc<AtomicU64>) -> (Self, mpsc::UnboundedReceiver<Message>, Arc<Semaphore>) {
        let (writer, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(MOST));
        let shared = Arc::new(Shared {
            shards: std::array::from_fn(|_| Mutex::new(Vec::new())),
            writer,
            room: Arc::clone(&room),
            lost,
        });
        (Self { shared }, receiver, room)
    }

    /// Hands a record over at the end of this turn; waits while there is no room.
    pub(super) async fn push(&self, entry: Entry) -> Result<(), Ended> {
        let Ok(place) = self.shared.room.acquire().await else {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return Err(Ended);
        };
        place.forget();
        let shard = own_shard();
        let is_first = {
            let mut gathered = self.shared.shards[shard].lock();
            gathered.push(entry);
            gathered.len() == 1
        };
        if is_first {
            let shared = Arc::clone(&self.shared);
            // it runs once all that is ready now has run
            drop(spawn::spawn(
                "ledger group",
                async move { shared.carry(shard).await },
            ));
        }
        Ok(())
    }

    /// Hands a record over at once, also where no runtime is. Refused when there is no room.
    pub(super) fn offer(&self, entry: Entry) -> Result<(), Ended> {
        let Ok(place) = self.shared.room.try_acquire() else {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return Err(Ended);
        };
        place.forget();
        self.shared.send(vec![entry], None)
    }

    /// Hands everything over that was pushed, and asks to hear when it is safe.
    pub(super) fn flush(&self, done: oneshot::Sender<()>) {
        for shard in 0..SHARDS {
            let entries = self.shared.take(shard);
            if !entries.is_empty() {
                // the writer has ended, and has said so
                let _ = self.shared.send(entries, None);
            }
        }
        let _ = self.shared.writer.send(Message::Flush(done));
    }
}

impl Shared {
    fn take(&self, shard: usize) -> Vec<Entry> {
        std::mem::take(&mut *self.shards[shard].lock())
    }

    /// The writer tells this task alone, and this task the others: they are on its own thread, where that is cheap.
    async fn carry(&self, shard: usize) {
        let mut entries = self.take(shard);
        if entries.is_empty() {
            return;
        }
        let waiting: Vec<_> = entries.iter_mut().filter_map(|entry| entry.done.take()).collect();
        let (done, safe) = oneshot::channel();
        let done = (!waiting.is_empty()).then_some(done);
        if self.send(entries, done).is_err() {
            log::error!("usage records came after the ledger had ended");
            return;
        }
        if !waiting.is_empty() {
            // an error: the writer has ended, and has said so
            let _ = safe.await;
        }
        for done in waiting {
            // who has left need not hear of it
            let _ = done.send(());
        }
    }

    fn send(&self, entries: Vec<Entry>, done: Option<oneshot::Sender<()>>) -> Result<(), Ended> {
        let count = entries.len() as u64;
        let sent = self.writer.send(Message::Group(Group { entries, done }));
        sent.map_err(|_| {
            self.room.close();
            self.lost.fetch_add(count, Ordering::Relaxed);
            Ended
        })
    }
}

fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    SHARD.with(Cell::get)
}
