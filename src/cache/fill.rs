//! A fill that runs: one writer, any number of readers.
//!
//! Readers never slow the writer down. What has come is kept for them until the answer turns out too large to be
//! stored; from then on only a window of it is, and a reader that falls behind it is cut off.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use pingora_core::{Error, ErrorType, Result};
use tokio::sync::watch;

use super::answer::Head;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running { chunks: usize },
    Complete,
    Failed,
}

#[derive(Debug, Default)]
struct Chunks {
    /// The number of the first one that is still there.
    first: usize,
    kept: VecDeque<Bytes>,
    bytes: u64,
}

/// What has come so far.
#[derive(Debug)]
pub struct Fill {
    pub(super) head: Head,
    /// Whose question it answers: the key, or one of its variants.
    pub(super) hash: [u8; 16],
    chunks: RwLock<Chunks>,
    state: watch::Sender<State>,
}

impl Fill {
    pub(super) fn new(head: Head, hash: [u8; 16]) -> Self {
        Self {
            head,
            hash,
            chunks: RwLock::default(),
            state: watch::Sender::new(State::Running { chunks: 0 }),
        }
    }

    pub(super) fn push(&self, chunk: Bytes) {
        let chunks = {
            let mut chunks = self.chunks.write();
            chunks.bytes += chunk.len() as u64;
            chunks.kept.push_back(chunk);
            chunks.first + chunks.kept.len()
        };
        self.state.send_replace(State::Running { chunks });
    }

    /// Lets go of the oldest bytes beyond a window; answers how many.
    pub(super) fn slide(&self, window_bytes: u64) -> u64 {
        let mut chunks = self.chunks.write();
        let before = chunks.bytes;
        while chunks.bytes > window_bytes
            && chunks.kept.len() > 1
            && let Some(oldest) = chunks.kept.pop_front()
        {
            chunks.first += 1;
            chunks.bytes -= oldest.len() as u64;
        }
        before - chunks.bytes
    }

    /// Lets go of everything.
    pub(super) fn forget(&self) {
        let mut chunks = self.chunks.write();
        chunks.first += chunks.kept.len();
        chunks.kept.clear();
        chunks.bytes = 0;
    }

    pub(super) fn each_chunk(&self, mut take: impl FnMut(&[u8])) {
        for chunk in &self.chunks.read().kept {
            take(chunk);
        }
    }

    pub(super) fn has_readers(&self) -> bool {
        self.state.receiver_count() > 0
    }

    pub(super) fn complete(&self) {
        self.state.send_replace(State::Complete);
    }

    /// Readers get what has come and then an error, never a clean end.
    pub(super) fn fail(&self) {
        self.state.send_replace(State::Failed);
    }

    pub(super) fn has_failed(&self) -> bool {
        *self.state.borrow() == State::Failed
    }

    /// Reads from the beginning.
    pub(super) fn reader(self: &Arc<Self>) -> FillReader {
        FillReader {
            state: self.state.subscribe(),
            fill: Arc::clone(self),
            next: 0,
        }
    }
}

/// A reader of a running fill.
#[derive(Debug, Clone)]
pub(super) struct FillReader {
    pub(super) fill: Arc<Fill>,
    state: watch::Receiver<State>,
    next: usize,
}

impl FillReader {
    /// The next bytes; `None` at the clean end.
    ///
    /// # Errors
    /// The fill has failed, or this reader fell too far behind one that is not kept whole.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>> {
        loop {
            let state = *self.state.borrow_and_update();
            let found = {
                let chunks = self.fill.chunks.read();
                match self.next.checked_sub(chunks.first) {
                    None => {
                        return Error::e_explain(
                            ErrorType::ConnectionClosed,
                            "this reader fell behind an answer that is too large to be kept",
                        );
                    }
                    Some(at) => chunks.kept.get(at).cloned(),
                }
            };
            if let Some(chunk) = found {
                self.next += 1;
                return Ok(Some(chunk));
            }
            match state {
                State::Complete => return Ok(None),
                State::Failed => {
                    return Error::e_explain(
                        ErrorType::ConnectionClosed,
                        "the fill that was read has failed",
                    );
                }
                State::Running { .. } => {}
            }
            // the sender lives in the fill that this reader holds: it cannot go away
            if self.state.changed().await.is_err() {
                return Error::e_explain(ErrorType::ConnectionClosed, "the fill that was read is gone");
            }
        }
    }
}
