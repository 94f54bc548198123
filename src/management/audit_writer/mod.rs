//! Writes audit events to a file of JSON lines and to the store, from behind a bounded queue.
//!
//! `offer` never waits. One task takes what is queued, writes it to the file in one go with one fsync, and
//! passes it on to a second bounded queue, from which another task appends it to the store. While the store is
//! away the file still gets everything; what the second queue cannot hold is in the file alone, and counted.

mod counts;
mod file;
mod flood;
mod line;
mod retention;
mod to_file;
mod to_store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use counts::AuditCounts;
use counts::Counters;
use file::AuditFile;
use flood::Flood;

use super::ports::AuditTrail;
use crate::domain::Clock;
use crate::domain::audit::{AuditEvent, AuditOutcome, AuditSink};
use crate::domain::spawn::spawn;
use crate::store::AuditStore;

/// Events that may wait for the file, and again as many for the store; beyond, they are counted and lost.
const QUEUE_EVENTS: usize = 10_000;
/// How long a flush may take.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);
/// How long a clean stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Where events go and how long they stay; swapped whole by a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// Off: events are not taken at all.
    pub enabled: bool,
    /// The file of JSON lines; none: no file.
    pub file: Option<PathBuf>,
    /// Whether events go to the store.
    pub store_in_database: bool,
    /// How long events stay in the store; none: for ever.
    pub retention: Option<Duration>,
    /// Size at which the file is rotated away.
    pub max_size_bytes: u64,
    /// Rotated files that are kept.
    pub max_backups: u32,
}

/// Why the trail cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened for appending.
    #[error("cannot open the audit log `{path}`: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What travels in the queues.
enum Message {
    /// To be written.
    Event(Box<AuditEvent>),
    /// Answered when everything before is written.
    Flush(oneshot::Sender<()>),
}

/// The audit trail.
pub struct AuditWriter {
    clock: Arc<dyn Clock>,
    settings: Arc<ArcSwap<AuditSettings>>,
    counters: Arc<Counters>,
    flood: Flood,
    queue: mpsc::Sender<Message>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl AuditWriter {
    /// Opens the file and starts the tasks on the current runtime.
    ///
    /// # Errors
    /// [`AuditError::File`] when the file cannot be opened.
    pub fn start(
        settings: AuditSettings,
        store: Option<Arc<dyn AuditStore>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, AuditError> {
        let file = AuditFile::open(&settings)?;
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let counters = Arc::new(Counters::default());
        let (queue, queued) = mpsc::channel(QUEUE_EVENTS);
        let (for_store, from_file) = mpsc::channel(QUEUE_EVENTS);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::with_capacity(3);
        let has_store = store.is_some();
        if let Some(store) = store {
            let appending = to_store::run(store.clone(), from_file, counters.clone(), stopped.clone());
            tasks.push(spawn("audit-store", appending));
            let pruning = retention::run(store, settings.clone(), clock.clone(), stopped.clone());
            tasks.push(spawn("audit-retention", pruning));
        }
        let writing = to_file::ToFile {
            file,
            settings: settings.clone(),
            counters: counters.clone(),
            clock: clock.clone(),
            for_store: has_store.then_some(for_store),
        };
        tasks.push(spawn("audit-file", writing.run(queued, stopped)));
        Ok(Arc::new(Self {
            clock,
            settings,
            counters,
            flood: Flood::default(),
            queue,
            stop,
            tasks: Mutex::new(tasks),
        }))
    }

    /// Swaps the settings in; a new file is opened with the next event.
    pub fn configure(&self, settings: AuditSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// What was lost or left out, for metrics.
    pub fn counts(&self) -> AuditCounts {
        self.counters.read()
    }

    /// Writes what is queued and ends the tasks, within five seconds. Later events are counted as lost.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let all = async {
            for task in tasks {
                // A task that panicked has said so already.
                let _ = task.await;
            }
        };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            log::error!("audit events were still being written when their time was up");
        }
    }
}

impl AuditSink for AuditWriter {
    fn offer(&self, event: AuditEvent) {
        if !self.settings.load().enabled {
            return;
        }
        if event.outcome == AuditOutcome::Denied && !self.flood.admit(self.clock.monotonic()) {
            self.counters.add_suppressed();
            return;
        }
        if self.queue.try_send(Message::Event(Box::new(event))).is_err() {
            self.counters.add_dropped(1);
        }
    }
}

#[async_trait]
impl AuditTrail for AuditWriter {
    async fn flush(&self) {
        let (done, waiting) = oneshot::channel();
        let flush = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                // Whether it was answered or its task is gone: nothing more will be written.
                let _ = waiting.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH_PATIENCE, flush).await;
    }
}

#[cfg(test)]
mod tests;
