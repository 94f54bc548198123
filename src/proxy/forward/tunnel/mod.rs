//! A WebSocket session: after the provider's 101 both connections belong to it, byte for byte, until an end.
//!
//! Both directions move on their own, so that a client which does not read still is heard. The session ends with
//! either side, with silence, or when its watch says that it is no longer admitted: then the client is told by a
//! closing frame, between two frames.

mod direction;

use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{self, HeaderValue};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::ResponseHeader;
use tokio::io::split;
use tokio::time::{Instant, sleep_until, timeout};

use self::direction::{Direction, Moved};
use super::client::Client;
use super::deliver::Delivered;
use super::head::{DownRules, answer_head};
use crate::dialect::websocket::{ask, close_frame};
use crate::domain::{Denial, DenialCode, TokenUsage};
use crate::proxy::EdgeProxy;
use crate::proxy::ctx::RequestCtx;
use crate::proxy::decorate::decorate;
use crate::proxy::outcome::{Ending, Origin};
use crate::proxy::session_watch::{SessionEnd, SessionWatch};
use crate::upstream::catalogue::Target;

/// How long a frame under way may take to its end once the session is to be closed.
const FRAME_END: Duration = Duration::from_secs(1);

/// What the provider is told when we end a session: that it is over, not why.
const GOING_AWAY: u16 = 1001;

/// How long the provider may still speak after the client's orderly end.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl EdgeProxy {
    /// Shows the provider's 101 to the client and carries the session to its end.
    pub(super) async fn tunnel(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        upstream: HttpSession,
        upstream_head: &ResponseHeader,
        rules: DownRules,
        target: &Target,
    ) -> Delivered {
        let (Some(watch), true) = (
            self.watch_session(ctx, client.request_head(), target),
            is_websocket(upstream_head),
        ) else {
            return Delivered::Refused(Denial::new(
                DenialCode::UpstreamProtocolError,
                format!(
                    "upstream `{}` switched to another protocol than WebSocket",
                    target.provider.name
                ),
            ));
        };
        ctx.outcome.origin = Origin::Upstream;
        ctx.outcome.status = 101;
        let origin = client.origin();
        let head = answer_head(upstream_head, rules).and_then(|mut head| {
            let mut fields = Ok(());
            ask(|name, value| {
                if fields.is_ok() {
                    fields = head.insert_header(name, value);
                }
            });
            fields?;
            decorate(ctx, origin.as_ref(), &mut head, self.clock.now())?;
            Ok(head)
        });
        let head = match head {
            Ok(head) => head,
            Err(error) => return Delivered::Broken(error),
        };
        let Some(provider) = taken_from(upstream) else {
            let message = "a session of HTTP/2 cannot be upgraded";
            return Delivered::Refused(Denial::new(DenialCode::InternalError, message));
        };
        ctx.outcome.first_byte = Some(self.clock.monotonic().saturating_sub(ctx.arrival.started));
        let client = match client.upgrade(head).await {
            Ok(client) => client,
            Err(gone) => return Self::client_left(ctx, gone),
        };
        let _counted = self.metrics.stream_began();
        ctx.outcome.streaming = true;
        let idle = ctx.snapshot.settings.server.stream_idle_timeout;
        let mut session = WebSocketSession::between(client, provider);
        let mut purse = Purse { proxy: self, ctx };
        let ending = Box::pin(session.run(&watch, idle, &mut purse)).await;
        ctx.outcome.ending = ending;
        ctx.outcome.bytes_in = session.up.bytes();
        ctx.outcome.bytes_out = session.down.bytes();
        Delivered::Whole
    }
}

/// A connection taken over, and what was read from it already.
pub(crate) struct Taken {
    /// Received before the take-over.
    pub received: bytes::Bytes,
    /// The connection.
    pub stream: Stream,
}

fn is_websocket(head: &ResponseHeader) -> bool {
    head.headers
        .get(header::UPGRADE)
        .map(HeaderValue::as_bytes)
        .is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

fn taken_from(upstream: HttpSession) -> Option<Taken> {
    let HttpSession::H1(mut session) = upstream else {
        return None;
    };
    // frames that came in one packet with the head
    let received = match session.read_body_bytes().now_or_never() {
        Some(Ok(Some(received))) => received,
        _ => bytes::Bytes::new(),
    };
    Some(Taken {
        received,
        stream: session.into_inner(),
    })
}

/// Pays each response of a session when the provider says what it used.
struct Purse<'a> {
    proxy: &'a EdgeProxy,
    ctx: &'a mut RequestCtx,
}

