//! The client's side of a connection, cut so that Pingora sees one request at a time.
//!
//! Pingora gets the bytes of the current request and no more. When it reads on (it does, to learn
//! that the client has left), the socket is watched here: bytes of the next request are kept back
//! and the read stays pending, an end or an error of the connection is passed through as such.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::framing::BodyFraming;

/// Bytes asked of the socket at a time while a head is read or the next request kept back.
const READ_BYTES: usize = 4096;

/// Kept back of coming requests while one is served; more stays in the socket.
const PIPELINED_BYTES: usize = 64 * 1024;

/// Small writes are gathered up to this many bytes, so that head and body leave together.
const WRITE_BYTES: usize = 2048;

/// How long an unread request body is swallowed after the answer, so that no reset destroys it.
const LINGER_TOTAL: Duration = Duration::from_secs(5);

/// Silence after which swallowing ends.
const LINGER_SILENCE: Duration = Duration::from_secs(1);

/// Bytes swallowed at most.
const LINGER_BYTES: usize = 32 * 1024 * 1024;

/// A TCP connection of a client.
pub(super) struct ClientStream {
    socket: TcpStream,
    /// Received, and given to nobody yet.
    unread: BytesMut,
    /// Written by Pingora, not sent yet.
    unsent: BytesMut,
    /// What of the current request is still to come.
    body: BodyFraming,
    /// The next bytes to be sent begin an answer's head, which may turn the connection into another protocol's.
    head_is_due: bool,
    digest: Arc<SocketDigest>,
    /// Our side has ended, the client's is swallowed.
    linger: Option<Linger>,
}

/// The time between our last byte and the end of the connection.
struct Linger {
    timer: Pin<Box<Sleep>>,
    end: Instant,
    swallowed: usize,
}

impl Linger {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            timer: Box::pin(tokio::time::sleep_until(now + LINGER_SILENCE)),
            end: now + LINGER_TOTAL,
            swallowed: 0,
        }
    }

    /// The client has sent more; false when it has sent enough.
    fn goes_on(&mut self, received: usize) -> bool {
        self.swallowed += received;
        self.timer
            .as_mut()
            .reset((Instant::now() + LINGER_SILENCE).min(self.end));
        self.swallowed < LINGER_BYTES
    }
}

impl ClientStream {
    /// Wraps an accepted socket.
    pub(super) fn new(socket: TcpStream, peer: SocketAddr) -> Self {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // a fresh cell: setting it cannot fail
        let _ = digest.peer_addr.set(Some(PeerAddr::Inet(peer)));
        Self {
            socket,
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            body: BodyFraming::Finished,
            head_is_due: false,
            digest: Arc::new(digest),
            linger: None,
        }
    }

    /// Bytes that were received and belong to no request yet.
    pub(super) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Forgets the first `count` unread bytes.
    pub(super) fn discard(&mut self, count: usize) {
        self.unread.advance(count);
    }

    /// The current request was taken off the wire to its last byte.
    pub(super) fn request_is_whole(&self) -> bool {
        self.body.is_finished()
    }

