use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;
use crate::management::fakes::{ADMIN, Bench};

struct Sidecar {
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
}

fn start() -> Sidecar {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let serving = spawn("sidecar", serve(Bench::new().own, listener, stopped));
    Sidecar {
        address,
        stop,
        serving,
    }
}

/// Reads one answer: head, and as much body as it announces.
async fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    let head_end = loop {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed early");
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec())
        .unwrap()
        .to_ascii_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |text| text.parse().unwrap());
    while bytes.len() < head_end + length {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed early");
    }
    (head, String::from_utf8(bytes[head_end..].to_vec()).unwrap())
}

#[tokio::test]
async fn requests_are_answered_over_one_connection_until_it_drains() {
    let sidecar = start();
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(
            head.contains("x-request-id: ") && body.contains("\"status\":\"ok\""),
            "{head}{body}"
        );
    }
    let body = r#"{"name":"p","api_key":"sk-provider-1234567890"}"#;
    let post = format!(
        "POST /manage/projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(post.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("http/1.1 201"));
    sidecar.stop.send_replace(true);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    sidecar.serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(sidecar.address).await.is_err());
}

#[tokio::test]
async fn a_refused_head_is_answered_before_its_body_is_sent() {
    let sidecar = start();
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    stream
        .write_all(b"POST /manage/projects HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        .await
        .unwrap();
    let (head, _) = answer(&mut stream).await;
    assert!(head.starts_with("http/1.1 401"), "{head}");
    sidecar.stop.send_replace(true);
    sidecar.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_in_json_while_it_comes() {
    let sidecar = start();
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    let head = format!(
        "POST /manage/projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let sending = spawn("sender", async move {
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while writing.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    let mut seen = vec![0; 12];
    reading.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"HTTP/1.1 413");
    sending.abort();
    sidecar.stop.send_replace(true);
    sidecar.serving.await.unwrap().unwrap();
}
