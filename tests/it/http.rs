//! A small HTTP/1.1 client with its hands on the bytes: keep-alive, pipelining, aborts, events with their times.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest silence that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Header fields in the order of the wire.
#[derive(Clone, Debug, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// Reads `name: value` lines, the request or status line already taken off.
    pub fn parse(lines: &str) -> Self {
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Self(lines.split("\r\n").filter_map(field).collect())
    }
}

/// How a body is sent.
#[derive(Clone, Debug)]
pub enum Body {
    /// No body and no framing fields.
    None,
    /// `Content-Length`.
    Sized(Vec<u8>),
    /// `Transfer-Encoding: chunked`, in pieces of the given size.
    Chunked(Vec<u8>, usize),
}

/// A request as the test wants it on the wire.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method, as written.
    pub method: String,
    /// The request target, as written.
    pub target: String,
    /// The fields, as written; `Host` and the framing are added when absent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
}

impl Request {
    /// A request without a body.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends a JSON body with `Content-Length`.
    pub fn json(self, value: &Value) -> Self {
        self.header("Content-Type", "application/json")
            .bytes(value.to_string().into_bytes())
    }

    /// Sends bytes with `Content-Length`.
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Sized(bytes.into());
        self
    }

    /// Sends bytes in chunks of `piece` bytes.
    pub fn chunked(mut self, bytes: impl Into<Vec<u8>>, piece: usize) -> Self {
        self.body = Body::Chunked(bytes.into(), piece);
        self
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// The head as it goes on the wire.
    pub fn head(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.has("host") {
            let _ = write!(head, "Host: {address}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match &self.body {
            Body::Sized(bytes) if !self.has("content-length") => {
                let _ = write!(head, "Content-Length: {}\r\n", bytes.len());
            }
            Body::Chunked(..) => head.push_str("Transfer-Encoding: chunked\r\n"),
            Body::None | Body::Sized(_) => {}
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The body with its transfer coding.
    fn framed_body(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Sized(bytes) => bytes.clone(),
            Body::Chunked(bytes, piece) => {
                let mut framed = Vec::with_capacity(bytes.len() + 64);
                for part in bytes.chunks(*piece) {
                    framed.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                    framed.extend_from_slice(part);
                    framed.extend_from_slice(b"\r\n");
                }
                framed.extend_from_slice(b"0\r\n\r\n");
                framed
            }
        }
    }
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All bytes of `Content-Length` came, or the status has no body.
    Length,
    /// The last chunk came.
    LastChunk,
    /// Delimited by the close of the connection.
    Close,
    /// The connection ended before the body did.
    Cut,
}

impl End {
    /// Whether a client may take the body for whole.
    pub fn is_whole(self) -> bool {
        self != Self::Cut
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields.
    pub headers: Headers,
    /// The body without transfer coding.
    pub body: Vec<u8>,
    /// How it ended.
    pub end: End,
    /// From the first byte sent to the end.
    pub elapsed: Duration,
}

impl Answer {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {} {:?}", self.status, self.text()),
        }
    }

    /// The machine word of a refusal of the data plane.
    pub fn code(&self) -> &str {
        self.header("x-llm-proxy-error-code").unwrap_or("")
    }

    /// Insists on a status; hands the answer on.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "body: {}", self.text());
        self
    }

    /// Insists on a refusal with this status and code, in the OpenAI dialect.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!(
            (self.status, self.code()),
            (status, code),
            "body: {}",
            self.text()
        );
        assert_eq!(self.json()["error"]["code"], code, "body: {}", self.text());
        assert!(
            self.json()["error"]["message"].is_string(),
            "body: {}",
            self.text()
        );
        assert!(
            self.header("content-type")
                .is_some_and(|t| t.starts_with("application/json"))
        );
        assert_eq!(self.header("x-llm-proxy-origin").unwrap_or("proxy"), "proxy");
        assert!(
            self.header("x-request-id").is_some(),
            "every answer has a request id"
        );
        self
    }

    /// Insists on a refusal with this status and code, in the Anthropic dialect.
    #[track_caller]
    pub fn refused_as_anthropic(self, status: u16, code: &str, kind: &str) -> Self {
        assert_eq!(
            (self.status, self.code()),
            (status, code),
            "body: {}",
            self.text()
        );
        let body = self.json();
        assert_eq!(body["type"], "error", "body: {body}");
        assert_eq!(body["error"]["type"], kind, "body: {body}");
        assert!(body["error"]["message"].is_string(), "body: {body}");
        assert!(body["request_id"].is_string(), "body: {body}");
        self
    }
}

