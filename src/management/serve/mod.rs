//! The management listener: HTTP/1.1 with limits on everything a client can spend.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::Listener;
use super::error::ApiError;
use super::own_paths::{Admission, Head, MAX_BODY_BYTES, OwnPaths, OwnResponse};
use crate::domain::spawn::spawn;

/// Connections at once; more wait in the system's queue.
const MOST_CONNECTIONS: usize = 256;
/// Bytes of a head at most.
const LARGEST_HEAD_BYTES: usize = 64 << 10;
/// For a whole head; also how long an idle connection is kept.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// For a whole body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// For sent bytes to be taken by the client.
const WRITE_PATIENCE_MILLISECONDS: u32 = 30_000;
/// For running requests to end when the listener stops.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Serves until `drain` says so, then lets running requests end.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn serve(
    own: Arc<OwnPaths>,
    listener: std::net::TcpListener,
    mut drain: watch::Receiver<bool>,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = tokio::select! {
            () = told_to_stop(&mut drain) => break,
            place = places.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = told_to_stop(&mut drain) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(own.clone(), stream, peer.ip(), drain.clone());
                spawn("management-connection", async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                log::warn!("the management listener cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN_PATIENCE, places.acquire_many(all))
        .await
        .is_err()
    {
        log::warn!("management connections were still busy when their time was up");
    }
    Ok(())
}

async fn told_to_stop(drain: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same as one that says so.
    let _ = drain.wait_for(|stop| *stop).await;
}

async fn serve_connection(
    own: Arc<OwnPaths>,
    stream: TcpStream,
    peer: IpAddr,
    mut drain: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("no TCP_NODELAY on a management connection: {error}");
    }
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, WRITE_PATIENCE_MILLISECONDS) {
        log::debug!("no TCP_USER_TIMEOUT on a management connection: {error}");
    }
    let service = hyper::service::service_fn(move |request| {
        let own = own.clone();
        async move { Ok::<_, std::convert::Infallible>(respond(&own, request, peer).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(LARGEST_HEAD_BYTES)
        .keep_alive(true);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_to_stop(&mut drain) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN_PATIENCE, connection).await {
                Ok(ended) => ended,
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        log::debug!("a management connection ended early: {error}");
    }
}

async fn respond(own: &Arc<OwnPaths>, request: Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let head = Head {
        method: parts.method,
        uri: parts.uri,
        headers: parts.headers,
        client: peer,
        via: Listener::Sidecar,
    };
    let response = match own.admit(head).await {
        Admission::Answered(response) => response,
        Admission::Admitted(admitted) => match read_body(body).await {
            Ok(body) => own.run(admitted, body).await,
            Err(error) => admitted.refuse(&error),
        },
    };
    into_http(response)
}

async fn read_body(body: Incoming) -> Result<Bytes, ApiError> {
    let limited = Limited::new(body, MAX_BODY_BYTES);
    match tokio::time::timeout(BODY_PATIENCE, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::BodyTooLarge {
            limit_bytes: MAX_BODY_BYTES,
        }),
        Ok(Err(error)) => Err(ApiError::InvalidBody {
            text: "invalid request body",
            message: format!("the body broke off: {error}"),
        }),
        Err(_) => Err(ApiError::BodyTimeout),
    }
}

fn into_http(response: OwnResponse) -> Response<Full<Bytes>> {
    let mut http = Response::new(Full::new(response.body));
    *http.status_mut() = response.status;
    *http.headers_mut() = response.headers;
    http
}

#[cfg(test)]
mod tests;
