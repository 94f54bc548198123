//! Accepts connections and gives each its task.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::HttpServerApp;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::domain::spawn::spawn;

use super::drain::Phase;
use super::front::{Front, overloaded};
use super::refusal;
use super::stream::ClientStream;

/// Pause after an error that will not go away by itself, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// An accept error is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts on `listener` until the drain closes listeners; connections live on as tasks of the
/// runtime that calls this. Each runtime calls it with its own duplicate (`TcpListener::try_clone`).
///
/// # Errors
/// The listener could not be given to the runtime.
pub async fn serve<A>(listener: TcpListener, front: Arc<Front<A>>) -> io::Result<()>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut phase = front.drain().watch();
    let mut logged = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => welcome(&front, socket, peer),
            Err(error) => stumble(&front, &error, &mut logged).await,
        }
    }
    // who was let in by the kernel before the end is still answered
    while let Some(Ok((socket, peer))) = futures_util::FutureExt::now_or_never(listener.accept()) {
        welcome(&front, socket, peer);
    }
    Ok(())
}

fn welcome<A>(front: &Arc<Front<A>>, socket: TcpStream, peer: SocketAddr)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    front.counters().connections_accepted.increment();
    let mut stream = ClientStream::new(socket, peer);
    match front
        .drain()
        .connections()
        .take_place(front.settings().max_connections)
    {
        Some(place) => {
            spawn("connection", Arc::clone(front).serve_connection(stream, place));
        }
        None => {
            front.counters().connections_refused.increment();
            stream.abandon_with(&refusal::render(&overloaded(), &refusal::request_id(&[])));
        }
    }
}

async fn stumble<A>(front: &Front<A>, error: &io::Error, logged: &mut Option<Instant>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    front.counters().accept_errors.increment();
    let now = Instant::now();
    if logged.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL) {
        *logged = Some(now);
        log::error!(error:% = error; "a connection could not be accepted: {error}");
    }
    // a client that left before it was accepted is no reason to wait
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tokio::time::sleep(PAUSE).await;
    }
}
