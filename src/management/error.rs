//! Refusals and failures of the control plane, and the one place that turns them into answers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use super::answer::{AuditNotes, json_response};
use crate::domain::ProjectId;
use crate::domain::crypto::SealError;
use crate::domain::patch::PatchRefused;
use crate::store::StoreError;

/// Why a management request was not answered with what it asked for. `Display` is the `error` text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// No bearer was shown.
    #[error("missing or invalid Authorization header")]
    NoCredential {
        /// Where to look for help; no part of the fixed text.
        hint: Option<String>,
    },
    /// A bearer that nobody has.
    #[error("invalid management token")]
    UnknownCredential,
    /// Too many wrong bearers wait already.
    #[error("too many failed logins are waiting")]
    TooManyFailedLogins,
    /// A known bearer that may not do this.
    #[error("forbidden")]
    Forbidden {
        /// Its role.
        role: &'static str,
    },
    /// No such path.
    #[error("not found")]
    UnknownPath,
    /// The path exists, the method does not.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// Projects are deactivated, never deleted.
    #[error("method not allowed")]
    ProjectDeletion,
    /// The body is above the limit.
    #[error("request body is larger than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body did not come in time.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// The body is no JSON object, or a field has the wrong type.
    #[error("{text}")]
    InvalidBody {
        /// The fixed text.
        text: &'static str,
        /// What exactly was found.
        message: String,
    },
    /// A field that nobody knows.
    #[error("unknown field `{field}`{}", .nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownField {
        /// As it was written, with the names of the objects around it.
        field: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A value that breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// A value that breaks a rule whose text is fixed; the second part says more.
    #[error("{0}")]
    Rule(&'static str, &'static str),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(&'static str),
    /// A name is taken.
    #[error("{0}")]
    Conflict(String),
    /// Tokens are made for active projects alone.
    #[error("cannot create tokens for inactive projects")]
    ProjectInactive(ProjectId),
    /// The new configuration was refused.
    #[error("the configuration was refused and the running one stays")]
    ConfigurationRefused(Vec<String>),
    /// Something that this process does not have.
    #[error("{0}")]
    NotAvailable(&'static str),
    /// The store is in trouble.
    #[error("{0}")]
    Store(StoreError),
    /// The answer took too long.
    #[error("the request took longer than {seconds} s")]
    Timeout {
        /// How long it may take.
        seconds: u64,
    },
    /// A provider key could not be sealed.
    #[error("the key cannot be stored: {0}")]
    Seal(#[from] SealError),
    /// A fault of this program.
    #[error("internal error")]
    Internal,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(name) => Self::Conflict(format!("`{name}` exists already")),
            StoreError::Refused(refused) => refused.into(),
            trouble => Self::Store(trouble),
        }
    }
}

impl From<PatchRefused> for ApiError {
    fn from(refused: PatchRefused) -> Self {
        match refused {
            PatchRefused::ExpiryExtended => Self::Rule(
                "expiry cannot be extended",
                "an expiry may be shortened; for a later one create or rotate a token",
            ),
        }
    }
}

impl ApiError {
    /// Like `From<StoreError>`, naming what a taken name is the name of.
    pub fn from_taken_name(error: StoreError, what: &str) -> Self {
        match error {
            StoreError::Conflict(name) => Self::Conflict(format!("a {what} named `{name}` exists already")),
            other => other.into(),
        }
    }
}

/// When a client should come back after trouble with the store.
const STORE_RETRY_SECONDS: u64 = 1;
/// When a client should come back after too many failed logins.
const LOGIN_RETRY_SECONDS: u64 = 5;

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoCredential { .. } | Self::UnknownCredential => StatusCode::UNAUTHORIZED,
            Self::TooManyFailedLogins => StatusCode::TOO_MANY_REQUESTS,
            Self::Forbidden { .. } | Self::ProjectInactive(_) => StatusCode::FORBIDDEN,
            Self::UnknownPath | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed | Self::ProjectDeletion => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::InvalidBody { .. }
            | Self::UnknownField { .. }
            | Self::Invalid(_)
            | Self::Rule(..)
            | Self::ConfigurationRefused(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotAvailable(_) | Self::Store(_) | Self::Timeout { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Seal(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The machine word, where there is one.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::NoCredential { .. } | Self::ProjectDeletion => None,
            Self::UnknownCredential => Some("invalid_token"),
            Self::TooManyFailedLogins => Some("rate_limit_exceeded"),
            Self::Forbidden { .. } => Some("forbidden"),
            Self::UnknownPath | Self::NotFound(_) => Some("not_found"),
            Self::MethodNotAllowed => Some("method_not_allowed"),
            Self::BodyTooLarge { .. } => Some("request_too_large"),
            Self::BodyTimeout => Some("body_timeout"),
            Self::InvalidBody { .. } => Some("invalid_json"),
            Self::UnknownField { .. } => Some("unknown_field"),
            Self::Invalid(_) | Self::Rule(..) => Some("invalid_value"),
            Self::Conflict(_) => Some("conflict"),
            Self::ProjectInactive(_) => Some("project_inactive"),
            Self::ConfigurationRefused(_) => Some("configuration_refused"),
            Self::NotAvailable(_) => Some("not_available"),
            Self::Store(_) => Some("store_unavailable"),
            Self::Timeout { .. } => Some("timeout"),
            Self::Seal(_) | Self::Internal => Some("internal_error"),
        }
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::TooManyFailedLogins => Some(LOGIN_RETRY_SECONDS),
            Self::Store(_) | Self::Timeout { .. } => Some(STORE_RETRY_SECONDS),
            _ => None,
        }
    }

    /// The object that is answered.
    pub fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("error".to_owned(), self.to_string().into());
        if let Some(code) = self.code() {
            body.insert("code".to_owned(), code.into());
        }
        self.write_details(&mut body);
        Value::Object(body)
    }

    fn write_details(&self, body: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        match self {
            Self::NoCredential { hint: Some(hint) } => put("message", hint.as_str().into()),
            Self::Forbidden { role } => {
                put(
                    "message",
                    format!("a token with role `{role}` may not do this").into(),
                );
            }
            Self::ProjectDeletion => put("message", "project deletion is not permitted".into()),
            Self::InvalidBody { message, .. } => put("message", message.as_str().into()),
            Self::Rule(_, message) => put("message", (*message).into()),
            Self::UnknownField { field, .. } => put("field", field.as_str().into()),
            Self::ConfigurationRefused(errors) => put("errors", errors.clone().into()),
            Self::Store(trouble) => put("reason", trouble.kind().into()),
            _ => {}
        }
    }

    /// The refusal as an answer.
    pub fn response(&self) -> Response {
        let mut response = json_response(self.status(), &self.body());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Self::NoCredential { .. } | Self::UnknownCredential => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::ProjectDeletion => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, PATCH"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self.notes());
        response
    }

    fn notes(&self) -> AuditNotes {
        AuditNotes {
            project_id: match self {
                Self::ProjectInactive(project) => Some(*project),
                _ => None,
            },
            reason: Some(self.to_string()),
            ..AuditNotes::default()
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Store(trouble) = &self {
            log::warn!(reason = trouble.kind(); "a management request failed: {trouble}");
        }
        self.response()
    }
}
