//! The built-in demonstration provider: plausible answers without any network or key.
//!
//! It speaks both dialects, streams word by word with the right end markers and usage, and says in
//! every answer that it is a demonstration. Same input, same answer: time and identity come in by
//! [`DemoRequest`].

mod anthropic;
mod embeddings;
mod openai;
mod prompt;
mod responses;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::paths::{Family, Inference, PathFacts};
use crate::domain::Dialect;
use prompt::Prompt;

/// The names that the demonstration provider lists.
pub const MODEL_NAMES: &[&str] = &["demo", "demo-mini", "demo-embedding"];

/// Pause between two pieces of a stream.
const PAUSE: Duration = Duration::from_millis(25);
/// Most choices (`n`) of one answer.
const MAX_CHOICES: u64 = 8;

/// A question to the demonstration provider.
#[derive(Debug, Clone, Copy)]
pub struct DemoRequest<'a> {
    /// What the table of paths says about the request.
    pub path: PathFacts,
    /// The client's dialect.
    pub client: Dialect,
    /// The body, whole; it has been inspected.
    pub body: &'a [u8],
    /// Makes the ids of the answer; any number that differs from request to request.
    pub seed: u64,
    /// Now, in seconds since 1970.
    pub now_seconds: i64,
}

/// An answer: the pieces are to be sent one after another, each after its pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoAnswer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Pause before the piece, and the piece. One piece without pause for an answer that is no stream.
    pub events: Vec<(Duration, Bytes)>,
}

impl DemoAnswer {
    /// The pieces are events of a stream, and the length is not known beforehand.
    pub fn is_stream(&self) -> bool {
        self.content_type == EVENT_STREAM
    }

    fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            events: vec![(Duration::ZERO, body.to_string().into())],
        }
    }
}

const EVENT_STREAM: &str = "text/event-stream";

/// Answers a request.
pub fn answer(request: &DemoRequest<'_>) -> DemoAnswer {
    let Family::Inference(inference) = request.path.family else {
        return match request.path.family {
            Family::ModelList => DemoAnswer::json(200, &model_list(request)),
            _ => not_offered(request),
        };
    };
    let Ok(body) = serde_json::from_slice::<Value>(request.body) else {
        return refusal(request, 400, "the demo provider could not read the body as JSON");
    };
    let prompt = Prompt::of(inference, &body);
    match inference {
        Inference::Chat => openai::chat(request, &prompt),
        Inference::Completions => openai::completion(request, &prompt),
        Inference::Responses => responses::response(request, &prompt),
        Inference::Messages => anthropic::message(request, &prompt),
        Inference::CountTokens => DemoAnswer::json(200, &json!({"input_tokens": prompt.tokens})),
        Inference::Embeddings => embeddings::embeddings(request, &body, &prompt),
        Inference::Moderations | Inference::Audio | Inference::Images | Inference::Rerank => {
            not_offered(request)
        }
    }
}

fn model_list(request: &DemoRequest<'_>) -> Value {
    let data: Vec<Value> = MODEL_NAMES
        .iter()
        .map(|name| {
            json!({"id": name, "object": "model", "created": request.now_seconds, "owned_by": "llm-proxy-demo"})
        })
        .collect();
    json!({"object": "list", "data": data})
}

fn not_offered(request: &DemoRequest<'_>) -> DemoAnswer {
    refusal(
        request,
        404,
        "the built-in demo provider answers chat completions, completions, responses, messages, embeddings \
         and models only; configure a provider with a key for everything else",
    )
}

fn refusal(request: &DemoRequest<'_>, status: u16, message: &str) -> DemoAnswer {
    let body = if request.client == Dialect::Anthropic {
        let kind = if status == 404 {
            "not_found_error"
        } else {
            "invalid_request_error"
        };
        json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": identity("req", request.seed)})
    } else {
        let code = if status == 404 {
            "endpoint_not_found"
        } else {
            "invalid_value"
        };
        json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}})
    };
    DemoAnswer::json(status, &body)
}

/// An id such as `chatcmpl-demo00000000000000ff`.
fn identity(prefix: &str, seed: u64) -> String {
    format!("{prefix}-demo{seed:016x}")
}

/// Collects the events of a stream with the pause before each word.
#[derive(Debug, Default)]
struct Events(Vec<(Duration, Bytes)>);

impl Events {
    fn data(&mut self, pause: Duration, data: &Value) {
        self.0.push((pause, format!("data: {data}\n\n").into()));
    }

    fn named(&mut self, pause: Duration, name: &str, data: &Value) {
        self.0
            .push((pause, format!("event: {name}\ndata: {data}\n\n").into()));
    }

    fn done(&mut self) {
        self.0
            .push((Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
    }

    fn into_answer(self) -> DemoAnswer {
        DemoAnswer {
            status: 200,
            content_type: EVENT_STREAM,
            events: self.0,
        }
    }
}
