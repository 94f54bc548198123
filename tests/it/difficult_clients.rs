//! Clients that are slow, idle, or leave: they cost what they hold and no more, nobody else notices, and everything comes
//! back when they are gone. `make test-long` runs it with thousands.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Connection, Request, chat};
use crate::provider::{Gate, Provider, Reply};
use crate::wait::{is_long_run, wait_until};

const CHAT: &str = "/v1/chat/completions";

fn metric(edge: &TestEdge, name: &str) -> f64 {
    let text = edge.sidecar().get("/metrics/prometheus").expect(200).text();
    let line = text.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no `{name}` in the metrics"))
}

/// Nothing is under way, and nothing is held.
#[track_caller]
fn assert_all_comes_back(edge: &TestEdge, provider: &Provider, descriptors: usize) {
    provider.wait_until_idle();
    let quiet = wait_until(Duration::from_secs(15), || {
        edge.descriptors() <= descriptors + 8 && metric(edge, "llm_proxy_active_requests") == 0.0
    });
    assert!(
        quiet,
        "{} descriptors instead of {descriptors}, {} requests under way",
        edge.descriptors(),
        metric(edge, "llm_proxy_active_requests")
    );
}

/// How long each of `count` small requests takes, sorted.
fn latencies(user: &TokenUser, count: usize) -> Vec<Duration> {
    let mut connection = Connection::open(user.address);
    let request = user.sign(Request::new("POST", CHAT)).json(&chat("gpt-a"));
    let mut taken: Vec<Duration> = (0..count)
        .map(|_| {
            let answer = connection.exchange(&request);
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.elapsed
        })
        .collect();
    taken.sort();
    taken
}

#[test]
fn a_client_that_leaves_at_any_byte_leaves_nothing_behind() {
    let provider = Provider::start();
    let mut edge = TestEdge::start(&provider);
    let user = edge.token(json!({"limits": {"concurrency": 5}}));
    latencies(&user, 3);
    let descriptors = edge.descriptors();
    let mut body = chat("gpt-a");
    body["stream"] = json!(true);
    let request = user.sign(Request::new("POST", CHAT)).json(&body);
    let mut bytes = request.head(user.address);
    bytes.extend_from_slice(body.to_string().as_bytes());
    // inside the request, at every byte
    for length in (0..bytes.len()).step_by(if is_long_run() { 1 } else { 7 }) {
        let mut connection = Connection::open(user.address);
        connection.send_raw(&bytes[..length]).expect("sent");
    }
    // inside the answer, after so many bytes of it
    provider.always(Reply::events(&crate::provider::chat_chunks("gpt-a")).every(Duration::from_millis(3)));
    for length in (0..1500).step_by(if is_long_run() { 10 } else { 100 }) {
        let mut connection = Connection::open(user.address);
        connection.send_raw(&bytes).expect("sent");
        connection.read_raw(length);
    }
    assert_all_comes_back(&edge, &provider, descriptors);
    provider.forget_scripts();
    latencies(&user, 5);
    assert!(edge.is_running());
}

#[test]
fn clients_that_do_not_read_hold_little_and_free_it() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    latencies(&user, 3);
    let (before, descriptors) = (edge.resident_kib(), edge.descriptors());
    // 30 MiB each, of which nobody reads more than the head
    let block = format!("data: {}", "x".repeat(64 * 1024));
    provider.always(Reply::events(&vec![block; 480]));
    let mut body = chat("gpt-a");
    body["stream"] = json!(true);
    let count = if is_long_run() { 200 } else { 20 };
    let held: Vec<Connection> = (0..count)
        .map(|_| {
            let mut connection = Connection::open(user.address);
            connection.send(&user.sign(Request::new("POST", CHAT)).json(&body));
            assert_eq!(connection.read_head().expect("a head").0, 200);
            connection
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let grown = edge.resident_kib().saturating_sub(before);
    assert!(grown < 1024 * count, "{grown} KiB for {count} clients");
    drop(held);
    assert_all_comes_back(&edge, &provider, descriptors);
}

#[test]
fn bodies_that_are_declared_and_never_sent_hold_no_memory_of_others() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"server": {"memory_budget": "8MiB", "max_inspected_size": "4MiB"}}))
        .start();
    let other = edge.token(json!({}));
    let declared: Vec<Connection> = (0..20)
        .map(|_| {
            let user = edge.token(json!({}));
            let mut connection = Connection::open(user.address);
            let head = format!(
                "POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 2000000\r\n\r\n{{",
                user.secret
            );
            connection.send_raw(head.as_bytes()).expect("sent");
            connection
        })
        .collect();
    thread::sleep(Duration::from_millis(100));
    let mut large = chat("gpt-a");
    large["user"] = json!("x".repeat(1_500_000));
    other.post(CHAT, large).expect(200);
    drop(declared);
}

