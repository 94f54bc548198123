//! From bytes to a configuration that cannot be wrong.

mod address;
mod auth;
mod cache;
mod limits;
mod machine;
mod management;
mod observing;
mod providers;
mod routing;
mod server;
pub mod settings;
mod stores;

pub use settings::*;
