//! Streams leave in whole events, at once; a broken one is told apart from a finished one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{End, EventStream, Request, Rest, chat_streamed};
use crate::provider::{Gate, Provider, Reply, chat_chunks, message_events};

fn start(provider: &Provider) -> (TestEdge, TokenUser) {
    let edge = TestEdge::plan(provider)
        .with(json!({"router": {"retries": 0}}))
        .start();
    let user = edge.token(json!({}));
    (edge, user)
}

fn events(pieces: Vec<Vec<u8>>) -> Reply {
    Reply::status(200)
        .header("Content-Type", "text/event-stream")
        .chunked()
        .pieces(pieces)
}

fn message_stream(user: &TokenUser) -> EventStream {
    let mut body = crate::http::message("claude-a");
    body["stream"] = json!(true);
    user.as_anthropic().stream("/v1/messages", body)
}

#[test]
fn events_arrive_while_the_provider_still_speaks() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let gate = Gate::new();
    provider.next(Reply::events(&chat_chunks("gpt-a")).piece_behind(2, &gate));
    let mut stream = user.chat_stream("gpt-a");
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers.get("content-type"), Some("text/event-stream"));
    assert!(stream.next_event().is_some());
    assert_eq!(
        stream.next_event().expect("the second event").json()["choices"][0]["delta"]["content"],
        "hello"
    );
    assert_eq!(provider.in_flight(), 1);
    gate.open();
    assert!(stream.finish().is_done());
}

#[test]
fn bytes_of_a_stream_are_not_rewritten() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let text = ": a comment\n\nid: 7\nevent: odd\nretry: 10\ndata:no space\ndata: two lines\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    provider.next(events(vec![text.as_bytes().to_vec()]));
    let rest = user.chat_stream("gpt-a").finish();
    assert_eq!(String::from_utf8_lossy(&rest.raw), text);
    assert_eq!(rest.end, End::LastChunk);
}

#[test]
fn any_split_of_the_bytes_gives_the_same_stream() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let text = chat_chunks("gpt-a").join("\n\n") + "\n\n";
    for size in [1, 7, 64] {
        provider.next(events(text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect()));
        let rest = user.chat_stream("gpt-a").finish();
        assert_eq!(String::from_utf8_lossy(&rest.raw), text, "pieces of {size}");
        assert_eq!(rest.end, End::LastChunk);
    }
}

#[test]
fn unfinished_event_of_a_cut_stream_is_dropped_and_an_error_follows() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let whole = format!("{}\n\n", chat_chunks("gpt-a")[1]).into_bytes();
    let half = b"data: {\"choices\": [{\"half".to_vec();
    provider.next(events(vec![whole, half, b"never".to_vec()]).cut_after(2));
    let rest = user.chat_stream("gpt-a").finish();
    assert!(!String::from_utf8_lossy(&rest.raw).contains("half"), "{rest:?}");
    assert_eq!(rest.events.len(), 2);
    let error = &rest.events[1].json()["error"];
    assert!(
        error["message"].is_string() && error["code"].is_string(),
        "{error}"
    );
    assert!(rest.unfinished.is_empty());
    assert_eq!(rest.end, End::Cut, "no last chunk after an error");
}

/// The stream must end as an error, without an end marker, and the client must see the cut.
fn assert_broken(rest: &Rest, is_error: impl Fn(&Value) -> bool) {
    assert_eq!(rest.end, End::Cut, "{rest:?}");
    assert!(!String::from_utf8_lossy(&rest.raw).contains("[DONE]"), "{rest:?}");
    let last = rest.events.last().expect("an error event");
    assert!(is_error(&last.json()), "{last:?}");
}

#[test]
fn cut_and_reset_chat_streams_end_as_errors() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let scripts = [
        Reply::events(&chat_chunks("m")).cut_after(3),
        Reply::events(&chat_chunks("m"))
            .reset_after(3)
            .every(Duration::from_millis(20)),
    ];
    for script in scripts {
        provider.next(script);
        let rest = user.chat_stream("gpt-a").finish();
        assert_broken(&rest, |value| {
            value["error"]["message"].is_string() && value["error"]["type"] == "upstream_error"
        });
    }
}

#[test]
fn broken_chunk_framing_ends_the_stream_as_an_error() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let first = format!("{}\n\n", chat_chunks("m")[1]);
    let raw = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\nZZZ\r\nnonsense",
        first.len()
    );
    provider.next(Reply::raw(raw));
    let rest = user.chat_stream("gpt-a").finish();
    assert_broken(&rest, |value| value["error"].is_object());
}

