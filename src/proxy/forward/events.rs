//! The events of one stream on their way to the client: whole ones leave, and the end is judged.

use bytes::{Bytes, BytesMut};

use crate::dialect::content_coding::Decoder;
use crate::dialect::sse::{
    Batch, Event, EventSplitter, HttpEnd, Piece, StreamKind, StreamVerdict, StreamWatch,
};
use crate::dialect::stream_error::stream_error;
use crate::domain::Denial;
use crate::metering::Meter;

/// A stream under way.
pub(super) struct EventRelay {
    kind: StreamKind,
    splitter: EventSplitter,
    watch: StreamWatch,
    batch: Batch,
    /// The client did not ask for the usage chunk: it goes no further than the meter.
    hides_usage: bool,
    coding: Coding,
    /// The first error event, as far as another provider may be asked because of it.
    error: Option<Box<[u8]>>,
}

/// How the stream is written.
enum Coding {
    Plain,
    /// It passes as it comes; what it says is read beside it.
    Encoded(Box<Decoder>),
    /// It could not be read to its end.
    Unreadable,
}

impl EventRelay {
    /// A stream before its first byte; `choices` is the `n` of its request.
    pub(super) fn new(kind: StreamKind, choices: Option<u64>, hides_usage: bool) -> Self {
        Self {
            kind,
            splitter: EventSplitter::new(),
            watch: StreamWatch::new(kind, choices),
            batch: Batch::default(),
            hides_usage,
            coding: Coding::Plain,
            error: None,
        }
    }

    /// The same for a stream that comes encoded: it is watched, and passes unchanged.
    pub(super) fn encoded(kind: StreamKind, choices: Option<u64>, decoder: Decoder) -> Self {
        Self {
            coding: Coding::Encoded(Box::new(decoder)),
            ..Self::new(kind, choices, false)
        }
    }

    /// Takes what came; gives what may leave.
    pub(super) fn push(&mut self, bytes: Bytes, meter: Option<&mut Meter>) -> Option<Bytes> {
        match &mut self.coding {
            Coding::Plain => self.push_plain(bytes, meter),
            Coding::Unreadable => Some(bytes),
            Coding::Encoded(decoder) => {
                match decoder.push(&bytes) {
                    Some(text) => drop(self.push_plain(text.into(), meter)),
                    None => self.coding = Coding::Unreadable,
                }
                Some(bytes)
            }
        }
    }

    fn push_plain(&mut self, bytes: Bytes, mut meter: Option<&mut Meter>) -> Option<Bytes> {
        self.splitter.push(bytes, &mut self.batch);
        if self.batch.is_empty() {
            return None;
        }
        let mut hidden = None;
        for (index, piece) in self.batch.pieces().enumerate() {
            let facts = self.watch.observe(piece);
            if facts.error
                && self.error.is_none()
                && let Piece::Event(event) = piece
            {
                self.error = Event::parse(event).data.map(|data| data.as_ref().into());
            }
            if let (Some(meter), Piece::Event(event)) = (meter.as_deref_mut(), piece)
                && let Some(data) = Event::parse(event).data.as_deref()
            {
                meter.event(data);
            }
            if facts.usage_only && self.hides_usage {
                hidden = Some(index);
            }
        }
        match hidden {
            None => Some(self.batch.bytes.clone()),
            Some(hidden) => self.without(hidden),
        }
    }

    /// Everything but one event.
    fn without(&self, hidden: usize) -> Option<Bytes> {
        let mut rest = BytesMut::with_capacity(self.batch.bytes.len());
        for index in (0..self.batch.len()).filter(|index| *index != hidden) {
            rest.extend_from_slice(&self.batch.piece_bytes(index));
        }
        (!rest.is_empty()).then(|| rest.freeze())
    }

    /// Whether something of the answer itself has come.
    pub(super) fn has_content(&self) -> bool {
        self.watch.has_content()
    }

    /// Whether something of the answer itself, an error or an end has come.
    pub(super) fn has_begun(&self) -> bool {
        self.watch.has_content() || self.watch.has_error() || self.watch.has_end_marker()
    }

    /// The error that the provider told in an event.
    pub(super) fn told_error(&self) -> Option<&[u8]> {
        self.error.as_deref()
    }

    /// What became of it, HTTP having ended so.
    pub(super) fn verdict(&self, end: HttpEnd) -> StreamVerdict {
        match self.coding {
            Coding::Unreadable if end == HttpEnd::Broken => StreamVerdict::Broken,
            Coding::Unreadable => StreamVerdict::Complete,
            Coding::Plain | Coding::Encoded(_) => self.watch.verdict(end),
        }
    }

    /// The event that tells the client that the stream is broken; the unfinished event is dropped. There is none in a
    /// stream that is encoded: it is cut.
    pub(super) fn error_event(&self, denial: &Denial) -> Option<Bytes> {
        if !matches!(self.coding, Coding::Plain) {
            return None;
        }
        let event = stream_error(
            self.kind,
            denial.code,
            &denial.message,
            self.watch.last_sequence_number(),
        );
        if self.splitter.is_inside_released_event() {
            return Some([b"\n\n".as_slice(), &event].concat().into());
        }
        Some(event)
    }
}
