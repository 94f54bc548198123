//! The demonstration provider answers as SDKs expect.

use serde_json::{Value, json};

use super::*;
use crate::dialect::model_list::parse_list;
use crate::dialect::paths::{classify, normalise};
use crate::dialect::sse::{Batch, EventSplitter, HttpEnd, StreamVerdict, StreamWatch};

fn ask(path: &str, body: &Value) -> DemoAnswer {
    let body = body.to_string();
    let path = classify(&normalise(path).expect(path));
    answer(&DemoRequest {
        path,
        client: path.dialect,
        body: body.as_bytes(),
        seed: 7,
        now_seconds: 1_700_000_000,
    })
}

fn whole(answer: &DemoAnswer) -> Value {
    assert!(!answer.is_stream());
    assert_eq!(answer.events.len(), 1);
    serde_json::from_slice(&answer.events[0].1).expect("JSON")
}

/// The data of the events, after the stream was judged whole.
fn streamed(path: &str, body: &Value) -> Vec<Value> {
    let answer = ask(path, body);
    assert_eq!((answer.status, answer.content_type), (200, "text/event-stream"));
    let facts = classify(&normalise(path).expect(path));
    let mut watch = StreamWatch::new(facts.stream, body["n"].as_u64());
    let (mut splitter, mut batch, mut data) = (EventSplitter::new(), Batch::default(), Vec::new());
    for (_, event) in answer.events {
        splitter.push(event, &mut batch);
        for piece in batch.pieces() {
            watch.observe(piece);
            let text = std::str::from_utf8(piece.bytes()).expect("text");
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("data: "))
                .expect("data");
            data.extend(serde_json::from_str::<Value>(line).ok());
        }
    }
    assert!(splitter.finish().is_empty());
    assert_eq!(watch.verdict(HttpEnd::Closed), StreamVerdict::Complete);
    data
}

fn question() -> Value {
    json!({"model": "demo", "messages": [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "why  is\nthe sky blue?"}, {"type": "image_url"}]},
        {"role": "assistant", "content": "hm"},
    ]})
}

fn with(mut body: Value, members: Value) -> Value {
    let members = members.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(members);
    body
}

#[test]
fn a_chat_answer_says_that_it_is_a_demo_and_repeats_the_question() {
    let body = whole(&ask("/v1/chat/completions", &with(question(), json!({"n": 2}))));
    assert_eq!(body["choices"].as_array().map(Vec::len), Some(2));
    let text = body["choices"][1]["message"]["content"].as_str().expect("text");
    assert!(
        text.contains("demo provider") && text.contains("“why is the sky blue?”"),
        "{text}"
    );
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let usage = &body["usage"];
    let sum = usage["prompt_tokens"].as_u64().expect("n") + usage["completion_tokens"].as_u64().expect("n");
    assert_eq!(usage["total_tokens"], sum);
}

#[test]
fn a_chat_stream_is_whole_and_has_usage_only_when_asked() {
    let chunks = streamed(
        "/v1/chat/completions",
        &with(question(), json!({"stream": true, "n": 2})),
    );
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let text: String = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0])
        .filter(|choice| choice["index"] == 1)
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect();
    let plain = whole(&ask("/v1/chat/completions", &question()));
    assert_eq!(plain["choices"][0]["message"]["content"], text);

    let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = streamed("/v1/chat/completions", &with(question(), asked));
    let (last, rest) = chunks.split_last().expect("chunks");
    assert!(rest.iter().all(|chunk| chunk["usage"].is_null()));
    assert_eq!(
        (last["choices"].as_array().map(Vec::len), &last["usage"]),
        (Some(0), &plain["usage"])
    );
}

#[test]
fn a_limit_cuts_the_answer() {
    let limit = json!({"max_tokens": 3, "max_output_tokens": 3});
    let chat = whole(&ask("/v1/chat/completions", &with(question(), limit.clone())));
    assert_eq!(chat["choices"][0]["finish_reason"], "length");
    assert_eq!(chat["usage"]["completion_tokens"], 3);
    let message = whole(&ask("/v1/messages", &with(question(), limit.clone())));
    assert_eq!(message["stop_reason"], "max_tokens");
    let events = streamed(
        "/v1/responses",
        &with(json!({"input": "hi", "stream": true}), limit),
    );
    let last = events.last().expect("events");
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.incomplete"), &json!("incomplete"))
    );
}

