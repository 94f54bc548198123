//! The request's side of an attempt: head and body to the provider, its head back, the client watched.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use pingora_core::ErrorType;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as HttpSession1;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Instant;

use super::client::{Client, ClientGone};

/// Held bodies go out in pieces of this size, with a look for an early answer between them.
const PIECE_BYTES: usize = 64 * 1024;

/// Segments up to this many bytes are joined: a copy of them costs less than a write of its own, which the provider
/// would see as a packet of its own.
const JOIN_BYTES: usize = 16 * 1024;

/// After a failed write the provider's answer, if it sent one, is waited for this long.
const EARLY_ANSWER_WAIT: Duration = Duration::from_secs(1);

/// The body of one attempt.
#[derive(Debug, Clone)]
pub(crate) enum AttemptBody {
    /// None.
    Empty,
    /// Held in memory: segments that are sent one after another, and can be sent again.
    Held(Vec<Bytes>),
    /// Still with the client: streamed through, once.
    Streamed,
}

/// How long the parts of an attempt may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendTimeouts {
    /// From the sent request to the end of the answer's head.
    pub response_header: Duration,
    /// The end of the last head, over all attempts.
    pub overall: Instant,
    /// The longest silence inside the client's body.
    pub body_silence: Duration,
    /// The longest time a single write to the provider may take.
    pub write: Duration,
}

/// Why no head came back.
#[derive(Debug)]
pub(crate) enum SendFailure {
    /// The connection ended before any byte of the answer.
    ClosedBeforeHead(String),
    /// What came is no HTTP.
    NoHttp(String),
    /// `timeouts.response_header` ran out.
    FirstByteTimeout,
    /// `server.request_timeout` ran out.
    RequestTimeout,
    /// The client's body stopped coming.
    BodyTimeout,
    /// The client's body is larger than `server.max_request_size`.
    BodyTooLarge,
    /// The client left.
    Client(ClientGone),
}

/// Sends head and body, and waits for the head of the answer. Says in `body_started` whether a byte of a
/// streamed body left.
pub(crate) async fn send(
    upstream: &mut HttpSession,
    client: &mut Client<'_>,
    head: RequestHeader,
    body: &AttemptBody,
    timeouts: SendTimeouts,
    upload: &mut Upload,
) -> Result<ResponseHeader, SendFailure> {
    upstream.set_write_timeout(Some(timeouts.write));
    upstream.set_read_timeout(None);
    let sent = tokio::select! {
        biased;
        sent = write_request(upstream, head, body) => sent,
        gone = client.gone() => return Err(SendFailure::Client(gone)),
        () = tokio::time::sleep_until(timeouts.overall) => return Err(SendFailure::RequestTimeout),
    };
    let early = match (sent, body) {
        (Ok(Written::All), AttemptBody::Streamed) => upload.run(upstream, client, timeouts).await?,
        (Ok(Written::All), _) => false,
        (Ok(Written::Answered), _) => true,
        (Err(error), _) => {
            return match tokio::time::timeout(EARLY_ANSWER_WAIT, read_final_head(upstream)).await {
                Ok(Ok(head)) => Ok(head),
                _ => Err(SendFailure::ClosedBeforeHead(error)),
            };
        }
    };
    if early && let Some(head) = final_head(upstream) {
        return Ok(head);
    }
    let head_deadline = Instant::now() + timeouts.response_header;
    let limit = head_deadline.min(timeouts.overall);
    tokio::select! {
        biased;
        head = read_final_head(upstream) => head,
        gone = client.gone() => Err(SendFailure::Client(gone)),
        () = tokio::time::sleep_until(limit) => {
            // at a tie the overall limit wins
            Err(if timeouts.overall <= head_deadline { SendFailure::RequestTimeout } else { SendFailure::FirstByteTimeout })
        }
    }
}

enum Written {
    All,
    /// The provider answered before everything was sent.
    Answered,
}

async fn write_request(
    upstream: &mut HttpSession,
    head: RequestHeader,
    body: &AttemptBody,
) -> Result<Written, String> {
    let text = |error: Box<pingora_core::Error>| error.etype().as_str().to_owned();
    upstream
        .write_request_header(Box::new(head))
        .await
        .map_err(text)?;
    let segments: &[Bytes] = match body {
        AttemptBody::Empty => &[],
        AttemptBody::Held(segments) => segments,
        AttemptBody::Streamed => return Ok(Written::All),
    };
    let mut pieces = Pieces::of(segments);
    while let Some(piece) = pieces.next() {
        upstream
            .write_request_body(piece, pieces.is_empty())
            .await
            .map_err(text)?;
        if !pieces.is_empty() && answered_early(upstream) {
            return Ok(Written::Answered);
        }
    }
    upstream.finish_request_body().await.map_err(text)?;
    Ok(Written::All)
}

/// What is left of a held body.
struct Pieces<'body> {
    current: Bytes,
    rest: &'body [Bytes],
}

impl<'body> Pieces<'body> {
    fn of(segments: &'body [Bytes]) -> Self {
        let mut pieces = Self {
            current: Bytes::new(),
            rest: segments,
        };
        pieces.skip_empty();
        pieces
    }

    fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// The bytes of the next write: a part of one segment without a copy, or the beginning of several in one.
    fn next(&mut self) -> Option<Bytes> {
        if self.current.is_empty() {
            return None;
        }
        let piece = if self.current.len() >= JOIN_BYTES || self.rest.is_empty() {
            self.current.split_to(self.current.len().min(PIECE_BYTES))
        } else {
            let left: usize = self.current.len() + self.rest.iter().map(Bytes::len).sum::<usize>();
            let mut joined = Vec::with_capacity(left.min(JOIN_BYTES));
            while joined.len() < JOIN_BYTES && !self.current.is_empty() {
                let part = self
                    .current
                    .split_to(self.current.len().min(JOIN_BYTES - joined.len()));
                joined.extend_from_slice(&part);
                self.skip_empty();
            }
            joined.into()
        };
        self.skip_empty();
        Some(piece)
    }

