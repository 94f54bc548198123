//! One client connection: head after head, each handed to the proxy as a Pingora session.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;

use crate::domain::{Denial, DenialCode};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Source;

use super::connections::Place;
use super::counters::FrontCounters;
use super::drain::{Drain, Phase};
use super::head::{Head, HeadScan, malformed, may_begin};
use super::refusal;
use super::settings::FrontSettings;
use super::stream::ClientStream;

/// A connection that was just accepted gets this long to send a request while listeners close.
const LAST_MOMENT: Duration = Duration::from_millis(250);

/// Patience with connections above `max_connections`: their places are few.
const RESERVED_PATIENCE: Duration = Duration::from_secs(2);

/// Everything that the connections of all listeners share.
pub struct Front<A> {
    app: Arc<A>,
    settings: Arc<ArcSwap<FrontSettings>>,
    drain: Arc<Drain>,
    counters: Arc<FrontCounters>,
    /// A watch that always says that the process ends: its sessions close after one answer.
    ended: watch::Sender<bool>,
}

/// What a connection's client did next.
enum Next {
    /// Sent a head.
    Request(Head, HeadLength),
    /// Sent something that is refused; the connection ends.
    Refused(Denial),
    /// Left, or was silent for too long.
    Gone,
}

type HeadLength = usize;

impl<A> Front<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// A front before `app`, usually `pingora_proxy::HttpProxy`.
    pub fn new(app: Arc<A>, settings: Arc<ArcSwap<FrontSettings>>, drain: Arc<Drain>) -> Arc<Self> {
        Arc::new(Self {
            app,
            settings,
            drain,
            counters: Arc::default(),
            ended: watch::Sender::new(true),
        })
    }

    /// What was counted before requests existed.
    pub fn counters(&self) -> &Arc<FrontCounters> {
        &self.counters
    }

    /// Lets `metrics` read what is counted here.
    pub fn report_to(&self, metrics: &Metrics) {
        self.counters.report_to(metrics);
        let connections = Arc::clone(self.drain.connections());
        metrics.connect(Source::ConnectionsOpen, move || connections.open() as u64);
    }

    /// The shutdown that this front obeys.
    pub fn drain(&self) -> &Arc<Drain> {
        &self.drain
    }

    pub(super) fn settings(&self) -> arc_swap::Guard<Arc<FrontSettings>> {
        self.settings.load()
    }

    /// Serves a connection to its end, or until it is cut.
    pub(super) async fn serve_connection(self: Arc<Self>, stream: ClientStream, place: Place) {
        let mut phase = self.drain.watch();
        let mut cut = phase.clone();
        tokio::select! {
            biased;
            () = self.serve_requests(Box::new(stream), &place, &mut phase) => {}
            _ = cut.wait_for(|phase| *phase == Phase::Cut) => {}
        }
    }

    async fn serve_requests(
        &self,
        mut stream: Box<ClientStream>,
        place: &Place,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let shutdown = if place.is_reserved() {
            self.ended.subscribe()
        } else {
            self.drain.shutdown_watch()
        };
        let mut persistent = None;
        let mut fresh = true;
        loop {
            let settings = self.settings.load_full();
            match self.next(&mut stream, &settings, place, phase, fresh).await {
                Next::Gone => return,
                Next::Refused(denial) => return self.refuse(&mut stream, denial).await,
                Next::Request(head, _) if place.is_reserved() && !head.asks_for_health => {
                    self.counters.connections_refused.increment();
                    let answer = refusal::render(&overloaded(), &refusal::request_id(stream.unread()));
                    return stream.abandon_with(&answer);
                }
                Next::Request(head, length) => {
                    let session = session(stream, head, length, persistent.take());
                    let Some((next, settings)) = self.process(session, &shutdown).await else {
                        return;
                    };
                    (stream, persistent, fresh) = (next, settings, false);
                }
            }
        }
    }

    /// Lets the proxy answer one request; gives the connection back if it can be used again.
    async fn process(
        &self,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<(Box<ClientStream>, Option<HttpPersistentSettings>)> {
        let processing = AssertUnwindSafe(self.app.process_new_http(session, shutdown));
        let Ok(reused) = processing.catch_unwind().await else {
            self.counters.panics.increment();
            log::error!("a request panicked, its connection is closed");
            return None;
        };
        let (stream, persistent) = reused?.consume();
        let stream = stream.into_any().downcast::<ClientStream>().ok()?;
        stream.request_is_whole().then_some((stream, persistent))
    }

    /// Waits for the next head and reads it.
    async fn next(
        &self,
        stream: &mut ClientStream,
        settings: &FrontSettings,
        place: &Place,
        phase: &mut watch::Receiver<Phase>,
        fresh: bool,
    ) -> Next {
        let (patience, head_timeout) = if place.is_reserved() {
            (RESERVED_PATIENCE, settings.header_timeout.min(RESERVED_PATIENCE))
        } else {
            (settings.keepalive_timeout, settings.header_timeout)
        };
        skip_empty_lines(stream);
        while stream.unread().is_empty() {
            let received = tokio::select! {
                biased;
                received = stream.receive() => received,
                () = idle_end(phase, fresh) => return Next::Gone,
                () = tokio::time::sleep(patience) => return Next::Gone,
            };
            if !matches!(received, Ok(1..)) {
                return Next::Gone;
            }
            skip_empty_lines(stream);
        }
        let mut scan = HeadScan::default();
        match try_head(stream, &mut scan, settings) {
            Ok(None) => {}
            found => return into_next(found),
        }
        match tokio::time::timeout(head_timeout, receive_head(stream, &mut scan, settings)).await {
            Ok(next) => next,
            Err(_) => Next::Refused(Denial::new(
                DenialCode::HeaderTimeout,
                format!(
                    "the request head was not complete within {} s",
                    head_timeout.as_secs_f32()
                ),
            )),
        }
    }

    async fn refuse(&self, stream: &mut ClientStream, denial: Denial) {
        match denial.code {
            DenialCode::HeaderTimeout => self.counters.slow_heads.increment(),
            DenialCode::HeaderTooLarge => self.counters.oversized_heads.increment(),
            _ => self.counters.malformed_heads.increment(),
        }
        log::debug!(code = denial.code.as_str(); "a request head was refused: {}", denial.message);
        let answer = refusal::render(&denial, &refusal::request_id(stream.unread()));
        stream.close_with(&answer).await;
    }
}

