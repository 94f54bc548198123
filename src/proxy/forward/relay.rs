//! Bytes of an answer to the client: batched, in whole events where it is a stream, never half as whole.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use pingora_core::ErrorType;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::ResponseHeader;
use tokio::time::Instant;

use super::client::{Client, ClientGone};
use super::head::Framing;

/// How many further chunks that are ready already go out in one write.
const BATCHED_CHUNKS: usize = 8;

/// Why no more of an answer came.
#[derive(Debug)]
pub(crate) enum AnswerBroken {
    /// The provider closed, reset or sent nonsense inside its answer.
    Cut(String),
    /// Silence longer than `server.stream_idle_timeout`.
    Idle,
    /// `providers.*.timeouts.request` ran out.
    Overtime,
}

/// Why a relay ended early.
#[derive(Debug)]
pub(crate) enum RelayFailure {
    /// By the provider.
    Answer(AnswerBroken),
    /// By the client.
    Client(ClientGone),
}

impl From<ClientGone> for RelayFailure {
    fn from(gone: ClientGone) -> Self {
        Self::Client(gone)
    }
}

/// The beginning of a body that was read to see whose error it is.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    /// The beginning.
    pub bytes: Bytes,
    /// What came behind it, if that was not more.
    pub ended: Option<pingora_core::Result<Option<Bytes>>>,
}

/// The body of a provider's answer, read in batches while the client is watched.
pub(crate) struct AnswerBody<'a> {
    upstream: &'a mut HttpSession,
    framing: Framing,
    received: u64,
    /// Read before, shown to nobody yet.
    ahead: Option<Bytes>,
    /// What a read that looked ahead found at the end; Pingora says it only once.
    ended: Option<pingora_core::Result<Option<Bytes>>>,
    /// When the whole answer must be there (`timeouts.request`, answers that are no stream).
    deadline: Option<Instant>,
}

impl<'a> AnswerBody<'a> {
    /// The body behind `upstream`, whose head was read.
    pub(crate) fn new(
        upstream: &'a mut HttpSession,
        framing: Framing,
        idle_timeout: Duration,
        deadline: Option<Instant>,
    ) -> Self {
        upstream.set_read_timeout(Some(idle_timeout));
        Self {
            upstream,
            framing,
            received: 0,
            ahead: None,
            ended: None,
            deadline,
        }
    }

    /// Begins with what was read before.
    pub(crate) fn behind(mut self, read_ahead: Option<ReadAhead>) -> Self {
        if let Some(ReadAhead { bytes, ended }) = read_ahead {
            self.ahead = Some(bytes).filter(|bytes| !bytes.is_empty());
            self.ended = ended;
        }
        self
    }

    /// The next bytes, several chunks at once when they are there already; `None` at a proved end.
    /// Cancel-safe. With a client, it is watched meanwhile.
    pub(crate) async fn next(
        &mut self,
        client: Option<&mut Client<'_>>,
    ) -> Result<Option<Bytes>, RelayFailure> {
        if self.framing == Framing::Empty {
            return Ok(None);
        }
        if let Some(ahead) = self.ahead.take() {
            self.received += ahead.len() as u64;
            return Ok(Some(ahead));
        }
        if let Some(ended) = self.ended.take() {
            return self.judge(ended);
        }
        let deadline = self.deadline;
        let overtime = async move {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let gone = async move {
            match client {
                Some(client) => client.gone().await,
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            biased;
            read = self.upstream.read_response_body() => read,
            gone = gone => return Err(RelayFailure::Client(gone)),
            () = overtime => return Err(RelayFailure::Answer(AnswerBroken::Overtime)),
        };
        self.judge(read)
    }

    /// Puts an end back that [`Self::next`] has told, so that it tells it again.
    pub(crate) fn end_again(&mut self) {
        self.ended = Some(Ok(None));
    }

    fn judge(&mut self, read: pingora_core::Result<Option<Bytes>>) -> Result<Option<Bytes>, RelayFailure> {
        match read {
            Ok(Some(first)) => {
                let batch = self.batch(first);
                self.received += batch.len() as u64;
                Ok(Some(batch))
            }
            Ok(None) => self.end().map(|()| None),
            Err(error) if *error.etype() == ErrorType::ReadTimedout => {
                Err(RelayFailure::Answer(AnswerBroken::Idle))
            }
            Err(error) => Err(RelayFailure::Answer(AnswerBroken::Cut(
                error.etype().as_str().to_owned(),
            ))),
        }
    }

    /// Whether the whole body has been received, so that nothing more needs to be waited for.
    pub(crate) fn is_complete(&self) -> bool {
        match self.framing {
            Framing::Length(length) => self.received >= length,
            Framing::Empty => true,
            Framing::Marked | Framing::Close => false,
        }
    }

    fn end(&self) -> Result<(), RelayFailure> {
        match self.framing {
            Framing::Length(length) if self.received < length => {
                let short = length - self.received;
                Err(RelayFailure::Answer(AnswerBroken::Cut(format!(
                    "{short} bytes short of its Content-Length"
                ))))
            }
            _ => Ok(()),
        }
    }

    /// Takes what is there already: one write for it all costs a quarter less than one each.
    fn batch(&mut self, first: Bytes) -> Bytes {
        if self.upstream.response_done() {
            return first;
        }
        let mut gathered: Option<BytesMut> = None;
        for _ in 0..BATCHED_CHUNKS {
            let ready = tokio::task::unconstrained(self.upstream.read_response_body()).now_or_never();
            let more = match ready {
                Some(Ok(Some(more))) => more,
                Some(ended) => {
                    self.ended = Some(ended);
                    break;
                }
                None => break,
            };
            let buffer = gathered.get_or_insert_with(|| {
                let mut buffer = BytesMut::with_capacity((first.len() + more.len()).max(4096));
                buffer.extend_from_slice(&first);
                buffer
            });
            buffer.extend_from_slice(&more);
            if self.upstream.response_done() || buffer.len() >= 256 * 1024 {
                break;
            }
        }
        gathered.map_or(first, BytesMut::freeze)
    }
}

/// Sets the framing of the head that goes to the client.
pub(crate) fn frame_head(
    head: &mut ResponseHeader,
    framing: Framing,
    streaming: bool,
    client: &mut Client<'_>,
) -> pingora_core::Result<()> {
    let http2 = client.is_http2();
    head.set_version(if http2 {
        http::Version::HTTP_2
    } else {
        http::Version::HTTP_11
    });
    match framing {
        Framing::Empty => {}
        Framing::Length(length) if !streaming => {
            head.insert_header(http::header::CONTENT_LENGTH, length)?;
        }
        // an end that proves nothing is passed on as what it is
        Framing::Close if !streaming => client.close_after(),
        _ if http2 => {}
        _ if client.version() == http::Version::HTTP_10 => client.close_after(),
        _ => {
            head.insert_header(http::header::TRANSFER_ENCODING, "chunked")?;
        }
    }
    Ok(())
}
