use super::*;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

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
use crate::listen::{bind, serve};

/// Long enough for any step on a busy machine; no test waits for it.
const GENEROUS: Duration = Duration::from_secs(20);

/// A proxy that answers everything itself.
struct Echo {
    events: mpsc::UnboundedSender<String>,
}

impl Echo {
    fn tell(&self, event: impl Into<String>) {
        let _ = self.events.send(event.into());
    }

    async fn answer(session: &mut Session, status: u16, body: String) -> Result<()> {
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

struct Server {
    address: SocketAddr,
    front: Arc<Front<HttpProxy<Echo>>>,
    events: mpsc::UnboundedReceiver<String>,
    accepting: tokio::task::JoinHandle<std::io::Result<()>>,
}

fn start(settings: FrontSettings) -> Server {
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

fn settings() -> FrontSettings {
    FrontSettings {
        max_connections: 100,
        ..FrontSettings::default()
    }
}

impl Server {
    async fn connect(&self) -> Client {
        Client {
            socket: TcpStream::connect(self.address).await.unwrap(),
            received: Vec::new(),
        }
    }

    async fn event(&mut self) -> String {
        tokio::time::timeout(GENEROUS, self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

struct Client {
    socket: TcpStream,
    received: Vec<u8>,
}

/// A response with its head in lower case.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn get(&mut self, target: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        self.answer().await
    }

    async fn answer(&mut self) -> Answer {
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

    async fn more(&mut self) -> bool {
        self.socket.read_buf(&mut self.received).await.unwrap() > 0
    }

    /// Waits for the end of the connection; answers what came before it.
    async fn rest(mut self) -> Vec<u8> {
        let reading = async { while self.more().await {} };
        tokio::time::timeout(GENEROUS, reading).await.unwrap();
        self.received
    }
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let value: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(value["error"]["code"], code);
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert!(
        answer.head.contains(&format!("x-llm-proxy-error-code: {code}")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let server = start(settings());
    let mut client = server.connect().await;
    for turn in 0..3 {
        assert_eq!(
            client.get(&format!("/{turn}")).await.body,
            format!("GET /{turn} 0 0")
        );
    }
    client
        .send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.head.contains("connection: close"));
    assert!(client.rest().await.is_empty());
    server.front.drain().connections().wait_until_empty().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client
        .send(
            "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
             GET /slow HTTP/1.1\r\nHost: a\r\n\r\n\r\n\
             GET /four HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    for expected in [
        "GET /slow 0 0",
        "POST /two 3 294",
        "GET /slow 0 0",
        "GET /four 0 0",
    ] {
        assert_eq!(client.answer().await.body, expected);
    }
    assert!(
        server.events.try_recv().is_err(),
        "a pipelined request is no reason to think the client gone"
    );
}

#[tokio::test]
async fn a_request_that_comes_while_another_is_watched_waits_its_turn() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    client
        .send("GET /second HTTP/1.1\r\nHost: a\r\n\r\nGET /third HT")
        .await;
    assert_eq!(client.answer().await.body, "GET /slow 0 0");
    assert_eq!(client.answer().await.body, "GET /second 0 0");
    client.send("TP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "GET /third 0 0");
    assert!(server.events.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_at_once() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client
        .send("POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    assert_eq!(server.event().await, "waiting");
    drop(client);
    assert_eq!(server.event().await, "gone true");
    server.front.drain().connections().wait_until_empty().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_behind_its_pipelined_requests() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client
        .send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\n")
        .await;
    assert_eq!(server.event().await, "waiting");
    drop(client);
    assert_eq!(server.event().await, "gone true");
}

#[tokio::test]
async fn bodies_and_the_requests_behind_them_stay_in_step() {
    let server = start(settings());
    let mut client = server.connect().await;
    let body = "0123456789abcdef".repeat(64 * 1024);
    let sum: u64 = body.bytes().map(u64::from).sum();
    let expected = format!("POST /body {} {sum}", body.len());
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

    let sized = format!(
        "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}{next}",
        body.len()
    );
    client.send(sized).await;
    assert_eq!(client.answer().await.body, expected);
    assert_eq!(client.answer().await.body, "GET /next 0 0");

    let mut chunked = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for (index, piece) in body.as_bytes().chunks(70_001).enumerate() {
        let extension = if index % 2 == 0 { "" } else { ";name=value" };
        chunked.push_str(&format!(
            "{:x}{extension}\r\n{}\r\n",
            piece.len(),
            str::from_utf8(piece).unwrap()
        ));
    }
    chunked.push_str("0\r\nTrailer: x\r\n\r\n");
    for _ in 0..2 {
        client.send(format!("{chunked}{next}")).await;
        assert_eq!(client.answer().await.body, expected);
        assert_eq!(client.answer().await.body, "GET /next 0 0");
    }
}

#[tokio::test]
async fn a_chunked_body_that_comes_byte_by_byte_stays_in_step() {
    let server = start(settings());
    let mut client = server.connect().await;
    let wire = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for byte in wire.bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.body, "POST /body 5 495");
    assert_eq!(client.answer().await.body, "GET /next 0 0");
}

#[tokio::test]
async fn a_broken_chunked_body_ends_the_connection() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send(
            "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\
             GET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    let rest = String::from_utf8(client.rest().await).unwrap();
    assert!(!rest.contains("/next"), "{rest}");
}

#[tokio::test]
async fn a_large_streamed_answer_is_whole() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let text = String::from_utf8(client.rest().await).unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    let chunk = format!("BB8\r\n{}\r\n", "x".repeat(3000));
    assert!(
        body == format!("{}0\r\n\r\n", chunk.repeat(3)),
        "{} {}",
        body.len(),
        body.replace('x', "")
    );
}

#[tokio::test]
async fn absolute_form_reaches_the_proxy_as_a_path() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send("POST http://a/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    assert_eq!(client.answer().await.body, "POST /x?y=1 2 209");
    assert_eq!(client.get("/next").await.body, "GET /next 0 0");
}

#[tokio::test]
async fn refused_heads_get_json_and_an_id() {
    let server = start(settings());
    for (wire, status, code) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "malformed_request"),
        ("\x16\x03\x01".to_owned(), 400, "malformed_request"),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            405,
            "method_not_allowed",
        ),
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000)),
            431,
            "header_too_large",
        ),
    ] {
        let mut client = server.connect().await;
        client.send(wire).await;
        let answer = client.answer().await;
        assert_refused(&answer, status, code);
        assert!(answer.head.contains("x-request-id: "), "{answer:?}");
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(server.front.counters().malformed_heads.get(), 3);
    assert_eq!(server.front.counters().oversized_heads.get(), 1);
}

#[tokio::test]
async fn a_refusal_keeps_the_clients_id_and_survives_the_unread_body() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send("POST / HTTP/1.1\r\nX-Request-ID: mine\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    client.send(vec![b'x'; 1_000_000]).await;
    let answer = client.answer().await;
    assert_refused(&answer, 400, "malformed_request");
    assert!(answer.head.contains("x-request-id: mine"), "{answer:?}");
}

#[tokio::test]
async fn an_early_answer_survives_the_unread_body() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send(format!(
            "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            8 << 20
        ))
        .await;
    for _ in 0..8 {
        client.send(vec![b'x'; 1 << 20]).await;
    }
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "too large"));
    assert!(answer.head.contains("connection: close"));
}

