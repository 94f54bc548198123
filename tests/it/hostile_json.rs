//! JSON as it is sent: what is refused, and what passes byte for byte to a provider that may read it as it likes. No rule
//! has a way around it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::edge::TestEdge;
use crate::http::Request;
use crate::provider::Provider;

const CHAT: &str = "/v1/chat/completions";

/// A body around `inside`, with the model that the token may ask for.
fn with(inside: &str) -> Vec<u8> {
    format!("{{\"model\":\"gpt-a\",{inside}\"messages\":[]}}").into_bytes()
}

fn nested(open: &str, close: &str, depth: usize) -> Vec<u8> {
    with(&format!(
        "\"deep\":{}1{},",
        open.repeat(depth),
        close.repeat(depth)
    ))
}

/// What is sent, and the status and code it gets.
#[rustfmt::skip]
fn rows() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let mut invalid_utf8 = with("\"x\":\"");
    invalid_utf8.truncate(invalid_utf8.len() - 14);
    invalid_utf8.extend_from_slice(b"\xff\xfe\",\"messages\":[]}");
    let mut padded = vec![b' '; 8 << 20];
    padded.extend_from_slice(&with(""));
    padded.resize(padded.len() + (1 << 20), b'\n');
    vec![
        // passes, byte for byte
        ("plain", with(""), 200, ""),
        ("megabytes of white space", padded, 200, ""),
        ("a huge integer", with(&format!("\"n_far\":{},", "9".repeat(100_000))), 200, ""),
        ("a huge exponent", with("\"temperature\":1e999999,"), 200, ""),
        ("escapes in a read name", br#"{"\u006dodel":"gpt-a","messages":[]}"#.to_vec(), 200, ""),
        ("escapes in the model", br#"{"model":"gpt\u002da","messages":[]}"#.to_vec(), 200, ""),
        ("lone surrogates in a text", with(r#""x":"\ud800","#), 200, ""),
        ("a NUL escape in a text", with(r#""x":"\u0000","#), 200, ""),
        ("a member of another object named model", with(r#""tools":[{"model":"gpt-b"}],"#), 200, ""),
        ("an unread name twice", with("\"user\":\"a\",\"user\":\"b\","), 200, ""),
        ("nested as deep as is allowed", nested("[", "]", 100), 200, ""),
        ("numbers of every form", with("\"x\":[0,-0,1.5e+3,-1E-2],"), 200, ""),
        // refused
        ("100,000 arrays", nested("[", "]", 100_000), 400, "invalid_json"),
        ("100,000 objects", nested("{\"a\":", "}", 100_000), 400, "invalid_json"),
        ("100,000 arrays that never end", with(&format!("\"deep\":{}", "[".repeat(100_000))), 400, "invalid_json"),
        ("invalid UTF-8", invalid_utf8, 400, "invalid_json"),
        ("overlong UTF-8", with("\"x\":\"\u{0}").into_iter().chain(*b"\xc0\xaf\"}").collect(), 400, "invalid_json"),
        ("a byte order mark", [b"\xef\xbb\xbf".to_vec(), with("")].concat(), 400, "invalid_json"),
        ("UTF-16", "{\"model\":\"gpt-a\"}"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect(), 400, "invalid_json"),
        ("the model twice", br#"{"model":"gpt-a","model":"gpt-b","messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("the model twice, once escaped", br#"{"model":"gpt-a","mode\u006c":"gpt-b","messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("stream twice", with("\"stream\":true,\"stream\":false,"), 400, "invalid_json"),
        ("a token limit twice", with("\"max_tokens\":1,\"max_tokens\":2,"), 400, "invalid_json"),
        ("a number as model", br#"{"model":1,"messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("null as model", br#"{"model":null,"messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("a list as model", br#"{"model":["gpt-a"],"messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("an object as model", br#"{"model":{"a":"gpt-a"},"messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("no model", br#"{"messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("an empty model", br#"{"model":"","messages":[]}"#.to_vec(), 403, "model_not_allowed"),
        ("another model", br#"{"model":"gpt-b","messages":[]}"#.to_vec(), 403, "model_not_allowed"),
        ("the model with a trailing NUL", br#"{"model":"gpt-a\u0000","messages":[]}"#.to_vec(), 403, "model_not_allowed"),
        ("a lone surrogate as model", br#"{"model":"\ud800","messages":[]}"#.to_vec(), 400, "invalid_json"),
        ("a model of a megabyte", format!("{{\"model\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes(), 400, "invalid_json"),
        ("a text as stream", with("\"stream\":\"yes\","), 400, "invalid_json"),
        ("a comment", with("/* x */"), 400, "invalid_json"),
        ("a trailing comma", br#"{"model":"gpt-a",}"#.to_vec(), 400, "invalid_json"),
        ("single quotes", b"{'model':'gpt-a'}".to_vec(), 400, "invalid_json"),
        ("two values", [with(""), with("")].concat(), 400, "invalid_json"),
        ("text behind it", [with(""), b"x".to_vec()].concat(), 400, "invalid_json"),
        ("a list", b"[]".to_vec(), 400, "invalid_json"),
        ("a text", b"\"gpt-a\"".to_vec(), 400, "invalid_json"),
        ("NaN", with("\"temperature\":NaN,"), 400, "invalid_json"),
        ("a leading zero", with("\"x\":01,"), 400, "invalid_json"),
        ("a raw line end in a text", with("\"x\":\"a\nb\","), 400, "invalid_json"),
        ("an unknown escape", with(r#""x":"\q","#), 400, "invalid_json"),
        ("a form feed between", with("\u{c}"), 400, "invalid_json"),
        ("cut in a text", br#"{"model":"gpt"#.to_vec(), 400, "invalid_json"),
        ("nothing but white space", vec![b' '; 1 << 20], 400, "invalid_json"),
    ]
}

#[test]
fn what_can_be_read_in_one_way_alone_passes_untouched_and_everything_else_is_refused() {
    let provider = Provider::start();
    let mut edge = TestEdge::start(&provider);
    // a list of models: nothing may pass that hides its model
    let user = edge.token(json!({"allowed_models": ["gpt-a"]}));
    let before = edge.resident_kib();
    let mut wrong = Vec::new();
    for (name, body, status, code) in rows() {
        let seen = provider.count();
        let from = Instant::now();
        let answer = user.send(Request::new("POST", CHAT).bytes(body.clone()));
        if (answer.status, answer.code()) != (status, code) {
            wrong.push(format!(
                "{name}: {} {} {}",
                answer.status,
                answer.code(),
                answer.text()
            ));
            continue;
        }
        if from.elapsed() > Duration::from_secs(3) {
            wrong.push(format!("{name}: took {:?}", from.elapsed()));
        }
        match status {
            200 if provider.count() != seen + 1 || *provider.last().body != body => {
                wrong.push(format!("{name}: the provider got something else"));
            }
            200 => {}
            _ if provider.count() != seen => wrong.push(format!("{name}: reached the provider")),
            _ if answer.text().len() > 2048 => {
                wrong.push(format!("{name}: an answer of {} bytes", answer.text().len()));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edge.is_running());
    let grown = edge.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
}
