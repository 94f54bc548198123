//! What operators see: logs, the access log, metrics.

pub mod access_log;
pub mod fields;
pub mod logging;
pub mod metrics;

pub use access_log::{AccessLine, AccessLog, Outcome, UsedLine};
pub use logging::{LogError, LogFormat, LogSettings, Logging};
pub use metrics::Metrics;