/// A server-sent event and when its empty line arrived.
#[derive(Clone, Debug)]
pub struct Event {
    /// The `event` field.
    pub name: Option<String>,
    /// The `data` lines, joined.
    pub data: String,
    /// When it was whole.
    pub at: Instant,
}

impl Event {
    fn parse(block: &str) -> Self {
        let mut name = None;
        let mut data = Vec::new();
        for line in block.lines() {
            if let Some(value) = line.strip_prefix("event:") {
                name = Some(value.trim().to_owned());
            } else if let Some(value) = line.strip_prefix("data:") {
                data.push(value.strip_prefix(' ').unwrap_or(value));
            }
        }
        Self {
            name,
            data: data.join("\n"),
            at: Instant::now(),
        }
    }

    /// The data as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.data) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {:?}", self.data),
        }
    }
}

enum Framing {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done(End),
}

/// One connection, with what was read beyond the last answer.
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// Connects, or says why not.
    pub fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            address,
            buffer: Vec::new(),
        })
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Takes so many bytes of what comes, if that many come.
    pub fn read_raw(&mut self, count: usize) {
        while self.buffer.len() < count && self.refill() {}
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) {
        // a server that is gone needs not be told
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Sends a request. A large body is written beside the reading, for a server may answer before it has read all.
    pub fn send(&mut self, request: &Request) {
        let mut bytes = request.head(self.address);
        let body = request.framed_body();
        if body.len() <= 64 * 1024 {
            bytes.extend_from_slice(&body);
            // WHY: a refusal may close the connection while we write; the answer is what counts.
            let _ = self.stream.write_all(&bytes);
            return;
        }
        let _ = self.stream.write_all(&bytes);
        let mut writer = self.stream.try_clone().expect("clone the socket");
        std::thread::spawn(move || {
            let _ = writer.write_all(&body);
        });
    }

    /// Sends a request and reads its whole answer.
    #[track_caller]
    pub fn exchange(&mut self, request: &Request) -> Answer {
        let from = Instant::now();
        self.send(request);
        match self.read_answer(&request.method, from) {
            Some(answer) => answer,
            None => panic!("no answer to {} {}", request.method, request.target),
        }
    }

    /// Reads one answer; `None` when the connection ended without one.
    pub fn read_answer(&mut self, method: &str, from: Instant) -> Option<Answer> {
        let (status, headers) = self.read_head()?;
        let mut framing = framing_of(method, status, &headers);
        let mut body = Vec::new();
        while let Some(piece) = self.read_piece(&mut framing) {
            body.extend_from_slice(&piece);
        }
        let end = if let Framing::Done(end) = framing {
            end
        } else {
            End::Cut
        };
        Some(Answer {
            status,
            headers,
            body,
            end,
            elapsed: from.elapsed(),
        })
    }

    /// Reads the head of a final answer (1xx are skipped).
    pub fn read_head(&mut self) -> Option<(u16, Headers)> {
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                    break at;
                }
                if !self.refill() {
                    return None;
                }
            };
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 4);
            let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
            let status: u16 = line.split(' ').nth(1).and_then(|s| s.parse().ok())?;
            if status >= 200 {
                return Some((status, Headers::parse(fields)));
            }
        }
    }

    fn refill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came for {PATIENCE:?}")
            }
            Err(_) => false,
        }
    }

    fn take(&mut self, limit: u64) -> Vec<u8> {
        let count = (self.buffer.len() as u64).min(limit) as usize;
        self.buffer.drain(..count).collect()
    }

    /// The next line; `None` when the connection ended before it did.
    pub fn read_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Some(line);
            }
            if !self.refill() {
                return None;
            }
        }
    }

    fn read_piece(&mut self, framing: &mut Framing) -> Option<Vec<u8>> {
        loop {
            match framing {
                Framing::Done(_) => return None,
                Framing::Length(0) => *framing = Framing::Done(End::Length),
                Framing::ChunkSize => {
                    let size = self.read_line().and_then(|line| {
                        u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16).ok()
                    });
                    *framing = match size {
                        None => Framing::Done(End::Cut),
                        Some(0) => Framing::Trailers,
                        Some(size) => Framing::ChunkData(size),
                    };
                }
                Framing::ChunkEnd => {
                    let line = self.read_line();
                    *framing = if line.as_deref() == Some("") {
                        Framing::ChunkSize
                    } else {
                        Framing::Done(End::Cut)
                    };
                }
                Framing::Trailers => match self.read_line() {
                    None => *framing = Framing::Done(End::Cut),
                    Some(line) if line.is_empty() => *framing = Framing::Done(End::LastChunk),
                    Some(_) => {}
                },
                Framing::Length(left) | Framing::ChunkData(left) => {
                    let left = *left;
                    if self.buffer.is_empty() && !self.refill() {
                        *framing = Framing::Done(End::Cut);
                        continue;
                    }
                    let piece = self.take(left);
                    let rest = left - piece.len() as u64;
                    *framing = match framing {
                        Framing::ChunkData(_) if rest == 0 => Framing::ChunkEnd,
                        Framing::ChunkData(_) => Framing::ChunkData(rest),
                        _ => Framing::Length(rest),
                    };
                    return Some(piece);
                }
                Framing::UntilClose => {
                    if self.buffer.is_empty() && !self.refill() {
                        *framing = Framing::Done(End::Close);
                        continue;
                    }
                    return Some(self.take(u64::MAX));
                }
            }
        }
    }

    /// Sends a request and hands the answer out event by event.
    #[track_caller]
    pub fn stream(mut self, request: &Request) -> EventStream {
        self.send(request);
        let Some((status, headers)) = self.read_head() else {
            panic!("no answer to {} {}", request.method, request.target)
        };
        let framing = framing_of(&request.method, status, &headers);
        EventStream {
            connection: self,
            framing,
            text: Vec::new(),
            raw: Vec::new(),
            status,
            headers,
        }
    }

    /// Whether the other side has closed, waiting for it at most `within`.
    pub fn is_closed_within(&mut self, within: Duration) -> bool {
        self.stream
            .set_read_timeout(Some(within))
            .expect("set a time-out");
        let mut byte = [0; 1];
        let closed = match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("set a time-out");
        closed
    }
}

