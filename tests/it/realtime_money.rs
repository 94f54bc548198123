//! What sessions on `/v1/realtime` use, cost and may spend.

use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;

use crate::edge::{TestEdge, TokenUser};
use crate::provider::realtime::{Realtime, Session};
use crate::realtime::{closing, edge, handshake, head_of, open, open_with};
use crate::wait::wait_until;

/// A provider that answers each message with a response of four tokens.
fn speaking() -> Realtime {
    Realtime::start(|session| {
        loop {
            let message = session.read().ok()?;
            if message.is_close() {
                return None;
            }
            let words = json!({"type": "response.audio_transcript.delta", "delta": "hello"});
            session.send(Message::text(words.to_string())).ok()?;
            let usage = json!({"total_tokens": 13, "input_tokens": 9, "output_tokens": 4, "input_token_details": {"cached_tokens": 5}});
            let done = json!({"type": "response.done", "response": {"id": "r", "usage": usage}});
            session.send(Message::text(done.to_string())).ok()?;
        }
    })
}

fn prices() -> Value {
    json!({"prices": {"overrides": {"gpt-realtime": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 1000}}}})
}

fn speak(session: &mut Session) {
    session.send(Message::text("hi")).expect("sent");
    for _ in 0..2 {
        session.read().expect("what it says");
    }
}

fn records(edge: &TestEdge, user: &TokenUser) -> Vec<Value> {
    let path = format!("/manage/usage/records?token_id={}", user.id);
    edge.admin()
        .get(&path)
        .expect(200)
        .json()
        .as_array()
        .expect("records")
        .clone()
}

#[test]
fn a_session_is_recorded_with_what_all_its_responses_used() {
    let realtime = speaking();
    let edge = edge(&realtime, prices());
    let user = edge.token(json!({}));
    let request = handshake(&user, "/v1/realtime?model=gpt-realtime")
        .header("Sec-WebSocket-Extensions", "permessage-deflate");
    let mut session = open_with(&user, &request).0;
    assert!(
        !realtime.head().contains("sec-websocket-extensions"),
        "what is compressed cannot be read"
    );
    for _ in 0..3 {
        speak(&mut session);
    }
    session.close(None).expect("closed");
    while session.read().is_ok() {}
    assert!(wait_until(Duration::from_secs(10), || records(&edge, &user)
        .len()
        == 1));
    let record = records(&edge, &user).remove(0);
    for (name, value) in [
        ("status", json!(101)),
        ("prompt_tokens", json!(27)),
        ("completion_tokens", json!(12)),
        ("cache_read_tokens", json!(15)),
        ("cost_usd", json!(0.012)),
        ("estimated", json!(false)),
        ("cut", json!(false)),
        ("model", json!("gpt-realtime")),
    ] {
        assert_eq!(record[name], value, "{name}: {record}");
    }
}

#[test]
fn a_session_is_closed_when_its_budget_ends() {
    let realtime = speaking();
    let edge = edge(&realtime, prices());
    let user = edge.token(json!({"budget": {"usd": 0.010, "period": "day"}}));
    let mut session = open(&user);
    for _ in 0..2 {
        speak(&mut session);
    }
    session.send(Message::text("hi")).expect("sent");
    let (code, reason) = closing(&mut session, Duration::from_secs(10));
    assert_eq!((code, &*reason), (1008, "budget_exceeded"));
    assert!(wait_until(Duration::from_secs(10), || records(&edge, &user)
        .len()
        == 1));
    let record = records(&edge, &user).remove(0);
    assert_eq!(
        (&record["cost_usd"], &record["cut"]),
        (&json!(0.012), &json!(true)),
        "{record}"
    );
    let refused = head_of(&user, "/v1/realtime?model=gpt-realtime");
    assert!(
        refused.starts_with("http/1.1 429") && refused.contains("budget_exceeded"),
        "{refused}"
    );
    // a price is needed, as everywhere
    let rich = edge.token(json!({"budget": {"usd": 10, "period": "day"}}));
    let refused = head_of(&rich, "/v1/realtime?model=nobody-knows");
    assert!(refused.contains("price_unknown"), "{refused}");
    // a budget that others spend, or that is lowered, ends it as well
    let mut session = open(&rich);
    speak(&mut session);
    edge.admin()
        .change_token(&rich.id, json!({"budget": {"usd": 0.004}}))
        .expect(200);
    let (code, reason) = closing(&mut session, Duration::from_secs(10));
    assert_eq!((code, &*reason), (1008, "budget_exceeded"));
}

#[test]
fn a_session_whose_process_dies_is_charged_what_it_paid_and_a_response() {
    let realtime = speaking();
    let mut edge = edge(&realtime, prices());
    let user = edge.token(json!({"budget": {"usd": 100, "period": "day"}}));
    let mut session = open(&user);
    for _ in 0..3 {
        speak(&mut session);
    }
    // the third is written down before the fourth is asked for
    speak(&mut session);
    edge.kill();
    edge.start_again();
    let found = records(&edge, &user);
    assert_eq!(found.len(), 1, "{found:#?}");
    let cost = found[0]["cost_usd"].as_f64().expect("money");
    assert!(
        [0.016, 0.012]
            .iter()
            .any(|paid| (cost - (paid + 32.768)).abs() < 1e-9),
        "{cost}"
    );
    assert_eq!(
        (&found[0]["cut"], &found[0]["estimated"]),
        (&json!(true), &json!(true))
    );
}
