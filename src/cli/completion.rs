//! A client of the proxy's chat completions, for commands.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::Failure;
use crate::domain::Secret;

/// How long an answer may take to begin, and then to go on.
const PATIENCE: Duration = Duration::from_mins(1);

/// A proxy and a token for it.
pub struct Chat {
    base: String,
    token: Secret,
}

impl Chat {
    /// The proxy at `base`, such as `http://127.0.0.1:8080`, with or without `/v1`.
    pub fn new(base: &str, token: Secret) -> Self {
        let base = base.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        Self {
            base: if base.contains("://") {
                base.to_owned()
            } else {
                format!("http://{base}")
            },
            token,
        }
    }

    /// Sends one request; gives its text piece by piece (in one, when no stream was asked for), and whole at the end.
    pub fn stream(
        &self,
        body: &Value,
        mut show: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        if self.base.starts_with("https://") {
            return Err(Failure::Usage(format!(
                "`{}`: this command speaks plain http; use curl for an address behind TLS",
                self.base
            )));
        }
        let request = Request::post(format!("{}/v1/chat/completions", self.base))
            .header(
                http::header::AUTHORIZATION,
                format!("Bearer {}", self.token.expose()),
            )
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let client: Client<HttpConnector, Full<Bytes>> =
                Client::builder(TokioExecutor::new()).build_http();
            let response = tokio::time::timeout(PATIENCE, client.request(request))
                .await
                .map_err(|_| Failure::Failed("no answer in time".to_owned()))?
                .map_err(|error| {
                    Failure::Failed(format!(
                        "no answer from `{}`: {error}; is the server running?",
                        self.base
                    ))
                })?;
            let status = response.status();
            let is_stream = response
                .headers()
                .get(http::header::CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
            let mut body = response.into_body();
            let mut answer = Answer::default();
            loop {
                let frame = tokio::time::timeout(PATIENCE, body.frame())
                    .await
                    .map_err(|_| Failure::Failed("the answer stopped coming".to_owned()))?;
                let Some(frame) = frame else { break };
                let Ok(data) = frame?.into_data() else { continue };
                answer.pending.push_str(&String::from_utf8_lossy(&data));
                if status.is_success() && is_stream {
                    answer.take_events(&mut show)?;
                }
            }
            answer.end(status, is_stream, show)
        })
    }
}

#[derive(Default)]
struct Answer {
    pending: String,
    whole: String,
    done: bool,
    error: Option<String>,
}

impl Answer {
    fn take_events(&mut self, show: &mut impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
        while let Some((event, rest)) = self.pending.split_once("\n\n") {
            let data = event
                .lines()
                .find_map(|line| line.strip_prefix("data: "))
                .unwrap_or_default();
            self.done |= data == "[DONE]";
            let value = serde_json::from_str::<Value>(data).unwrap_or_default();
            if let Some(piece) = value.pointer("/choices/0/delta/content").and_then(Value::as_str) {
                self.whole.push_str(piece);
                show(piece)?;
            }
            if let Some(error) = value.pointer("/error/message").and_then(Value::as_str) {
                self.error = Some(error.to_owned());
            }
            self.pending = rest.to_owned();
        }
        Ok(())
    }

    fn end(
        self,
        status: http::StatusCode,
        is_stream: bool,
        mut show: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let value = serde_json::from_str::<Value>(&self.pending).unwrap_or_default();
        if !status.is_success() {
            let said = value.pointer("/error/message").and_then(Value::as_str);
            return Err(Failure::Failed(format!(
                "the request was answered {status}: {}",
                said.unwrap_or(self.pending.trim())
            )));
        }
        if let Some(error) = self.error {
            return Err(Failure::Failed(format!("the answer broke off: {error}")));
        }
        if is_stream {
            return if self.done {
                Ok(self.whole)
            } else {
                Err(Failure::Failed("the answer did not come whole".to_owned()))
            };
        }
        let text = value
            .pointer("/choices/0/message/content")
            .and_then(Value::as_str)
            .unwrap_or_default();
        show(text)?;
        Ok(text.to_owned())
    }
}
