//! As much HTTP/1.1 as a provider and a load generator need.

use anyhow::{Result, bail};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Bytes asked of a socket at a time.
const READ_BYTES: usize = 32 * 1024;

/// A connection and what was read of it in advance.
pub struct Wire {
    pub socket: TcpStream,
    buffer: Vec<u8>,
}

/// What matters of a head.
#[derive(Debug, Default)]
pub struct Head {
    /// 0 for requests.
    pub status: u16,
    pub content_length: usize,
    pub chunked: bool,
    /// `x-bench-chunks` of a request: the answer is a stream of so many events.
    pub chunks: Option<u64>,
    /// `x-bench-pause-micros` of a request: the pause before each of them.
    pub pause_micros: u64,
}

impl Head {
    fn read(&mut self, fields: &[httparse::Header<'_>]) -> Result<()> {
        for field in fields {
            let value = std::str::from_utf8(field.value)?;
            match field.name.to_ascii_lowercase().as_str() {
                "content-length" => self.content_length = value.parse()?,
                "transfer-encoding" => self.chunked = true,
                "x-bench-chunks" => self.chunks = Some(value.parse()?),
                "x-bench-pause-micros" => self.pause_micros = value.parse()?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Wire {
    pub fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BYTES) })
    }

    /// The next request head; `None` when the client has left.
    pub async fn request(&mut self) -> Result<Option<Head>> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            if let httparse::Status::Complete(length) = request.parse(&self.buffer)? {
                let mut head = Head::default();
                head.read(request.headers)?;
                self.buffer.drain(..length);
                return Ok(Some(head));
            }
            if self.receive().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next answer head.
    pub async fn answer(&mut self) -> Result<Head> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut answer = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(length) = answer.parse(&self.buffer)? {
                let mut head = Head { status: answer.code.unwrap_or(0), ..Head::default() };
                head.read(answer.headers)?;
                self.buffer.drain(..length);
                return Ok(head);
            }
            if self.receive().await? == 0 {
                bail!("the connection ended before an answer");
            }
        }
    }

    /// Reads over a body of a known length.
    pub async fn skip(&mut self, mut length: usize) -> Result<()> {
        loop {
            let taken = length.min(self.buffer.len());
            self.buffer.drain(..taken);
            length -= taken;
            if length == 0 {
                return Ok(());
            }
            if self.receive().await? == 0 {
                bail!("the connection ended inside a body");
            }
        }
    }

    /// More bytes of a chunked body, decoded into `decoded`; false once the last chunk was there.
    pub async fn chunks(&mut self, decoder: &mut Chunks, decoded: &mut Vec<u8>) -> Result<bool> {
        loop {
            let before = decoded.len();
            let taken = decoder.decode(&self.buffer, decoded)?;
            self.buffer.drain(..taken);
            if decoder.ended {
                return Ok(false);
            }
            if decoded.len() > before {
                return Ok(true);
            }
            if self.receive().await? == 0 {
                bail!("the connection ended inside a stream");
            }
        }
    }

    async fn receive(&mut self) -> Result<usize> {
        self.buffer.reserve(READ_BYTES);
        Ok(self.socket.read_buf(&mut self.buffer).await?)
    }
}

/// The state of a chunked body.
#[derive(Debug, Default)]
pub struct Chunks {
    /// Bytes left of the current chunk, with its line end.
    left: usize,
    ended: bool,
}

impl Chunks {
    /// Decodes what is whole; gives how much of `input` that was.
    fn decode(&mut self, input: &[u8], decoded: &mut Vec<u8>) -> Result<usize> {
        let mut at = 0;
        while at < input.len() && !self.ended {
            let rest = &input[at..];
            if self.left > 0 {
                let taken = self.left.min(rest.len());
                let data = taken.min(self.left.saturating_sub(2));
                decoded.extend_from_slice(&rest[..data]);
                self.left -= taken;
                at += taken;
                continue;
            }
            let Some(line) = memchr::memchr(b'\n', rest) else { break };
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line])?.trim_end(), 16)?;
            if size == 0 {
                if rest.len() < line + 3 {
                    break;
                }
                self.ended = true;
                at += line + 3;
            } else {
                self.left = size + 2;
                at += line + 1;
            }
        }
        Ok(at)
    }
}
