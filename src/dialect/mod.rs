//! Provider wire formats: bytes in, facts and bytes out; sans I/O.
//!
//! Nothing here opens a socket, waits or reads a clock. What comes in is untrusted: every parser is
//! bounded and none panics.

pub mod content_coding;
pub mod demo;
pub mod error;
pub mod inspect;
pub mod model_list;
pub mod multipart;
pub mod paths;
pub mod query;
mod scan;
pub mod splice;
pub mod sse;
pub mod stainless;
pub mod stream_error;
pub mod usage;
pub mod websocket;