#[tokio::test]
async fn a_head_that_drips_is_refused_at_the_deadline() {
    let server = start(FrontSettings {
        header_timeout: Duration::from_millis(60),
        ..settings()
    });
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\n").await;
    let dripping = async {
        loop {
            client.socket.write_all(b"X: y\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            if client
                .socket
                .try_read_buf(&mut client.received)
                .is_ok_and(|count| count > 0)
            {
                return;
            }
        }
    };
    tokio::time::timeout(GENEROUS, dripping).await.unwrap();
    assert_refused(&client.answer().await, 408, "header_timeout");
    assert_eq!(server.front.counters().slow_heads.get(), 1);
}

#[tokio::test]
async fn a_head_that_ends_early_is_refused() {
    let server = start(settings());
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    client.socket.shutdown().await.unwrap();
    assert_refused(&client.answer().await, 400, "malformed_request");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let server = start(FrontSettings {
        keepalive_timeout: Duration::from_millis(30),
        ..settings()
    });
    let fresh = server.connect().await;
    assert!(fresh.rest().await.is_empty());
    let mut used = server.connect().await;
    used.get("/").await;
    assert!(used.rest().await.is_empty());
}

#[tokio::test]
async fn a_panic_closes_that_connection_only() {
    let server = start(settings());
    let mut bystander = server.connect().await;
    bystander.get("/before").await;
    let mut client = server.connect().await;
    client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.rest().await.is_empty());
    assert_eq!(bystander.get("/after").await.body, "GET /after 0 0");
    assert_eq!(server.front.counters().panics.get(), 1);
}