#[test]
fn cut_message_stream_ends_with_an_error_event_of_its_dialect() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    provider.next(Reply::events(&message_events("claude-a")).cut_after(4));
    let rest = message_stream(&user).finish();
    assert_broken(&rest, |value| {
        value["type"] == "error" && value["error"]["type"] == "api_error"
    });
    assert_eq!(
        rest.events.last().and_then(|event| event.name.clone()).as_deref(),
        Some("error")
    );
    assert!(!String::from_utf8_lossy(&rest.raw).contains("message_stop"));
}

#[test]
fn cut_responses_stream_ends_with_a_numbered_error_event() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let blocks = [
        "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{}}",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"x\"}",
        "event: never\ndata: {}",
    ];
    provider.next(Reply::events(&blocks).cut_after(2));
    let rest = user
        .stream(
            "/v1/responses",
            json!({"model": "gpt-a", "stream": true, "input": "x"}),
        )
        .finish();
    assert_broken(&rest, |value| {
        value["type"] == "error"
            && value["code"].is_string()
            && value["message"].is_string()
            && value["sequence_number"] == 2
    });
    let last = rest.events.last().expect("the error");
    assert_eq!(last.name.as_deref(), Some("error"));
    assert!(last.json().get("param").is_some_and(Value::is_null));
}

#[test]
fn stream_without_marker_is_whole_when_every_choice_finished() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let mut blocks = chat_chunks("m");
    blocks.pop();
    provider.next(Reply::events(&blocks));
    let rest = user.chat_stream("gpt-a").finish();
    assert_eq!(rest.end, End::LastChunk);
    assert_eq!(rest.events.len(), blocks.len(), "no marker is added: {rest:?}");
}

#[test]
fn stream_without_marker_and_finish_is_broken() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    provider.next(Reply::events(&chat_chunks("m")[..3]));
    let rest = user.chat_stream("gpt-a").finish();
    assert_broken(&rest, |value| value["error"].is_object());
}

#[test]
fn stream_that_ends_by_close_is_whole_with_its_marker_alone() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    provider.next(Reply::events(&chat_chunks("m")).until_close());
    let rest = user.chat_stream("gpt-a").finish();
    assert!(rest.is_done() && rest.end.is_whole(), "{rest:?}");
    let mut blocks = chat_chunks("m");
    blocks.pop();
    provider.next(Reply::events(&blocks).until_close());
    let rest = user.chat_stream("gpt-a").finish();
    assert_broken(&rest, |value| value["error"].is_object());
    provider.next(Reply::events(&message_events("m")).until_close());
    let rest = message_stream(&user).finish();
    assert_eq!(
        rest.events.last().and_then(|event| event.name.clone()).as_deref(),
        Some("message_stop")
    );
    assert!(rest.end.is_whole());
}

#[test]
fn every_kind_of_stream_passes_whole() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    assert!(user.chat_stream("gpt-a").finish().is_done());
    assert!(
        user.stream(
            "/v1/completions",
            json!({"model": "m", "stream": true, "prompt": "x"})
        )
        .finish()
        .is_done()
    );
    let rest = user
        .stream(
            "/v1/responses",
            json!({"model": "m", "stream": true, "input": "x"}),
        )
        .finish();
    assert_eq!(
        rest.events.last().and_then(|event| event.name.clone()).as_deref(),
        Some("response.completed")
    );
    assert_eq!(rest.end, End::LastChunk);
    let rest = message_stream(&user).finish();
    assert_eq!(rest.events.len(), message_events("m").len());
    assert_eq!(rest.end, End::LastChunk);
}

#[test]
fn usage_chunk_comes_only_to_clients_that_asked() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let rest = user.chat_stream("gpt-a").finish();
    assert!(
        !String::from_utf8_lossy(&rest.raw).contains("\"usage\":{"),
        "{rest:?}"
    );
    let mut body = chat_streamed("gpt-a");
    body["stream_options"] = json!({"include_usage": true});
    let rest = user.stream("/v1/chat/completions", body).finish();
    assert!(
        String::from_utf8_lossy(&rest.raw).contains("\"usage\":{"),
        "{rest:?}"
    );
}

#[test]
fn event_longer_than_is_held_passes_as_it_comes() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let long = format!("data: {{\"pad\":\"{}\"}}", "x".repeat(1_600_000));
    let blocks = [long.as_str(), &chat_chunks("m")[5], "data: [DONE]"];
    provider.next(Reply::events(&blocks));
    let rest = user.chat_stream("gpt-a").finish();
    assert!(rest.is_done());
    assert_eq!(rest.events[0].data.len(), long.len() - "data: ".len());
}

