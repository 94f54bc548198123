//! Chat completions and completions of the demonstration provider.

use std::time::Duration;

use serde_json::{Value, json};

use super::prompt::Prompt;
use super::{DemoAnswer, DemoRequest, Events, PAUSE, identity};

pub(super) fn chat(request: &DemoRequest<'_>, prompt: &Prompt) -> DemoAnswer {
    let shape = Shape {
        request,
        prompt,
        id: identity("chatcmpl", request.seed),
    };
    if !prompt.stream {
        let choice = |index| {
            let message = json!({"role": "assistant", "content": prompt.text(), "refusal": null});
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": shape.finish_reason()})
        };
        return shape.whole("chat.completion", choice);
    }
    let choice = |index: u64, delta: Value, finish_reason: Value| json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
    let mut events = Events::default();
    for index in 0..prompt.choices {
        let role = json!({"role": "assistant", "content": "", "refusal": null});
        events.data(
            PAUSE,
            &shape.chunk("chat.completion.chunk", choice(index, role, Value::Null)),
        );
    }
    for word in &prompt.words {
        for index in 0..prompt.choices {
            let delta = json!({"content": word});
            events.data(
                pause(index),
                &shape.chunk("chat.completion.chunk", choice(index, delta, Value::Null)),
            );
        }
    }
    for index in 0..prompt.choices {
        let last = choice(index, json!({}), shape.finish_reason().into());
        events.data(Duration::ZERO, &shape.chunk("chat.completion.chunk", last));
    }
    shape.end(events, "chat.completion.chunk")
}

pub(super) fn completion(request: &DemoRequest<'_>, prompt: &Prompt) -> DemoAnswer {
    let shape = Shape {
        request,
        prompt,
        id: identity("cmpl", request.seed),
    };
    let choice = |index: u64, text: &str, finish_reason: Value| json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason});
    if !prompt.stream {
        let text = prompt.text();
        return shape.whole("text_completion", |index| {
            choice(index, &text, shape.finish_reason().into())
        });
    }
    let mut events = Events::default();
    for word in &prompt.words {
        for index in 0..prompt.choices {
            events.data(
                pause(index),
                &shape.chunk("text_completion", choice(index, word, Value::Null)),
            );
        }
    }
    for index in 0..prompt.choices {
        let last = choice(index, "", shape.finish_reason().into());
        events.data(Duration::ZERO, &shape.chunk("text_completion", last));
    }
    shape.end(events, "text_completion")
}

/// The choices of one word leave together.
fn pause(index: u64) -> Duration {
    if index == 0 { PAUSE } else { Duration::ZERO }
}

struct Shape<'a> {
    request: &'a DemoRequest<'a>,
    prompt: &'a Prompt,
    id: String,
}

impl Shape<'_> {
    fn finish_reason(&self) -> &'static str {
        if self.prompt.cut_by_limit {
            "length"
        } else {
            "stop"
        }
    }

    fn usage(&self) -> Value {
        let (asked, answered) = (
            self.prompt.tokens,
            self.prompt.answer_tokens() * self.prompt.choices,
        );
        json!({
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        })
    }

    fn object(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.request.now_seconds,
            "model": self.prompt.model,
            "system_fingerprint": "fp_demo",
            "choices": choices,
        })
    }

    fn whole(&self, object: &str, choice: impl Fn(u64) -> Value) -> DemoAnswer {
        let mut body = self.object(object, (0..self.prompt.choices).map(choice).collect());
        body["usage"] = self.usage();
        DemoAnswer::json(200, &body)
    }

    fn chunk(&self, object: &str, choice: Value) -> Value {
        let mut chunk = self.object(object, vec![choice]);
        if self.prompt.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn end(&self, mut events: Events, object: &str) -> DemoAnswer {
        if self.prompt.include_usage {
            let mut last = self.object(object, Vec::new());
            last["usage"] = self.usage();
            events.data(Duration::ZERO, &last);
        }
        events.done();
        events.into_answer()
    }
}
