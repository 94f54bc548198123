//! The task that writes events to the file and passes them on to the store's queue.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::counts::{AuditCounts, Counters};
use super::file::AuditFile;
use super::{AuditSettings, Message, line};
use crate::domain::Clock;
use crate::domain::audit::{AuditEvent, AuditOutcome};

/// Messages taken in one go, and so the most that share one fsync.
const BATCH: usize = 512;
/// How often losses are summed up in an event.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);

pub struct ToFile {
    pub file: AuditFile,
    pub settings: Arc<ArcSwap<AuditSettings>>,
    pub counters: Arc<Counters>,
    pub clock: Arc<dyn Clock>,
    pub for_store: Option<mpsc::Sender<Message>>,
}

impl ToFile {
    /// Runs until told to stop, then drains the queue.
    pub async fn run(self, mut queued: mpsc::Receiver<Message>, mut stopped: watch::Receiver<bool>) {
        let mut writer = Writer {
            file: Some(self.file),
            failing: false,
            summed_up: AuditCounts::default(),
            settings: self.settings,
            counters: self.counters,
            clock: self.clock,
            for_store: self.for_store,
        };
        let mut batch = Vec::with_capacity(BATCH);
        let mut summary = tokio::time::interval(SUMMARY_EVERY);
        summary.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = false;
        loop {
            tokio::select! {
                count = queued.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                }
                _ = summary.tick(), if !stopping => {}
                _ = stopped.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    queued.close();
                }
            }
            writer.write(&mut batch).await;
        }
        writer.write(&mut batch).await;
    }
}

struct Writer {
    file: Option<AuditFile>,
    failing: bool,
    summed_up: AuditCounts,
    settings: Arc<ArcSwap<AuditSettings>>,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    for_store: Option<mpsc::Sender<Message>>,
}

impl Writer {
    async fn write(&mut self, batch: &mut Vec<Message>) {
        if let Some(event) = self.summary() {
            batch.push(Message::Event(Box::new(event)));
        }
        if batch.is_empty() {
            return;
        }
        let settings = self.settings.load_full();
        let mut lines = Vec::new();
        let mut count = 0;
        for message in batch.iter() {
            if let Message::Event(event) = message {
                line::append(event, &mut lines);
                count += 1;
            }
        }
        if count > 0 {
            self.append(lines, count, settings.clone()).await;
        }
        for message in batch.drain(..) {
            self.pass_on(message, settings.store_in_database);
        }
    }

    /// Blocking work, so it happens on a thread for that.
    async fn append(&mut self, lines: Vec<u8>, count: u64, settings: Arc<AuditSettings>) {
        let Some(mut file) = self.file.take().or_else(|| AuditFile::open(&settings).ok()) else {
            self.counters.add_missing_in_file(count);
            return;
        };
        let appended = tokio::task::spawn_blocking(move || {
            let result = file.append(&lines, &settings);
            (file, result)
        });
        let failure = match appended.await {
            Ok((file, result)) => {
                self.file = Some(file);
                result.err().map(|error| error.to_string())
            }
            Err(error) => Some(error.to_string()),
        };
        match failure {
            None if self.failing => {
                self.failing = false;
                log::info!("the audit log can be written again");
            }
            None => {}
            Some(error) => {
                self.counters.add_missing_in_file(count);
                if !self.failing {
                    self.failing = true;
                    log::error!("the audit log cannot be written: {error}");
                }
            }
        }
    }

    fn pass_on(&self, message: Message, wanted: bool) {
        let Some(for_store) = &self.for_store else {
            return;
        };
        let is_event = matches!(message, Message::Event(_));
        if is_event && !wanted {
            return;
        }
        // A flush that finds no room is answered by being dropped.
        if for_store.try_send(message).is_err() && is_event {
            self.counters.add_missing_in_store(1);
        }
    }

    /// Says in an event of its own what did not get one since the last summary.
    fn summary(&mut self) -> Option<AuditEvent> {
        let counts = self.counters.read();
        let suppressed = counts.suppressed - self.summed_up.suppressed;
        let dropped = counts.dropped - self.summed_up.dropped;
        if suppressed == 0 && dropped == 0 {
            return None;
        }
        self.summed_up = counts;
        let outcome = if dropped > 0 {
            AuditOutcome::Error
        } else {
            AuditOutcome::Denied
        };
        let mut event = AuditEvent::new(self.clock.now(), "audit.suppressed", "system", outcome);
        event.reason = Some("more events came than are written one by one".to_owned());
        event.metadata.insert("denied".to_owned(), suppressed.into());
        event.metadata.insert("dropped".to_owned(), dropped.into());
        Some(event)
    }
}
