//! The events of one stream on their way to the client: whole ones leave, and the end is judged.

use bytes::Bytes;

use crate::dialect::sse::{Batch, EventSplitter, HttpEnd, StreamKind, StreamVerdict, StreamWatch};
use crate::dialect::stream_error::stream_error;
use crate::domain::Denial;

/// A stream under way.
pub(super) struct EventRelay {
    kind: StreamKind,
    splitter: EventSplitter,
    watch: StreamWatch,
    batch: Batch,
}

impl EventRelay {
    /// A stream before its first byte; `choices` is the `n` of its request.
    pub(super) fn new(kind: StreamKind, choices: Option<u64>) -> Self {
        Self {
            kind,
            splitter: EventSplitter::new(),
            watch: StreamWatch::new(kind, choices),
            batch: Batch::default(),
        }
    }

    /// Takes what came; gives what may leave.
    pub(super) fn push(&mut self, bytes: Bytes) -> Option<Bytes> {
        self.splitter.push(bytes, &mut self.batch);
        if self.batch.is_empty() {
            return None;
        }
        for piece in self.batch.pieces() {
            self.watch.observe(piece);
        }
        Some(self.batch.bytes.clone())
    }

    /// What became of it, HTTP having ended so.
    pub(super) fn verdict(&self, end: HttpEnd) -> StreamVerdict {
        self.watch.verdict(end)
    }

    /// The event that tells the client that the stream is broken; the unfinished event is dropped.
    pub(super) fn error_event(&self, denial: &Denial) -> Bytes {
        let event = stream_error(
            self.kind,
            denial.code,
            &denial.message,
            self.watch.last_sequence_number(),
        );
        if self.splitter.is_inside_released_event() {
            return [b"\n\n".as_slice(), &event].concat().into();
        }
        event
    }
}
