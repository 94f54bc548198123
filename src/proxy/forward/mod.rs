//! The forwarding loop: attempts at one target after another until the client has an answer.
//!
//! It runs inside `proxy_upstream_filter`, after the cache and with a reservation in hand, because only there
//! can a head be held, a failed attempt be replaced and the last bytes wait for something.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use pingora_core::{Error, ErrorType};
use pingora_proxy::Session;

use self::client::Client;
use self::deliver::Delivered;
use super::EdgeProxy;
use super::caching::Fill;
use super::ctx::RequestCtx;
use super::outcome::Ending;
use crate::domain::{Denial, DenialCode};

mod attempts;
pub(crate) mod client;
pub(super) mod deliver;
mod demo;
mod events;
mod exchange;
mod first_words;
pub(super) use exchange::address;
pub(crate) mod head;
mod heartbeat;
mod judge;
mod pump;
mod relay;
mod sending;
mod stored;
mod tunnel;

/// How long a refusal waits for its grant to be back.
const GRANT_RETURN: std::time::Duration = std::time::Duration::from_secs(2);

impl EdgeProxy {
    /// Answers a request from a provider. A panic inside is a 500 and a settled reservation.
    pub(super) async fn forward(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<()> {
        let run = AssertUnwindSafe(self.reserve_and_forward(session, ctx))
            .catch_unwind()
            .await;
        if let Ok(result) = run {
            return result;
        }
        self.rooms
            .panics
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        log::error!(record = ctx.arrival.record_id.to_string(); "a request panicked while it was forwarded");
        if session
            .response_written()
            .is_some_and(|head| !head.status.is_informational())
        {
            return Err(Error::new_in(ErrorType::InternalError));
        }
        let denial = Denial::new(
            DenialCode::InternalError,
            "something broke while this request was handled",
        );
        self.reject(session, ctx, denial).await
    }

    async fn reserve_and_forward(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<()> {
        if let Some(denial) = Self::refuse_miss(ctx) {
            return self.reject(session, ctx, denial).await;
        }
        if let Err(denial) = self.reserve(ctx).await {
            // nobody waits for an answer that will not be asked for
            ctx.cache.forward = None;
            return self.reject(session, ctx, denial).await;
        }
        let Some(route) = ctx.destination.take() else {
            let denial = Denial::new(DenialCode::InternalError, "the request has no destination");
            return self.reject(session, ctx, denial).await;
        };
        let (delivered, left) = {
            let audience = ctx.cache.audience();
            let mut client = Client::new(&mut session.downstream_session).with_audience(audience);
            if let Some((every, head)) = self.heartbeat(ctx, &client) {
                client = client.with_heartbeat(every, head);
            }
            let mut fill = Fill::idle(&mut ctx.cache);
            let mut delivered = Box::pin(self.attempt_all(ctx, &route, &mut client, &mut fill)).await;
            if let Delivered::Refused(denial) = &delivered
                && client.is_promised_events()
            {
                delivered = self.refuse_in_stream(ctx, &mut client, &mut fill, denial).await;
            }
            (delivered, client.left())
        };
        if let Some(gone) = left {
            // others may have the answer; there is nobody to tell it here
            ctx.outcome.ending = Ending::ClientGone;
            return Err(gone.0);
        }
        match delivered {
            Delivered::Whole => Ok(()),
            Delivered::Abandoned(failure) => self.reject(session, ctx, failure.denial("")).await,
            Delivered::Refused(denial) => {
                if !ctx.outcome.sent {
                    // nothing reached a provider: the grant is back before the client hears of it
                    ctx.reservation = None;
                    self.limiter.settle(GRANT_RETURN).await;
                }
                self.reject(session, ctx, denial).await
            }
            Delivered::Broken(error) => Err(error),
        }
    }
}
