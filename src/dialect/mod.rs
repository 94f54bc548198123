//! Provider wire formats: bytes in, facts and bytes out; sans I/O.
//!
//! Nothing here opens a socket, waits or reads a clock. What comes in is untrusted: every parser is
//! bounded and none panics.

pub mod inspect;
pub mod multipart;
mod scan;
pub mod splice;
pub mod sse;
