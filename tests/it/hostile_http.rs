//! HTTP as it is sent, not as it should be: one row each, on the real program. Whatever comes, the provider sees only what
//! was asked for with a token, a kept connection stays in step, and the program lives.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::edge::TestEdge;
use crate::http::{Connection, chat};
use crate::provider::Provider;

const JSON: &str = r#"{"model":"gpt-a","messages":[]}"#;
/// A request that must never be seen as one, wherever it stands.
const SMUGGLED: &str =
    "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nX-Smuggled: 1\r\nContent-Length: 0\r\n\r\n";

/// Status and code, one after another.
type Answers = &'static [(u16, &'static str)];

struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    /// Status and code of each answer, in order.
    answers: Answers,
    /// Whether the connection is closed behind the last answer.
    closes: bool,
}

/// `{T}` stands for the token, `{B}` for a good body, `{L}` for its length.
fn row(name: &'static str, bytes: &str, answers: Answers, closes: bool, secret: &str) -> Row {
    let bytes = bytes
        .replace("{T}", &format!("Authorization: Bearer {secret}\r\n"))
        .replace("{B}", JSON)
        .replace("{L}", &JSON.len().to_string());
    Row {
        name,
        bytes: bytes.into_bytes(),
        answers,
        closes,
    }
}

const OK: (u16, &str) = (200, "");
const MALFORMED: (u16, &str) = (400, "malformed_request");
const POST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{T}";

