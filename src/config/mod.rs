//! From bytes to a configuration that cannot be wrong.
//!
//! The way: `load` reads the file, `tree` keeps every value's place, `interpolate` puts variables and files in,
//! `overrides` lays the environment over it, `schema` refuses unknown keys and those of later versions, each
//! section's own file converts and checks its values. All faults are collected; nothing is replaced or ignored in
//! silence.

mod address;
mod auth;
mod budgets;
mod cache;
mod diff;
mod environment;
mod error;
mod file;
pub mod history;
mod interpolate;
mod later;
mod ledger;
mod limits;
mod load;
mod machine;
mod management;
mod nearest;
mod observing;
pub mod overrides;
mod path;
mod prices;
mod provider_keys;
mod providers;
pub mod reference;
mod routing;
pub mod schema;
mod section;
mod server;
pub mod settings;
mod show;
mod stores;
mod tree;
pub mod units;

pub use diff::{Diff, diff};
pub use environment::{EnvSource, Environment, ProcessEnvironment};
pub use error::{ConfigErrors, Fault};
pub use load::{FileChoice, LoadRequest, Loaded, chosen_file, load};
pub use nearest::nearest;
pub use settings::*;
pub use show::{mask_url, show, show_yaml};
