//! The bench itself: the fake provider misbehaves as told, the client sees it, the servers start and stop.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::{Client, Connection, End, Request, chat, chat_streamed};
use crate::provider::{Deaf, Gate, Provider, Refusing, Reply, chat_chunks};
use crate::servers::{Postgres, Redis};
use crate::wait::wait_until;

fn direct(provider: &Provider) -> Client {
    Client::new(provider.address())
}

#[test]
fn unscripted_provider_answers_plausibly_in_both_dialects() {
    let provider = Provider::start();
    let client = direct(&provider);
    assert_eq!(
        client.chat("gpt-a").expect(200).json()["choices"][0]["message"]["content"],
        "hello from the provider"
    );
    assert_eq!(
        client.message("claude-a").expect(200).json()["stop_reason"],
        "end_turn"
    );
    let rest = client.chat_stream("gpt-a").finish();
    assert!(rest.is_done());
    assert_eq!(rest.end, End::LastChunk);
    assert_eq!(provider.count(), 3);
    assert_eq!(provider.seen()[0].model(), "gpt-a");
}

#[test]
fn provider_keeps_connections_and_answers_requests_in_line() {
    let provider = Provider::start();
    let mut connection = Connection::open(provider.address());
    let request = Request::new("POST", "/v1/chat/completions").json(&chat("gpt-a"));
    connection.exchange(&request).expect(200);
    connection.exchange(&request).expect(200);
    assert_eq!(provider.connections(), 1);
}

#[test]
fn large_bodies_pass_with_both_framings() {
    let provider = Provider::start();
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    provider.next(Reply::status(200).body(body.clone()));
    let sized = direct(&provider).send(Request::new("POST", "/x").bytes(body.clone()));
    assert!(sized.body == body && sized.end == End::Length);
    provider.next(
        Reply::status(200)
            .chunked()
            .pieces(body.chunks(70_000).map(<[u8]>::to_vec).collect()),
    );
    let chunked = direct(&provider).send(Request::new("POST", "/x").chunked(body.clone(), 10_000));
    assert!(chunked.body == body && chunked.end == End::LastChunk);
    assert!(provider.seen().iter().all(|seen| *seen.body == body));
}

#[test]
fn scripted_faults_reach_the_client() {
    let provider = Provider::start();
    let client = direct(&provider);
    let ask = || Request::new("GET", "/v1/models");

    provider.next(Reply::close());
    assert!(client.try_send(ask()).is_none());
    provider.next(Reply::reset());
    assert!(client.try_send(ask()).is_none());
    provider.next(Reply::raw("this is no HTTP"));
    assert!(client.try_send(ask()).is_none());
    provider.next(Reply::json(200, &json!({"a": 1})).cut_at_byte(3));
    assert_eq!(client.send(ask()).end, End::Cut);
    provider.next(Reply::status(200).until_close().body("all of it"));
    assert_eq!(client.send(ask()).end, End::Close);

    provider.next(Reply::events(&chat_chunks("m")).cut_after(2));
    let rest = client.chat_stream("m").finish();
    assert_eq!((rest.events.len(), rest.end), (2, End::Cut));
}

#[test]
fn gates_hold_a_stream_until_the_test_opens_them() {
    let provider = Provider::start();
    let gate = Gate::new();
    provider.next(Reply::events(&chat_chunks("m")).piece_behind(1, &gate));
    let mut stream = direct(&provider).chat_stream("m");
    assert!(stream.next_event().is_some());
    assert_eq!(provider.in_flight(), 1);
    gate.open();
    assert!(stream.finish().is_done());
    provider.wait_until_idle();
}

#[test]
fn client_that_leaves_is_noticed() {
    let provider = Provider::start();
    provider.next(Reply::events(&chat_chunks("m")).hang_after(1));
    let mut stream = direct(&provider).stream("/v1/chat/completions", chat_streamed("m"));
    assert!(stream.next_event().is_some());
    let left = Instant::now();
    stream.abort();
    assert!(provider.wait_until_left(0, Duration::from_secs(5)) >= left);
}

#[test]
fn nobody_answers_at_the_refusing_and_the_deaf_port() {
    let refusing = Refusing::start();
    let address = refusing
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    assert!(Connection::try_open(address).is_err());
    let deaf = Deaf::start();
    let address: std::net::SocketAddr = deaf
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    assert!(std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_err());
}

#[test]
fn private_postgres_gives_fresh_databases_and_survives_a_stop() {
    let mut postgres = Postgres::start();
    let first = postgres.new_database();
    assert_ne!(first, postgres.new_database());
    postgres.sql("edge_0", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)");
    postgres.stop();
    postgres.start_again();
    assert_eq!(postgres.sql("edge_0", "SELECT n FROM kept"), "7");
}

#[test]
fn private_redis_stops_and_starts_again() {
    let mut redis = Redis::start();
    assert!(redis.say("SET a b").contains("OK"));
    redis.stop();
    assert!(wait_until(Duration::from_secs(5), || redis
        .say("PING")
        .is_empty()));
    redis.start_again();
    assert!(redis.say("PING").contains("PONG"));
}
