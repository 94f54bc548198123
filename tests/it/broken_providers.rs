//! Providers that are broken: each with its code, in the client's dialect, in bounded time, and never half as whole.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Answer, Connection, End, Request, chat, message};
use crate::provider::{Deaf, Provider, Refusing, Reply, load_vocabulary};

/// Every limit short, one attempt.
fn impatient() -> Value {
    let timeouts = json!({"connect": "700ms", "response_header": "700ms"});
    json!({
        "server": {"stream_idle_timeout": "700ms", "request_timeout": "5s"},
        "router": {"retries": 0, "cooldown": {"failures": 1_000_000}},
        "providers": {"openai": {"timeouts": timeouts}, "anthropic": {"timeouts": timeouts}},
    })
}

/// What the client must see.
#[derive(Clone, Copy)]
enum Sees {
    /// A refusal with this status and code.
    Refused(u16, &'static str),
    /// The provider's answer, whole, with this status.
    Whole(u16),
    /// A beginning that is seen to be cut.
    Cut,
}

const PROTOCOL: Sees = Sees::Refused(502, "upstream_protocol_error");

fn raw(text: &str) -> Reply {
    Reply::raw(text.as_bytes().to_vec())
}

/// An error object of either dialect that is not about our key, of so many bytes and more.
fn forbidden(bytes: usize) -> Reply {
    let error = json!({"type": "permission_error", "code": "region", "message": "x".repeat(bytes)});
    Reply::json(403, &json!({"type": "error", "error": error}))
}

#[rustfmt::skip]
fn rows() -> Vec<(&'static str, Reply, Sees)> {
    let ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let hanging = |head: &str| Reply::raw(head.as_bytes().to_vec()).then_hang();
    vec![
        // before the head
        ("closes without an answer", Reply::close(), PROTOCOL),
        ("resets without an answer", Reply::reset(), PROTOCOL),
        ("hangs before the head", Reply::hang(), Sees::Refused(504, "first_byte_timeout")),
        ("hangs inside the head", hanging("HTTP/1.1 200 OK\r\nContent-"), Sees::Refused(504, "first_byte_timeout")),
        ("closes inside the head", raw("HTTP/1.1 200 OK\r\nContent-"), PROTOCOL),
        ("speaks SSH", raw("SSH-2.0-OpenSSH_9.2\r\n"), PROTOCOL),
        ("speaks SMTP", raw("220 mail ESMTP\r\n250 ok\r\n\r\n"), PROTOCOL),
        ("speaks TLS", raw("\u{15}\u{3}\u{1}\0\u{2}\u{2}\u{46}"), PROTOCOL),
        ("a status that is no number", raw("HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"), PROTOCOL),
        ("a status of four digits", raw("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"), PROTOCOL),
        ("a NUL in the head", raw("HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"), PROTOCOL),
        ("two lengths", raw(&format!("{ok}Content-Length: 2\r\nContent-Length: 7\r\n\r\n{{}}")), PROTOCOL),
        ("a length that is no number", raw(&format!("{ok}Content-Length: two\r\n\r\n{{}}")), PROTOCOL),
        ("a negative length", raw(&format!("{ok}Content-Length: -2\r\n\r\n{{}}")), PROTOCOL),
        ("10,000 fields", raw(&format!("{ok}{}Content-Length: 2\r\n\r\n{{}}", "X: y\r\n".repeat(10_000))), PROTOCOL),
        ("a field of 10 MiB", raw(&format!("{ok}X: {}\r\nContent-Length: 2\r\n\r\n{{}}", "y".repeat(10 << 20))), PROTOCOL),
        ("1xx without end", raw(&"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(2000)), PROTOCOL),
        ("101 to no handshake", raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello"), PROTOCOL),
        // whole, if odd
        ("a few 1xx before the head", raw(&format!("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{ok}Content-Length: 2\r\n\r\n{{}}")), Sees::Whole(200)),
        ("HTML with 200", Reply::status(200).header("Content-Type", "text/html").body("<html>hello</html>"), Sees::Whole(200)),
        ("HTML with 418", Reply::status(418).header("Content-Type", "text/html").body("<html>hello</html>"), Sees::Whole(418)),
        ("204", Reply::status(204), Sees::Whole(204)),
        ("304", Reply::status(304), Sees::Whole(304)),
        ("an empty 200", Reply::status(200), Sees::Whole(200)),
        ("a redirect, which is not followed", Reply::status(302).header("Location", "http://127.0.0.1:1/"), Sees::Whole(302)),
        ("gzip nobody asked for", Reply::status(200).header("Content-Encoding", "gzip").body([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec()), Sees::Whole(200)),
        ("a length behind white space", raw(&format!("{ok}Content-Length:  \t2 \r\n\r\n{{}}")), Sees::Whole(200)),
        ("more than its length", raw(&format!("{ok}Content-Length: 2\r\n\r\n{{}}HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\n\r\n")), Sees::Whole(200)),
        ("a body until the close", Reply::json(200, &json!({"a": 1})).until_close(), Sees::Whole(200)),
        ("an answer of HTTP/1.0", raw("HTTP/1.0 200 OK\r\n\r\n{}"), Sees::Whole(200)),
        ("a trickle", Reply::status(200).pieces((0..20).map(|_| b"x".to_vec()).collect()).every(Duration::from_millis(100)), Sees::Whole(200)),
        ("30 MiB", Reply::status(200).body(vec![b'x'; 30 << 20]), Sees::Whole(200)),
        ("30 MiB in chunks", Reply::status(200).pieces(vec![vec![b'x'; 1 << 20]; 30]).chunked(), Sees::Whole(200)),
        ("a 403 of 200 KiB", forbidden(200 << 10), Sees::Whole(403)),
        // nothing was shown yet
        ("closes behind the head", raw(&format!("{ok}Content-Length: 10\r\n\r\n")), PROTOCOL),
        ("hangs behind the head", hanging(&format!("{ok}Content-Length: 10\r\n\r\n")), Sees::Refused(504, "idle_timeout")),
        ("a first chunk that is none", raw(&format!("{ok}Transfer-Encoding: chunked\r\n\r\nzz\r\n")), PROTOCOL),
        // cut
        ("a 403 that is cut", forbidden(1000).cut_at_byte(500), Sees::Refused(502, "upstream_auth_error")),
        ("shorter than its length", raw(&format!("{ok}Content-Length: 10\r\n\r\n{{}}")), Sees::Cut),
        ("falls silent in its body", Reply::status(200).pieces(vec![b"{".to_vec(), b"}".to_vec()]).hang_after(1), Sees::Cut),
        ("closes between chunks", Reply::status(200).pieces(vec![b"{".to_vec(), b"}".to_vec()]).chunked().every(Duration::from_millis(50)).cut_after(1), Sees::Cut),
        ("closes inside a chunk", raw(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n10\r\nhalf")), Sees::Cut),
        ("resets inside its body", Reply::status(200).pieces(vec![vec![b'x'; 1000], vec![b'x'; 1000]]).every(Duration::from_millis(50)).reset_after(1), Sees::Cut),
        ("nonsense between chunks", raw(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\nnonsense\r\n")), Sees::Cut),
        ("a last chunk without its end", raw(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n")), Sees::Cut),
    ]
}

fn ask(user: &TokenUser, anthropic: bool) -> Option<Answer> {
    let request = if anthropic {
        Request::new("POST", "/v1/messages")
            .header("anthropic-version", "2023-06-01")
            .json(&message("claude-a"))
    } else {
        Request::new("POST", "/v1/chat/completions").json(&chat("gpt-a"))
    };
    let mut connection = Connection::open(user.address);
    let from = Instant::now();
    connection.send(&user.sign(request));
    connection.read_answer("POST", from)
}

fn judge(seen: Option<Answer>, sees: Sees, anthropic: bool) -> Result<(), String> {
    let Some(answer) = seen else {
        return Err("no answer at all".to_owned());
    };
    let said = format!(
        "{} {} {:?} {}",
        answer.status,
        answer.code(),
        answer.end,
        answer.text().chars().take(200).collect::<String>()
    );
    if answer.elapsed > Duration::from_secs(4) {
        return Err(format!("took {:?}: {said}", answer.elapsed));
    }
    let good = match sees {
        Sees::Refused(status, code) => {
            let error = answer.json();
            let dialect = if anthropic {
                error["type"] == "error" && error["error"]["type"] == "api_error"
                    || error["error"]["type"] == "timeout_error"
            } else {
                error["error"]["code"] == code
            };
            answer.status == status
                && answer.code() == code
                && answer.end.is_whole()
                && dialect
                && answer.header("x-llm-proxy-origin") == Some("proxy")
        }
        Sees::Whole(status) => {
            answer.status == status
                && answer.end.is_whole()
                && answer.header("x-llm-proxy-origin") == Some("upstream")
        }
        Sees::Cut => answer.end == End::Cut && answer.status == 200,
    };
    if good { Ok(()) } else { Err(said) }
}

#[test]
fn each_has_its_code_in_both_dialects_and_in_bounded_time() {
    let provider = Provider::start();
    let mut edge = TestEdge::plan(&provider).with(impatient()).start();
    let user = edge.token(json!({}));
    load_vocabulary(&provider, &user);
    let before = edge.resident_kib();
    let mut wrong = Vec::new();
    for anthropic in [false, true] {
        for (name, reply, sees) in rows() {
            provider.next(reply);
            if let Err(why) = judge(ask(&user, anthropic), sees, anthropic) {
                wrong.push(format!("{name}: {why}"));
            }
            // whatever it left behind is nobody else's answer
            provider.forget_scripts();
            // a close that is on its way while the connection is kept is an attempt, and there is one alone
            std::thread::sleep(Duration::from_millis(20));
            let next = ask(&user, anthropic).expect("an answer");
            if next.status != 200 || !next.text().contains("hello from the provider") {
                wrong.push(format!(
                    "{name}: the next answer is {} {}",
                    next.status,
                    next.text()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edge.is_running());
    let grown = edge.resident_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB more");
}

/// A server that answers 400 to whatever comes first, as servers without TLS do to a greeting.
fn speaks_plainly() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    format!("http://{address}")
}

#[test]
fn who_is_not_there_has_a_code_too() {
    let provider = Provider::start();
    let refusing = Refusing::start();
    let deaf = Deaf::start();
    let plain = speaks_plainly();
    for (url, status, code) in [
        (refusing.url(), 502, "upstream_unreachable"),
        (deaf.url(), 504, "connect_timeout"),
        ("http://name.invalid".to_owned(), 502, "upstream_unreachable"),
        // TLS is expected, and something else is spoken
        (plain.replace("http://", "https://"), 502, "upstream_unreachable"),
    ] {
        let edge = TestEdge::plan(&provider)
            .with(impatient())
            .with(json!({"providers": {"openai": {"base_url": url}, "anthropic": {"base_url": url}}}))
            .start();
        let user = edge.token(json!({}));
        for anthropic in [false, true] {
            if let Err(why) = judge(ask(&user, anthropic), Sees::Refused(status, code), anthropic) {
                panic!("{url}: {why}");
            }
        }
    }
}

#[test]
fn a_head_is_answered_without_a_body_whatever_the_provider_sends() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"providers": {"openai": "sk-own"}})),
        json!({}),
    );
    provider.on_path(
        "/v1/files",
        Reply::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
    );
    let mut connection = Connection::open(user.address);
    let answer = connection.exchange(&user.sign(Request::new("HEAD", "/v1/files")));
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    assert!(answer.body.is_empty());
    assert_eq!(connection.exchange(&Request::new("GET", "/health")).status, 200);
}
