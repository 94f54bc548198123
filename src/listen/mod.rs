//! From a socket to a Pingora session.

mod descriptors;
mod framing;
mod settings;
mod stream;

pub use settings::FrontSettings;
