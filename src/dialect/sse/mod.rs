//! Server-sent events of provider streams: where events end, what they say, whether a stream is whole.
//!
//! [`EventSplitter`] turns chunks of any split into bytes that end where an event ends, so that only
//! whole events leave. [`StreamWatch`] looks at each of them and knows at the end whether the stream
//! was complete.

mod event;
mod splitter;
mod watch;

pub use event::Event;
pub use splitter::{Batch, EventSplitter, MAX_HELD_BYTES, Piece};
pub use watch::{EventFacts, HttpEnd, StreamKind, StreamVerdict, StreamWatch};
