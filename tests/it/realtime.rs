//! WebSocket sessions on `/v1/realtime`: admission, the bytes, and every way in which a session ends.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Request, chat};
use crate::provider::Provider;
use crate::provider::realtime::{ACCEPT, Realtime, Session, read_head};
use crate::wait::wait_until;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An edge whose `openai` is `realtime`; the other provider is a fake as usual.
pub fn edge(realtime: &Realtime, over: Value) -> TestEdge {
    TestEdge::plan(&Provider::start())
        .with(json!({"providers": {"openai": {"base_url": realtime.url()}}}))
        .with(over)
        .start()
}

pub fn handshake(user: &TokenUser, target: &str) -> Request {
    user.sign(Request::new("GET", target))
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
}

/// What a handshake is answered; the session is abandoned at once.
fn status(user: &TokenUser) -> u16 {
    let mut stream = TcpStream::connect(user.address).expect("a connection");
    let request = handshake(user, "/v1/realtime?model=m");
    stream
        .write_all(&request.head(user.address))
        .expect("a sent head");
    read_head(&mut stream)[9..12].parse().expect("a status")
}

/// The head that a handshake is answered with.
pub fn head_of(user: &TokenUser, target: &str) -> String {
    let mut stream = TcpStream::connect(user.address).expect("a connection");
    stream
        .write_all(&handshake(user, target).head(user.address))
        .expect("a sent head");
    read_head(&mut stream)
}

/// Opens a session; panics when the answer is not 101.
#[track_caller]
pub fn open_with(user: &TokenUser, request: &Request) -> (Session, String) {
    let mut stream = TcpStream::connect(user.address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
        .write_all(&request.head(user.address))
        .expect("a sent head");
    let head = read_head(&mut stream);
    assert!(head.starts_with("http/1.1 101"), "no session: {head}");
    let config = WebSocketConfig::default();
    (
        WebSocket::from_raw_socket(stream, Role::Client, Some(config)),
        head,
    )
}

#[track_caller]
pub fn open(user: &TokenUser) -> Session {
    open_with(user, &handshake(user, "/v1/realtime?model=gpt-realtime")).0
}

#[track_caller]
fn echoes(session: &mut Session) {
    session.send(Message::text("ping")).expect("sent");
    assert_eq!(session.read().expect("an echo"), Message::text("ping"));
}

/// Reads until the session is closed: code and reason.
#[track_caller]
pub fn closing(session: &mut Session, within: Duration) -> (u16, String) {
    let from = Instant::now();
    loop {
        if let Message::Close(frame) = session.read().expect("the session is not closed but breaks") {
            let frame = frame.expect("a code");
            return (frame.code.into(), frame.reason.to_string());
        }
        assert!(from.elapsed() < within, "not closed within {within:?}");
    }
}

#[test]
fn a_session_passes_byte_for_byte_both_ways_and_hides_what_must_be_hidden() {
    let realtime = Realtime::echo();
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({}));
    let request = handshake(&user, "/v1/realtime?model=gpt-realtime&a=%41")
        .header(
            "Sec-WebSocket-Protocol",
            "realtime, openai-insecure-api-key.sk-mine, openai-organization.org",
        )
        .header("OpenAI-Beta", "realtime=v1")
        .header("Cookie", "a=b");
    let (mut session, head) = open_with(&user, &request);
    assert!(
        head.contains(&format!("sec-websocket-accept: {}", ACCEPT.to_lowercase())),
        "{head}"
    );
    assert!(
        head.contains("x-request-id: ") && head.contains("x-llm-proxy-provider: openai"),
        "{head}"
    );
    assert!(!head.contains("openai-organization"), "{head}");
    let up = realtime.head();
    assert!(
        up.starts_with("get /v1/realtime?model=gpt-realtime&a=%41 http/1.1"),
        "{up}"
    );
    assert!(
        up.contains("openai-beta: realtime=v1") && up.contains("upgrade: websocket"),
        "{up}"
    );
    assert!(up.contains("sec-websocket-protocol: realtime\r\n"), "{up}");
    for hidden in [
        "sk-mine",
        "cookie",
        &user.secret.to_lowercase(),
        "openai-organization",
    ] {
        assert!(!up.contains(hidden), "{hidden}: {up}");
    }
    echoes(&mut session);
    for size in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let message = Message::binary(vec![7; size]);
        session.send(message.clone()).expect("sent");
        assert!(session.read().expect("an echo") == message, "{size} bytes");
    }
    session
        .close(Some(CloseFrame {
            code: CloseCode::Normal,
            reason: "done".into(),
        }))
        .expect("closed");
    assert_eq!(
        closing(&mut session, Duration::from_secs(5)),
        (1000, "done".to_owned())
    );
    edge.wait_for_log("\"status\":101");
    let line = edge
        .logs()
        .lines()
        .rfind(|line| line.contains("\"status\":101"))
        .expect("a line")
        .to_owned();
    assert!(
        line.contains("\"outcome\":\"complete\"") && line.contains("gpt-realtime"),
        "{line}"
    );
}

