//! Each time-out with its own code, and none that cuts a living stream.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Connection, End, Request, chat_streamed};
use crate::provider::{Deaf, Provider, Reply, chat_chunks};

fn start(provider: &Provider, over: Value) -> (TestEdge, TokenUser) {
    let edge = TestEdge::plan(provider)
        .with(json!({"router": {"retries": 0}}))
        .with(over)
        .start();
    let user = edge.token(json!({}));
    (edge, user)
}

#[test]
fn connection_that_never_completes_is_a_connect_timeout() {
    let deaf = Deaf::start();
    let provider = Provider::start();
    let over = json!({"providers": {"openai": {"base_url": deaf.url(), "timeouts": {"connect": "300ms"}}}});
    let (_edge, user) = start(&provider, over);
    let answer = user.chat("gpt-a").refused(504, "connect_timeout");
    assert!(
        answer.elapsed >= Duration::from_millis(290) && answer.elapsed < Duration::from_secs(5),
        "{:?}",
        answer.elapsed
    );
    assert_eq!(answer.json()["error"]["type"], "timeout_error");
}

#[test]
fn late_head_is_a_first_byte_timeout_and_the_call_is_closed() {
    let provider = Provider::start();
    provider.always(Reply::hang());
    let over = json!({"providers": {"openai": {"timeouts": {"response_header": "300ms"}}}});
    let (_edge, user) = start(&provider, over);
    let answer = user.chat("gpt-a").refused(504, "first_byte_timeout");
    assert!(
        answer.elapsed >= Duration::from_millis(290),
        "{:?}",
        answer.elapsed
    );
    provider.wait_until_left(0, Duration::from_secs(3));
}

#[test]
fn deadline_over_all_attempts_is_a_request_timeout() {
    let provider = Provider::start();
    provider.always(Reply::hang());
    let (_edge, user) = start(&provider, json!({"server": {"request_timeout": "400ms"}}));
    let answer = user.chat("gpt-a").refused(504, "request_timeout");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let answer = user.as_anthropic().message("claude-a");
    answer.refused_as_anthropic(504, "request_timeout", "timeout_error");
}

#[test]
fn plain_answer_has_a_deadline_of_its_own() {
    let provider = Provider::start();
    let over = json!({"providers": {"openai": {"timeouts": {"request": "400ms"}}}});
    let (_edge, user) = start(&provider, over);
    provider.next(Reply::json(200, &json!({"id": "x"})).hang_after(0));
    user.chat("gpt-a").refused(504, "request_timeout");
    let pieces = vec![b"{\"a\":".to_vec(), b"1}".to_vec()];
    provider.next(
        Reply::status(200)
            .header("Content-Type", "application/json")
            .pieces(pieces)
            .hang_after(1),
    );
    let cut = user.chat("gpt-a").expect(200);
    assert_eq!(cut.end, End::Cut, "bytes had left: a cut, not an answer");
}

#[test]
fn silence_while_the_head_is_held_is_an_idle_timeout() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider, json!({"server": {"stream_idle_timeout": "300ms"}}));
    provider.next(Reply::json(200, &json!({"id": "x"})).hang_after(0));
    user.chat("gpt-a").refused(504, "idle_timeout");
}

#[test]
fn silence_inside_a_stream_ends_it_as_an_error() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider, json!({"server": {"stream_idle_timeout": "300ms"}}));
    provider.next(Reply::events(&chat_chunks("m")).hang_after(2));
    let rest = user.chat_stream("gpt-a").finish();
    assert_eq!(rest.end, End::Cut);
    assert_eq!(rest.events.len(), 3);
    assert_eq!(rest.events[2].json()["error"]["code"], "idle_timeout");
    provider.wait_until_left(0, Duration::from_secs(3));
}

#[test]
fn no_timeout_cuts_a_stream_that_is_alive() {
    let provider = Provider::start();
    let over = json!({
        "server": {"request_timeout": "600ms", "stream_idle_timeout": "600ms", "header_timeout": "600ms", "body_timeout": "600ms", "keepalive_timeout": "600ms"},
        "providers": {"openai": {"timeouts": {"connect": "600ms", "response_header": "600ms", "request": "600ms", "idle_connection": "600ms"}}},
    });
    let (_edge, user) = start(&provider, over);
    provider.next(Reply::events(&chat_chunks("m")).every(Duration::from_millis(300)));
    let rest = user.chat_stream("gpt-a").finish();
    assert!(rest.is_done() && rest.end == End::LastChunk, "{rest:?}");
}

#[test]
fn idle_client_connection_is_closed() {
    let provider = Provider::start();
    let (edge, user) = start(&provider, json!({"server": {"keepalive_timeout": "300ms"}}));
    let mut connection = Connection::open(edge.proxy);
    connection
        .exchange(&user.sign(Request::new("GET", "/v1/models")))
        .expect(200);
    assert!(connection.is_closed_within(Duration::from_secs(3)));
}

#[test]
fn slow_head_within_its_time_is_waited_for() {
    let provider = Provider::start();
    provider.always(Reply::events(&chat_chunks("m")).head_after(Duration::from_millis(500)));
    let (_edge, user) = start(&provider, json!({"server": {"stream_idle_timeout": "200ms"}}));
    let stream = user.stream("/v1/chat/completions", chat_streamed("gpt-a"));
    assert!(stream.finish().is_done());
}
