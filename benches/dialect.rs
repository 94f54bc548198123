//! What does understanding cost: a request body by its size, a streamed answer by its events?
//!
//! NUMBERS
use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use llm_proxy::cache::canonical_json;
use llm_proxy::dialect::inspect::{WatchedKeys, inspect};
use llm_proxy::dialect::splice::{name_model, splice};
use llm_proxy::dialect::sse::{Batch, EventSplitter, HttpEnd, StreamKind, StreamVerdict, StreamWatch};

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bodies(&mut criterion)?;
    streams(&mut criterion);
    criterion.final_summary();
    Ok(())
}

fn bodies(criterion: &mut Criterion) -> Result<()> {
    let keys = WatchedKeys::new(["temperature", "max_tokens"]);
    for (name, bytes) in [("1KiB", 1024), ("100KiB", 100 * 1024)] {
        let body = Bytes::from(chat(bytes));
        let facts = inspect(&keys, &body)?;
        let mut group = criterion.benchmark_group("body");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("inspect_{name}"), |bencher| {
            bencher.iter(|| inspect(&keys, black_box(&body)));
        });
        group.bench_function(format!("name_model_{name}"), |bencher| {
            bencher.iter(|| {
                let edit = name_model(black_box(&facts), "gpt-4o-mini-2024-07-18");
                splice(std::slice::from_ref(&body), edit.into_iter().collect())
            });
        });
        group.bench_function(format!("canonical_{name}"), |bencher| {
            bencher.iter(|| canonical_json(black_box(&body)));
        });
        group.finish();
    }
    Ok(())
}

/// A stream of 100 events, in the chunks in which a provider sends them.
fn streams(criterion: &mut Criterion) {
    let chunks = stream(100);
    let mut group = criterion.benchmark_group("stream_of_100_events");
    group.throughput(Throughput::Elements(100));
    group.bench_function("split", |bencher| {
        let mut batch = Batch::default();
        bencher.iter(|| {
            let mut splitter = EventSplitter::new();
            for chunk in &chunks {
                splitter.push(chunk.clone(), &mut batch);
                black_box(&batch);
            }
        });
    });
    group.bench_function("split_and_watch", |bencher| {
        let mut batch = Batch::default();
        bencher.iter(|| {
            let mut splitter = EventSplitter::new();
            let mut watch = StreamWatch::new(StreamKind::Chat, None);
            for chunk in &chunks {
                splitter.push(chunk.clone(), &mut batch);
                for piece in batch.pieces() {
                    black_box(watch.observe(piece));
                }
            }
            assert_eq!(watch.verdict(HttpEnd::Framed), StreamVerdict::Complete);
        });
    });
    group.finish();
}

fn chat(bytes: usize) -> String {
    let start = r#"{"model":"fast","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":""#;
    let end = r#""}],"temperature":0.7,"max_tokens":512,"stream":true}"#;
    // prose as it is sent: a line end now and then, some letters beyond ASCII
    let prose =
        "The quick brown fox jumps over the lazy dog, und gr\u{fc}\u{df}t dabei.\\n".repeat(bytes / 60 + 1);
    let room = bytes - start.len() - end.len();
    [start, &prose[..prose.floor_char_boundary(room)], end].concat()
}

fn stream(events: usize) -> Vec<Bytes> {
    let event = |delta: &str, reason: &str| {
        Bytes::from(format!(
            "data: {{\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
             \"model\":\"gpt-4o-mini\",\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":{reason}}}]}}\n\n"
        ))
    };
    let mut chunks = vec![event("\"content\":\" word\"", "null"); events - 2];
    chunks.push(event("", "\"stop\""));
    chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
    chunks
}