#[test]
fn what_comes_with_the_heads_is_not_lost() {
    let mut first = vec![0x81, 126];
    first.extend_from_slice(&2000_u16.to_be_bytes());
    first.resize(first.len() + 2000, b'a');
    let realtime = Realtime::with_first_bytes(&first, |session| {
        let message = session.read().ok()?;
        session.send(message).ok()
    });
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({}));
    let mut stream = TcpStream::connect(user.address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let mut bytes = handshake(&user, "/v1/realtime?model=m").head(user.address);
    // a masked frame in the same packet as the handshake
    bytes.extend_from_slice(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    stream.write_all(&bytes).expect("sent");
    assert!(read_head(&mut stream).starts_with("http/1.1 101"));
    let mut session = WebSocket::from_raw_socket(stream, Role::Client, None);
    assert_eq!(session.read().expect("the first").len(), 2000);
    assert_eq!(session.read().expect("the echo"), Message::text("hi"));
}

#[test]
fn a_client_that_does_not_read_is_heard_all_the_same() {
    let heard = Arc::new(Mutex::new(0_usize));
    let count = heard.clone();
    let realtime = Realtime::start(move |session| {
        // 64 MiB nobody reads, beside a client that goes on speaking
        session.get_ref().set_nonblocking(true).ok()?;
        let end = Instant::now() + Duration::from_secs(3);
        let big = vec![0x82, 127, 0, 0, 0, 0, 4, 0, 0, 0];
        let mut out = session.get_ref().try_clone().ok()?;
        let _ = out.write(&big);
        let junk = vec![0; 1 << 20];
        while Instant::now() < end {
            let _ = out.write(&junk);
            if session.read().is_ok() {
                *count.lock().expect("count") += 1;
            } else {
                thread::sleep(Duration::from_millis(2));
            }
        }
        session.get_ref().set_nonblocking(false).ok()
    });
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({}));
    let mut session = open(&user);
    for _ in 0..20 {
        session.send(Message::text("still here")).expect("sent");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(wait_until(Duration::from_secs(5), || *heard
        .lock()
        .expect("count")
        >= 20));
}

#[test]
fn only_the_models_name_in_the_query_is_renamed() {
    let realtime = Realtime::echo();
    let edge = edge(
        &realtime,
        json!({"models": {"voice": {"targets": [{"provider": "openai", "model": "gpt/real time"}]}}}),
    );
    let user = edge.token(json!({}));
    let (mut session, head) = open_with(&user, &handshake(&user, "/v1/realtime?x=%41&model=voice&y"));
    assert!(
        realtime
            .head()
            .starts_with("get /v1/realtime?x=%41&model=gpt%2freal%20time&y http"),
        "{}",
        realtime.head()
    );
    assert!(head.contains("x-llm-proxy-model: gpt/real time"), "{head}");
    echoes(&mut session);
}

#[test]
fn who_may_not_is_refused_before_the_provider_hears_of_it() {
    let realtime = Realtime::echo();
    let edge = edge(
        &realtime,
        json!({"providers": {"openai": {"allowed_origins": ["https://a.example"]}}}),
    );
    let user = edge.token(json!({"allowed_models": ["gpt-realtime"]}));
    let send = |request: Request| edge.anonymous().send(request);
    let nobody = Request::new("GET", "/v1/realtime?model=gpt-realtime");
    send(nobody.header("Upgrade", "websocket")).refused(401, "invalid_token");
    // a key in the subprotocol is no credential
    send(Request::new("GET", "/v1/realtime?model=gpt-realtime").header(
        "Sec-WebSocket-Protocol",
        &format!("realtime, openai-insecure-api-key.{}", user.secret),
    ))
    .refused(401, "invalid_token");
    send(handshake(&user, "/v1/realtime?model=other")).refused(403, "model_not_allowed");
    send(handshake(&user, "/v1/realtime")).refused(400, "invalid_json");
    send(handshake(&user, "/v1/realtime?model=a&mod%65l=b")).refused(400, "invalid_json");
    send(handshake(&user, "/v1/realtime?model=%ff")).refused(400, "invalid_json");
    send(handshake(&user, "/v1/realtime?model=gpt-realtime").header("Origin", "https://b.example"))
        .refused(403, "origin_not_allowed");
    let call = send(handshake(&user, "/v1/realtime?model=gpt-realtime&call_id=c"))
        .refused(403, "endpoint_not_allowed");
    assert!(call.text().contains("call_id"), "{}", call.text());
    send(handshake(&user, "/v1/realtime?model=gpt-realtime").bytes("x")).refused(400, "malformed_request");
    for below in [
        "/v1/realtime/sessions",
        "/v1/realtime/client_secrets",
        "/v1/realtime/calls",
    ] {
        send(handshake(&user, below)).refused(404, "endpoint_not_found");
    }
    user.post("/v1/realtime?model=gpt-realtime", json!({}))
        .refused(405, "method_not_allowed");
    let elsewhere = edge.token(json!({"allowed_endpoints": ["/v1/chat/completions"]}));
    send(handshake(&elsewhere, "/v1/realtime?model=m")).refused(403, "endpoint_not_allowed");
    let plain = user
        .get("/v1/realtime?model=gpt-realtime")
        .refused(426, "upgrade_required");
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    for (name, value) in [
        ("Upgrade", "h2c"),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Key", "x"),
    ] {
        let request = user.sign(Request::new("GET", "/v1/realtime?model=gpt-realtime"));
        let fields = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        let request = fields.iter().fold(request, |request, (field, good)| {
            request.header(field, if *field == name { value } else { good })
        });
        send(request).refused(426, "upgrade_required");
    }
    assert_eq!(realtime.count(), 0);
}

#[test]
fn a_session_of_a_call_needs_the_projects_own_key() {
    let realtime = Realtime::echo();
    let edge = edge(&realtime, json!({}));
    let project = edge.project(json!({"providers": {"openai": "sk-own"}}));
    let user = edge.token_of(&project, json!({}));
    let request = handshake(&user, "/v1/realtime?model=m&call_id=c").header("OpenAI-Organization", "org");
    let (mut session, _) = open_with(&user, &request);
    let up = realtime.head();
    assert!(
        up.contains("authorization: bearer sk-own") && up.contains("openai-organization: org"),
        "{up}"
    );
    echoes(&mut session);
}

#[test]
fn a_provider_that_does_not_switch_is_answered_as_any_other() {
    for (answer, status, code) in [
        (
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}",
            502,
            "upstream_auth_error",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            502,
            "upstream_protocol_error",
        ),
        ("", 502, "upstream_protocol_error"),
        ("SSH-2.0-x\r\n\r\n", 502, "upstream_protocol_error"),
    ] {
        let realtime = Realtime::answering(answer.into(), |_| None);
        let edge = edge(&realtime, json!({"router": {"retries": 0}}));
        let user = edge.token(json!({}));
        let refused = edge.anonymous().send(handshake(&user, "/v1/realtime?model=m"));
        assert_eq!((refused.status, refused.code()), (status, code), "{answer}");
    }
    let error = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n{\"error\":{\"message\":\"no way\"}}";
    let realtime = Realtime::answering(error.into(), |_| None);
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({}));
    let mut connection = crate::http::Connection::open(user.address);
    let answer = connection.exchange(&handshake(&user, "/v1/realtime?model=m"));
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("x-llm-proxy-origin"), Some("upstream"));
    assert_eq!(connection.exchange(&Request::new("GET", "/health")).status, 200);
}