#[test]
fn memory_of_bodies_is_bounded_for_all_and_for_each_token() {
    let provider = Provider::start();
    let gate = Gate::new();
    provider.always(Reply::json(200, &json!({})).head_behind(&gate));
    let edge = TestEdge::plan(&provider)
        .with(json!({"server": {"memory_budget": "8MiB", "max_inspected_size": "4MiB"}}))
        .start();
    let mut large = chat("gpt-a");
    large["user"] = json!("x".repeat(1_900_000));
    let greedy = edge.token(json!({}));
    let others: Vec<_> = (0..3).map(|_| edge.token(json!({}))).collect();
    thread::scope(|scope| {
        let held = scope.spawn(|| greedy.post(CHAT, large.clone()));
        provider.wait_for_requests(1);
        // a quarter of 8 MiB is one token's share
        let refused = greedy.post(CHAT, large.clone()).refused(503, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"));
        let held_too: Vec<_> = others
            .iter()
            .map(|user| scope.spawn(|| user.post(CHAT, large.clone())))
            .collect();
        provider.wait_for_requests(4);
        let late = edge.token(json!({}));
        late.post(CHAT, large.clone()).refused(503, "overloaded");
        gate.open();
        for request in held_too.into_iter().chain([held]) {
            request.join().expect("no panic").expect(200);
        }
    });
    greedy.post(CHAT, large).expect(200);
}

#[test]
fn slow_bodies_have_their_time_and_idle_connections_theirs() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"server": {"body_timeout": "500ms", "keepalive_timeout": "700ms"}}))
        .start();
    let user = edge.token(json!({}));
    let text = chat("gpt-a").to_string();
    let open = || {
        let mut connection = Connection::open(user.address);
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            user.secret,
            text.len()
        );
        connection.send_raw(head.as_bytes()).expect("sent");
        connection
    };
    // every byte in time: slow is not silent
    let mut slow = open();
    for piece in text.as_bytes().chunks(text.len() / 4 + 1) {
        thread::sleep(Duration::from_millis(250));
        slow.send_raw(piece).expect("sent");
    }
    assert_eq!(
        slow.read_answer("POST", Instant::now())
            .expect("an answer")
            .status,
        200
    );
    // silent
    let mut silent = open();
    silent.send_raw(&text.as_bytes()[..5]).expect("sent");
    let from = Instant::now();
    silent
        .read_answer("POST", from)
        .expect("an answer")
        .refused(408, "body_timeout");
    assert!(
        from.elapsed() < Duration::from_millis(1500),
        "{:?}",
        from.elapsed()
    );
    // idle between two requests
    let mut idle = Connection::open(user.address);
    assert_eq!(idle.exchange(&Request::new("GET", "/health")).status, 200);
    let from = Instant::now();
    assert!(idle.is_closed_within(Duration::from_secs(3)));
    assert!(
        from.elapsed() > Duration::from_millis(600),
        "{:?}",
        from.elapsed()
    );
}

#[test]
fn connections_above_the_limit_are_told_and_health_still_answers() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"server": {"max_connections": 20}}))
        .start();
    let user = edge.token(json!({}));
    let mut held: Vec<Connection> = (0..20).map(|_| Connection::open(edge.proxy)).collect();
    for connection in &mut held {
        assert_eq!(connection.exchange(&Request::new("GET", "/health")).status, 200);
    }
    let refused = user.chat("gpt-a").refused(503, "overloaded");
    assert!(refused.header("retry-after").is_some());
    edge.anonymous().get("/health").expect(200);
    edge.admin().get("/manage/projects").expect(200);
    drop(held);
    assert!(wait_until(Duration::from_secs(5), || user
        .try_send(Request::new("POST", CHAT).json(&chat("gpt-a")))
        .is_some_and(|answer| answer.status == 200)));
}

