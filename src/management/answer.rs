//! Answers that succeed, and what they leave for the audit event.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::{ProjectId, TokenId};

/// What a handler knows for the audit event beyond path and status.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditNotes {
    /// The project concerned.
    pub project_id: Option<ProjectId>,
    /// The token concerned.
    pub token_id: Option<TokenId>,
    /// Why it failed.
    pub reason: Option<String>,
    /// More; never a secret.
    pub metadata: Map<String, Value>,
}

/// An answer of a handler.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
    notes: AuditNotes,
}

impl Answer {
    /// 200 with JSON.
    pub fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// Any status with JSON.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        Self::bytes(status, json_bytes(value))
    }

    /// 200 with JSON that is serialised already.
    pub fn ready(body: Bytes) -> Self {
        Self::bytes(StatusCode::OK, body)
    }

    /// 204.
    pub fn no_content() -> Self {
        Self::bytes(StatusCode::NO_CONTENT, Bytes::new())
    }

    fn bytes(status: StatusCode, body: Bytes) -> Self {
        Self {
            status,
            body,
            headers: Vec::new(),
            notes: AuditNotes::default(),
        }
    }

    /// Adds a header; a value that is none is left out.
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// Names the project in the audit event.
    pub fn about_project(mut self, id: ProjectId) -> Self {
        self.notes.project_id = Some(id);
        self
    }

    /// Names the token in the audit event.
    pub fn about_token(mut self, id: TokenId) -> Self {
        self.notes.token_id = Some(id);
        self
    }

    /// Adds to the audit event; never a secret.
    pub fn noting(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.notes.metadata.insert(name.to_owned(), value.into());
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let is_typed = self.headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE);
        if self.status != StatusCode::NO_CONTENT && !is_typed {
            response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        }
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(self.notes);
        response
    }
}

/// `application/json`.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A JSON answer without anything for the audit event.
pub fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(json_bytes(value)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// JSON with a line end, as `curl` likes it.
pub fn json_bytes(value: &impl Serialize) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            bytes.into()
        }
        Err(error) => {
            log::error!("an answer cannot be written as JSON: {error}");
            Bytes::from_static(b"{\"error\":\"internal error\",\"code\":\"internal_error\"}\n")
        }
    }
}
