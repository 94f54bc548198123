//! A provider of realtime sessions (WebSocket).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

/// The answer to the key `dGhlIHNhbXBsZSBub25jZQ==` (RFC 6455, 1.3).
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A provider of realtime sessions: keeps the heads it saw, plays a script in each session, and then echoes.
pub struct Realtime {
    pub address: SocketAddr,
    pub heads: Arc<Mutex<Vec<String>>>,
    pub ended: Arc<Mutex<Vec<String>>>,
}

pub type Session = WebSocket<TcpStream>;

impl Realtime {
    pub fn start(script: impl Fn(&mut Session) -> Option<()> + Send + Sync + 'static) -> Self {
        Self::with_first_bytes(b"", script)
    }

    /// Sends `first` in one write with the head of its 101.
    pub fn with_first_bytes(
        first: &[u8],
        script: impl Fn(&mut Session) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\nopenai-organization: org\r\n\r\n"
        )
        .into_bytes();
        answer.extend_from_slice(first);
        Self::answering(answer, script)
    }

    pub fn answering(
        answer: Vec<u8>,
        script: impl Fn(&mut Session) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (heads, ended) = (
            Arc::<Mutex<Vec<String>>>::default(),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let (seen, ends, script) = (heads.clone(), ended.clone(), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, ends, script, answer) =
                    (seen.clone(), ends.clone(), script.clone(), answer.clone());
                thread::spawn(move || {
                    let mut stream = stream;
                    let head = read_head(&mut stream);
                    seen.lock().expect("heads").push(head);
                    if stream.write_all(&answer).is_err() || !answer.starts_with(b"HTTP/1.1 101") {
                        return;
                    }
                    let mut session = WebSocket::from_raw_socket(stream, Role::Server, None);
                    script(&mut session);
                    // what the proxy says at the end
                    let end = loop {
                        match session.read() {
                            Ok(Message::Close(frame)) => {
                                let _ = session.flush();
                                break format!("close {}", code(frame.as_ref()));
                            }
                            Ok(message) => drop(session.send(message)),
                            Err(error) => break format!("broken {error}"),
                        }
                    };
                    ends.lock().expect("ends").push(end);
                });
            }
        });
        Self {
            address,
            heads,
            ended,
        }
    }

    /// Echoes every message.
    pub fn echo() -> Self {
        Self::start(|_| None)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn head(&self) -> String {
        self.heads
            .lock()
            .expect("heads")
            .last()
            .cloned()
            .unwrap_or_default()
    }

    pub fn count(&self) -> usize {
        self.heads.lock().expect("heads").len()
    }
}

pub fn code(frame: Option<&CloseFrame>) -> u16 {
    frame.map_or(0, |frame| frame.code.into())
}

pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).to_lowercase()
}
