//! What the fake provider says when nobody scripted it: plausible answers of both dialects.

use serde_json::{Value, json};

use super::{Reply, Seen};

/// The usual answer to a request.
pub(super) fn usual(seen: &Seen) -> Reply {
    let path = seen.path();
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let body = seen.json();
    let model = body["model"].as_str().unwrap_or("unnamed").to_owned();
    let streaming = body["stream"] == true;
    match path {
        "/chat/completions" if streaming => {
            let mut blocks = chat_chunks(&model);
            if body["stream_options"]["include_usage"] == true {
                let chunk = json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": model,
                    "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}});
                blocks.insert(blocks.len() - 1, format!("data: {chunk}"));
            }
            Reply::events(&blocks)
        }
        "/chat/completions" => Reply::json(200, &chat_completion(&model, &body)),
        "/completions" if streaming => Reply::events(&completion_chunks(&model)),
        "/completions" => Reply::json(
            200,
            &json!({"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": model,
                "choices": [{"index": 0, "text": "hello from the provider", "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}),
        ),
        "/responses" if streaming => Reply::events(&response_events(&model)),
        "/responses" => Reply::json(200, &response(&model)),
        "/messages" if streaming => Reply::events(&message_events(&model)),
        "/messages" => Reply::json(200, &message(&model)),
        "/messages/count_tokens" => Reply::json(200, &json!({"input_tokens": 9})),
        "/embeddings" => Reply::json(
            200,
            &json!({"object": "list", "model": model, "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
                "usage": {"prompt_tokens": 9, "total_tokens": 9}}),
        ),
        "/moderations" => Reply::json(
            200,
            &json!({"id": "modr-fake", "model": model, "results": [{"flagged": false}]}),
        ),
        "/models" => Reply::json(200, &model_list(seen)),
        "/audio/speech" => Reply::status(200)
            .header("Content-Type", "audio/mpeg")
            .body(binary(4096)),
        "/audio/transcriptions" | "/audio/translations" => {
            Reply::json(200, &json!({"text": "hello from the provider"}))
        }
        "/images/generations" => Reply::json(200, &json!({"created": 1, "data": [{"b64_json": "aGVsbG8="}]})),
        "/files" if seen.method == "POST" => Reply::json(
            200,
            &json!({"id": "file-fake", "object": "file", "bytes": seen.body.len()}),
        ),
        "/files" => Reply::json(
            200,
            &json!({"object": "list", "data": [{"id": "file-fake", "object": "file"}]}),
        ),
        _ if path.starts_with("/files/") => Reply::json(200, &json!({"id": "file-fake", "object": "file"})),
        _ => Reply::openai_error(404, "invalid_request_error", "unknown_url"),
    }
}

/// All byte values, again and again.
fn binary(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 256) as u8).collect()
}

fn chat_completion(model: &str, body: &Value) -> Value {
    let message = if body["tools"].is_array() {
        json!({"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": body["tools"][0]["function"]["name"], "arguments": "{\"city\":\"Paris\"}"}}]})
    } else {
        json!({"role": "assistant", "content": "hello from the provider"})
    };
    let reason = if body["tools"].is_array() {
        "tool_calls"
    } else {
        "stop"
    };
    json!({"id": "chatcmpl-fake", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}})
}

/// The blocks of a streamed chat completion, the end marker last.
pub fn chat_chunks(model: &str) -> Vec<String> {
    let chunk = |delta: Value, reason: Value| {
        let chunk = json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        format!("data: {chunk}")
    };
    vec![
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        chunk(json!({"content": "hello"}), Value::Null),
        chunk(json!({"content": " from"}), Value::Null),
        chunk(json!({"content": " the"}), Value::Null),
        chunk(json!({"content": " provider"}), Value::Null),
        chunk(json!({}), json!("stop")),
        "data: [DONE]".to_owned(),
    ]
}

fn completion_chunks(model: &str) -> Vec<String> {
    let chunk = |text: &str, reason: Value| {
        let chunk = json!({"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": model,
            "choices": [{"index": 0, "text": text, "finish_reason": reason}]});
        format!("data: {chunk}")
    };
    vec![
        chunk("hello", Value::Null),
        chunk(" world", json!("stop")),
        "data: [DONE]".to_owned(),
    ]
}

fn message(model: &str) -> Value {
    json!({"id": "msg_fake", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": "hello from the provider"}], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 9, "output_tokens": 4}})
}

/// The blocks of a streamed message, `message_stop` last.
pub fn message_events(model: &str) -> Vec<String> {
    let mut start = message(model);
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    let delta = |text: &str| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}});
    [
        json!({"type": "message_start", "message": start}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        delta("hello"),
        delta(" from the provider"),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 4}}),
        json!({"type": "message_stop"}),
    ]
    .iter()
    .map(|event| format!("event: {}\ndata: {event}", event["type"].as_str().unwrap_or("")))
    .collect()
}

fn response(model: &str) -> Value {
    json!({"id": "resp_fake", "object": "response", "created_at": 1, "status": "completed", "model": model,
        "output": [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "hello from the provider", "annotations": []}]}],
        "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}})
}

fn response_events(model: &str) -> Vec<String> {
    let mut begun = response(model);
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    [
        json!({"type": "response.created", "sequence_number": 0, "response": begun}),
        json!({"type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": "hello"}),
        json!({"type": "response.completed", "sequence_number": 2, "response": response(model)}),
    ]
    .iter()
    .map(|event| format!("event: {}\ndata: {event}", event["type"].as_str().unwrap_or("")))
    .collect()
}

fn model_list(seen: &Seen) -> Value {
    if seen.header("anthropic-version").is_some() {
        let model = |id: &str| json!({"type": "model", "id": id, "display_name": id, "created_at": "2025-01-01T00:00:00Z"});
        return json!({"data": [model("claude-a"), model("claude-b")], "has_more": false, "first_id": "claude-a", "last_id": "claude-b"});
    }
    let model = |id: &str| json!({"id": id, "object": "model", "created": 1, "owned_by": "provider"});
    json!({"object": "list", "data": [model("gpt-a"), model("gpt-b"), model("o-c")]})
}
