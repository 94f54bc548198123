//! The client's side of an exchange: writes to it, and notices at once when it leaves.

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use tokio::time::Instant;

use super::tunnel::Taken;
use crate::cache::Audience;

/// The client went away or stopped reading; nothing more can be told to it.
#[derive(Debug)]
pub(crate) struct ClientGone(pub Box<Error>);

/// The client's side of one exchange.
pub(crate) struct Client<'a> {
    session: &'a mut ServerSession,
    /// Whether the request body was read to its end, so that waiting for the client's end is allowed.
    body_done: bool,
    head_written: bool,
    /// Who wants the answer though this client has left.
    audience: Option<Audience>,
    /// It has left, and the answer is read on for its audience.
    left: Option<ClientGone>,
    /// Comments while it waits for its stream.
    heartbeat: Option<Heartbeat>,
    /// A comment is on its way to it. Left standing by a write that was given up, the connection is of no use any more.
    in_comment: bool,
    /// Bytes of the answer's body handed to the connection.
    pub bytes_out: u64,
}

/// What a client gets that waits for its stream.
struct Heartbeat {
    every: Duration,
    next: Instant,
    /// Goes out with the first comment.
    head: Option<Box<ResponseHeader>>,
}

/// A comment: nothing to a reader of events.
const COMMENT: &[u8] = b": waiting\n\n";

impl<'a> Client<'a> {
    /// The client behind `session`.
    pub(crate) fn new(session: &'a mut ServerSession) -> Self {
        let body_done = session.is_body_done();
        Self {
            session,
            body_done,
            head_written: false,
            audience: None,
            left: None,
            heartbeat: None,
            in_comment: false,
            bytes_out: 0,
        }
    }

    /// From now on a comment `every` so often while it waits, the first behind `head`.
    pub(crate) fn with_heartbeat(mut self, every: Duration, head: ResponseHeader) -> Self {
        self.heartbeat = Some(Heartbeat {
            every,
            next: Instant::now() + every,
            head: Some(Box::new(head)),
        });
        self
    }

    /// The head of a stream is out with a comment: what comes now must be events.
    pub(crate) fn is_promised_events(&self) -> bool {
        self.head_written && self.heartbeat.is_some()
    }

    /// While somebody else wants the answer, the client's leaving is none: what is written to it goes nowhere.
    pub(crate) fn with_audience(mut self, audience: Option<Audience>) -> Self {
        self.audience = audience;
        self
    }

    /// The answer is of no use to anybody else.
    pub(crate) fn lose_audience(&mut self) {
        self.audience = None;
    }

    /// How it left while its answer was read on.
    pub(crate) fn left(self) -> Option<ClientGone> {
        self.left
    }

    fn has_audience(&self) -> bool {
        self.audience.as_ref().is_some_and(Audience::is_there)
    }

    /// Whether what is written goes nowhere.
    fn is_unheard(&mut self) -> Result<bool, ClientGone> {
        if self.left.is_none() {
            return Ok(false);
        }
        if self.has_audience() {
            return Ok(true);
        }
        self.left.take().map_or(Ok(false), Err)
    }

    /// A write has ended: its failure is none while somebody else wants the answer.
    fn heard(&mut self, written: pingora_core::Result<()>) -> Result<(), ClientGone> {
        let Err(error) = written else { return Ok(()) };
        let gone = ClientGone(error.into_down());
        if self.has_audience() {
            self.left = Some(gone);
            return Ok(());
        }
        Err(gone)
    }

    /// Waits until the client leaves and nobody else wants its answer. Cancel-safe; never ends before.
    pub(crate) async fn gone(&mut self) -> ClientGone {
        if self.left.is_none() {
            let gone = self.leaves_or_waits().await;
            if !self.has_audience() {
                return gone;
            }
            self.left = Some(gone);
        }
        if let Some(audience) = &mut self.audience {
            audience.gone().await;
        }
        self.left
            .take()
            .unwrap_or_else(|| ClientGone(Error::new_down(ErrorType::ConnectionClosed)))
    }

    /// Waits until it leaves, and tells it meanwhile that it is not forgotten.
    async fn leaves_or_waits(&mut self) -> ClientGone {
        loop {
            let next = match &self.heartbeat {
                Some(heartbeat) if self.bytes_out == 0 => heartbeat.next,
                _ => return self.leaves().await,
            };
            tokio::select! {
                biased;
                gone = self.leaves() => return gone,
                () = tokio::time::sleep_until(next) => {}
            }
            if let Err(gone) = self.comment().await {
                return gone;
            }
        }
    }

