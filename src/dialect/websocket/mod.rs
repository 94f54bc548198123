//! WebSocket as far as a proxy must understand it: the handshake, where frames end, and the frame that closes.
//!
//! Frames pass byte for byte. They are followed (RFC 6455 §5.2) only so that a session can be ended between two of
//! them, so that an orderly end can be told from a cut, and for what a provider says of tokens.

mod frames;
mod handshake;

pub use frames::{FrameFollower, Piece, close_frame};
pub use handshake::{ask, asks_for_websocket, protocols_up};