/// Figures of the run, for `docs/operations.md`; shown with `--no-capture`.
fn note(figures: &Value) {
    if is_long_run() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{figures}");
    }
}

#[test]
fn idle_and_half_open_connections_stand_beside_normal_traffic() {
    let (idle_count, slow_count) = if is_long_run() { (5000, 1000) } else { (400, 100) };
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"server": {"header_timeout": "60s", "keepalive_timeout": "120s"}, "logging": {"level": "info"}}))
        .start();
    let user = edge.token(json!({}));
    let alone = latencies(&user, 300);
    let (memory, descriptors) = (edge.resident_kib(), edge.descriptors());
    let mut idle: Vec<Connection> = (0..idle_count).map(|_| Connection::open(edge.proxy)).collect();
    for connection in idle.iter_mut().step_by(10) {
        assert_eq!(connection.exchange(&Request::new("GET", "/health")).status, 200);
    }
    let half = format!("POST {CHAT} HTTP/1.1\r\nHost: a\r\nX: ");
    let mut slow: Vec<Connection> = (0..slow_count).map(|_| Connection::open(edge.proxy)).collect();
    for connection in &mut slow {
        connection.send_raw(half.as_bytes()).expect("sent");
    }
    let crowded = latencies(&user, 300);
    for connection in &mut slow {
        connection.send_raw(b"x").expect("sent");
    }
    let held = edge.resident_kib().saturating_sub(memory);
    assert!(edge.descriptors() + 10 >= descriptors + idle_count + slow_count);
    assert!(
        held < 16 * (idle_count + slow_count) as u64,
        "{held} KiB for {} connections",
        idle_count + slow_count
    );
    drop((idle, slow));
    assert_all_comes_back(&edge, &provider, descriptors);
    // the allocator gives pages back some seconds after their last use
    let back = wait_until(Duration::from_secs(40), || {
        latencies(&user, 1);
        thread::sleep(Duration::from_millis(100));
        edge.resident_kib().saturating_sub(memory) < 8 * 1024
    });
    let after = edge.resident_kib().saturating_sub(memory);
    assert!(back, "{after} KiB more than before");
    note(&json!({
        "idle": idle_count, "half_open": slow_count, "kib_held": held, "kib_after": after,
        "p50_us": [alone[150].as_micros() as u64, crowded[150].as_micros() as u64],
        "p99_us": [alone[297].as_micros() as u64, crowded[297].as_micros() as u64],
    }));
}

#[test]
fn a_tenant_with_stuck_streams_and_large_bodies_does_not_move_another() {
    let provider = Provider::start();
    let gate = Gate::new();
    provider.on_model(
        "stuck",
        Reply::events(&["data: {}", "data: [DONE]"]).piece_behind(1, &gate),
    );
    let edge = TestEdge::plan(&provider)
        .with(json!({"logging": {"level": "info"}}))
        .start();
    let (loud, quiet) = (edge.token(json!({})), edge.token(json!({})));
    let alone = latencies(&quiet, 300);
    let mut stuck = chat("stuck");
    stuck["stream"] = json!(true);
    let held: Vec<Connection> = (0..200)
        .map(|_| {
            let mut connection = Connection::open(loud.address);
            connection.send(&loud.sign(Request::new("POST", CHAT)).json(&stuck));
            assert_eq!(connection.read_head().expect("a head").0, 200);
            connection
        })
        .collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let crowded = thread::scope(|scope| {
        let mut large = chat("gpt-a");
        large["user"] = json!("x".repeat(10 << 20));
        let (loud, stop) = (&loud, &stop);
        scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                loud.post(CHAT, large.clone()).expect(200);
            }
        });
        let crowded = latencies(&quiet, 300);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        crowded
    });
    // no figure is asserted but one that means starvation
    assert!(crowded[297] < Duration::from_secs(1), "{:?}", crowded[297]);
    note(&json!({
        "p50_us": [alone[150].as_micros() as u64, crowded[150].as_micros() as u64],
        "p99_us": [alone[297].as_micros() as u64, crowded[297].as_micros() as u64],
    }));
    gate.open();
    drop(held);
    provider.wait_until_idle();
}
