//! The running view of the configuration.
