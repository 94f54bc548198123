//! Answers that come encoded though nobody asked: they pass unchanged, and are metered and judged all the same.

use serde_json::{Value, json};
use std::io::Write as _;

use crate::edge::TestEdge;
use crate::http::{chat, chat_streamed};
use crate::provider::{Provider, Reply, chat_chunks, message_events};

const CHAT: &str = "/v1/chat/completions";

fn start() -> (Provider, TestEdge) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({
            "cache": {"enabled": true},
            "prices": {"overrides": {"gpt-a": {"input_usd_per_mtok": 2, "output_usd_per_mtok": 10}}},
        }))
        .start();
    (provider, edge)
}

fn tokens(record: &Value) -> (Option<u64>, Option<u64>) {
    (
        record["prompt_tokens"].as_u64(),
        record["completion_tokens"].as_u64(),
    )
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(text).expect("memory");
    writer.finish().expect("memory")
}

fn encode(coding: &str, text: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => gzip(text),
        "br" => {
            let mut bytes = Vec::new();
            brotli::CompressorWriter::new(&mut bytes, 4096, 5, 20)
                .write_all(text)
                .expect("memory");
            bytes
        }
        _ => zstd::encode_all(text, 3).expect("memory"),
    }
}

/// Each block flushed, as a provider does that compresses a stream.
fn gzipped_events<S: AsRef<str>>(blocks: &[S]) -> Vec<Vec<u8>> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut pieces = Vec::new();
    for block in blocks {
        write!(writer, "{}\n\n", block.as_ref()).expect("memory");
        writer.flush().expect("memory");
        pieces.push(std::mem::take(writer.get_mut()));
    }
    pieces.push(writer.finish().expect("memory"));
    pieces
}

fn stream(pieces: Vec<Vec<u8>>) -> Reply {
    Reply::status(200)
        .header("Content-Type", "text/event-stream")
        .header("Content-Encoding", "gzip")
        .pieces(pieces)
        .chunked()
}

#[test]
fn a_plain_answer_is_metered_in_each_coding_and_passes_as_it_came() {
    let (provider, edge) = start();
    let answer = json!({
        "id": "c", "object": "chat.completion", "model": "gpt-a",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "four words of text"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    });
    for coding in ["gzip", "br", "zstd"] {
        let user = edge.token(json!({}));
        let bytes = encode(coding, answer.to_string().as_bytes());
        provider.next(
            Reply::status(200)
                .header("Content-Type", "application/json")
                .header("Content-Encoding", coding)
                .body(bytes.clone()),
        );
        let seen = user.post(CHAT, chat("gpt-a")).expect(200);
        assert_eq!(seen.body, bytes, "{coding}");
        assert_eq!(seen.header("content-encoding"), Some(coding));
        assert_eq!(provider.last().header("accept-encoding"), Some("identity"));
        let record = edge.record_of(&user);
        assert_eq!(tokens(&record), (Some(11), Some(5)), "{coding}");
        assert_eq!(
            (&record["estimated"], &record["cut"]),
            (&json!(false), &json!(false))
        );
        assert!((record["cost_usd"].as_f64().unwrap_or(0.0) - 0.000_072).abs() < 1e-12);
    }
}

#[test]
fn a_stream_is_metered_and_keeps_its_usage_chunk() {
    let (provider, edge) = start();
    let user = edge.token(json!({}));
    let mut blocks = chat_chunks("gpt-a");
    let usage = json!({"id": "c", "object": "chat.completion.chunk", "model": "gpt-a", "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}});
    blocks.insert(blocks.len() - 1, format!("data: {usage}"));
    let pieces = gzipped_events(&blocks);
    provider.next(stream(pieces.clone()));
    let seen = user.post(CHAT, chat_streamed("gpt-a")).expect(200);
    assert_eq!(seen.body, pieces.concat());
    let told = edge.record_of(&user);
    assert_eq!(tokens(&told), (Some(9), Some(4)));
    assert_eq!((&told["estimated"], &told["cut"]), (&json!(false), &json!(false)));
    let claude = edge.token(json!({}));
    provider.next(stream(gzipped_events(&message_events("claude-a"))));
    let mut body = chat_streamed("claude-a");
    body["max_tokens"] = json!(100);
    claude.post("/v1/messages", body).expect(200);
    assert_eq!(edge.record_of(&claude)["estimated"], false);
}

#[test]
fn a_stream_without_its_end_is_cut_and_counted_by_what_was_delivered() {
    let (provider, edge) = start();
    let user = edge.token(json!({}));
    let mut blocks = chat_chunks("gpt-a");
    // neither a reason to finish nor the end marker
    blocks.truncate(blocks.len() - 2);
    let pieces = gzipped_events(&blocks);
    provider.next(stream(pieces.clone()));
    let seen = user.post(CHAT, chat_streamed("gpt-a"));
    assert!(!seen.end.is_whole(), "half an answer is never shown as whole");
    assert!(
        !seen.body.windows(5).any(|bytes| bytes == b"error"),
        "no event is written into gzip"
    );
    let record = edge.record_of(&user);
    assert_eq!(
        (&record["cut"], &record["estimated"]),
        (&json!(true), &json!(true))
    );
    assert!(tokens(&record).1 > Some(0), "{record:#?}");
}

#[test]
fn what_cannot_be_read_passes_and_is_estimated() {
    let (provider, edge) = start();
    let zeros = gzip(&vec![b' '; 4 << 20]);
    for (coding, body) in [
        ("rot13", b"whatever it is".to_vec()),
        ("gzip", b"no gzip at all".to_vec()),
        ("gzip", zeros),
    ] {
        let user = edge.token(json!({}));
        provider.next(
            Reply::status(200)
                .header("Content-Type", "application/json")
                .header("Content-Encoding", coding)
                .body(body.clone()),
        );
        let seen = user.post(CHAT, chat("gpt-a")).expect(200);
        assert_eq!(seen.body, body);
        let record = edge.record_of(&user);
        assert_eq!(record["estimated"], true, "{coding}");
        assert!(tokens(&record).0 > Some(0), "{record:#?}");
        let streamed = edge.token(json!({}));
        provider.next(
            Reply::status(200)
                .header("Content-Type", "text/event-stream")
                .header("Content-Encoding", coding)
                .body(body.clone()),
        );
        let seen = streamed.post(CHAT, chat_streamed("gpt-a")).expect(200);
        assert_eq!(seen.body, body);
    }
}