impl Purse<'_> {
    /// Whether anything is left afterwards.
    async fn pay(&mut self, usage: TokenUsage) -> bool {
        self.proxy.pay_response(self.ctx, usage).await
    }
}

/// Both directions of one session.
struct WebSocketSession {
    up: Direction,
    down: Direction,
}

/// Why a session ended.
enum End {
    /// The client ended it, or its connection broke.
    Client(Option<std::io::Error>),
    /// The provider ended it, or its connection broke.
    Provider(Option<std::io::Error>),
    /// We do.
    Ours(SessionEnd),
}

impl WebSocketSession {
    fn between(client: Taken, provider: Taken) -> Self {
        let (from_client, to_client) = split(client.stream);
        let (from_provider, to_provider) = split(provider.stream);
        Self {
            up: Direction::new(from_client, to_provider, &client.received),
            down: Direction::new(from_provider, to_client, &provider.received).metered(),
        }
    }

    /// Carries the session to its end.
    async fn run(&mut self, watch: &SessionWatch<'_>, idle: Duration, purse: &mut Purse<'_>) -> Ending {
        let end = self.carry(watch, idle, purse).await;
        let ending = self.end(end).await;
        // what came with the last words
        if let Some(usage) = self.down.take_usage() {
            purse.pay(usage).await;
        }
        ending
    }

    async fn end(&mut self, end: End) -> Ending {
        match end {
            End::Client(broken) if broken.is_none() && self.up.has_closed() => {
                // the client has said its last word and left: the provider may answer it
                self.up.end().await;
                let _ = timeout(LAST_WORDS, self.down.drain()).await;
                Ending::Complete
            }
            End::Client(_) => Ending::ClientGone,
            End::Provider(broken) => {
                if let Some(error) = broken {
                    log::debug!("a provider's WebSocket connection broke: {error}");
                }
                // what it said before, its closing frame above all, is still delivered
                let _ = timeout(LAST_WORDS, self.down.drain()).await;
                let orderly = self.down.has_closed() || self.up.has_closed();
                if orderly { Ending::Complete } else { Ending::Cut }
            }
            End::Ours(end) => {
                log::info!(code = end.code, reason = end.reason; "a WebSocket session is closed: {}", end.reason);
                let to_client = close_frame(end.code, end.reason, None);
                let to_provider = close_frame(GOING_AWAY, "", Some(mask()));
                tokio::join!(
                    self.down.close_with(&to_client, FRAME_END),
                    self.up.close_with(&to_provider, FRAME_END)
                );
                Ending::Cut
            }
        }
    }

    async fn carry(&mut self, watch: &SessionWatch<'_>, idle: Duration, purse: &mut Purse<'_>) -> End {
        let ended = watch.ended();
        tokio::pin!(ended);
        let mut last = Instant::now();
        loop {
            // in no fixed order: a side that never stops must not silence the other
            let moved = tokio::select! {
                end = &mut ended => return End::Ours(end),
                moved = self.up.step() => match moved {
                    Ok(Moved::Bytes) => true,
                    Ok(Moved::End) => return End::Client(None),
                    Err(direction::Broken::Reading(error)) => return End::Client(Some(error)),
                    Err(direction::Broken::Writing(error)) => return End::Provider(Some(error)),
                },
                moved = self.down.step() => match moved {
                    Ok(Moved::Bytes) => true,
                    Ok(Moved::End) => return End::Provider(None),
                    Err(direction::Broken::Reading(error)) => return End::Provider(Some(error)),
                    Err(direction::Broken::Writing(error)) => return End::Client(Some(error)),
                },
                () = sleep_until(last + idle) => false,
            };
            if !moved {
                return End::Ours(SessionEnd::idle());
            }
            if let Some(usage) = self.down.take_usage()
                && !purse.pay(usage).await
            {
                return End::Ours(SessionEnd::out_of_money());
            }
            last = Instant::now();
        }
    }
}

/// A mask as RFC 6455 wants it: unpredictable.
fn mask() -> [u8; 4] {
    let mut mask = [0; 4];
    // without randomness a fixed mask still is a valid one
    let _ = getrandom::fill(&mut mask);
    mask
}
