//! Comments to clients that wait for their stream, and what it costs: later failures are events.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{chat_streamed, find};
use crate::provider::{Provider, Reply, chat_chunks};

fn start(heartbeat: &str) -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"router": {"heartbeat": heartbeat, "retries": 0}}))
        .start();
    let user = edge.token(json!({}));
    (provider, edge, user)
}

fn late() -> Reply {
    Reply::events(&chat_chunks("gpt-a")).head_after(Duration::from_millis(900))
}

fn comments(body: &[u8]) -> usize {
    body.windows(10)
        .filter(|window| *window == b": waiting\n")
        .count()
}

#[test]
fn a_client_that_waits_is_told_so_and_gets_its_stream_whole() {
    let (provider, edge, user) = start("200ms");
    provider.next(late());
    let answer = user
        .post("/v1/chat/completions", chat_streamed("gpt-a"))
        .expect(200);
    assert!((2..=5).contains(&comments(&answer.body)), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert!(find(&answer.body, b"[DONE]").is_some() && answer.end.is_whole());
    let record = edge.record_of(&user);
    assert_eq!(record["cut"], json!(false), "{record}");
    // who does not wait, or asked for no stream, gets none
    let answer = user
        .post("/v1/chat/completions", chat_streamed("gpt-a"))
        .expect(200);
    assert_eq!(comments(&answer.body), 0);
    assert!(answer.header("x-llm-proxy-provider").is_some());
    provider.next(Reply::json(200, &json!({"choices": []})).head_after(Duration::from_millis(600)));
    assert_eq!(comments(&user.chat("gpt-a").expect(200).body), 0);
    let (provider, _edge, user) = start("off");
    provider.next(late());
    let answer = user
        .post("/v1/chat/completions", chat_streamed("gpt-a"))
        .expect(200);
    assert_eq!(comments(&answer.body), 0);
}

#[test]
fn what_fails_after_the_first_comment_is_an_event_and_no_end() {
    let (provider, _edge, user) = start("100ms");
    let late = |reply: Reply| reply.head_after(Duration::from_millis(500));
    for (reply, said) in [
        (
            late(Reply::openai_error(429, "requests", "rate_limit_exceeded")),
            "answered 429: the provider says rate_limit_exceeded",
        ),
        (late(Reply::close()), "closed the connection"),
        (late(Reply::json(200, &json!({"choices": []}))), "answered 200"),
        (
            late(Reply::openai_error(401, "x", "invalid_api_key")),
            "Upstream authentication error",
        ),
    ] {
        provider.next(reply);
        let answer = user
            .post("/v1/chat/completions", chat_streamed("gpt-a"))
            .expect(200);
        let text = answer.text();
        let event = text.rsplit("data: ").next().unwrap_or_default();
        let error: Value = serde_json::from_str(event.trim()).unwrap_or(Value::Null);
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(said), "{said}: {text}");
        assert!(!answer.end.is_whole() && !text.contains("[DONE]"), "{text}");
    }
    provider.next(late(Reply::anthropic_error(529, "overloaded_error")));
    let message = json!({"model": "claude-a", "max_tokens": 5, "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let answer = user.as_anthropic().post("/v1/messages", message).expect(200);
    assert!(
        answer.text().contains("event: error\ndata: {\"type\":\"error\""),
        "{}",
        answer.text()
    );
}

#[test]
fn a_client_that_leaves_while_it_waits_closes_the_call() {
    let (provider, _edge, user) = start("100ms");
    provider.next(Reply::hang());
    let request = crate::http::Request::new("POST", "/v1/chat/completions").json(&chat_streamed("gpt-a"));
    let mut connection = crate::http::Connection::open(user.address);
    connection.send(&user.sign(request));
    provider.wait_for_requests(1);
    std::thread::sleep(Duration::from_millis(400));
    drop(connection);
    provider.wait_until_left(0, Duration::from_secs(3));
}
