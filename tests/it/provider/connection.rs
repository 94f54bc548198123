//! One connection of the fake provider: reads requests, plays replies, notices who leaves.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::reply::{Reply, Step};
use super::{Seen, Shared};
use crate::http::{Headers, find};

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

enum Outcome {
    KeepAlive,
    Closed,
    ClientLeft,
}

/// Serves requests until the connection ends.
pub(super) async fn serve(stream: TcpStream, number: u64, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut wire = Wire {
        stream,
        buffer: Vec::new(),
    };
    while let Some(mut seen) = wire.read_request_head(number).await {
        let index = shared.change(|state| {
            state.in_flight += 1;
            state.most_in_flight = state.most_in_flight.max(state.in_flight);
            state.seen.push(seen.clone());
            state.seen.len() - 1
        });
        let head_reply = early_reply(&shared, &seen);
        if head_reply.is_none() {
            let (body, whole) = wire.read_body(&seen.headers).await;
            seen.body = Arc::new(body);
            seen.body_whole = whole;
            shared.change(|state| {
                state.seen[index].body = Arc::clone(&seen.body);
                state.seen[index].body_whole = whole;
            });
        }
        let reply = head_reply.unwrap_or_else(|| shared.reply_to(&seen));
        let outcome = wire.play(&reply, seen.method == "HEAD").await;
        shared.change(|state| {
            state.in_flight -= 1;
            let entry = &mut state.seen[index];
            match outcome {
                Outcome::ClientLeft => entry.left_at = Some(Instant::now()),
                Outcome::KeepAlive | Outcome::Closed => entry.answered = true,
            }
        });
        if !matches!(outcome, Outcome::KeepAlive) || !reply.reads_body {
            return;
        }
    }
}

/// A reply in line that does not want the body.
fn early_reply(shared: &Shared, seen: &Seen) -> Option<Reply> {
    let mut state = shared.state.lock().expect("the provider's state");
    if state.queue.front().is_some_and(|reply| !reply.reads_body) {
        return state.queue.pop_front();
    }
    let rules = state.rules.clone();
    drop(state);
    rules
        .iter()
        .rev()
        .find_map(|rule| rule(seen))
        .filter(|reply| !reply.reads_body)
}

impl Wire {
    async fn refill(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        match self.stream.read(&mut piece).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                true
            }
        }
    }

    async fn read_request_head(&mut self, connection: u64) -> Option<Seen> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            if !self.refill().await {
                return None;
            }
        };
        let raw_head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&raw_head[..end]).into_owned();
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let mut words = line.split(' ');
        Some(Seen {
            method: words.next().unwrap_or("").to_owned(),
            target: words.next().unwrap_or("").to_owned(),
            headers: Headers::parse(fields),
            raw_head: Arc::new(raw_head),
            body: Arc::default(),
            body_whole: false,
            connection,
            left_at: None,
            answered: false,
        })
    }

    async fn read_exactly(&mut self, count: usize, body: &mut Vec<u8>) -> bool {
        let mut left = count;
        while left > 0 {
            if self.buffer.is_empty() && !self.refill().await {
                return false;
            }
            let take = left.min(self.buffer.len());
            body.extend(self.buffer.drain(..take));
            left -= take;
        }
        true
    }

    async fn read_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Some(line);
            }
            if !self.refill().await {
                return None;
            }
        }
    }

    async fn read_body(&mut self, headers: &Headers) -> (Vec<u8>, bool) {
        if headers
            .get("expect")
            .is_some_and(|v| v.eq_ignore_ascii_case("100-continue"))
        {
            let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        let mut body = Vec::new();
        if headers
            .get("transfer-encoding")
            .is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
        {
            loop {
                let Some(line) = self.read_line().await else {
                    return (body, false);
                };
                let Ok(size) = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16) else {
                    return (body, false);
                };
                if !self.read_exactly(size, &mut body).await {
                    return (body, false);
                }
                let Some(_line_end) = self.read_line().await else {
                    return (body, false);
                };
                if size == 0 {
                    return (body, true);
                }
            }
        }
        let length = headers
            .get("content-length")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let whole = self.read_exactly(length, &mut body).await;
        (body, whole)
    }

    /// Waits for the client to leave; bytes that come meanwhile belong to the next request.
    async fn client_leaves(&mut self) {
        while self.refill().await {}
    }

    async fn play(&mut self, reply: &Reply, head_only: bool) -> Outcome {
        for step in reply.steps(head_only) {
            match step {
                Step::Send(bytes) => {
                    if self.stream.write_all(&bytes).await.is_err() {
                        return Outcome::ClientLeft;
                    }
                }
                Step::Pause(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.client_leaves() => return Outcome::ClientLeft,
                },
                Step::Hold(gate) => tokio::select! {
                    () = gate.wait() => {}
                    () = self.client_leaves() => return Outcome::ClientLeft,
                },
                Step::Hang => {
                    self.client_leaves().await;
                    return Outcome::ClientLeft;
                }
                Step::Close => {
                    // WHY: unread bytes would turn the close into a reset.
                    let _ = self.stream.shutdown().await;
                    let linger = std::time::Duration::from_secs(2);
                    let _ = tokio::time::timeout(linger, self.client_leaves()).await;
                    return Outcome::Closed;
                }
                Step::Reset => {
                    let _ = self.stream.set_zero_linger();
                    return Outcome::Closed;
                }
            }
        }
        Outcome::KeepAlive
    }
}