#[test]
fn a_session_that_is_no_longer_admitted_is_closed_with_the_reason() {
    let realtime = Realtime::echo();
    let mut edge = edge(
        &realtime,
        json!({"models": {"voice": {"targets": [{"provider": "openai", "model": "v"}]}}}),
    );
    let admin = edge.admin();
    let within = Duration::from_secs(5);

    let user = edge.token(json!({}));
    let mut session = open(&user);
    echoes(&mut session);
    let from = Instant::now();
    admin.revoke(&user.id);
    assert_eq!(closing(&mut session, within), (1008, "token_inactive".to_owned()));
    assert!(from.elapsed() < Duration::from_secs(2), "a change holds at once");
    assert!(wait_until(within, || realtime
        .ended
        .lock()
        .expect("ends")
        .iter()
        .any(|end| end == "close 1001")));

    let user = edge.token(json!({}));
    let mut session = open(&user);
    admin
        .change_project(&user.project_id, json!({"is_active": false}))
        .expect(200);
    assert_eq!(
        closing(&mut session, within),
        (1008, "project_inactive".to_owned())
    );

    let user = edge.token(json!({}));
    let mut session = open(&user);
    admin
        .change_token(&user.id, json!({"allowed_models": ["other"]}))
        .expect(200);
    assert_eq!(
        closing(&mut session, within),
        (1008, "model_not_allowed".to_owned())
    );

    let user = edge.token(json!({}));
    let mut session = open(&user);
    admin
        .change_token(&user.id, json!({"allowed_ips": ["10.0.0.0/8"]}))
        .expect(200);
    assert_eq!(closing(&mut session, within), (1008, "ip_not_allowed".to_owned()));

    // a change that concerns somebody else, or nothing that was asked, ends nothing
    let user = edge.token(json!({}));
    let mut session = open_with(&user, &handshake(&user, "/v1/realtime?model=voice")).0;
    admin
        .change_token(&user.id, json!({"name": "renamed"}))
        .expect(200);
    admin.revoke(&edge.token(json!({})).id);
    echoes(&mut session);
    edge.save_config(json!({"models": {"voice": {"targets": [{"provider": "openai", "model": "w"}]}}}));
    assert_eq!(
        closing(&mut session, Duration::from_secs(10)),
        (1008, "model_not_found".to_owned())
    );
}