fn framing_of(method: &str, status: u16, headers: &Headers) -> Framing {
    if method == "HEAD" || status == 204 || status == 304 {
        return Framing::Done(End::Length);
    }
    if headers
        .get("transfer-encoding")
        .is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    {
        return Framing::ChunkSize;
    }
    match headers.get("content-length").and_then(|v| v.parse().ok()) {
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    }
}

/// An answer that is read as it comes.
pub struct EventStream {
    connection: Connection,
    framing: Framing,
    text: Vec<u8>,
    raw: Vec<u8>,
    /// The status.
    pub status: u16,
    /// The fields.
    pub headers: Headers,
}

impl EventStream {
    /// Waits for the next whole event; `None` at the end.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(at) = find(&self.text, b"\n\n") {
                let block = String::from_utf8_lossy(&self.text[..at]).into_owned();
                self.text.drain(..at + 2);
                return Some(Event::parse(&block));
            }
            let piece = self.connection.read_piece(&mut self.framing)?;
            self.raw.extend_from_slice(&piece);
            self.text.extend_from_slice(&piece);
        }
    }

    /// Reads to the end: the remaining events, what was left unfinished, and how it ended.
    pub fn finish(mut self) -> Rest {
        let mut events = Vec::new();
        while let Some(event) = self.next_event() {
            events.push(event);
        }
        let end = if let Framing::Done(end) = self.framing {
            end
        } else {
            End::Cut
        };
        Rest {
            events,
            unfinished: String::from_utf8_lossy(&self.text).into_owned(),
            end,
            raw: self.raw,
        }
    }

    /// Leaves at once, as a client that was killed.
    pub fn abort(self) {
        let _ = self.connection.stream.shutdown(Shutdown::Both);
    }
}

