//! Uploads that are streamed through, as clients really send them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::edge::TestEdge;
use crate::http::{Connection, Request};
use crate::provider::Provider;

#[test]
fn chunk_size_that_comes_without_its_bytes_does_not_end_the_upload() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    let request = user.sign(Request::new("POST", "/v1/files").chunked(Vec::new(), 1));
    let mut connection = Connection::open(edge.proxy);
    connection.send_raw(&request.head(edge.proxy)).expect("the head");
    for number in 0..20_u32 {
        for part in ["5", "\r\n", "ab", "cde", "\r\n"] {
            connection.send_raw(part.as_bytes()).expect("a part");
            // a pause, so that each part arrives alone
            std::thread::sleep(Duration::from_millis(u64::from(number % 2)));
        }
    }
    connection.send_raw(b"0\r\n\r\n").expect("the end");
    let answer = connection.read_answer("POST", Instant::now()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(*provider.last().body, b"abcde".repeat(20));
}