    fn skip_empty(&mut self) {
        while self.current.is_empty()
            && let [first, rest @ ..] = self.rest
        {
            (self.current, self.rest) = (first.clone(), rest);
        }
    }
}

/// Whether a final head is there already, without waiting for one.
fn answered_early(upstream: &mut HttpSession) -> bool {
    matches!(
        tokio::task::unconstrained(upstream.read_response_header()).now_or_never(),
        Some(Ok(()))
    ) && final_head(upstream).is_some()
}

fn final_head(upstream: &HttpSession) -> Option<ResponseHeader> {
    let was_upgraded = upstream.as_http1().is_some_and(HttpSession1::was_upgraded);
    upstream
        .response_header()
        .filter(|head| !head.status.is_informational() || was_upgraded)
        .cloned()
}

async fn read_final_head(upstream: &mut HttpSession) -> Result<ResponseHeader, SendFailure> {
    loop {
        match upstream.read_response_header().await {
            Ok(()) => {
                if let Some(head) = final_head(upstream) {
                    return Ok(head);
                }
            }
            Err(error) => {
                let word = error.etype().as_str().to_owned();
                return Err(match error.etype() {
                    ErrorType::InvalidHTTPHeader | ErrorType::H2Error | ErrorType::InvalidH2 => {
                        SendFailure::NoHttp(word)
                    }
                    _ => SendFailure::ClosedBeforeHead(word),
                });
            }
        }
    }
}

/// A body that is streamed from the client to the provider.
#[derive(Debug)]
pub(crate) struct Upload {
    /// `server.max_request_size`.
    pub limit_bytes: u64,
    /// Bytes that left for the provider: once it is not 0 the request cannot be sent again.
    pub sent_bytes: u64,
    /// Whether any of it was taken from the client.
    pub touched: bool,
}

impl Upload {
    /// Streams the body; true when the provider answered before its end.
    async fn run(
        &mut self,
        upstream: &mut HttpSession,
        client: &mut Client<'_>,
        timeouts: SendTimeouts,
    ) -> Result<bool, SendFailure> {
        let text = |error: Box<pingora_core::Error>| error.etype().as_str().to_owned();
        while !client.body_done() {
            let chunk = tokio::select! {
                biased;
                chunk = client.next_body_chunk() => chunk.map_err(SendFailure::Client)?,
                head = upstream.read_response_header() => match head {
                    Ok(()) if final_head(upstream).is_some() => return Ok(true),
                    Ok(()) => continue,
                    Err(error) => return Err(SendFailure::ClosedBeforeHead(text(error))),
                },
                () = tokio::time::sleep(timeouts.body_silence) => return Err(SendFailure::BodyTimeout),
                () = tokio::time::sleep_until(timeouts.overall) => return Err(SendFailure::RequestTimeout),
            };
            let Some(chunk) = chunk else { break };
            self.touched = true;
            // WHY: a chunk's size can come without its bytes, and an empty chunk would be the end to the provider
            if chunk.is_empty() {
                continue;
            }
            self.sent_bytes += chunk.len() as u64;
            if self.sent_bytes > self.limit_bytes {
                return Err(SendFailure::BodyTooLarge);
            }
            if let Err(error) = upstream.write_request_body(chunk, false).await {
                return match tokio::time::timeout(EARLY_ANSWER_WAIT, read_final_head(upstream)).await {
                    Ok(Ok(_)) => Ok(true),
                    _ => Err(SendFailure::ClosedBeforeHead(text(error))),
                };
            }
        }
        match upstream.finish_request_body().await {
            Ok(()) => Ok(false),
            Err(error) => match tokio::time::timeout(EARLY_ANSWER_WAIT, read_final_head(upstream)).await {
                Ok(Ok(_)) => Ok(true),
                _ => Err(SendFailure::ClosedBeforeHead(text(error))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(segments: &[Bytes]) -> Vec<Bytes> {
        let mut pieces = Pieces::of(segments);
        let mut written = Vec::new();
        while let Some(piece) = pieces.next() {
            written.push(piece);
        }
        written
    }

    proptest! {
        #[test]
        fn pieces_are_the_body(lengths in prop::collection::vec(0_usize..100_000, 0..6)) {
            let mut byte = 0_u8;
            let segments: Vec<Bytes> = lengths
                .iter()
                .map(|length| {
                    (0..*length)
                        .map(|_| {
                            byte = byte.wrapping_add(1);
                            byte
                        })
                        .collect::<Vec<u8>>()
                        .into()
                })
                .collect();
            let written = written(&segments);
            prop_assert!(written.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE_BYTES));
            prop_assert_eq!(written.concat(), segments.concat());
        }
    }

    #[test]
    fn small_segments_leave_in_one_write_and_large_ones_are_not_copied() {
        let small = [
            Bytes::from_static(b"{\"model\":"),
            Bytes::from_static(b"\"m\""),
            Bytes::from_static(b"}"),
        ];
        assert_eq!(written(&small), [Bytes::from_static(b"{\"model\":\"m\"}")]);
        let large = Bytes::from(vec![7; 3 * PIECE_BYTES]);
        let pieces = written(std::slice::from_ref(&large));
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0].as_ptr(), large.as_ptr());
        assert!(written(&[]).is_empty());
    }
}