#[tokio::test]
async fn above_the_connection_limit_only_health_is_served() {
    let server = start(FrontSettings {
        max_connections: 1,
        ..settings()
    });
    let mut first = server.connect().await;
    first.get("/first").await;

    let mut second = server.connect().await;
    second
        .send("POST /v1/x HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let answer = second.answer().await;
    assert_refused(&answer, 503, "overloaded");
    assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    assert!(answer.head.contains("x-request-id: mine"), "{answer:?}");

    let mut third = server.connect().await;
    let health = third.get("/health").await;
    assert_eq!(health.body, "GET /health 0 0");
    assert!(health.head.contains("connection: close"), "{health:?}");
    assert!(third.rest().await.is_empty());

    assert_eq!(first.get("/again").await.body, "GET /again 0 0");
    assert_eq!(server.front.counters().connections_refused.get(), 1);
}

#[tokio::test]
async fn when_reserved_places_are_taken_too_the_refusal_comes_at_once() {
    let server = start(FrontSettings {
        max_connections: 0,
        ..settings()
    });
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(server.connect().await);
    }
    let mut client = server.connect().await;
    let answer = client.answer().await;
    assert_refused(&answer, 503, "overloaded");
    assert!(client.rest().await.is_empty());
    drop(silent);
}

#[tokio::test]
async fn a_swapped_setting_holds_for_the_next_request() {
    let server = start(settings());
    let mut client = server.connect().await;
    client.get("/").await;
    server.front.settings.store(Arc::new(FrontSettings {
        max_headers: 1,
        ..settings()
    }));
    client.get("/still-read-with-the-old-or-new").await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n").await;
    assert_refused(&client.answer().await, 431, "header_too_large");
}

#[tokio::test]
async fn a_drain_says_close_then_closes_idle_connections_and_listeners() {
    let server = start(settings());
    let mut client = server.connect().await;
    client.get("/").await;
    let idle = server.connect().await;

    server.front.drain().begin_soft();
    let answer = client.get("/soft").await;
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert!(client.rest().await.is_empty());
    let mut late = server.connect().await;
    assert_eq!(late.get("/late").await.status, 200);

    server.front.drain().close_idle();
    tokio::time::timeout(GENEROUS, server.accepting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(idle.rest().await.is_empty());
    assert_eq!(server.front.drain().wait_empty(GENEROUS).await, 0);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_request_behind_a_running_one_reaches_the_proxy_while_draining() {
    let server = start(settings());
    let refusing = server.front.drain().refusing_flag();
    let mut client = server.connect().await;
    client
        .send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /behind HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    server.front.drain().close_idle();
    assert!(refusing.load(Ordering::Acquire));
    assert_eq!(client.answer().await.body, "GET /slow 0 0");
    let answer = client.answer().await;
    assert_eq!(answer.body, "GET /behind 0 0");
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert_eq!(server.front.drain().wait_empty(GENEROUS).await, 0);
}

#[tokio::test]
async fn what_outlives_the_drain_is_cut() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(server.event().await, "waiting");
    server.front.drain().close_idle();
    assert_eq!(
        server.front.drain().wait_empty(Duration::from_millis(20)).await,
        1
    );
    server.front.drain().cut();
    assert!(client.rest().await.is_empty());
    assert_eq!(server.front.drain().wait_empty(GENEROUS).await, 0);
}
