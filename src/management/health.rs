//! Health: the process runs, and whether traffic should come here. Every word of it is true.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::Listener;
use super::answer::{JSON, json_bytes};
use super::own_paths::OwnResponse;
use super::ports::{Readiness, ReadyState};
use crate::domain::Clock;

/// Answers the health paths of both listeners.
#[derive(Clone)]
pub struct Health {
    clock: Arc<dyn Clock>,
    readiness: Arc<dyn Readiness>,
}

impl Health {
    /// With the clock for `timestamp` and the truth of `/ready`.
    pub fn new(clock: Arc<dyn Clock>, readiness: Arc<dyn Readiness>) -> Self {
        Self { clock, readiness }
    }

    /// The answer to a health path; `None` for any other. The proxy listener is told no details. It has its body
    /// even if the request was HEAD.
    pub fn answer(&self, path: &str, listener: Listener) -> Option<OwnResponse> {
        let details = listener == Listener::Sidecar;
        match path {
            "/health" => Some(self.health(details)),
            "/live" | "/health/liveliness" | "/health/liveness" => {
                Some(respond(StatusCode::OK, &json!({"status": "alive"})))
            }
            "/ready" | "/health/readiness" => Some(ready(self.readiness.state(), details)),
            _ => None,
        }
    }

    fn health(&self, details: bool) -> OwnResponse {
        let mut body = json!({"status": "ok", "timestamp": self.clock.now()});
        if details {
            body["version"] = env!("CARGO_PKG_VERSION").into();
        }
        respond(StatusCode::OK, &body)
    }
}

fn ready(state: ReadyState, details: bool) -> OwnResponse {
    match state {
        ReadyState::Ready => respond(StatusCode::OK, &json!({"status": "ready"})),
        ReadyState::Degraded(reasons) => {
            let mut body = json!({"status": "degraded"});
            if details {
                body["reasons"] = reasons.into();
            }
            respond(StatusCode::OK, &body)
        }
        ReadyState::Starting => unready("starting", None),
        ReadyState::Draining => unready("draining", None),
        ReadyState::StoreNeverReached(kind) => unready("store_unavailable", details.then_some(kind)),
    }
}

fn unready(reason: &str, detail: Option<&str>) -> OwnResponse {
    let mut body = json!({"status": "not_ready", "reason": reason});
    if let Some(detail) = detail {
        body["detail"] = detail.into();
    }
    let mut response = respond(StatusCode::SERVICE_UNAVAILABLE, &body);
    response
        .headers
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn respond(status: StatusCode, body: &Value) -> OwnResponse {
    let mut response = OwnResponse {
        status,
        headers: http::HeaderMap::new(),
        body: json_bytes(body),
    };
    response.headers.insert(header::CONTENT_TYPE, JSON);
    response
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(response.body.len()));
    response
        .headers
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