#[test]
fn client_that_leaves_closes_its_provider_call_at_once() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    provider.next(Reply::events(&chat_chunks("m")).hang_after(1));
    let mut stream = user.chat_stream("gpt-a");
    assert!(stream.next_event().is_some());
    let left = Instant::now();
    stream.abort();
    let noticed = provider.wait_until_left(0, Duration::from_secs(5));
    assert!(
        noticed.duration_since(left) < Duration::from_secs(1),
        "{:?}",
        noticed.duration_since(left)
    );
}

#[test]
fn client_that_leaves_before_the_head_closes_its_provider_call_at_once() {
    let provider = Provider::start();
    let (edge, user) = start(&provider);
    provider.next(Reply::hang());
    let request = user.sign(Request::new("POST", "/v1/chat/completions").json(&crate::http::chat("gpt-a")));
    let mut connection = crate::http::Connection::open(edge.proxy);
    connection.send(&request);
    provider.wait_for_requests(1);
    let left = Instant::now();
    drop(connection);
    let noticed = provider.wait_until_left(0, Duration::from_secs(5));
    assert!(
        noticed.duration_since(left) < Duration::from_secs(1),
        "{:?}",
        noticed.duration_since(left)
    );
}

#[test]
fn cut_answers_that_are_no_streams_are_seen_as_cut() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let body = vec![b'x'; 100_000];
    let speech = || json!({"model": "tts", "input": "x", "voice": "v"});
    provider.next(
        Reply::status(200)
            .header("Content-Type", "audio/mpeg")
            .body(body.clone())
            .cut_at_byte(50_000),
    );
    assert_eq!(user.post("/v1/audio/speech", speech()).expect(200).end, End::Cut);
    let pieces = body.chunks(10_000).map(<[u8]>::to_vec).collect();
    provider.next(
        Reply::status(200)
            .header("Content-Type", "audio/mpeg")
            .chunked()
            .pieces(pieces)
            .cut_after(5),
    );
    assert_eq!(user.post("/v1/audio/speech", speech()).expect(200).end, End::Cut);
}

#[test]
fn slow_client_loses_nothing() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let filler = format!("data: {{\"pad\":\"{}\"}}", "y".repeat(20_000));
    let mut blocks = vec![filler; 200];
    blocks.push(chat_chunks("m")[5].clone());
    blocks.push("data: [DONE]".to_owned());
    provider.next(Reply::events(&blocks));
    let mut stream = user.chat_stream("gpt-a");
    assert!(stream.next_event().is_some());
    std::thread::sleep(Duration::from_millis(400));
    let rest = stream.finish();
    assert!(rest.is_done());
    assert_eq!(rest.events.len(), 201);
}

#[test]
fn hundred_streams_at_once_all_complete() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let gate = Gate::new();
    provider.always(Reply::events(&chat_chunks("m")).piece_behind(2, &gate));
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| user.chat_stream("gpt-a").finish().is_done()))
            .collect();
        provider.wait_for_requests(100);
        assert_eq!(provider.in_flight(), 100);
        gate.open();
        assert!(streams.into_iter().all(|stream| stream.join().expect("a stream")));
    });
}

#[test]
fn error_answers_to_streamed_requests_pass_as_plain_answers() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    provider.next(Reply::openai_error(
        400,
        "invalid_request_error",
        "context_length_exceeded",
    ));
    let answer = user
        .post("/v1/chat/completions", chat_streamed("gpt-a"))
        .expect(400);
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
}

#[test]
fn error_inside_a_stream_passes_as_the_provider_said_it() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    let blocks = [
        chat_chunks("m")[1].clone(),
        "data: {\"error\":{\"message\":\"overloaded\",\"code\":\"their_code\"}}".to_owned(),
    ];
    provider.next(Reply::events(&blocks).until_close());
    let rest = user.chat_stream("gpt-a").finish();
    assert_eq!(rest.events[1].json()["error"]["code"], "their_code");
    assert!(!String::from_utf8_lossy(&rest.raw).contains("[DONE]"));
}

#[test]
fn events_keep_the_providers_rhythm() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider);
    provider.next(Reply::events(&chat_chunks("m")).every(Duration::from_millis(100)));
    let rest = user.chat_stream("gpt-a").finish();
    let gaps: Vec<Duration> = rest
        .events
        .windows(2)
        .map(|pair| pair[1].at.duration_since(pair[0].at))
        .collect();
    assert!(
        gaps.iter().all(|gap| *gap > Duration::from_millis(50)),
        "none waits for the next: {gaps:?}"
    );
}
