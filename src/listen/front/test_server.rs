//! A proxy that answers everything itself, a server around it, and a client that speaks bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::Result;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::domain::spawn::spawn;
use crate::listen::{Drain, Front, FrontSettings, bind, serve};

/// Long enough for any step on a busy machine; no test waits for it.
pub(super) const GENEROUS: Duration = Duration::from_secs(20);

/// A proxy that answers everything itself.
pub(super) struct Echo {
    pub(super) events: mpsc::UnboundedSender<String>,
}

impl Echo {
    fn tell(&self, event: impl Into<String>) {
        let _ = self.events.send(event.into());
    }

    pub(super) async fn answer(session: &mut Session, status: u16, body: String) -> Result<()> {
        let mut head = ResponseHeader::build(status, Some(2))?;
        head.insert_header("content-length", body.len())?;
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(Bytes::from(body)), true).await
    }
}

#[async_trait]
impl ProxyHttp for Echo {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _context: &mut ()) -> Result<bool> {
        let target = String::from_utf8_lossy(session.req_header().raw_path()).into_owned();
        if target == "/refuse" {
            Self::answer(session, 413, "too large".to_owned()).await?;
            return Ok(true);
        }
        let (mut length, mut sum) = (0_usize, 0_u64);
        while let Some(bytes) = session.downstream_session.read_request_body().await? {
            length += bytes.len();
            sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        match target.as_str() {
            "/panic" => panic!("asked to"),
            "/wait" => {
                self.tell("waiting");
                let gone = session.downstream_session.read_body_or_idle(true).await;
                self.tell(format!("gone {}", gone.is_err()));
                return Err(pingora_core::Error::new_down(
                    pingora_core::ErrorType::ConnectionClosed,
                ));
            }
            // watches its client while it works, as the forwarding loop does
            "/slow" => tokio::select! {
                _ = session.downstream_session.read_body_or_idle(true) => self.tell("disturbed"),
                () = tokio::time::sleep(Duration::from_millis(30)) => {}
            },
            "/stream" => {
                let mut head = ResponseHeader::build(200, Some(1))?;
                head.insert_header("transfer-encoding", "chunked")?;
                session.write_response_header(Box::new(head), false).await?;
                for _ in 0..3 {
                    session
                        .write_response_body(Some(Bytes::from(vec![b'x'; 3000])), false)
                        .await?;
                }
                session.write_response_body(None, true).await?;
                return Ok(true);
            }
            _ => {}
        }
        let peer = session.client_addr().map(ToString::to_string).unwrap_or_default();
        assert!(peer.starts_with("127.0.0.1:"), "{peer}");
        let method = session.req_header().method.clone();
        Self::answer(session, 200, format!("{method} {target} {length} {sum}")).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        panic!("everything is answered here")
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) front: Arc<Front<HttpProxy<Echo>>>,
    pub(super) events: mpsc::UnboundedReceiver<String>,
    pub(super) accepting: tokio::task::JoinHandle<std::io::Result<()>>,
}

pub(super) fn start(settings: FrontSettings) -> Server {
    let (sender, events) = mpsc::unbounded_channel();
    let proxy = http_proxy(&Arc::new(ServerConf::default()), Echo { events: sender });
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let front = Front::new(Arc::new(proxy), settings, Drain::new());
    let listener = bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = spawn("accept", serve(listener, Arc::clone(&front)));
    Server {
        address,
        front,
        events,
        accepting,
    }
}

pub(super) fn settings() -> FrontSettings {
    FrontSettings {
        max_connections: 100,
        ..FrontSettings::default()
    }
}

impl Server {
    pub(super) async fn connect(&self) -> Client {
        Client {
            socket: TcpStream::connect(self.address).await.unwrap(),
            received: Vec::new(),
        }
    }

    pub(super) async fn event(&mut self) -> String {
        tokio::time::timeout(GENEROUS, self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

pub(super) struct Client {
    pub(super) socket: TcpStream,
    pub(super) received: Vec<u8>,
}

/// A response with its head in lower case.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Client {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(super) async fn get(&mut self, target: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        self.answer().await
    }

    pub(super) async fn answer(&mut self) -> Answer {
        tokio::time::timeout(GENEROUS, self.read_answer()).await.unwrap()
    }

    async fn read_answer(&mut self) -> Answer {
        let end = loop {
            match memchr::memmem::find(&self.received, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => assert!(self.more().await, "no answer: {}", self.received.escape_ascii()),
            }
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let head = head.to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap();
        let length: usize = length.parse().unwrap();
        while self.received.len() < length {
            assert!(self.more().await, "answer cut");
        }
        let body = String::from_utf8(self.received.drain(..length).collect()).unwrap();
        Answer { status, head, body }
    }

    pub(super) async fn more(&mut self) -> bool {
        self.socket.read_buf(&mut self.received).await.unwrap() > 0
    }

    /// Waits for the end of the connection; answers what came before it.
    pub(super) async fn rest(mut self) -> Vec<u8> {
        let reading = async { while self.more().await {} };
        tokio::time::timeout(GENEROUS, reading).await.unwrap();
        self.received
    }
}

#[track_caller]
pub(super) fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let value: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(value["error"]["code"], code);
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert!(
        answer.head.contains(&format!("x-llm-proxy-error-code: {code}")),
        "{answer:?}"
    );
}