/// What was left of a stream.
#[derive(Debug)]
pub struct Rest {
    /// The whole events.
    pub events: Vec<Event>,
    /// Bytes after the last whole event.
    pub unfinished: String,
    /// How the answer ended.
    pub end: End,
    /// All body bytes from the first event on.
    pub raw: Vec<u8>,
}

impl Rest {
    /// Whether the end marker of chat and completions came.
    pub fn is_done(&self) -> bool {
        self.events.last().is_some_and(|event| event.data == "[DONE]")
    }
}

/// Somebody with an address to talk to and the fields that they always send.
#[derive(Clone, Debug)]
pub struct Client {
    /// The listener.
    pub address: SocketAddr,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
}

impl Client {
    /// Somebody without a credential.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            headers: Vec::new(),
        }
    }

    /// The same person with one more field.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut headers = self.headers.clone();
        headers.push((name.into(), value.into()));
        Self {
            address: self.address,
            headers,
        }
    }

    /// The request with this person's fields first.
    pub fn sign(&self, mut request: Request) -> Request {
        let mut headers = self.headers.clone();
        headers.append(&mut request.headers);
        request.headers = headers;
        request
    }

    /// Sends on a connection of its own.
    #[track_caller]
    pub fn send(&self, request: Request) -> Answer {
        let request = self.sign(request);
        Connection::open(self.address).exchange(&request)
    }

    /// Sends; `None` when no connection or no answer came.
    pub fn try_send(&self, request: Request) -> Option<Answer> {
        let request = self.sign(request);
        let mut connection = Connection::try_open(self.address).ok()?;
        let from = Instant::now();
        connection.send(&request);
        connection.read_answer(&request.method, from)
    }

    /// `GET`.
    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.send(Request::new("GET", target))
    }

    /// `DELETE`.
    #[track_caller]
    pub fn delete(&self, target: &str) -> Answer {
        self.send(Request::new("DELETE", target))
    }

    /// `POST` of JSON.
    #[track_caller]
    pub fn post(&self, target: &str, body: Value) -> Answer {
        self.send(Request::new("POST", target).json(&body))
    }

    /// `PATCH` of JSON.
    #[track_caller]
    pub fn patch(&self, target: &str, body: Value) -> Answer {
        self.send(Request::new("PATCH", target).json(&body))
    }

    /// `POST` of JSON, read event by event.
    #[track_caller]
    pub fn stream(&self, target: &str, body: Value) -> EventStream {
        let request = self.sign(Request::new("POST", target).json(&body));
        Connection::open(self.address).stream(&request)
    }

    /// A plain chat completion.
    #[track_caller]
    pub fn chat(&self, model: &str) -> Answer {
        self.post("/v1/chat/completions", chat(model))
    }

    /// A streamed chat completion.
    #[track_caller]
    pub fn chat_stream(&self, model: &str) -> EventStream {
        self.stream("/v1/chat/completions", chat_streamed(model))
    }

    /// A plain message of the Anthropic dialect.
    #[track_caller]
    pub fn message(&self, model: &str) -> Answer {
        self.send(
            Request::new("POST", "/v1/messages")
                .header("anthropic-version", "2023-06-01")
                .json(&message(model)),
        )
    }
}

/// The body of a plain chat completion.
pub fn chat(model: &str) -> Value {
    serde_json::json!({"model": model, "messages": [{"role": "user", "content": "hello"}]})
}

/// The body of a streamed chat completion.
pub fn chat_streamed(model: &str) -> Value {
    serde_json::json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "hello"}]})
}

/// The body of a plain message.
pub fn message(model: &str) -> Value {
    serde_json::json!({"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]})
}

/// Where `needle` begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
