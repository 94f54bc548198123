//! The composition root: the only place that names concrete back ends.

mod budgets;
mod build;
pub mod doctor;
mod encryption;
pub mod notify;
mod numbers;
pub mod readiness;
pub mod run;
pub mod runtime;
pub mod tasks;
mod views;
mod wiring;

pub use encryption::{Sealing, SealingReport, seal_at_rest};
pub use run::{App, Plan, StopSwitch};
pub use wiring::{Addresses, migrate};
