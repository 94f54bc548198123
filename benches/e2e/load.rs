//! The load: closed loops on connections that stay open, and what they saw.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::Load;
use super::wire::{Chunks, Wire};

/// What all connections saw.
#[derive(Default)]
struct Seen {
    requests: u64,
    failed: u64,
    /// Of each request, or of each event, in nanoseconds.
    delays: Vec<u64>,
}

impl Seen {
    fn print(mut self, seconds: f64) -> Result<()> {
        self.delays.sort_unstable();
        let at = |share: f64| {
            let place = (self.delays.len() as f64 * share) as usize;
            self.delays.get(place).map(|nanos| *nanos as f64 / 1000.0)
        };
        let seen = json!({
            "requests": self.requests,
            "failed": self.failed,
            "units": self.delays.len(),
            "seconds": seconds,
            "p50_micros": at(0.50),
            "p99_micros": at(0.99),
        });
        writeln!(std::io::stdout(), "{seen}")?;
        Ok(())
    }
}

/// Plain requests until the time is over.
pub async fn plain(load: Load) -> Result<()> {
    let request = request(&load, false);
    run(&load, async |wire: &mut Wire, seen: &RefCell<Seen>| {
        let sent = Instant::now();
        wire.socket.write_all(&request).await?;
        let head = wire.answer().await?;
        wire.skip(head.content_length).await?;
        if head.status != 200 {
            bail!("answered {}", head.status);
        }
        seen.borrow_mut().delays.push(sent.elapsed().as_nanos() as u64);
        Ok(())
    })
    .await
}

/// Streams until the time is over; the last ones are read to their end.
pub async fn stream(load: Load) -> Result<()> {
    let request = request(&load, true);
    run(&load, async |wire: &mut Wire, seen: &RefCell<Seen>| {
        read_stream(wire, &request, seen, || {}).await
    })
    .await
}

/// Opens all streams, says so, and reads them until standard input ends.
pub async fn hold(load: Load) -> Result<()> {
    let request: Rc<[u8]> = request(&load, true).into();
    let seen = Rc::new(RefCell::new(Seen::default()));
    let begun = Rc::new(std::cell::Cell::new(0));
    let streams = LocalSet::new();
    let (target, connections) = (load.target, load.connections);
    let opened = Rc::clone(&begun);
    streams
        .run_until(async move {
            for number in 0..connections {
                let (request, seen, begun) = (Rc::clone(&request), Rc::clone(&seen), Rc::clone(&begun));
                tokio::task::spawn_local(async move {
                    let mut first = true;
                    let read = async {
                        let mut wire = Wire::new(TcpStream::connect(target).await?)?;
                        let began = || {
                            if std::mem::take(&mut first) {
                                begun.set(begun.get() + 1);
                            }
                        };
                        read_stream(&mut wire, &request, &seen, began).await
                    };
                    if read.await.is_err() {
                        seen.borrow_mut().failed += 1;
                    }
                });
                if number % 20 == 19 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            let patience = Instant::now() + Duration::from_secs(15);
            while opened.get() < connections && Instant::now() < patience {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let failed = seen.borrow().failed;
            writeln!(
                std::io::stdout(),
                "{}",
                json!({"open": opened.get(), "failed": failed})
            )?;
            std::io::stdout().flush()?;
            // whoever holds our standard input decides how long
            let _ = tokio::io::stdin().read(&mut [0]).await;
            writeln!(std::io::stdout(), "{}", json!({"failed": seen.borrow().failed}))?;
            Ok(())
        })
        .await
}

/// Repeats `once` on each connection until the time is over.
async fn run(load: &Load, once: impl AsyncFn(&mut Wire, &RefCell<Seen>) -> Result<()>) -> Result<()> {
    let seen = RefCell::new(Seen::default());
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(load.seconds);
    let connections = (0..load.connections).map(async |number| {
        // paced streams do not all beat at the same moment
        let offset = load.pause_micros * number as u64 / load.connections as u64;
        tokio::time::sleep(Duration::from_micros(offset)).await;
        let Ok(socket) = TcpStream::connect(load.target).await else {
            seen.borrow_mut().failed += 1;
            return;
        };
        let Ok(mut wire) = Wire::new(socket) else { return };
        while Instant::now() < end {
            match once(&mut wire, &seen).await {
                Ok(()) => seen.borrow_mut().requests += 1,
                Err(_) => {
                    seen.borrow_mut().failed += 1;
                    return;
                }
            }
        }
    });
    futures_util::future::join_all(connections).await;
    seen.into_inner().print(began.elapsed().as_secs_f64())
}

async fn read_stream(
    wire: &mut Wire,
    request: &[u8],
    seen: &RefCell<Seen>,
    mut began: impl FnMut(),
) -> Result<()> {
    wire.socket.write_all(request).await?;
    let head = wire.answer().await?;
    if head.status != 200 || !head.chunked {
        bail!("answered {}", head.status);
    }
    let mut decoder = Chunks::default();
    let mut text = Vec::with_capacity(4096);
    while wire.chunks(&mut decoder, &mut text).await? {
        began();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let mut start = 0;
        while let Some(length) = memchr::memmem::find(&text[start..], b"\n\n") {
            if let Some(sent) = stamp(&text[start..start + length]) {
                seen.borrow_mut().delays.push(now.saturating_sub(sent));
            }
            start += length + 2;
        }
        text.drain(..start);
    }
    Ok(())
}

/// When the provider wrote this event.
fn stamp(event: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(event, b"\"at\":")? + 5;
    std::str::from_utf8(event.get(at..at + 20)?).ok()?.parse().ok()
}

/// A request as an SDK sends it.
fn request(load: &Load, streaming: bool) -> Vec<u8> {
    let start = [
        r#"{"model":""#,
        &load.model,
        r#"","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":""#,
    ]
    .concat();
    let end = if streaming {
        r#""}],"stream":true,"temperature":0.7}"#
    } else {
        r#""}],"temperature":0.7}"#
    };
    let text = "lorem ipsum dolor ".repeat(load.body_bytes / 18 + 1);
    let room = load.body_bytes.saturating_sub(start.len() + end.len());
    let body = [&start, &text[..room], end].concat();
    let mut head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\ncontent-type: application/json\r\n\
         user-agent: OpenAI/Python 1.99.0\r\nx-stainless-lang: python\r\nx-stainless-os: Linux\r\n\
         x-stainless-runtime: CPython\r\nx-stainless-retry-count: 0\r\naccept-encoding: gzip, deflate\r\n\
         content-length: {}\r\n",
        load.target,
        body.len()
    );
    if streaming {
        let chunks = format!(
            "x-bench-chunks: {}\r\nx-bench-pause-micros: {}\r\n",
            load.chunks, load.pause_micros
        );
        head.push_str(&chunks);
    }
    for line in &load.headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    [head, body].concat().into_bytes()
}