/// The refusal of a connection above `max_connections`.
pub(super) fn overloaded() -> Denial {
    Denial::new(
        DenialCode::Overloaded,
        "too many connections are open; try again in a moment",
    )
    .with_retry_after(Duration::from_secs(1))
}

/// The Pingora session of the request whose head lies in `stream`.
fn session(
    mut stream: Box<ClientStream>,
    head: Head,
    head_length: HeadLength,
    persistent: Option<HttpPersistentSettings>,
) -> ServerSession {
    let mut bytes = stream.begin_request(head_length, head.framing);
    if let Some(mut rewritten) = head.rewritten {
        rewritten.extend_from_slice(&bytes[head_length..]);
        bytes = bytes::BytesMut::from(&rewritten[..]);
    }
    let mut session = ServerSession::new_http1(stream);
    if let Some(persistent) = persistent {
        persistent.apply_to_session(&mut session);
    }
    session.set_pipelined_prefix(bytes);
    session
}

fn skip_empty_lines(stream: &mut ClientStream) {
    while stream.unread().starts_with(b"\r\n") {
        stream.discard(2);
    }
}

/// Ready when a connection without a request has no more reason to stay open.
async fn idle_end(phase: &mut watch::Receiver<Phase>, fresh: bool) {
    // an error means that the process ends without a drain
    let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
    if fresh {
        tokio::time::sleep(LAST_MOMENT).await;
    }
}

async fn receive_head(stream: &mut ClientStream, scan: &mut HeadScan, settings: &FrontSettings) -> Next {
    loop {
        match stream.receive().await {
            Ok(1..) => match try_head(stream, scan, settings) {
                Ok(None) => {}
                found => return into_next(found),
            },
            Ok(0) => return Next::Refused(malformed("the connection ended inside the request head")),
            Err(_) => return Next::Gone,
        }
    }
}

fn try_head(
    stream: &ClientStream,
    scan: &mut HeadScan,
    settings: &FrontSettings,
) -> Result<Option<(Head, HeadLength)>, Denial> {
    let unread = stream.unread();
    if let Some(first) = unread.first() {
        may_begin(*first)?;
    }
    let Some(length) = scan.find_end(unread, settings.header_bytes_limit())? else {
        return Ok(None);
    };
    Ok(Some((Head::parse(&unread[..length], settings)?, length)))
}

fn into_next(found: Result<Option<(Head, HeadLength)>, Denial>) -> Next {
    match found {
        Ok(Some((head, length))) => Next::Request(head, length),
        Ok(None) => Next::Gone,
        Err(denial) => Next::Refused(denial),
    }
}

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
