//! Streams of every kind, whole and broken.

use super::*;

fn watch(kind: StreamKind, n: Option<u64>, events: &[&str]) -> StreamWatch {
    let mut watch = StreamWatch::new(kind, n);
    for event in events {
        watch.observe(Piece::Event(format!("{event}\n\n").as_bytes()));
    }
    watch
}

const RUNNING: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason":null}]}"#;
const FINISHED: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const SECOND: &str = r#"data: {"choices":[{"delta":{"finish_reason":"stop"},"finish_reason":"","index":1}]}"#;
const SECOND_FINISHED: &str = r#"data: {"choices":[{"finish_reason":"length","index":1}]}"#;
const USAGE: &str = r#"data: {"choices":[],"usage":{"total_tokens":3}}"#;
const DONE: &str = "data: [DONE]";

#[test]
fn a_chat_stream_is_judged_by_marker_or_by_finished_choices_and_framing() {
    use HttpEnd::{Broken, Closed, Framed};
    for (n, events, end, complete) in [
        (None, &[RUNNING, FINISHED, DONE][..], Framed, true),
        (None, &[RUNNING, DONE], Broken, true),
        (None, &[RUNNING, FINISHED], Framed, true),
        (None, &[RUNNING, FINISHED, USAGE], Framed, true),
        (None, &[RUNNING, FINISHED], Closed, false),
        (None, &[RUNNING, FINISHED], Broken, false),
        (None, &[RUNNING], Framed, false),
        (None, &[], Framed, false),
        (None, &[USAGE], Framed, false),
        (None, &[FINISHED, SECOND], Framed, false),
        (None, &[FINISHED, SECOND, SECOND_FINISHED], Framed, true),
        (Some(2), &[FINISHED], Framed, false),
        (Some(2), &[SECOND, SECOND_FINISHED, FINISHED], Framed, true),
        (Some(u64::MAX), &[FINISHED], Framed, false),
    ] {
        for kind in [StreamKind::Chat, StreamKind::Completions] {
            let verdict = watch(kind, n, events).verdict(end);
            let expected = if complete {
                StreamVerdict::Complete
            } else {
                StreamVerdict::Broken
            };
            assert_eq!(verdict, expected, "{n:?} {events:?} {end:?}");
        }
    }
}

#[test]
fn choices_with_absurd_indexes_only_end_with_the_marker() {
    let absurd = r#"data: {"choices":[{"index":99999999,"finish_reason":"stop"}]}"#;
    let seen = watch(StreamKind::Chat, None, &[absurd, FINISHED]);
    assert_eq!(seen.verdict(HttpEnd::Framed), StreamVerdict::Broken);
    assert!(seen.choices.len() <= MAX_CHOICES);
}

#[test]
fn a_responses_stream_ends_with_its_marker_alone() {
    for kind in ["response.completed", "response.incomplete", "response.failed"] {
        let delta = r#"event: x
data: {"type":"response.output_text.delta","sequence_number":4,"delta":"response.completed"}"#;
        let end = format!(r#"data: {{"sequence_number":5,"response":{{"type":"x"}},"type":"{kind}"}}"#);
        let running = watch(StreamKind::Responses, None, &[delta]);
        assert_eq!(running.verdict(HttpEnd::Framed), StreamVerdict::Broken);
        assert_eq!(running.last_sequence_number(), Some(4));
        let ended = watch(StreamKind::Responses, None, &[delta, &end]);
        assert_eq!(ended.verdict(HttpEnd::Closed), StreamVerdict::Complete);
        assert_eq!(ended.last_sequence_number(), Some(5));
    }
    let done = watch(StreamKind::Responses, None, &[DONE]);
    assert_eq!(done.verdict(HttpEnd::Framed), StreamVerdict::Broken);
}

#[test]
fn a_messages_stream_ends_with_message_stop_or_a_stop_reason_and_framing() {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"stop_reason\":null}}";
    let delta = r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}"#;
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}";
    let named = "event: message_stop\ndata: {}";
    for (events, end, expected) in [
        (&[start][..], HttpEnd::Framed, StreamVerdict::Broken),
        (&[start, delta], HttpEnd::Framed, StreamVerdict::Complete),
        (&[start, delta], HttpEnd::Closed, StreamVerdict::Broken),
        (&[start, delta, stop], HttpEnd::Closed, StreamVerdict::Complete),
        (&[start, named], HttpEnd::Broken, StreamVerdict::Complete),
        (&[start, DONE], HttpEnd::Framed, StreamVerdict::Broken),
    ] {
        assert_eq!(
            watch(StreamKind::Messages, None, events).verdict(end),
            expected,
            "{events:?} {end:?}"
        );
    }
}

#[test]
fn a_provider_error_is_not_told_twice() {
    for (kind, error) in [
        (StreamKind::Chat, r#"data: {"error":{"message":"x"}}"#),
        (StreamKind::Completions, "event: error\ndata: boom"),
        (
            StreamKind::Responses,
            r#"data: {"type":"error","sequence_number":1}"#,
        ),
        (
            StreamKind::Messages,
            "event: error\ndata: {\"type\":\"error\",\"error\":{}}",
        ),
        (StreamKind::Other, r#"data: {"type":"error"}"#),
    ] {
        let seen = watch(kind, None, &[error]);
        assert_eq!(
            seen.verdict(HttpEnd::Framed),
            StreamVerdict::EndedByProviderError,
            "{kind:?}"
        );
        assert_eq!(
            seen.verdict(HttpEnd::Broken),
            StreamVerdict::EndedByProviderError,
            "{kind:?}"
        );
    }
    let null = watch(StreamKind::Chat, None, &[r#"data: {"error":null,"choices":[]}"#]);
    assert!(!null.has_error());
    let other = watch(StreamKind::Other, None, &["data: {}"]);
    assert_eq!(other.verdict(HttpEnd::Framed), StreamVerdict::Complete);
    assert_eq!(other.verdict(HttpEnd::Closed), StreamVerdict::Broken);
}

#[test]
fn events_are_told_apart() {
    let mut watch = StreamWatch::new(StreamKind::Chat, None);
    let mut facts = |event: &str| watch.observe(Piece::Event(event.as_bytes()));
    assert!(facts(USAGE).usage_only);
    assert!(!facts(r#"data: {"choices":[],"prompt_filter_results":[],"usage":null}"#).usage_only);
    assert!(!facts(r#"data: {"choices":[{"index":0}],"usage":{}}"#).usage_only);
    assert!(!facts(r#"data: {"usage":{}}"#).usage_only);
    assert!(facts("data: [DONE]\r\n\r\n").end_marker);
    assert_eq!(facts(": comment\n\n"), EventFacts::default());
    assert_eq!(facts("data: 7\n\n"), EventFacts::default());
}

#[test]
fn a_long_event_counts_only_when_its_end_has_come() {
    let mut watch = StreamWatch::new(StreamKind::Responses, None);
    let head = br#"data: {"type":"response.completed","sequence_number":9,"response":{"output":"abc"#;
    assert!(!watch.observe(Piece::LongHead(head)).end_marker);
    watch.observe(Piece::LongMiddle(b"def"));
    assert_eq!(watch.verdict(HttpEnd::Broken), StreamVerdict::Broken);
    assert!(watch.observe(Piece::LongEnd(b"\"}}\n\n")).end_marker);
    assert_eq!(watch.verdict(HttpEnd::Closed), StreamVerdict::Complete);
}
