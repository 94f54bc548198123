//! Messages of the demonstration provider.

use std::time::Duration;

use serde_json::{Value, json};

use super::prompt::Prompt;
use super::{DemoAnswer, DemoRequest, Events, PAUSE};

pub(super) fn message(request: &DemoRequest<'_>, prompt: &Prompt) -> DemoAnswer {
    let stop_reason = if prompt.cut_by_limit {
        "max_tokens"
    } else {
        "end_turn"
    };
    let usage = |output_tokens: u64| {
        json!({
            "input_tokens": prompt.tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        })
    };
    let message = |content: Value, stop_reason: Value, usage: Value| {
        json!({
            "id": format!("msg_demo{:016x}", request.seed),
            "type": "message",
            "role": "assistant",
            "model": prompt.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": usage,
        })
    };
    if !prompt.stream {
        let content = json!([{"type": "text", "text": prompt.text()}]);
        return DemoAnswer::json(
            200,
            &message(content, stop_reason.into(), usage(prompt.answer_tokens())),
        );
    }

    let mut events = Events::default();
    let mut event = |pause: Duration, mut data: Value, kind: &str| {
        data["type"] = kind.into();
        events.named(pause, kind, &data);
    };
    event(
        PAUSE,
        json!({"type": "", "message": message(json!([]), Value::Null, usage(1))}),
        "message_start",
    );
    let block = json!({"type": "", "index": 0, "content_block": {"type": "text", "text": ""}});
    event(Duration::ZERO, block, "content_block_start");
    event(Duration::ZERO, json!({}), "ping");
    for word in &prompt.words {
        let delta = json!({"type": "", "index": 0, "delta": {"type": "text_delta", "text": word}});
        event(PAUSE, delta, "content_block_delta");
    }
    event(
        Duration::ZERO,
        json!({"type": "", "index": 0}),
        "content_block_stop",
    );
    let end = json!({
        "type": "",
        "delta": {"stop_reason": stop_reason, "stop_sequence": null},
        "usage": usage(prompt.answer_tokens()),
    });
    event(Duration::ZERO, end, "message_delta");
    event(Duration::ZERO, json!({}), "message_stop");
    events.into_answer()
}
