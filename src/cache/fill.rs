//! A fill that runs: one writer, any number of readers.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use pingora_cache::CacheKey;
use pingora_cache::storage::{HandleHit, Storage};
use pingora_cache::trace::SpanHandle;
use pingora_core::{Error, ErrorType, Result};
use tokio::sync::watch;

use super::memory::Head;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running { chunks: usize },
    Complete,
    Failed,
}

/// What has come so far.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) id: u64,
    pub(super) head: Head,
    chunks: RwLock<Vec<Bytes>>,
    state: watch::Sender<State>,
}

impl Fill {
    pub(super) fn new(id: u64, head: Head) -> Self {
        Self {
            id,
            head,
            chunks: RwLock::new(Vec::new()),
            state: watch::Sender::new(State::Running { chunks: 0 }),
        }
    }

    pub(super) fn push(&self, chunk: Bytes) {
        let chunks = {
            let mut chunks = self.chunks.write();
            chunks.push(chunk);
            chunks.len()
        };
        self.state.send_replace(State::Running { chunks });
    }

    pub(super) fn each_chunk(&self, mut take: impl FnMut(&[u8])) {
        for chunk in self.chunks.read().iter() {
            take(chunk);
        }
    }

    pub(super) fn complete(&self) {
        self.state.send_replace(State::Complete);
    }

    /// Readers get an error; what has come is let go.
    pub(super) fn fail(&self) {
        self.state.send_replace(State::Failed);
        self.chunks.write().clear();
    }

    pub(super) fn has_failed(&self) -> bool {
        *self.state.borrow() == State::Failed
    }
}

/// A reader of a running fill.
pub(super) struct FillHit {
    fill: Arc<Fill>,
    state: watch::Receiver<State>,
    next: usize,
}

impl FillHit {
    pub(super) fn new(fill: Arc<Fill>) -> Self {
        Self {
            state: fill.state.subscribe(),
            fill,
            next: 0,
        }
    }
}

#[async_trait]
impl HandleHit for FillHit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            let state = *self.state.borrow_and_update();
            if state == State::Failed {
                return Error::e_explain(ErrorType::ConnectionClosed, "the fill that was read has failed");
            }
            let chunk = self.fill.chunks.read().get(self.next).cloned();
            if let Some(chunk) = chunk {
                self.next += 1;
                return Ok(Some(chunk));
            }
            if state == State::Complete {
                return Ok(None);
            }
            // the sender lives in the fill that this reader holds: it cannot go away
            if self.state.changed().await.is_err() {
                return Error::e_explain(ErrorType::ConnectionClosed, "the fill that was read is gone");
            }
        }
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}
