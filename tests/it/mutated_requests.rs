//! Random changes to good requests, byte by byte on the wire: no crash, no leak, and no request at the provider that the
//! token was not allowed to make. Ten minutes of it in `make test-long`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::edge::{OPENAI_KEY, TestEdge};
use crate::http::chat;
use crate::mutate::Mutator;
use crate::provider::{Provider, Seen, load_vocabulary};
use crate::wait::is_long_run;

const CHAT: &str = "/v1/chat/completions";
/// Requests a second.
const RATE: u64 = 200;

/// Sends bytes, ends the sending side, and reads what comes until the end.
fn exchange(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the program accepts");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a time-out");
    let mut answer = Vec::new();
    // what is refused early is not taken to its end
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.take(1 << 20).read_to_end(&mut answer);
    answer
}

/// Everything that may be wrong with a request that reached the provider.
fn wrong_with(seen: &Seen, secret: &str, sent_once: bool) -> Option<String> {
    let head = String::from_utf8_lossy(&seen.raw_head).into_owned();
    if seen.path() != CHAT {
        return Some(format!("the path {}", seen.target));
    }
    if (sent_once && head.contains(secret))
        || seen.header("authorization") != Some(&format!("Bearer {OPENAI_KEY}"))
    {
        return Some("a credential".to_owned());
    }
    if seen.headers.all("host").len() != 1 || seen.headers.all("content-length").len() > 1 {
        return Some("a head with two readings".to_owned());
    }
    if seen.body_whole {
        let Ok(body) = serde_json::from_slice::<Value>(&seen.body) else {
            // a lone surrogate passes; nobody reads it
            return (!String::from_utf8_lossy(&seen.body).contains("\\u"))
                .then(|| "a body that is no JSON".to_owned());
        };
        if body["model"] != "gpt-a" {
            return Some(format!("the model {}", body["model"]));
        }
    }
    None
}

/// Good requests of every kind.
fn seeds(secret: &str) -> Vec<Vec<u8>> {
    let text = chat("gpt-a").to_string();
    let length = text.len();
    let fields = format!("Host: a\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n");
    [
        format!("POST {CHAT} HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{text}"),
        format!("POST {CHAT} HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{text}\r\n0\r\n\r\n"),
        format!("GET /v1/models HTTP/1.1\r\n{fields}\r\nPOST {CHAT} HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{text}"),
        format!("POST /openai/deployments/gpt-a/chat/completions HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{text}"),
        format!("POST {CHAT} HTTP/1.1\r\n{fields}Cache-Control: public, max-age=60\r\nContent-Length: {length}\r\n\r\n{text}"),
        format!("GET /v1/realtime?model=gpt-a HTTP/1.1\r\n{fields}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"),
        format!("GET /manage/projects HTTP/1.1\r\n{fields}\r\n"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

#[test]
fn no_mutation_gets_past_a_rule_or_breaks_the_program() {
    let provider = Provider::start();
    let mut edge = TestEdge::plan(&provider)
        .with(json!({
            "server": {"header_timeout": "2s", "body_timeout": "2s"},
            "auth": {"failed_per_ip": 1_000_000},
            "cache": {"enabled": true},
            "logging": {"level": "info"},
        }))
        .start();
    let user = edge.token(json!({"allowed_models": ["gpt-a"], "allowed_endpoints": [CHAT]}));
    let seeds = seeds(&user.secret);
    for seed in &seeds {
        exchange(edge.proxy, seed);
    }
    load_vocabulary(&provider, &user);
    let (memory, descriptors) = (edge.resident_kib(), edge.descriptors());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let seed = clock.as_nanos() as u64;
    let mut mutator = Mutator::new(seed);
    let span = Duration::from_secs(if is_long_run() { 600 } else { 3 });
    let from = Instant::now();
    let (mut sent, mut looked_at) = (0_u64, 0);
    while from.elapsed() < span {
        let bytes = mutator.mutate(&seeds);
        // a mutation may put the token where it is no credential: then it is the client who tells it
        let sent_once = String::from_utf8_lossy(&bytes).matches(&user.secret).count() == 1;
        let answer = exchange(edge.proxy, &bytes);
        let first = answer.get(..12).unwrap_or(&answer);
        // a mutation may be a good request still; a server error would be ours
        let broken =
            first.starts_with(b"HTTP/1.1 500") || !(answer.is_empty() || answer.starts_with(b"HTTP/1."));
        assert!(
            !broken,
            "seed {seed}, request {sent}: {}\n{}",
            bytes.escape_ascii(),
            answer.escape_ascii()
        );
        let seen = provider.seen_since(looked_at);
        looked_at += seen.len();
        for seen in seen {
            let wrong = wrong_with(&seen, &user.secret, sent_once);
            assert!(
                wrong.is_none(),
                "seed {seed}, request {sent}: {wrong:?}\n{}",
                bytes.escape_ascii()
            );
        }
        sent += 1;
        let due = Duration::from_micros(sent * 1_000_000 / RATE);
        std::thread::sleep(due.saturating_sub(from.elapsed()));
    }
    assert!(edge.is_running());
    user.chat("gpt-a").expect(200);
    let text = edge.sidecar().get("/metrics/prometheus").expect(200).text();
    assert!(!edge.logs().contains("panicked"), "{}", edge.logs());
    assert!(
        text.lines().any(|line| line == "llm_proxy_panics_total 0"),
        "a request panicked"
    );
    let grown = edge.resident_kib().saturating_sub(memory);
    assert!(grown < 32 * 1024, "{grown} KiB more after {sent} requests");
    assert!(
        edge.descriptors() <= descriptors + 8,
        "{} descriptors, {descriptors} before",
        edge.descriptors()
    );
    if is_long_run() {
        let _ = writeln!(
            std::io::stderr(),
            "{sent} mutations in {:?}, {looked_at} reached the provider, {grown} KiB more",
            from.elapsed()
        );
    }
}
