//! The control plane: the only module that sees axum.
//!
//! [`OwnPaths`] is the whole of it as a value: a head, a body and a client address go in, an answer comes
//! out. The sidecar's listener ([`serve`]) and the proxy's hand-over of own paths both go through it.

pub mod access;
pub mod answer;
pub mod audit;
pub mod audit_writer;
pub mod budget_view;
pub mod cache;
pub mod configuration;
pub mod error;
pub mod failed_logins;
pub mod health;
pub mod json_fields;
pub mod metrics;
pub mod model_list;
pub mod nearest;
pub mod openapi;
pub mod own_paths;
pub mod paging;
pub mod ports;
pub mod projects;
pub mod provider_list;
pub mod query;
pub mod request_ids;
pub mod restrictions;
pub mod router;
pub mod serve;
pub mod services;
pub mod settings;
pub mod strict_json;
pub mod tokens;
pub mod usage;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;

pub use audit_writer::{AuditSettings, AuditWriter};
pub use own_paths::{OwnPaths, OwnRequest, OwnResponse};
pub use services::Services;
pub use settings::{ManagementSettings, ManagementTokens, Role};

/// Which listener a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// The management listener.
    Sidecar,
    /// The proxy listener, which handed an own path over.
    Proxy,
}
