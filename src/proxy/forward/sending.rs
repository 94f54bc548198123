//! The request's side of an attempt: head and body to the provider, its head back, the client watched.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use pingora_core::ErrorType;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Instant;

use super::client::{Client, ClientGone};

/// Held bodies go out in pieces of this size, with a look for an early answer between them.
const PIECE_BYTES: usize = 64 * 1024;

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
    for (index, segment) in segments.iter().enumerate() {
        let last_segment = index + 1 == segments.len();
        let mut rest = segment.clone();
        loop {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            let last = last_segment && rest.is_empty();
            upstream.write_request_body(piece, last).await.map_err(text)?;
            if rest.is_empty() {
                break;
            }
            if answered_early(upstream) {
                return Ok(Written::Answered);
            }
        }
    }
    upstream.finish_request_body().await.map_err(text)?;
    Ok(Written::All)
}

/// Whether a final head is there already, without waiting for one.
fn answered_early(upstream: &mut HttpSession) -> bool {
    matches!(
        tokio::task::unconstrained(upstream.read_response_header()).now_or_never(),
        Some(Ok(()))
    ) && final_head(upstream).is_some()
}

fn final_head(upstream: &HttpSession) -> Option<ResponseHeader> {
    upstream
        .response_header()
        .filter(|head| !head.status.is_informational())
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
