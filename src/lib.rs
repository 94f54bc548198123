//! llm-proxy: an edge proxy for LLM APIs, on Pingora.
//!
//! One package, many rooms. An arrow `A → B` means that A may `use crate::B`; nothing else may
//! (`tests/it/architecture.rs` guards the table):
//!
//! ```text
//! domain → nothing
//! telemetry, config, dialect → domain
//! store, fleet → domain config telemetry
//! auth limit cache upstream metering → domain config telemetry, and the ports of store fleet dialect they need
//! live → domain config telemetry + the services it snapshots
//! proxy → domain dialect telemetry live + services
//! management → domain config telemetry live store(ports) fleet + services
//! listen → domain config telemetry
//! app → everything
//! cli → app config store domain
//! ```

pub mod app;
pub mod auth;
pub mod cache;
pub mod cli;
pub mod config;
pub mod dialect;
pub mod domain;
pub mod fleet;
pub mod limit;
pub mod listen;
pub mod live;
pub mod management;
pub mod metering;
pub mod proxy;
pub mod store;
pub mod telemetry;
pub mod upstream;
