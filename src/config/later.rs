//! Sections whose capability is not in this version: known, listed, and refused at any other value.

use super::schema::Key;

pub(super) const KEYS: &[Key] = &[
    Key::new("events.enabled", "true", "Whether events are published.")
        .process()
        .inactive(),
    Key::new(
        "events.bus",
        "in-memory",
        "Where they go: `in-memory`, `redis-streams`.",
    )
    .process()
    .inactive(),
    Key::new("events.buffer_size", "1000", "Events kept for slow readers.")
        .process()
        .inactive(),
    Key::new(
        "events.capture_request_bytes",
        "0",
        "Bytes of each request body kept.",
    )
    .process()
    .inactive(),
    Key::new("events.capture_response_bytes", "0", "Bytes of each answer kept.")
        .process()
        .inactive(),
    Key::new("events.stream.key", "llm-proxy-events", "The Redis stream.")
        .process()
        .inactive(),
    Key::new("events.stream.max_len", "10000", "Its length.")
        .process()
        .inactive(),
    Key::new(
        "events.stream.group",
        "llm-proxy-dispatchers",
        "The consumer group.",
    )
    .process()
    .inactive(),
    Key::new("events.stream.consumer", "auto", "This consumer's name.")
        .process()
        .inactive(),
    Key::new("events.stream.batch_size", "100", "Events read at once.")
        .process()
        .inactive(),
    Key::new("events.stream.block_time", "5s", "Longest wait for events.")
        .process()
        .inactive(),
    Key::new(
        "events.stream.claim_time",
        "30s",
        "After which another consumer takes over.",
    )
    .process()
    .inactive(),
    Key::new("events.file", "none", "A file that receives every event.")
        .process()
        .inactive(),
    Key::new("tracing", "none", "OpenTelemetry: `{otlp_endpoint, sample}`.")
        .process()
        .inactive(),
];
