//! Splits a stream of chunks into whole events.
//!
//! An event ends with an empty line; lines end with LF, CRLF or CR. When a chunk ends right after a
//! CR that closes an event, the event is released at once and an LF that follows goes out alone.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// Most bytes held of an unfinished event; a longer one is released as it comes.
pub const MAX_HELD_BYTES: usize = 1024 * 1024;

/// What one chunk released: bytes to forward, and where in them events end. Reused from chunk to
/// chunk, so that a stream allocates nothing for it.
#[derive(Debug, Default)]
pub struct Batch {
    /// The bytes to forward, in order; may be empty.
    pub bytes: Bytes,
    cuts: Vec<Cut>,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    end: usize,
    kind: CutKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CutKind {
    Whole,
    LongHead,
    LongMiddle,
    LongEnd,
    LineFeed,
}

/// A part of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole event, its closing empty line included.
    Event(&'a [u8]),
    /// The first [`MAX_HELD_BYTES`] or more of an event that is too long to be held.
    LongHead(&'a [u8]),
    /// More of such an event.
    LongMiddle(&'a [u8]),
    /// The end of such an event, its closing empty line included.
    LongEnd(&'a [u8]),
    /// The LF of a CRLF whose CR has been released with the event it closes.
    LineFeed(&'a [u8]),
}

impl<'a> Piece<'a> {
    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Event(bytes)
            | Self::LongHead(bytes)
            | Self::LongMiddle(bytes)
            | Self::LongEnd(bytes)
            | Self::LineFeed(bytes) => bytes,
        }
    }
}

impl Batch {
    /// The pieces, in order; together they are [`Batch::bytes`].
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut start = 0;
        self.cuts.iter().map(move |cut| {
            let bytes = &self.bytes[start..cut.end];
            start = cut.end;
            match cut.kind {
                CutKind::Whole => Piece::Event(bytes),
                CutKind::LongHead => Piece::LongHead(bytes),
                CutKind::LongMiddle => Piece::LongMiddle(bytes),
                CutKind::LongEnd => Piece::LongEnd(bytes),
                CutKind::LineFeed => Piece::LineFeed(bytes),
            }
        })
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.cuts.len()
    }

    /// There is nothing to forward.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The bytes of piece `index` alone, without copying; empty if there is no such piece.
    pub fn piece_bytes(&self, index: usize) -> Bytes {
        self.range(index..index + 1)
    }

    /// The bytes of some neighbouring pieces, without copying.
    pub fn range(&self, pieces: std::ops::Range<usize>) -> Bytes {
        let end_of = |count: usize| match count.min(self.cuts.len()) {
            0 => 0,
            count => self.cuts[count - 1].end,
        };
        let start = end_of(pieces.start);
        self.bytes.slice(start..end_of(pieces.end).max(start))
    }
}

/// Takes chunks, gives whole events, keeps the unfinished tail.
#[derive(Debug)]
pub struct EventSplitter {
    tail: BytesMut,
    /// The current line has no bytes yet.
    line_is_empty: bool,
    /// The last byte was a CR: an LF now belongs to it.
    after_carriage_return: bool,
    /// The bytes of the current event already released, because it is too long to be held.
    event_is_released: bool,
    max_held_bytes: usize,
}

impl Default for EventSplitter {
    fn default() -> Self {
        Self::new()
    }
}

impl EventSplitter {
    /// A splitter before the first byte.
    pub fn new() -> Self {
        Self::holding(MAX_HELD_BYTES)
    }

    fn holding(max_held_bytes: usize) -> Self {
        Self {
            tail: BytesMut::new(),
            line_is_empty: true,
            after_carriage_return: false,
            event_is_released: false,
            max_held_bytes,
        }
    }

    /// Takes the next chunk and puts what may leave into `batch`, replacing what was in it.
    pub fn push(&mut self, chunk: Bytes, batch: &mut Batch) {
        batch.cuts.clear();
        batch.bytes = Bytes::new();
        if chunk.is_empty() {
            return;
        }
        let held = self.tail.len();
        self.find_cuts(&chunk, held, &mut batch.cuts);

        let everything = chunk.len();
        let released = batch.cuts.last().map_or(0, |cut| cut.end.saturating_sub(held));
        let unfinished = if batch.cuts.is_empty() {
            held + everything
        } else {
            everything - released
        };
        if unfinished > 0 && (self.event_is_released || unfinished > self.max_held_bytes) {
            let kind = if self.event_is_released {
                CutKind::LongMiddle
            } else {
                CutKind::LongHead
            };
            batch.cuts.push(Cut {
                end: held + everything,
                kind,
            });
            self.event_is_released = true;
            batch.bytes = self.release(chunk, everything);
        } else if batch.cuts.is_empty() {
            self.tail.extend_from_slice(&chunk);
        } else {
            batch.bytes = self.release(chunk, released);
        }
    }

    /// Ends the stream and gives the unfinished event, which must not leave.
    pub fn finish(&mut self) -> Bytes {
        self.tail.split().freeze()
    }

    /// Part of an event that was too long to be held has left, and its end has not: what is written
    /// next must begin with an empty line.
    pub fn is_inside_released_event(&self) -> bool {
        self.event_is_released
    }

    /// Bytes held of the unfinished event.
    pub fn held_bytes(&self) -> usize {
        self.tail.len()
    }

    /// Notes where events end, as offsets from the start of the held tail.
    fn find_cuts(&mut self, chunk: &[u8], held: usize, cuts: &mut Vec<Cut>) {
        let mut at = 0;
        if std::mem::take(&mut self.after_carriage_return) && chunk[0] == b'\n' {
            at = 1;
            // nothing is held: the CR closed an event, which has left
            if held == 0 && self.line_is_empty && !self.event_is_released {
                cuts.push(Cut {
                    end: 1,
                    kind: CutKind::LineFeed,
                });
            }
        }
        while let Some(found) = memchr2(b'\n', b'\r', &chunk[at..]) {
            let mut next = at + found + 1;
            if chunk[next - 1] == b'\r' {
                match chunk.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None => self.after_carriage_return = true,
                }
            }
            let closes_event = found == 0 && self.line_is_empty;
            self.line_is_empty = true;
            if closes_event {
                let released = std::mem::take(&mut self.event_is_released);
                let kind = if released {
                    CutKind::LongEnd
                } else {
                    CutKind::Whole
                };
                cuts.push(Cut {
                    end: held + next,
                    kind,
                });
            }
            at = next;
        }
        if at < chunk.len() {
            self.line_is_empty = false;
        }
    }

    /// The tail and the first `count` bytes of the chunk; the rest of the chunk becomes the tail.
    fn release(&mut self, mut chunk: Bytes, count: usize) -> Bytes {
        let rest = chunk.split_off(count);
        let released = if self.tail.is_empty() {
            chunk
        } else {
            self.tail.extend_from_slice(&chunk);
            self.tail.split().freeze()
        };
        self.tail.extend_from_slice(&rest);
        released
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pushes chunks; gives all released bytes, the whole events and the tail.
    fn run(splitter: &mut EventSplitter, chunks: &[&[u8]]) -> (Vec<u8>, Vec<Vec<u8>>, Vec<u8>) {
        let (mut bytes, mut events, mut batch) = (Vec::new(), Vec::new(), Batch::default());
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk), &mut batch);
            let pieces: Vec<u8> = batch.pieces().flat_map(Piece::bytes).copied().collect();
            assert_eq!(pieces, batch.bytes, "pieces are all of the bytes");
            bytes.extend_from_slice(&batch.bytes);
            events.extend(batch.pieces().filter_map(|piece| match piece {
                Piece::Event(event) => Some(event.to_vec()),
                _ => None,
            }));
        }
        (bytes, events, splitter.finish().to_vec())
    }

    #[test]
    fn whole_events_leave_and_the_tail_stays() {
        for text in [
            "data: a\n\ndata: b\n\ndata: c",
            "data: a\r\n\r\ndata: b\r\n\r\ndata: c",
            "data: a\r\rdata: b\r\rdata: c",
        ] {
            let (bytes, events, tail) = run(&mut EventSplitter::new(), &[text.as_bytes()]);
            assert_eq!(events.len(), 2, "{text:?}");
            assert_eq!(events.concat(), bytes);
            assert_eq!(tail, b"data: c");
        }
    }

    #[test]
    fn a_chunk_that_ends_with_an_event_is_not_copied() {
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
        let mut batch = Batch::default();
        EventSplitter::new().push(chunk.clone(), &mut batch);
        assert_eq!(batch.bytes.as_ptr(), chunk.as_ptr());
        assert_eq!((batch.len(), batch.bytes.len()), (2, chunk.len()));
        assert_eq!(batch.piece_bytes(1), "data: b\n\n");
        assert_eq!(batch.range(0..1), "data: a\n\n");
        assert!(batch.piece_bytes(2).is_empty());
    }

    #[test]
    fn an_event_closed_by_a_carriage_return_leaves_at_once() {
        let mut splitter = EventSplitter::new();
        let (bytes, events, tail) = run(
            &mut splitter,
            &[b"data: a\r\n\r", b"\n", b"data: b\r", b"\n\r", b"\nx"],
        );
        assert_eq!(events, [b"data: a\r\n\r".to_vec(), b"data: b\r\n\r".to_vec()]);
        assert_eq!(
            (bytes, tail),
            (b"data: a\r\n\r\ndata: b\r\n\r\n".to_vec(), b"x".to_vec())
        );
    }

    #[test]
    fn an_event_too_long_to_be_held_leaves_as_it_comes() {
        let mut splitter = EventSplitter::holding(8);
        let mut batch = Batch::default();
        let mut kinds = Vec::new();
        for chunk in [
            "data: a\n\ndata: ",
            "12345678",
            "90",
            "\n\r\n",
            "data: b\n\n",
            "data",
        ] {
            splitter.push(Bytes::from_static(chunk.as_bytes()), &mut batch);
            kinds.extend(batch.pieces().map(|piece| match piece {
                Piece::Event(_) => "event",
                Piece::LongHead(_) => "head",
                Piece::LongMiddle(_) => "middle",
                Piece::LongEnd(_) => "end",
                Piece::LineFeed(_) => "lf",
            }));
            kinds.push(if splitter.is_inside_released_event() {
                "inside"
            } else {
                "between"
            });
        }
        let expected = [
            "event", "between", "head", "inside", "middle", "inside", "end", "between", "event", "between",
            "between",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(splitter.finish(), "data");
    }

    fn without_line_ends(event: &[u8]) -> Vec<u8> {
        let end = event
            .iter()
            .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
            .map_or(0, |at| at + 1);
        event[..end].to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_split_gives_the_same_bytes_and_events(
            lines in prop::collection::vec(("(|data: [a-z]{0,6}|: c|\u{feff}|event: é)", prop_oneof![Just("\n"), Just("\r\n"), Just("\r")]), 0..24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let text: Vec<u8> = lines.iter().flat_map(|(line, end)| [line.as_bytes(), end.as_bytes()].concat()).collect();
            let (whole_bytes, whole_events, whole_tail) = run(&mut EventSplitter::new(), &[&text]);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let (bytes, events, tail) = run(&mut EventSplitter::new(), &chunks);
            prop_assert_eq!([bytes, tail.clone()].concat(), text.clone());
            prop_assert_eq!([whole_bytes, whole_tail.clone()].concat(), text);
            prop_assert_eq!(tail, whole_tail);
            let plain = |events: &[Vec<u8>]| events.iter().map(|event| without_line_ends(event)).collect::<Vec<_>>();
            prop_assert_eq!(plain(&events), plain(&whole_events));
        }
    }
}
