//! `router.heartbeat`: who waits for a stream gets comments, and therefore its head before it is known what comes. What
//! fails then is told as an event.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use pingora_http::ResponseHeader;

use super::client::Client;
use super::deliver::{Delivered, end_with_event};
use super::pump::next_piece;
use super::relay::AnswerBody;
use crate::dialect::error::read_upstream_error;
use crate::dialect::sse::StreamKind;
use crate::dialect::stream_error::stream_error;
use crate::domain::{Denial, DenialCode};
use crate::proxy::EdgeProxy;
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;
use crate::proxy::decorate::decorate;
use crate::proxy::outcome::Ending;
use crate::upstream::Provider;

/// Bytes of a provider's error that are read to tell what it says.
const LONGEST_ERROR: usize = 64 * 1024;

impl EdgeProxy {
    /// How often this client gets a comment, and the head that goes before; none: it asked for no stream, or cannot have one
    /// without an end that is known before.
    pub(super) fn heartbeat(
        &self,
        ctx: &RequestCtx,
        client: &Client<'_>,
    ) -> Option<(Duration, ResponseHeader)> {
        let every = ctx.snapshot.catalogue.router.heartbeat?;
        let is_known = ctx.stream_kind().is_some_and(|kind| kind != StreamKind::Other);
        if !ctx.asks_for_stream() || !is_known || client.version() < http::Version::HTTP_11 {
            return None;
        }
        let dressed = ResponseHeader::build_no_case(200, Some(16)).and_then(|mut head| {
            head.insert_header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/event-stream"),
            )?;
            head.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))?;
            if client.is_http2() {
                head.set_version(http::Version::HTTP_2);
            } else {
                head.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
            }
            decorate(ctx, client.origin().as_ref(), &mut head, self.clock.now())?;
            Ok(head)
        });
        Some((every, dressed.ok()?))
    }

    /// A refusal for a client that has the head of a stream.
    pub(super) async fn refuse_in_stream(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        denial: &Denial,
    ) -> Delivered {
        ctx.outcome.refusal = Some(denial.code);
        ctx.outcome.status = 200;
        ctx.outcome.ending = Ending::Cut;
        ctx.end_places();
        self.settle_bill(ctx, true).await;
        ctx.reservation = None;
        let kind = ctx.stream_kind().unwrap_or(StreamKind::Other);
        let event = stream_error(kind, denial.code, &denial.message, None);
        end_with_event(client, fill, Some(event), &denial.message).await
    }

    /// An answer that is no stream, for a client that has the head of one.
    pub(super) async fn tell_in_stream(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        body: &mut AnswerBody<'_>,
        first: Option<Bytes>,
        provider: &Provider,
    ) -> Delivered {
        let status = ctx.outcome.status;
        let mut said = BytesMut::from(first.unwrap_or_default());
        while said.len() < LONGEST_ERROR && !body.is_complete() {
            match next_piece(body, None, ctx.bill.meter(), Some(client)).await {
                Ok(Some(more)) => said.extend_from_slice(&more),
                Ok(None) | Err(_) => break,
            }
        }
        let message = read_upstream_error(provider.dialect, &said).and_then(|error| error.message);
        let message = message.unwrap_or_else(|| "without a stream".to_owned());
        let denial = Denial::new(
            DenialCode::UpstreamProtocolError,
            format!("upstream `{}` answered {status}: {message}", provider.name),
        );
        self.refuse_in_stream(ctx, client, fill, &denial).await
    }
}