    async fn comment(&mut self) -> Result<(), ClientGone> {
        let Some(heartbeat) = &mut self.heartbeat else {
            return Ok(());
        };
        heartbeat.next = Instant::now() + heartbeat.every;
        let head = heartbeat.head.take();
        let gone = |error: Box<Error>| ClientGone(error.into_down());
        self.in_comment = true;
        if let Some(head) = head {
            self.head_written = true;
            self.session.write_response_header(head).await.map_err(gone)?;
        }
        let comment = Bytes::from_static(COMMENT);
        self.session
            .write_response_body(comment, false)
            .await
            .map_err(gone)?;
        self.in_comment = false;
        Ok(())
    }

    async fn leaves(&mut self) -> ClientGone {
        if !self.body_done {
            return std::future::pending().await;
        }
        loop {
            match self.session.read_body_or_idle(true).await {
                Ok(None) => {}
                Ok(Some(_)) => {
                    return ClientGone(Error::explain(ErrorType::ReadError, "data after the request"));
                }
                Err(error) => return ClientGone(error.into_down()),
            }
        }
    }

    /// The next piece of a request body that is not held; `None` at its end.
    pub(crate) async fn next_body_chunk(&mut self) -> Result<Option<Bytes>, ClientGone> {
        let chunk = self
            .session
            .read_request_body()
            .await
            .map_err(|error| ClientGone(error.into_down()))?;
        if chunk.is_none() || self.session.is_body_done() {
            self.body_done = self.session.is_body_done();
        }
        Ok(chunk)
    }

    /// Whether the request body has been read to its end.
    pub(crate) fn body_done(&self) -> bool {
        self.body_done
    }

    /// Writes the head; only the first one counts.
    pub(crate) async fn write_head(&mut self, head: ResponseHeader) -> Result<(), ClientGone> {
        self.check_whole()?;
        if self.head_written || self.is_unheard()? {
            return Ok(());
        }
        self.heartbeat = None;
        self.head_written = true;
        if !self.body_done {
            // the rest of the upload is not read: the connection cannot be used again
            self.session.set_keepalive(None);
        }
        let written = self.session.write_response_header(Box::new(head)).await;
        self.heard(written)
    }

    fn check_whole(&self) -> Result<(), ClientGone> {
        if self.in_comment {
            let why = "a comment could not be written whole";
            return Err(ClientGone(Error::explain(ErrorType::WriteError, why).into_down()));
        }
        Ok(())
    }

    /// Writes a piece of the body, or its end.
    pub(crate) async fn write_body(&mut self, bytes: Bytes, end: bool) -> Result<(), ClientGone> {
        self.check_whole()?;
        if self.is_unheard()? {
            return Ok(());
        }
        self.bytes_out += bytes.len() as u64;
        let written = self.session.write_response_body(bytes, end).await;
        self.heard(written)
    }

    /// Answers the 101 and takes the connection out from under its session, for another protocol. What stays behind
    /// is a session that knows the same heads, so that the request can be recorded.
    pub(crate) async fn upgrade(&mut self, head: ResponseHeader) -> Result<Taken, ClientGone> {
        let gone = |error: Box<Error>| ClientGone(error.into_down());
        let request = match &*self.session {
            ServerSession::H1(session) => session.get_headers_raw_bytes(),
            _ => return Err(gone(Error::new(ErrorType::InvalidHTTPHeader))),
        };
        self.write_head(head.clone()).await?;
        let received = match self.session.read_request_body().now_or_never() {
            Some(Ok(Some(received))) => received,
            _ => Bytes::new(),
        };
        let mut remembered = ServerSession::new_http1(Box::new(Cursor::new(request.to_vec())));
        remembered.read_request().await.map_err(gone)?;
        remembered
            .write_response_header(Box::new(head))
            .await
            .map_err(gone)?;
        match std::mem::replace(&mut *self.session, remembered) {
            ServerSession::H1(session) => Ok(Taken {
                received,
                stream: session.into_inner(),
            }),
            _ => Err(gone(Error::new(ErrorType::InvalidHTTPHeader))),
        }
    }

    /// The head of the request.
    pub(crate) fn request_head(&self) -> &pingora_http::RequestHeader {
        self.session.req_header()
    }

    /// The origin of a browser's request.
    pub(crate) fn origin(&self) -> Option<http::HeaderValue> {
        self.session.get_header(http::header::ORIGIN).cloned()
    }

    /// Sends what was written and closes the connection without ending the answer.
    pub(crate) async fn flush_and_cut(&mut self) {
        self.session.set_keepalive(None);
        self.session.shutdown().await;
    }

    /// The connection must not be used for another request.
    pub(crate) fn close_after(&mut self) {
        self.session.set_keepalive(None);
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.session.is_http2()
    }

    /// The protocol version of the request.
    pub(crate) fn version(&self) -> http::Version {
        self.session.req_header().version
    }
}
