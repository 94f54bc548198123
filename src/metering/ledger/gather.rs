//! The way of records to the writer: bounded, and those of one turn of a worker's loop together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Group, Message, Opened};
use crate::domain::UsageRecord;
use crate::domain::together::Together;

/// Records that wait for the writer or are with it; above, requests wait with theirs.
const MOST: usize = 8192;

/// A record, and what its request had reserved.
pub(super) struct Entry {
    pub record: UsageRecord,
    /// Closed once the record is safe.
    pub opened: Option<Opened>,
}

/// The writer has ended, or there is no room; the record is lost, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

pub(super) struct Gather {
    together: Together<Entry, ()>,
    way: Arc<Way>,
}

struct Way {
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
        let way = Arc::new(Way {
            writer,
            room: Arc::clone(&room),
            lost,
        });
        let own = Arc::clone(&way);
        let together = Together::new(move |entries, done| {
            if own.send(entries, done).is_err() {
                log::error!("usage records came after the ledger had ended");
            }
        });
        (Self { together, way }, receiver, room)
    }

    /// Hands a record over at the end of this turn; waits while there is no room.
    pub(super) async fn push(&self, entry: Entry, done: Option<oneshot::Sender<()>>) -> Result<(), Lost> {
        let Ok(place) = self.way.room.acquire().await else {
            return Err(self.way.lose(1));
        };
        place.forget();
        self.together.add(entry, done);
        Ok(())
    }

    /// Hands a record over at once, also where no runtime is. Refused when there is no room.
    pub(super) fn offer(&self, entry: Entry) -> Result<(), Lost> {
        let Ok(place) = self.way.room.try_acquire() else {
            return Err(self.way.lose(1));
        };
        place.forget();
        self.way.send(vec![entry], None)
    }

    /// Hands everything over that was pushed, and asks to hear when it is safe.
    pub(super) fn flush(&self, done: oneshot::Sender<()>) {
        self.together.hand_over_all();
        // an error: the writer has ended, and the sender is dropped with it
        let _ = self.way.writer.send(Message::Flush(done));
    }
}

impl Way {
    fn send(&self, entries: Vec<Entry>, done: Option<oneshot::Sender<()>>) -> Result<(), Lost> {
        let count = entries.len() as u64;
        let sent = self.writer.send(Message::Group(Group { entries, done }));
        sent.map_err(|_| {
            self.room.close();
            self.lose(count)
        })
    }

    fn lose(&self, count: u64) -> Lost {
        self.lost.fetch_add(count, Ordering::Relaxed);
        Lost
    }
}
