//! The port through which the sidecar's paths are answered on the proxy listener, in process.

use std::net::IpAddr;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

/// A request for one of the sidecar's paths.
#[derive(Debug)]
pub struct OwnRequest {
    /// Method.
    pub method: Method,
    /// Path and query as received.
    pub target: String,
    /// Fields as received.
    pub headers: HeaderMap,
    /// The whole body, at most 1 MiB.
    pub body: Bytes,
    /// The client's address.
    pub client: IpAddr,
    /// The TCP peer is a loopback address.
    pub peer_is_loopback: bool,
}

/// Its answer.
#[derive(Debug)]
pub struct OwnResponse {
    /// Status.
    pub status: StatusCode,
    /// Fields without framing.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// The sidecar's router as a value: no socket, no header.
#[async_trait]
pub trait OwnPaths: Send + Sync + 'static {
    /// Whether a path is the sidecar's.
    fn owns(&self, path: &str) -> bool;
    /// The answer of a health path without details; `None`: no health path.
    fn health(&self, path: &str) -> Option<OwnResponse>;
    /// The answer to any other path of the sidecar.
    async fn handle(&self, request: OwnRequest) -> OwnResponse;
}
