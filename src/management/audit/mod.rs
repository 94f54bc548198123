//! The audit trail: what becomes an event, and reading events back.

pub mod event;
mod list;
mod show;
mod view;

pub use list::{Listed, list};
pub use show::{missing_id, show};
pub use view::AuditView;
