//! Refusals as values: what was refused and why, independent of any wire format.

use std::time::Duration;

use super::{NanoUsd, Timestamp};

macro_rules! denial_codes {
    ($( $variant:ident = $code:literal, $status:literal, $openai:literal, $anthropic:literal; )+) => {
        /// The machine word of a refusal. Status and types come from the same table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DenialCode {
            $(
                #[doc = concat!("`", $code, "`, status ", stringify!($status), ".")]
                $variant,
            )+
        }

        impl DenialCode {
            /// Every code, for tables and metrics.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word clients read in `code` and in `X-LLM-Proxy-Error-Code`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// The `type` in OpenAI's error object.
            pub fn openai_type(self) -> &'static str {
                match self { $(Self::$variant => $openai),+ }
            }

            /// The `type` in Anthropic's error object.
            pub fn anthropic_type(self) -> &'static str {
                match self { $(Self::$variant => $anthropic),+ }
            }
        }
    };
}

denial_codes! {
    MalformedRequest = "malformed_request", 400, "invalid_request_error", "invalid_request_error";
    InvalidJson = "invalid_json", 400, "invalid_request_error", "invalid_request_error";
    ParamNotAllowed = "param_not_allowed", 400, "invalid_request_error", "invalid_request_error";
    OriginRequired = "origin_required", 400, "invalid_request_error", "invalid_request_error";
    HeaderRequired = "header_required", 400, "invalid_request_error", "invalid_request_error";
    UnsupportedValue = "unsupported_value", 400, "invalid_request_error", "invalid_request_error";
    PriceUnknown = "price_unknown", 400, "invalid_request_error", "invalid_request_error";
    InvalidToken = "invalid_token", 401, "authentication_error", "authentication_error";
    TokenNotFound = "token_not_found", 401, "authentication_error", "authentication_error";
    TokenInactive = "token_inactive", 401, "authentication_error", "authentication_error";
    TokenExpired = "token_expired", 401, "authentication_error", "authentication_error";
    ProjectInactive = "project_inactive", 403, "permission_error", "permission_error";
    IpNotAllowed = "ip_not_allowed", 403, "permission_error", "permission_error";
    OriginNotAllowed = "origin_not_allowed", 403, "permission_error", "permission_error";
    ModelNotAllowed = "model_not_allowed", 403, "permission_error", "permission_error";
    EndpointNotAllowed = "endpoint_not_allowed", 403, "permission_error", "permission_error";
    EndpointNotFound = "endpoint_not_found", 404, "invalid_request_error", "not_found_error";
    ModelNotFound = "model_not_found", 404, "invalid_request_error", "not_found_error";
    MethodNotAllowed = "method_not_allowed", 405, "invalid_request_error", "invalid_request_error";
    HeaderTimeout = "header_timeout", 408, "timeout_error", "timeout_error";
    BodyTimeout = "body_timeout", 408, "timeout_error", "timeout_error";
    RequestTooLarge = "request_too_large", 413, "invalid_request_error", "request_too_large";
    UpgradeRequired = "upgrade_required", 426, "invalid_request_error", "invalid_request_error";
    RateLimitExceeded = "rate_limit_exceeded", 429, "rate_limit_error", "rate_limit_error";
    TokenQuotaExceeded = "token_quota_exceeded", 429, "insufficient_quota", "rate_limit_error";
    BudgetExceeded = "budget_exceeded", 429, "insufficient_quota", "rate_limit_error";
    HeaderTooLarge = "header_too_large", 431, "invalid_request_error", "request_too_large";
    InternalError = "internal_error", 500, "server_error", "api_error";
    UpstreamUnreachable = "upstream_unreachable", 502, "upstream_error", "api_error";
    UpstreamProtocolError = "upstream_protocol_error", 502, "upstream_error", "api_error";
    UpstreamAuthError = "upstream_auth_error", 502, "upstream_error", "api_error";
    Draining = "draining", 503, "service_unavailable_error", "overloaded_error";
    Overloaded = "overloaded", 503, "service_unavailable_error", "overloaded_error";
    StoreUnavailable = "store_unavailable", 503, "service_unavailable_error", "overloaded_error";
    CircuitOpen = "circuit_open", 503, "service_unavailable_error", "overloaded_error";
    Starting = "starting", 503, "service_unavailable_error", "overloaded_error";
    NotCached = "not_cached", 504, "timeout_error", "timeout_error";
    ConnectTimeout = "connect_timeout", 504, "timeout_error", "timeout_error";
    FirstByteTimeout = "first_byte_timeout", 504, "timeout_error", "timeout_error";
    IdleTimeout = "idle_timeout", 504, "timeout_error", "timeout_error";
    RequestTimeout = "request_timeout", 504, "timeout_error", "timeout_error";
}

impl DenialCode {
    /// What `x-should-retry` says, where the SDKs would guess wrong.
    pub fn should_retry(self) -> Option<bool> {
        match self {
            Self::TokenQuotaExceeded
            | Self::BudgetExceeded
            | Self::UpstreamAuthError
            | Self::RequestTimeout => Some(false),
            _ => None,
        }
    }
}

/// Which limit refused, for the metric `llm_proxy_rate_limited_total{scope}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitScope {
    /// The whole installation.
    Global,
    /// One client address.
    Ip,
    /// One token.
    Token,
    /// One project.
    Project,
}

impl LimitScope {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Ip => "ip",
            Self::Token => "token",
            Self::Project => "project",
        }
    }
}

/// One refusal, ready to be written by `proxy/reject.rs` in the client's dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The machine word; status and types follow from it.
    pub code: DenialCode,
    /// What was found and what would be right. No secret is in it.
    pub message: String,
    /// The parameter at fault, for OpenAI's `param`.
    pub param: Option<String>,
    /// `Retry-After`, rounded up to whole seconds when written.
    pub retry_after: Option<Duration>,
    /// `Allow`, for 405.
    pub allow: Option<String>,
    /// Which limit refused.
    pub scope: Option<LimitScope>,
    /// How the budget stands that refused.
    pub budget: Option<BudgetStanding>,
}

/// How a budget stands that refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetStanding {
    /// What is not spent of it (`left_usd`).
    pub left: NanoUsd,
    /// When it starts anew (`resets_at`); `None`: never.
    pub resets_at: Option<Timestamp>,
}

impl Denial {
    /// A refusal without details.
    pub fn new(code: DenialCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            allow: None,
            scope: None,
            budget: None,
        }
    }

    /// Names the parameter at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Says which methods are allowed.
    #[must_use]
    pub fn with_allow(mut self, methods: impl Into<String>) -> Self {
        self.allow = Some(methods.into());
        self
    }

    /// Says which limit refused.
    #[must_use]
    pub fn with_scope(mut self, scope: LimitScope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Says what is left of the budget that refused.
    #[must_use]
    pub fn with_budget(mut self, left: NanoUsd, resets_at: Option<Timestamp>) -> Self {
        self.budget = Some(BudgetStanding { left, resets_at });
        self
    }

    /// `Retry-After` in whole seconds, rounded up, at least 1.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
            .map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0))
            .map(|s| s.max(1))
    }
}
