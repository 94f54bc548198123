//! What operators see: logs, metrics, the access line.