#[test]
fn completions_are_answered() {
    let body = json!({"model": "demo", "prompt": "once upon a time"});
    let plain = whole(&ask("/v1/completions", &body));
    let text = plain["choices"][0]["text"].as_str().expect("text").to_owned();
    assert!(text.contains("once upon a time"));
    let chunks = streamed("/v1/completions", &with(body, json!({"stream": true})));
    let joined: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(joined, text);
}

#[test]
fn responses_are_answered() {
    let body = json!({"model": "demo", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]});
    let plain = whole(&ask("/v1/responses", &body));
    let text = plain["output"][0]["content"][0]["text"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(text.contains("“hello”"));
    let events = streamed("/v1/responses", &with(body, json!({"stream": true})));
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], index);
    }
    let joined: String = events
        .iter()
        .filter_map(|event| event["delta"].as_str())
        .collect();
    assert_eq!(joined, text);
    assert_eq!(events.last().expect("events")["response"], plain);
}

#[test]
fn messages_are_answered() {
    let plain = whole(&ask("/v1/messages", &question()));
    let text = plain["content"][0]["text"].as_str().expect("text").to_owned();
    let events = streamed("/v1/messages", &with(question(), json!({"stream": true})));
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(&kinds[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(
        &kinds[kinds.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    let joined: String = events
        .iter()
        .filter_map(|event| event["delta"]["text"].as_str())
        .collect();
    assert_eq!(joined, text);
    let count = whole(&ask("/v1/messages/count_tokens", &question()));
    assert_eq!(count["input_tokens"], plain["usage"]["input_tokens"]);
}

#[test]
fn embeddings_are_unit_vectors_that_depend_on_the_text_alone() {
    let body = whole(&ask(
        "/v1/embeddings",
        &json!({"model": "demo-embedding", "input": ["a", "b", "a"], "dimensions": 8}),
    ));
    let vector = |index: usize| -> Vec<f64> {
        body["data"][index]["embedding"]
            .as_array()
            .expect("a vector")
            .iter()
            .filter_map(Value::as_f64)
            .collect()
    };
    assert_eq!(vector(0), vector(2));
    assert_ne!(vector(0), vector(1));
    assert!((vector(0).iter().map(|number| number * number).sum::<f64>() - 1.0).abs() < 1e-3);
    let encoded = whole(&ask(
        "/v1/embeddings",
        &json!({"input": [1, 2, 3], "encoding_format": "base64", "dimensions": 3}),
    ));
    assert_eq!(encoded["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(encoded["data"][0]["embedding"].as_str().map(str::len), Some(16));
    assert_eq!(
        ask("/v1/embeddings", &json!({"input": vec!["a"; 65]})).status,
        400
    );
}

#[test]
fn models_are_listed_and_everything_else_is_refused_in_the_dialect_of_the_client() {
    let listed = parse_list(whole(&ask("/v1/models", &Value::Null)).to_string().as_bytes()).expect("a list");
    assert_eq!(
        listed.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(),
        MODEL_NAMES
    );
    for path in ["/v1/images/generations", "/v1/files", "/v1/moderations"] {
        let answer = ask(path, &json!({}));
        assert_eq!(answer.status, 404);
        assert_eq!(whole(&answer)["error"]["code"], "endpoint_not_found", "{path}");
    }
    let anthropic = ask("/v1/messages/batches", &json!({}));
    assert_eq!(whole(&anthropic)["error"]["type"], "not_found_error");
}

#[test]
fn odd_bodies_are_answered_all_the_same() {
    for body in [
        json!({}),
        json!({"messages": 7}),
        json!({"messages": [[[[[[[["deep"]]]]]]]]}),
        json!({"n": 999, "max_tokens": 0}),
    ] {
        assert_eq!(ask("/v1/chat/completions", &body).status, 200, "{body}");
    }
    let path = classify(&normalise("/v1/chat/completions").expect("path"));
    let broken = answer(&DemoRequest {
        path,
        client: Dialect::OpenAi,
        body: b"{",
        seed: 0,
        now_seconds: 0,
    });
    assert_eq!(broken.status, 400);
}
