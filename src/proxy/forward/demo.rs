//! The built-in demonstration provider: answers without any network, as a provider would.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use pingora_http::ResponseHeader;

use super::client::Client;
use super::deliver::Delivered;
use super::head::Framing;
use super::relay::frame_head;
use crate::dialect::demo::{DemoAnswer, DemoRequest, answer};
use crate::dialect::sse::Event;
use crate::proxy::EdgeProxy;
use crate::proxy::body::RequestBody;
use crate::proxy::ctx::RequestCtx;
use crate::proxy::decorate::decorate;
use crate::proxy::outcome::{Ending, Origin};
use crate::upstream::Permit;

impl EdgeProxy {
    /// Answers from the demonstration provider, pause by pause.
    pub(super) async fn deliver_demo(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        permit: &mut Permit,
    ) -> Delivered {
        permit.succeeded();
        let Some(path) = &ctx.path else {
            return Delivered::Whole;
        };
        let body: &[u8] = match &ctx.body {
            RequestBody::Held(held) => &held.bytes,
            RequestBody::Unread | RequestBody::Streamed => &[],
        };
        let demo = answer(&DemoRequest {
            path: path.facts,
            client: path.client,
            body,
            seed: ctx.arrival.record_id.seed(),
            now_seconds: ctx.arrival.received_at.as_seconds(),
        });
        ctx.outcome.origin = Origin::Upstream;
        ctx.outcome.status = demo.status;
        ctx.bill.answered(demo.status);
        meter(ctx, &demo);
        if !demo.is_stream() && ctx.snapshot.settings.server.expose_headers.cost {
            ctx.end_places();
            self.settle_bill(ctx, false).await;
        }
        match self.play(ctx, client, demo).await {
            Ok(()) => {
                ctx.outcome.ending = Ending::Complete;
                Delivered::Whole
            }
            Err(ended) => ended,
        }
    }

    async fn play(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        demo: DemoAnswer,
    ) -> Result<(), Delivered> {
        let stream = demo.is_stream();
        let length = demo.events.iter().map(|(_, piece)| piece.len() as u64).sum();
        let framing = if stream {
            Framing::Marked
        } else {
            Framing::Length(length)
        };
        let origin = client.origin();
        let dressed = ResponseHeader::build_no_case(demo.status, Some(24)).and_then(|mut head| {
            head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static(demo.content_type))?;
            frame_head(&mut head, framing, stream, client)?;
            decorate(ctx, origin.as_ref(), &mut head, self.clock.now())?;
            Ok(head)
        });
        let head = dressed.map_err(Delivered::Broken)?;
        ctx.outcome.first_byte = Some(self.clock.monotonic().saturating_sub(ctx.arrival.started));
        client
            .write_head(head)
            .await
            .map_err(|gone| Self::client_left(ctx, gone))?;
        let mut left = demo.events.len();
        for (pause, piece) in demo.events {
            left -= 1;
            if !pause.is_zero() {
                tokio::select! {
                    biased;
                    gone = client.gone() => return Err(Self::client_left(ctx, gone)),
                    () = tokio::time::sleep(pause) => {}
                }
            }
            if left == 0 {
                // its places are free before the client has it all
                ctx.end_places();
                self.settle_bill(ctx, false).await;
            }
            client
                .write_body(piece, false)
                .await
                .map_err(|gone| Self::client_left(ctx, gone))?;
            ctx.outcome.bytes_out = client.bytes_out;
        }
        client
            .write_body(Bytes::new(), true)
            .await
            .map_err(|gone| Self::client_left(ctx, gone))
    }
}

/// The demonstration tells its usage as providers do.
fn meter(ctx: &mut RequestCtx, demo: &DemoAnswer) {
    let Some(meter) = ctx.bill.meter() else { return };
    for (_, piece) in &demo.events {
        if !demo.is_stream() {
            meter.body(piece);
        } else if let Some(data) = Event::parse(piece).data.as_deref() {
            meter.event(data);
        }
    }
}