#[test]
fn an_expired_session_is_closed_within_seconds() {
    let realtime = Realtime::echo();
    let edge = edge(&realtime, json!({}));
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let user = edge.token(json!({"duration_minutes": null, "expires_at": end.to_string()}));
    let mut session = open(&user);
    echoes(&mut session);
    assert_eq!(
        closing(&mut session, Duration::from_secs(15)),
        (1008, "token_expired".to_owned())
    );
}

#[test]
fn a_session_counts_once_and_holds_one_place() {
    let realtime = Realtime::echo();
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({"limits": {"concurrency": 1}, "max_requests": 3}));
    let mut session = open(&user);
    echoes(&mut session);
    user.send(handshake(&user, "/v1/realtime?model=m"))
        .refused(429, "rate_limit_exceeded");
    session.close(None).expect("closed");
    while session.read().is_ok() {}
    drop(session);
    for _ in 0..2 {
        // abandoned without a word: its place is free all the same
        assert!(wait_until(Duration::from_secs(5), || status(&user) == 101));
    }
    let refused = || user.send(handshake(&user, "/v1/realtime?model=m"));
    assert!(wait_until(Duration::from_secs(5), || refused().code()
        == "token_quota_exceeded"));
    assert!(wait_until(Duration::from_secs(5), || {
        edge.admin().read_token(&user.id)["request_count"] == 3
    }));
}

#[test]
fn silence_of_both_ends_a_session_and_one_that_speaks_keeps_it() {
    let realtime = Realtime::echo();
    let edge = edge(&realtime, json!({"server": {"stream_idle_timeout": "1s"}}));
    let user = edge.token(json!({}));
    let mut session = open(&user);
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(300));
        echoes(&mut session);
    }
    let from = Instant::now();
    assert_eq!(
        closing(&mut session, Duration::from_secs(5)),
        (1001, "idle_timeout".to_owned())
    );
    assert!(
        from.elapsed() >= Duration::from_millis(900),
        "{:?}",
        from.elapsed()
    );
}

#[test]
fn our_close_stands_between_frames_and_a_frame_without_end_is_cut() {
    // a frame in two halves: the second comes half a second after the revocation, or never
    for rest_comes in [true, false] {
        let (go, told) = std::sync::mpsc::channel::<()>();
        let told = Mutex::new(told);
        let realtime = Realtime::start(move |session| {
            session.get_mut().write_all(&[0x82, 4, 1, 2]).ok()?;
            told.lock().expect("told").recv().ok()?;
            thread::sleep(Duration::from_millis(400));
            if rest_comes {
                session.get_mut().write_all(&[3, 4]).ok()?;
            } else {
                thread::sleep(Duration::from_secs(4));
            }
            Some(())
        });
        let edge = edge(&realtime, json!({}));
        let user = edge.token(json!({}));
        let mut session = open(&user);
        thread::sleep(Duration::from_millis(200));
        edge.admin().revoke(&user.id);
        go.send(()).expect("told");
        if rest_comes {
            assert_eq!(
                session.read().expect("the whole frame"),
                Message::binary(vec![1, 2, 3, 4])
            );
            assert_eq!(
                closing(&mut session, Duration::from_secs(5)),
                (1008, "token_inactive".to_owned())
            );
        } else {
            let from = Instant::now();
            assert!(session.read().is_err(), "a frame without its end");
            assert!(from.elapsed() < Duration::from_secs(5));
        }
    }
}