#[rustfmt::skip]
#[expect(clippy::too_many_lines, reason = "a table")]
fn rows(secret: &str) -> Vec<Row> {
    let post = |fields: &str, body: &str| format!("{POST}{fields}\r\n{body}");
    let chunked = format!("{:x}\r\n{JSON}\r\n0\r\n\r\n", JSON.len());
    let table: Vec<(&'static str, String, Answers, bool)> = vec![
        // framing
        ("length and chunked", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{SMUGGLED}")), &[MALFORMED], true),
        ("chunked and length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &format!("0\r\n\r\n{SMUGGLED}")), &[MALFORMED], true),
        ("two lengths", post("Content-Length: {L}\r\nContent-Length: 0\r\n", &format!("{{B}}{SMUGGLED}")), &[MALFORMED], true),
        ("two equal lengths", post("Content-Length: {L}\r\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("length list", post("Content-Length: {L}, {L}\r\n", "{B}"), &[MALFORMED], true),
        ("length with sign", post("Content-Length: +{L}\r\n", "{B}"), &[MALFORMED], true),
        ("length negative", post("Content-Length: -1\r\n", SMUGGLED), &[MALFORMED], true),
        ("length in hex", post("Content-Length: 0x10\r\n", "{B}"), &[MALFORMED], true),
        ("length empty", post("Content-Length:\r\n", SMUGGLED), &[MALFORMED], true),
        ("length overflows", post("Content-Length: 18446744073709551617\r\n", "{B}"), &[MALFORMED], true),
        ("length fractional", post("Content-Length: 1.5\r\n", "{B}"), &[MALFORMED], true),
        ("length of a terabyte", post("Content-Length: 1000000000000\r\n", ""), &[(413, "request_too_large")], true),
        ("coding unknown", post("Transfer-Encoding: gzip\r\n", "x"), &[MALFORMED], true),
        ("coding hidden by case and space", post("Transfer-Encoding:\t chunKED \r\n", &chunked), &[OK], false),
        ("coding twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &chunked), &[MALFORMED], true),
        ("coding with identity", post("Transfer-Encoding: identity, chunked\r\n", &chunked), &[MALFORMED], true),
        ("coding misspelt", post("Transfer-Encoding: xchunked\r\n", &chunked), &[MALFORMED], true),
        ("coding in quotes", post("Transfer-Encoding: \"chunked\"\r\n", &chunked), &[MALFORMED], true),
        ("coding behind a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", &chunked), &[MALFORMED], true),
        ("coding with a space before the colon", post("Transfer-Encoding : chunked\r\n", &chunked), &[MALFORMED], true),
        ("chunked in HTTP/1.0", format!("POST /v1/chat/completions HTTP/1.0\r\nHost: a\r\n{{T}}Transfer-Encoding: chunked\r\n\r\n{chunked}"), &[MALFORMED], true),
        // chunks
        ("chunks with extensions", post("Transfer-Encoding: chunked\r\n", &format!("{:x};a=b;c=\"d\"\r\n{JSON}\r\n0;x\r\n\r\n", JSON.len())), &[OK], false),
        ("chunks with trailers", post("Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{JSON}\r\n0\r\nX-Trailer: 1\r\nAuthorization: Bearer x\r\n\r\n", JSON.len())), &[OK], false),
        ("chunk size is no number", post("Transfer-Encoding: chunked\r\n", &format!("zz\r\n{JSON}\r\n0\r\n\r\n{SMUGGLED}")), &[MALFORMED], true),
        ("chunk size overflows", post("Transfer-Encoding: chunked\r\n", &format!("fffffffffffffffff\r\n{JSON}\r\n0\r\n\r\n")), &[MALFORMED], true),
        ("chunk size negative", post("Transfer-Encoding: chunked\r\n", &format!("-1\r\n{JSON}\r\n0\r\n\r\n")), &[MALFORMED], true),
        ("chunk size with prefix", post("Transfer-Encoding: chunked\r\n", &format!("0x1f\r\n{JSON}\r\n0\r\n\r\n")), &[MALFORMED], true),
        ("chunk longer than said", post("Transfer-Encoding: chunked\r\n", &format!("5\r\n{JSON}\r\n0\r\n\r\n{SMUGGLED}")), &[MALFORMED], true),
        ("chunk lines end in LF", post("Transfer-Encoding: chunked\r\n", &format!("{:x}\n{JSON}\n0\n\n{SMUGGLED}", JSON.len())), &[MALFORMED], true),
        // fields
        ("folded field", post("X-Folded: a\r\n b\r\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("folded framing", post("Transfer-Encoding:\r\n chunked\r\n", &chunked), &[MALFORMED], true),
        ("first field folded", "GET /v1/models HTTP/1.1\r\n X: y\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("NUL in a value", post("X: a\0b\r\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("NUL in a name", post("X\0: b\r\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("CR in a value", post("X: a\rX-Smuggled: 1\r\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("LF alone ends a line", post("X: a\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("no name", post(": x\r\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("no colon", post("nothing\r\nContent-Length: {L}\r\n", "{B}"), &[MALFORMED], true),
        ("bytes above ASCII in a value", post("X: \u{fc}\u{2603}\r\nContent-Length: {L}\r\n", "{B}"), &[OK], false),
        ("tab around a value", post("X:\t a\t \r\nContent-Length:\t{L}\t\r\n", "{B}"), &[OK], false),
        // request line and Host
        ("no Host", "GET /v1/models HTTP/1.1\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("two Hosts", "GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("Host with a path", "GET /v1/models HTTP/1.1\r\nHost: a/b\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("Host empty", "GET /v1/models HTTP/1.1\r\nHost:\r\n{T}\r\n".into(), &[OK], false),
        ("absolute form", "GET http://a/v1/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[OK], false),
        ("absolute form of another host", "GET http://b/v1/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("asterisk", "GET * HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("asterisk of OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(204, "")], false),
        ("fragment", "GET /v1/models#x HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("authority form", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(405, "method_not_allowed")], true),
        ("version too new", "GET /v1/models HTTP/1.9\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("version of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[MALFORMED], true),
        ("HTTP/0.9", "GET /v1/models\r\n\r\n".into(), &[MALFORMED], true),
        ("HTTP/1.0", "GET /v1/models HTTP/1.0\r\n{T}\r\n".into(), &[OK], true),
        ("HTTP/1.0 kept", "GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n{T}\r\n".into(), &[OK], false),
        ("two spaces", "GET  /v1/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("tab for a space", "GET\t/v1/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("space in the path", "GET /v1/mo dels HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        ("empty lines before a request", "\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[OK], false),
        ("TLS on the plain port", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".into(), &[MALFORMED], true),
        // methods
        ("junk method", "FROBNICATE /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(405, "method_not_allowed")], false),
        ("method in lower case", "post /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{T}Content-Length: {L}\r\n\r\n{B}".into(), &[(405, "method_not_allowed")], true),
        ("TRACE", "TRACE /v1/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(405, "method_not_allowed")], false),
        ("method with a bracket", "G[T /v1/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[MALFORMED], true),
        // paths
        ("dot segments", "GET /v1/./models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("parent segments", "GET /v1/files/../models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("encoded parent segments", "GET /v1/files/%2e%2e/models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("encoded slash", "GET /v1%2fmodels HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("double slash", "GET /v1//models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("encoded letter", "GET /v1/model%73 HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("broken escape", "GET /v1/models/%zz HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("encoded NUL", "GET /v1/models%00 HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("backslash", "GET /v1\\models HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        ("own path by another name", "GET /%6danage/projects HTTP/1.1\r\nHost: a\r\n{T}\r\n".into(), &[(404, "endpoint_not_found")], false),
        // bodies
        ("longer than declared", format!("{POST}Content-Length: {{L}}\r\n\r\n{{B}}GARBAGE\r\n\r\n"), &[OK, MALFORMED], true),
        ("a GET with a body", "GET /v1/models HTTP/1.1\r\nHost: a\r\n{T}Content-Length: 5\r\n\r\nhello".into(), &[OK], true),
        ("an empty body", format!("{POST}Content-Length: 0\r\n\r\n"), &[(400, "invalid_json")], false),
        ("no body", format!("{POST}\r\n"), &[(400, "invalid_json")], false),
        ("an upgrade nobody offers", format!("{POST}Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {{L}}\r\n\r\n{{B}}"), &[OK], false),
        ("an expectation nobody knows", format!("{POST}Expect: a-miracle\r\nContent-Length: {{L}}\r\n\r\n{{B}}"), &[OK], false),
        // pipelining
        ("three at once", format!("{POST}Content-Length: {{L}}\r\n\r\n{{B}}GET /health HTTP/1.1\r\nHost: a\r\n\r\n{POST}Transfer-Encoding: chunked\r\n\r\n{chunked}"), &[OK, OK, OK], false),
        ("a refusal in the middle", format!("GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n{POST}Content-Length: {{L}}\r\n\r\n{{B}}"), &[OK, (404, "endpoint_not_found"), OK], false),
        ("a malformed one in the middle", format!("GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /x\r\n\r\n{SMUGGLED}"), &[OK, MALFORMED], true),
        ("a refused body is no request", format!("POST /nowhere HTTP/1.1\r\nHost: a\r\n{{T}}Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()), &[(404, "endpoint_not_found")], true),
        ("an unauthorised body is no request", format!("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()), &[(401, "invalid_token")], true),
    ];
    table
        .into_iter()
        .map(|(name, bytes, answers, closes)| row(name, &bytes, answers, closes, secret))
        .collect()
}

#[test]
fn each_oddity_is_answered_in_its_way_and_nothing_is_smuggled() {
    let provider = Provider::start();
    let mut edge = TestEdge::plan(&provider)
        .with(json!({"unknown_models": "reject", "models": {"gpt-a": {"targets": [{"provider": "openai", "model": "gpt-a"}]}}}))
        .start();
    let user = edge.token(json!({}));
    let mut wrong = Vec::new();
    for row in rows(&user.secret) {
        let mut connection = Connection::open(edge.proxy);
        // what is refused early may be closed while we still write
        let _ = connection.send_raw(&row.bytes);
        let mut seen = Vec::new();
        for _ in row.answers {
            match connection.read_answer("GET", Instant::now()) {
                Some(answer) => seen.push((answer.status, answer.code().to_owned())),
                None => break,
            }
        }
        let closes = connection.is_closed_within(Duration::from_millis(if row.closes { 3000 } else { 50 }));
        let expected: Vec<_> = row
            .answers
            .iter()
            .map(|(status, code)| (*status, (*code).to_owned()))
            .collect();
        if seen != expected || closes != row.closes {
            wrong.push(format!("{}: answered {seen:?}, closes {closes}", row.name));
            continue;
        }
        if !row.closes {
            // still in step
            let mut next = Connection::open(edge.proxy);
            let _ = next.send_raw(&row.bytes);
            for _ in row.answers {
                let _ = next.read_answer("GET", Instant::now());
            }
            let answer = next.exchange(
                &user
                    .sign(crate::http::Request::new("POST", "/v1/chat/completions"))
                    .json(&chat("gpt-a")),
            );
            if answer.status != 200 {
                wrong.push(format!(
                    "{}: the next request is answered {}",
                    row.name, answer.status
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for seen in provider.seen() {
        assert!(
            seen.header("x-smuggled").is_none() && seen.path() != "/v1/embeddings",
            "{}",
            seen.target
        );
        assert!(seen.header("x-trailer").is_none());
    }
    assert!(edge.is_running());
}

#[test]
fn heads_without_measure_are_refused_and_cost_nothing() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let before = edge.resident_kib();
    let head = |fields: String| format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for (name, bytes) in [
        (
            "64 KiB in one field",
            head(format!("X: {}\r\n", "x".repeat(64 * 1024))),
        ),
        (
            "10 MiB in one field",
            head(format!("X: {}\r\n", "x".repeat(10 << 20))),
        ),
        (
            "10 MiB of path",
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(10 << 20)),
        ),
        ("10,000 fields", head("X: y\r\n".repeat(10_000))),
        (
            "a name of 100 KiB",
            head(format!("{}: y\r\n", "x".repeat(100 * 1024))),
        ),
        (
            "a head without end",
            "GET / HTTP/1.1\r\n".to_owned() + &"X: y\r\n".repeat(1 << 20),
        ),
    ] {
        let mut connection = Connection::open(edge.proxy);
        // refused before its end: the rest may not be taken any more
        let _ = connection.send_raw(bytes.as_bytes());
        let answer = connection
            .read_answer("GET", Instant::now())
            .unwrap_or_else(|| panic!("{name}: no answer"));
        answer.refused(431, "header_too_large");
        assert!(connection.is_closed_within(Duration::from_secs(8)), "{name}");
    }
    let grown = edge.resident_kib().saturating_sub(before);
    assert!(grown < 30 * 1024, "{grown} KiB more");
    assert_eq!(provider.count(), 0);
}

#[test]
fn who_expects_a_continue_is_refused_before_the_body() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({"allowed_endpoints": ["/v1/chat/completions", "/v1/files"]}));
    for (path, secret, length, status, code) in [
        ("/nowhere", user.secret.as_str(), 10, 404, "endpoint_not_found"),
        (
            "/v1/chat/completions",
            "sk-nobody-knows-this-one",
            10,
            401,
            "token_not_found",
        ),
        ("/v1/embeddings", &user.secret, 10, 403, "endpoint_not_allowed"),
        ("/v1/files", &user.secret, 10, 403, "endpoint_not_allowed"),
        (
            "/v1/chat/completions",
            &user.secret,
            1_u64 << 50,
            413,
            "request_too_large",
        ),
    ] {
        let mut connection = Connection::open(edge.proxy);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        );
        connection.send_raw(head.as_bytes()).expect("sent");
        // nothing is sent until a 100 comes; it never does
        let first = connection.read_line().expect("an answer");
        assert!(first.contains(&status.to_string()), "{path}: {first}");
        let mut said = None;
        while let Some(line) = connection.read_line().filter(|line| !line.is_empty()) {
            let field = line
                .split_once(':')
                .filter(|(name, _)| name.eq_ignore_ascii_case("x-llm-proxy-error-code"));
            said = said.or(field.map(|(_, value)| value.trim().to_owned()));
        }
        assert_eq!(said.as_deref(), Some(code), "{path}");
        assert!(connection.is_closed_within(Duration::from_secs(8)), "{path}");
    }
    assert_eq!(provider.count(), 0);
}

#[test]
fn a_body_that_ends_early_is_nobodys_request() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let project = edge.project(json!({"providers": {"openai": "sk-own"}}));
    let user = edge.token_of(&project, json!({}));
    for (path, framing) in [
        ("/v1/chat/completions", "Content-Length: 1000"),
        ("/v1/chat/completions", "Transfer-Encoding: chunked"),
        ("/v1/files", "Content-Length: 1000"),
        ("/v1/files", "Transfer-Encoding: chunked"),
    ] {
        let mut connection = Connection::open(edge.proxy);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{framing}\r\n\r\n",
            user.secret
        );
        connection.send_raw(head.as_bytes()).expect("sent");
        connection
            .send_raw(b"20\r\n{\"model\":\"gpt-a\",\"messages\":[]}")
            .expect("sent");
        connection.half_close();
        let answer = connection.read_answer("POST", Instant::now());
        assert!(
            answer.is_none_or(|answer| answer.status >= 400),
            "{path} {framing}"
        );
    }
    // what was streamed on was not whole either, and the provider can tell
    std::thread::sleep(Duration::from_millis(200));
    assert!(provider.seen().iter().all(|seen| !seen.body_whole));
    user.chat("gpt-a").expect(200);
}
