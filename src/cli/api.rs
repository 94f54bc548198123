//! The client of the management API, for commands.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::source::Source;
use super::{Failure, Global};
use crate::config::{ListenAddress, Settings};
use crate::domain::Secret;

/// Largest answer read.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A server's management API.
pub struct Api {
    base: String,
    token: Option<Secret>,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiFailure {
    /// Nobody answers there.
    #[error("no answer from `{url}`: {why}; is the server running, and is this its management address?")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        why: String,
    },
    /// The answer is an error.
    #[error("{message} (status {status})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
}

/// An answer of any status.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body; a string when it is no JSON.
    pub body: Value,
}

impl Api {
    /// The API at `base`, such as `http://127.0.0.1:8081`.
    pub fn new(base: &str, token: Option<Secret>) -> Result<Self, Failure> {
        let base = base.trim_end_matches('/');
        if base.starts_with("https://") {
            return Err(Failure::Usage(format!(
                "`{base}`: the management API speaks plain http; reach it on its own host or through a tunnel"
            )));
        }
        let base = if base.contains("://") {
            base.to_owned()
        } else {
            format!("http://{base}")
        };
        Ok(Self {
            base,
            token,
            timeout: Duration::from_secs(30),
        })
    }

    /// The API that flags, environment or configuration name, with the token to use.
    pub fn find(global: &Global) -> Result<Self, Failure> {
        let loaded = match (&global.manage_api_base_url, &global.management_token) {
            (Some(base), Some(token)) => return Self::new(base, Some(Secret::new(token.as_str()))),
            _ => Source::of(global)?.load_or_report(global.json)?,
        };
        let base = global
            .manage_api_base_url
            .clone()
            .unwrap_or_else(|| Self::address_of(&loaded.settings));
        let token = loaded.settings.management.token.clone();
        if token.is_none() {
            return Err(Failure::Usage(
                "MANAGEMENT_TOKEN environment variable is required (or --management-token, or management.token in the configuration)"
                    .to_owned(),
            ));
        }
        Self::new(&base, token)
    }

    /// Where the sidecar of a configuration is reached from this machine; the proxy listener without one.
    pub fn address_of(settings: &Settings) -> String {
        let address = settings
            .management
            .listen
            .as_ref()
            .or(settings.server.listen.first());
        address.map_or_else(|| "http://127.0.0.1:8081".to_owned(), reachable)
    }

    /// Where a listener is reached from this machine.
    pub fn reachable(address: &ListenAddress) -> String {
        reachable(address)
    }

    /// With another patience.
    pub fn patient(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A GET whose answer may have any status.
    pub fn get(&self, path: &str) -> Result<Answer, ApiFailure> {
        self.call(&Method::GET, path, None)
    }

    /// A call that must succeed.
    pub fn ask(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, ApiFailure> {
        let answer = self.call(method, path, body)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let message = match answer.body.get("error").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => answer.body.to_string(),
        };
        Err(ApiFailure::Refused {
            status: answer.status,
            message,
        })
    }

    fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, ApiFailure> {
        let url = format!("{}{path}", self.base);
        let unreachable = |why: String| ApiFailure::Unreachable {
            url: self.base.clone(),
            why,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unreachable(error.to_string()))?;
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut request = Request::builder().method(method).uri(&url);
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| unreachable(error.to_string()))?;
        runtime.block_on(async {
            let client: Client<HttpConnector, Full<Bytes>> =
                Client::builder(TokioExecutor::new()).build_http();
            let exchange = async {
                let response = client
                    .request(request)
                    .await
                    .map_err(|error| unreachable(root_cause(&error)))?;
                let status = response.status().as_u16();
                let body = Limited::new(response.into_body(), ANSWER_BYTES)
                    .collect()
                    .await
                    .map_err(|error| unreachable(error.to_string()))?
                    .to_bytes();
                Ok(Answer {
                    status,
                    body: read_body(&body),
                })
            };
            match tokio::time::timeout(self.timeout, exchange).await {
                Ok(answer) => answer,
                Err(_) => Err(unreachable(format!(
                    "nothing within {} s",
                    self.timeout.as_secs()
                ))),
            }
        })
    }
}

fn read_body(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

fn reachable(address: &ListenAddress) -> String {
    match address.host.as_str() {
        "" | "0.0.0.0" => format!("http://127.0.0.1:{}", address.port),
        "::" => format!("http://[::1]:{}", address.port),
        _ => format!("http://{address}"),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_everybody_is_reached_through_loopback() {
        assert_eq!(reachable(&ListenAddress::any(8080)), "http://127.0.0.1:8080");
        assert_eq!(reachable(&ListenAddress::new("0.0.0.0", 1)), "http://127.0.0.1:1");
        assert_eq!(reachable(&ListenAddress::new("::", 1)), "http://[::1]:1");
        assert_eq!(
            reachable(&ListenAddress::new("10.0.0.7", 8081)),
            "http://10.0.0.7:8081"
        );
    }
}