#[test]
fn either_side_that_leaves_ends_the_other() {
    let realtime = Realtime::start(|session| {
        let message = session.read().ok()?;
        if message == Message::text("leave") {
            session.get_ref().shutdown(std::net::Shutdown::Both).ok()?;
        }
        Some(())
    });
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({}));
    let mut session = open(&user);
    session.send(Message::text("leave")).expect("sent");
    assert!(session.read().is_err());
    edge.wait_for_log("\"outcome\":\"cut\"");
    let mut session = open(&user);
    session.send(Message::text("stay")).expect("sent");
    thread::sleep(Duration::from_millis(100));
    drop(session);
    assert!(wait_until(Duration::from_secs(5), || realtime
        .ended
        .lock()
        .expect("ends")
        .len()
        == 2));
    edge.wait_for_log("\"outcome\":\"client_left\"");
}

#[test]
fn a_drain_closes_sessions_before_it_cuts() {
    let realtime = Realtime::echo();
    let mut edge = edge(
        &realtime,
        json!({"server": {"drain_timeout": "4s", "shutdown_delay": "0s"}}),
    );
    let user = edge.token(json!({}));
    let mut session = open(&user);
    edge.signal(rustix::process::Signal::TERM);
    thread::sleep(Duration::from_millis(2500));
    echoes(&mut session);
    assert_eq!(
        closing(&mut session, Duration::from_secs(10)),
        (1001, "draining".to_owned())
    );
    assert!(edge.wait_for_exit(Duration::from_secs(10)).success());
}

#[test]
fn other_requests_live_beside_sessions() {
    let provider = Provider::start();
    let realtime = Realtime::echo();
    let edge = TestEdge::plan(&provider)
        .with(json!({"providers": {"voice": {"dialect": "openai", "base_url": realtime.url(), "api_key": "k"}}}))
        .start();
    let user = edge.token(json!({}));
    let mut sessions: Vec<Session> = (0..20)
        .map(|_| open_with(&user, &handshake(&user, "/v1/realtime?model=voice/m")).0)
        .collect();
    for session in &mut sessions {
        user.post("/v1/chat/completions", chat("gpt-a")).expect(200);
        echoes(session);
    }
}

#[test]
fn a_provider_that_closes_under_a_speaking_client_is_heard_to_its_last_word() {
    let realtime = Realtime::start(|session| {
        session.read().ok()?;
        session.send(Message::text("the last but one")).ok()?;
        let reason = CloseFrame {
            code: CloseCode::Library(4000),
            reason: "session_expired".into(),
        };
        session.close(Some(reason)).ok()?;
        session.flush().ok();
        // gone, while the client goes on speaking
        session.get_ref().shutdown(std::net::Shutdown::Both).ok()
    });
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({}));
    let mut session = open(&user);
    for _ in 0..200 {
        if session.send(Message::binary(vec![1; 4000])).is_err() {
            break;
        }
    }
    assert_eq!(
        session.read().expect("a message"),
        Message::text("the last but one")
    );
    assert_eq!(
        closing(&mut session, Duration::from_secs(5)),
        (4000, "session_expired".to_owned())
    );
}

#[test]
fn a_client_that_never_stops_does_not_silence_the_provider() {
    let realtime = Realtime::start(|session| {
        let mut out = session.get_ref().try_clone().ok()?;
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            // an unmasked text frame
            let _ = out.write_all(b"\x81\x02hi");
        });
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            session.read().ok()?;
        }
        Some(())
    });
    let edge = edge(&realtime, json!({}));
    let user = edge.token(json!({}));
    let mut session = open(&user);
    let mut out = session.get_ref().try_clone().expect("the socket");
    let stop = Instant::now() + Duration::from_millis(2500);
    let flood = thread::spawn(move || {
        let mut frame = vec![0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0];
        frame.resize(frame.len() + 0xffff, 7);
        while Instant::now() < stop && out.write_all(&frame).is_ok() {}
    });
    let from = Instant::now();
    assert_eq!(session.read().expect("a message"), Message::text("hi"));
    assert!(
        from.elapsed() < Duration::from_millis(1500),
        "{:?}",
        from.elapsed()
    );
    drop(session);
    flood.join().expect("no panic");
}
