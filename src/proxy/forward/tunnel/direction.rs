//! One direction of a session: bytes from one peer to the other, at most one buffer of them held.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::dialect::usage::SessionReader;
use crate::dialect::websocket::FrameFollower;
use crate::domain::TokenUsage;

/// Bytes taken from a peer at a time: no more is held for one that does not read.
const READ_BYTES: usize = 16 * 1024;

/// What a step did.
pub(super) enum Moved {
    /// Bytes were received or sent.
    Bytes,
    /// The peer that sends has ended its side.
    End,
}

/// Which side broke.
pub(super) enum Broken {
    /// The peer that sends.
    Reading(io::Error),
    /// The peer that receives.
    Writing(io::Error),
}

/// Bytes from one peer to the other.
pub(super) struct Direction {
    from: ReadHalf<Stream>,
    to: WriteHalf<Stream>,
    pending: Bytes,
    unflushed: bool,
    frames: FrameFollower,
    /// Reads what the provider says of tokens; only its direction has one.
    usage: Option<Box<SessionReader>>,
    bytes: u64,
}

impl Direction {
    /// Begins with what was received already.
    pub(super) fn new(from: ReadHalf<Stream>, to: WriteHalf<Stream>, received: &Bytes) -> Self {
        Self {
            from,
            to,
            pending: received.clone(),
            unflushed: false,
            frames: FrameFollower::default(),
            usage: None,
            bytes: 0,
        }
    }

    /// The direction from the provider, which says what was used.
    pub(super) fn metered(mut self) -> Self {
        self.usage = Some(Box::default());
        self
    }

    /// Tokens told since this was asked last.
    pub(super) fn take_usage(&mut self) -> Option<TokenUsage> {
        self.usage.as_mut()?.take()
    }

    /// Bytes delivered so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A closing frame has been delivered.
    pub(super) fn has_closed(&self) -> bool {
        self.frames.has_closed()
    }

    /// Sends what is pending, else receives. Cancel-safe: what was moved is accounted for.
    pub(super) async fn step(&mut self) -> Result<Moved, Broken> {
        if !self.pending.is_empty() {
            let most = self.pending.len();
            self.send(most).await.map_err(Broken::Writing)?;
            return Ok(Moved::Bytes);
        }
        if self.unflushed {
            self.to.flush().await.map_err(Broken::Writing)?;
            self.unflushed = false;
        }
        self.pending = self.receive().await.map_err(Broken::Reading)?;
        Ok(if self.pending.is_empty() {
            Moved::End
        } else {
            Moved::Bytes
        })
    }

    /// Delivers everything to the end of the peer that sends.
    pub(super) async fn drain(&mut self) {
        while let Ok(Moved::Bytes) = self.step().await {}
        self.end().await;
    }

    /// Ends the side of the peer that receives. What a frame under way lacks stays missing.
    pub(super) async fn end(&mut self) {
        // the peer is gone or going: how it takes this changes nothing
        let _ = timeout(Duration::from_secs(5), self.to.shutdown()).await;
    }

    /// Lets the frame under way come to its end, for `patience` at most, and closes with `frame` behind it. When
    /// the end does not come, nothing can be said any more.
    pub(super) async fn close_with(&mut self, frame: &[u8], patience: Duration) {
        let said = timeout(patience, async {
            self.finish_frame().await.ok()?;
            self.to.write_all(frame).await.ok()?;
            self.to.flush().await.ok()
        });
        // not said: the connection is cut, which says it too
        let _ = said.await;
        self.end().await;
    }

    async fn finish_frame(&mut self) -> io::Result<()> {
        while !self.frames.is_between_frames() {
            if self.pending.is_empty() {
                self.pending = self.receive().await?;
            }
            match self.frames.rest_of_frame(&self.pending) {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                rest => self.send(rest).await?,
            }
        }
        Ok(())
    }

    async fn send(&mut self, most: usize) -> io::Result<()> {
        let sent = self.to.write(&self.pending[..most]).await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        match &mut self.usage {
            Some(usage) => usage.follow(&mut self.frames, &self.pending[..sent]),
            None => self.frames.advance(&self.pending[..sent]),
        }
        self.pending.advance(sent);
        self.bytes += sent as u64;
        Ok(())
    }

    /// The next bytes; none at the peer's end. The buffer lives only while bytes are there, so that an idle session
    /// holds none.
    async fn receive(&mut self) -> io::Result<Bytes> {
        poll_fn(|context| {
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.from).poll_read(context, &mut buffer))?;
            Ok(BytesMut::from(buffer.filled()).freeze()).into()
        })
        .await
    }
}
