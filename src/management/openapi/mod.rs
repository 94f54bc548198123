//! `GET /openapi.json`: the management API described from its own types.
//!
//! Answers are described by the types that are serialised, bodies by `requests.rs`, whose fields a test holds against
//! what the handlers read; `operations.rs` is the table of routes, held against the router.

mod document;
#[cfg(test)]
mod markdown;
mod operations;
mod requests;
pub mod shapes;

use std::sync::OnceLock;

use bytes::Bytes;

use super::answer::{Answer, json_bytes};

/// Where the description is served.
pub const PATH: &str = "/openapi.json";

/// Shows the description.
pub async fn show() -> Answer {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    Answer::ready(DOCUMENT.get_or_init(|| json_bytes(&document::document())).clone())
}

#[cfg(test)]
mod tests;
