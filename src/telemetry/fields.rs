//! Names of log fields: one word for one thing, in every line of every part.

/// When, RFC 3339 in UTC.
pub const TIME: &str = "ts";
/// How grave.
pub const LEVEL: &str = "level";
/// Which part of the program.
pub const TARGET: &str = "target";
/// The sentence.
pub const MESSAGE: &str = "msg";
/// The server-made identity of a request.
pub const RECORD_ID: &str = "record_id";
/// The identity that the client knows a request by.
pub const REQUEST_ID: &str = "request_id";
/// The token's identity; never its secret.
pub const TOKEN_ID: &str = "token_id";
/// The tenant.
pub const PROJECT_ID: &str = "project_id";
/// The client's address.
pub const CLIENT: &str = "client";
/// The HTTP method.
pub const METHOD: &str = "method";
/// The path, without its query.
pub const PATH: &str = "path";
/// The HTTP status.
pub const STATUS: &str = "status";
/// The machine word of an error.
pub const CODE: &str = "code";
/// The configured name of a provider.
pub const PROVIDER: &str = "provider";
/// The model that the client asked for.
pub const MODEL: &str = "model";
/// The provider's name of the model that answered.
pub const SERVED_MODEL: &str = "served_model";
/// Tries at providers.
pub const ATTEMPTS: &str = "attempts";
/// Time spent waiting for a place, for the rate of a key, or between attempts.
pub const WAITED_MILLIS: &str = "waited_ms";
/// Attempts that came to nothing: provider, model, key, cause, duration.
pub const FAILED_ATTEMPTS: &str = "failed_attempts";
/// What the HTTP cache did.
pub const CACHE: &str = "cache";
/// Bytes of the request's body.
pub const BYTES_IN: &str = "bytes_in";
/// Bytes of the answer's body.
pub const BYTES_OUT: &str = "bytes_out";
/// Milliseconds from head to last byte.
pub const DURATION_MILLIS: &str = "duration_ms";
/// Milliseconds from head to the first byte of the answer.
pub const FIRST_BYTE_MILLIS: &str = "first_byte_ms";
/// How the answer ended.
pub const OUTCOME: &str = "outcome";
/// Tokens of the prompt.
pub const PROMPT_TOKENS: &str = "prompt_tokens";
/// Tokens of the answer.
pub const COMPLETION_TOKENS: &str = "completion_tokens";
/// What a request cost, in US dollars.
pub const COST_USD: &str = "cost_usd";
