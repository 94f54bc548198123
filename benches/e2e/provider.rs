//! A provider that answers at once: a completion of 1 KiB, or a stream of events as the request asks for.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::wire::{Head, Wire};

const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
    openai-processing-ms: 12\r\nx-request-id: req_0123456789abcdef\r\ntransfer-encoding: chunked\r\n\r\n";

/// Serves until it is killed.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let listener: TcpListener = socket.listen(4096)?;
    let completion = completion();
    loop {
        let (socket, _) = listener.accept().await?;
        let completion = completion.clone();
        tokio::spawn(async move {
            // a proxy that closes its connection is no failure
            let _ = answer_all(socket, &completion).await;
        });
    }
}

async fn answer_all(socket: TcpStream, completion: &[u8]) -> Result<()> {
    let mut wire = Wire::new(socket)?;
    while let Some(head) = wire.request().await? {
        wire.skip(head.content_length).await?;
        match head.chunks {
            None => wire.socket.write_all(completion).await?,
            Some(chunks) => stream(&mut wire.socket, &head, chunks).await?,
        }
    }
    Ok(())
}

/// An answer of 1 KiB, with its head.
fn completion() -> Vec<u8> {
    let start = r#"{"id":"chatcmpl-0123456789","object":"chat.completion","created":1700000000,"model":"bench-model","choices":[{"index":0,"message":{"role":"assistant","content":""#;
    let end = r#""},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"completion_tokens":170,"total_tokens":370}}"#;
    let text = "lorem ipsum ".repeat(100);
    let body = [start, &text[..1024 - start.len() - end.len()], end].concat();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nopenai-processing-ms: 12\r\n\
         x-request-id: req_0123456789abcdef\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

async fn stream(socket: &mut TcpStream, head: &Head, chunks: u64) -> Result<()> {
    socket.write_all(STREAM_HEAD).await?;
    let mut next = Instant::now();
    for _ in 0..chunks {
        if head.pause_micros > 0 {
            next += Duration::from_micros(head.pause_micros);
            tokio::time::sleep_until(next).await;
        } else {
            tokio::task::yield_now().await;
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let event = format!(
            "data: {{\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
             \"model\":\"bench-model\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word\"}},\
             \"finish_reason\":null}}],\"at\":{at:020}}}\n\n"
        );
        write_chunk(socket, &event).await?;
    }
    let stop = "data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\
                \"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    write_chunk(socket, stop).await?;
    socket.write_all(b"0\r\n\r\n").await?;
    Ok(())
}

async fn write_chunk(socket: &mut TcpStream, data: &str) -> Result<()> {
    let chunk = format!("{:x}\r\n{data}\r\n", data.len());
    socket.write_all(chunk.as_bytes()).await?;
    Ok(())
}