    /// Waits for more bytes; 0 when the client sends no more.
    pub(super) async fn receive(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_receive(context)).await
    }

    /// Takes the next request off the unread bytes: its head and what has come of its body.
    pub(super) fn begin_request(&mut self, head_bytes: usize, mut body: BodyFraming) -> BytesMut {
        let body_bytes = body.advance(&self.unread[head_bytes..]);
        self.body = body;
        self.head_is_due = true;
        let bytes = head_bytes + body_bytes;
        if bytes == self.unread.len() {
            std::mem::take(&mut self.unread)
        } else {
            self.unread.split_to(bytes)
        }
    }

    /// Sends `answer` and ends the connection so that the client can read it.
    pub(super) async fn close_with(&mut self, answer: &[u8]) {
        // a client that is gone needs no answer
        if self.write_all(answer).await.is_ok() {
            let _ = AsyncWriteExt::shutdown(self).await;
        }
    }

    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger.get_or_insert_with(Linger::begin);
        loop {
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    if !linger.goes_on(buffer.filled().len()) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.timer.as_mut().poll(context).map(Ok),
            }
        }
    }

    /// Sends `answer` without waiting for anything; what the client does with it is its affair.
    pub(super) fn abandon_with(&mut self, answer: &[u8]) {
        // what has come is read first: closing over unread bytes resets the connection
        self.swallow_what_has_come();
        if self.socket.try_write(answer).is_ok() {
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
            self.swallow_what_has_come();
        }
    }

    fn swallow_what_has_come(&self) {
        let mut space = [0; READ_BYTES];
        for _ in 0..PIPELINED_BYTES / READ_BYTES {
            if !matches!(self.socket.try_read(&mut space), Ok(1..)) {
                return;
            }
        }
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
        self.unread.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Ready when the client has left; bytes of the next request are kept back meanwhile.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unread.len() < PIPELINED_BYTES {
            if ready!(self.poll_receive(context))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        // full: nothing more is read until the next request begins, so nobody need wake this read
        Poll::Pending
    }

    /// Looks at the beginning of an answer: with a 101 everything that follows belongs to the new protocol.
    fn note_head(&mut self, beginning: &[u8]) {
        let status = beginning.get(9..12);
        self.head_is_due = matches!(status, Some([b'1', ..])) && status != Some(b"101");
        if status == Some(b"101") {
            self.body = BodyFraming::Upgraded;
        }
    }

    /// Sends the unsent bytes until none is left.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(context, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        self.unsent.clear();
        Poll::Ready(Ok(()))
    }

    /// Sends the unsent bytes and `slices` in one write; answers how much of `slices` was taken.
    fn poll_send_with(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        /// Pingora writes a chunk as three slices.
        const SLICES: usize = 4;
        loop {
            if self.unsent.is_empty() {
                return Pin::new(&mut self.socket).poll_write_vectored(context, slices);
            }
            let mut all = [io::IoSlice::new(&[]); SLICES];
            all[0] = io::IoSlice::new(&self.unsent);
            let with = slices.len().min(SLICES - 1);
            all[1..=with].copy_from_slice(&slices[..with]);
            let sent = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, &all[..=with]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let ours = sent.min(self.unsent.len());
            self.unsent.advance(ours);
            if sent > ours {
                return Poll::Ready(Ok(sent - ours));
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.body.is_finished() {
            return this.poll_gone(context);
        }
        if !this.unread.is_empty() {
            let offered = this.unread.len().min(buffer.remaining());
            let taken = this.body.advance(&this.unread[..offered]);
            buffer.put_slice(&this.unread[..taken]);
            this.unread.advance(taken);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(context, buffer))?;
        let end = before + this.body.advance(&buffer.filled()[before..]);
        this.unread.extend_from_slice(&buffer.filled()[end..]);
        buffer.set_filled(end);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let given: usize = slices.iter().map(|slice| slice.len()).sum();
        if this.head_is_due
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
        {
            this.note_head(first);
        }
        if this.unsent.len() + given > WRITE_BYTES {
            return this.poll_send_with(context, slices);
        }
        for slice in slices {
            this.unsent.extend_from_slice(slice);
        }
        Poll::Ready(Ok(given))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(context)
    }

    /// Sends what is unsent, ends our side, and swallows what the client still sends of its request:
    /// closing over unread bytes would reset the connection and destroy the answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(this.poll_send(context))?;
            ready!(Pin::new(&mut this.socket).poll_shutdown(context))?;
            if this.body.is_finished() && this.unread.is_empty() {
                this.swallow_what_has_come();
                return Poll::Ready(Ok(()));
            }
            this.unread = BytesMut::new();
        }
        this.poll_linger(context)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // the connection ends either way
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.socket.as_raw_fd()
    }
}

impl Ssl for ClientStream {}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.digest = Arc::new(digest);
    }
}

impl std::fmt::Debug for ClientStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // no bytes: Pingora prints streams into its logs
        formatter
            .debug_struct("ClientStream")
            .field("id", &self.id())
            .field("unread", &self.unread.len())
            .field("unsent", &self.unsent.len())
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}
