//! Responses of the demonstration provider.

use std::time::Duration;

use serde_json::{Value, json};

use super::prompt::Prompt;
use super::{DemoAnswer, DemoRequest, Events, PAUSE};

pub(super) fn response(request: &DemoRequest<'_>, prompt: &Prompt) -> DemoAnswer {
    let shape = Shape {
        request,
        prompt,
        response_id: format!("resp_demo{:016x}", request.seed),
        item_id: format!("msg_demo{:016x}", request.seed),
    };
    if prompt.stream {
        shape.stream()
    } else {
        DemoAnswer::json(200, &shape.finished())
    }
}

struct Shape<'a> {
    request: &'a DemoRequest<'a>,
    prompt: &'a Prompt,
    response_id: String,
    item_id: String,
}

impl Shape<'_> {
    fn status(&self) -> &'static str {
        if self.prompt.cut_by_limit {
            "incomplete"
        } else {
            "completed"
        }
    }

    fn response(&self, status: &str, output: Value, usage: Value) -> Value {
        let details = if status == "incomplete" {
            json!({"reason": "max_output_tokens"})
        } else {
            Value::Null
        };
        json!({
            "id": self.response_id,
            "object": "response",
            "created_at": self.request.now_seconds,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": details,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "model": self.prompt.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": null, "summary": null},
            "store": false,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": usage,
            "user": null,
        })
    }

    fn finished(&self) -> Value {
        let (asked, answered) = (self.prompt.tokens, self.prompt.answer_tokens());
        let usage = json!({
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + answered,
        });
        let item = self.item(self.status(), json!([Self::part(&self.prompt.text())]));
        self.response(self.status(), json!([item]), usage)
    }

    fn item(&self, status: &str, content: Value) -> Value {
        json!({"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content})
    }

    fn part(text: &str) -> Value {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    }

    fn stream(&self) -> DemoAnswer {
        let mut events = Events::default();
        let mut sequence_number = 0_u64;
        let mut event = |pause: Duration, kind: &str, members: Value| {
            let mut data = json!({"type": kind, "sequence_number": sequence_number});
            if let (Some(data), Value::Object(members)) = (data.as_object_mut(), members) {
                data.extend(members);
            }
            sequence_number += 1;
            events.named(pause, kind, &data);
        };
        let of_part = |mut members: Value| {
            members["item_id"] = self.item_id.as_str().into();
            members["output_index"] = 0.into();
            members["content_index"] = 0.into();
            members
        };
        let text = self.prompt.text();
        let running = self.response("in_progress", json!([]), Value::Null);
        event(PAUSE, "response.created", json!({"response": running}));
        event(
            Duration::ZERO,
            "response.in_progress",
            json!({"response": running}),
        );
        let item = self.item("in_progress", json!([]));
        event(
            Duration::ZERO,
            "response.output_item.added",
            json!({"output_index": 0, "item": item}),
        );
        event(
            Duration::ZERO,
            "response.content_part.added",
            of_part(json!({"part": Self::part("")})),
        );
        for word in &self.prompt.words {
            let delta = of_part(json!({"delta": word, "logprobs": []}));
            event(PAUSE, "response.output_text.delta", delta);
        }
        let done = of_part(json!({"text": text, "logprobs": []}));
        event(Duration::ZERO, "response.output_text.done", done);
        event(
            Duration::ZERO,
            "response.content_part.done",
            of_part(json!({"part": Self::part(&text)})),
        );
        let item = self.item(self.status(), json!([Self::part(&text)]));
        event(
            Duration::ZERO,
            "response.output_item.done",
            json!({"output_index": 0, "item": item}),
        );
        let kind = if self.prompt.cut_by_limit {
            "response.incomplete"
        } else {
            "response.completed"
        };
        event(Duration::ZERO, kind, json!({"response": self.finished()}));
        events.into_answer()
    }
}
