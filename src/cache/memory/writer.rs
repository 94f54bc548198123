//! The writing end of a fill.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::super::answer::{Answer, Head};
use super::super::complete::stream_is_complete;
use super::super::fill::Fill;
use super::super::key::EntryKey;
use super::super::policy::Storable;
use super::{MemoryStore, framed};

/// Bytes that are kept for readers of a fill that is not kept itself because all fills together have too many.
const SMALL_WINDOW_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Undecided,
    /// Not to be stored: too large, or too much at once. Goes on for whoever reads it.
    PassedOn {
        window_bytes: u64,
    },
    Finished,
}

/// Keeps an answer as it comes. Dropped without [`Writer::finish`], the fill has failed.
pub struct Writer {
    store: Arc<MemoryStore>,
    owner: EntryKey,
    purges: u64,
    fill: Arc<Fill>,
    max_object_bytes: u64,
    content_length: Option<u64>,
    is_stream: bool,
    received: u64,
    /// Bytes of it that count as held.
    held: u64,
    fate: Fate,
}

impl Writer {
    pub(super) fn new(
        store: Arc<MemoryStore>,
        owner: EntryKey,
        hash: [u8; 16],
        head: Head,
        storable: &Storable,
        max_object_bytes: u64,
        purges: u64,
    ) -> Self {
        store.fills.fetch_add(1, Ordering::Relaxed);
        Self {
            store,
            owner,
            purges,
            fill: Arc::new(Fill::new(head, hash)),
            max_object_bytes,
            content_length: storable.content_length,
            is_stream: storable.is_stream,
            received: 0,
            held: 0,
            fate: Fate::Undecided,
        }
    }

    /// What others can read meanwhile.
    pub(in crate::cache) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// Whether the answer will be kept, as far as can be told.
    pub fn is_kept(&self) -> bool {
        self.fate == Fate::Undecided
    }

    /// Adds a piece.
    pub fn write(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let length = piece.len() as u64;
        self.received += length;
        if self.fate != Fate::Undecided && !self.fill.has_readers() {
            self.fill.forget();
            self.hold(0);
            return;
        }
        let all_fills = self.store.fill_bytes.load(Ordering::Relaxed) + length;
        if self.fate == Fate::Undecided {
            if all_fills > self.store.max_bytes {
                self.pass_on(SMALL_WINDOW_BYTES);
            } else if self.received > self.max_object_bytes {
                self.pass_on(self.max_object_bytes);
            }
        }
        self.fill.push(piece);
        self.hold(self.held + length);
        if let Fate::PassedOn { window_bytes } = self.fate {
            let gone = self.fill.slide(window_bytes);
            self.hold(self.held.saturating_sub(gone));
        }
    }

    fn pass_on(&mut self, window_bytes: u64) {
        self.fate = Fate::PassedOn { window_bytes };
        self.store.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn hold(&mut self, bytes: u64) {
        if bytes >= self.held {
            self.store
                .fill_bytes
                .fetch_add(bytes - self.held, Ordering::Relaxed);
        } else {
            self.store
                .fill_bytes
                .fetch_sub(self.held - bytes, Ordering::Relaxed);
        }
        self.held = bytes;
    }

    /// The answer has ended cleanly: keeps it if it is whole.
    pub fn finish(mut self) {
        let passed_on = self.fate != Fate::Undecided;
        self.fate = Fate::Finished;
        let right_length = self.content_length.is_none_or(|length| length == self.received);
        if passed_on {
            self.end(right_length);
            return;
        }
        // WHY: one copy, for the chunks are slices of read buffers of 64 KiB each
        let mut body = BytesMut::with_capacity(usize::try_from(self.received).unwrap_or(0));
        self.fill.each_chunk(|chunk| body.extend_from_slice(chunk));
        let body = body.freeze();
        if right_length && (!self.is_stream || stream_is_complete(&body)) {
            self.keep(body);
        } else {
            self.store.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.end(right_length);
    }

    /// The answer has ended cleanly, and is not one to be kept: an error inside a stream.
    pub fn finish_unkept(mut self) {
        if self.fate == Fate::Undecided {
            self.pass_on(0);
        }
        self.finish();
    }

    /// Tells the readers.
    fn end(&self, cleanly: bool) {
        if cleanly {
            self.fill.complete();
        } else {
            self.fill.fail();
        }
    }

    /// The answer has broken off: readers get these last bytes and no clean end.
    pub fn break_off(self, last_words: Option<Bytes>) {
        if let Some(last_words) = last_words {
            self.fill.push(last_words);
        }
    }

    fn keep(&self, body: Bytes) {
        let mut head = self.fill.head.clone();
        let Some(header) = framed(head.header, body.len()) else {
            return;
        };
        head.header = header;
        let answer = Answer {
            head,
            body,
            owner: self.owner.clone(),
            hash: self.fill.hash,
        };
        self.store.insert(Arc::new(answer), self.purges);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.fate != Fate::Finished {
            if self.fate == Fate::Undecided {
                self.store.dropped.fetch_add(1, Ordering::Relaxed);
            }
            self.fill.fail();
        }
        self.hold(0);
        self.store.fills.fetch_sub(1, Ordering::Relaxed);
    }
}
