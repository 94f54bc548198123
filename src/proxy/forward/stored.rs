//! The answer to a conditional request of our own: the provider says that what is stored still holds.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use pingora_core::protocols::http::conditional_filter::{not_modified_filter, to_304};
use pingora_http::ResponseHeader;

use super::client::Client;
use super::deliver::{Delivered, gone_away};
use super::head::{DownRules, Framing, answer_head};
use super::relay::frame_head;
use crate::cache::{Answer, AnswerFacts, CacheOutcome, storable};
use crate::proxy::EdgeProxy;
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;
use crate::proxy::decorate::decorate;
use crate::proxy::outcome::{Ending, Origin};

impl EdgeProxy {
    /// Gives the stored answer, with what the provider's 304 says anew, and keeps it on.
    pub(super) async fn deliver_stored(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        stale: &Arc<Answer>,
        not_modified: &ResponseHeader,
        rules: DownRules,
    ) -> Delivered {
        let forwarded = ctx.cache.why();
        let settings = &ctx.snapshot.settings.cache;
        let (answer, kept) =
            self.cache
                .refresh(stale, &client.request_head().headers, not_modified, |head| {
                    let Some(lookup) = &ctx.cache.lookup else {
                        return Err(crate::cache::NotStored::Method);
                    };
                    storable(
                        lookup,
                        settings,
                        &AnswerFacts {
                            status: head.status.as_u16(),
                            headers: &head.headers,
                            framing: crate::cache::Framing::Length(stale.body().len() as u64),
                            encoding_is_ours: ctx.is_inference(),
                            now: self.clock.now(),
                        },
                    )
                });
        if kept.is_ok() {
            fill.stored();
            ctx.cache.outcome = Some(CacheOutcome::Revalidated { forwarded });
        } else {
            fill.unshared();
            ctx.cache.miss();
        }
        client.lose_audience();
        // the provider has said all it has to say
        ctx.end_places();
        ctx.outcome.status = answer.head(&*self.clock).status.as_u16();
        self.settle_bill(ctx, false).await;
        match self.write_stored(ctx, client, &answer, rules).await {
            Ok(()) => Delivered::Whole,
            Err(delivered) => delivered,
        }
    }

    async fn write_stored(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        answer: &Answer,
        rules: DownRules,
    ) -> Result<(), Delivered> {
        let broken = Delivered::Broken;
        let stored = answer.head(&*self.clock);
        let mut head = answer_head(&stored, rules).map_err(broken)?;
        if let Some(age) = stored.headers.get(header::AGE) {
            head.insert_header(header::AGE, age.clone()).map_err(broken)?;
        }
        let client_has_it = not_modified_filter(client.request_head(), &stored);
        let body = if client_has_it {
            to_304(&mut head);
            Bytes::new()
        } else {
            answer.body().clone()
        };
        let framing = if client_has_it {
            Framing::Empty
        } else {
            Framing::Length(body.len() as u64)
        };
        ctx.outcome.origin = Origin::Upstream;
        ctx.outcome.status = head.status.as_u16();
        ctx.outcome.first_byte = Some(self.clock.monotonic().saturating_sub(ctx.arrival.started));
        let origin = client.origin();
        frame_head(&mut head, framing, false, client).map_err(broken)?;
        decorate(ctx, origin.as_ref(), &mut head, self.clock.now()).map_err(broken)?;
        let mut nothing = Fill::default();
        if let Err(gone) = client.write_head(head).await {
            return Err(gone_away(ctx, &mut nothing, gone));
        }
        if let Err(gone) = client.write_body(body, true).await {
            return Err(gone_away(ctx, &mut nothing, gone));
        }
        ctx.outcome.bytes_out = client.bytes_out;
        ctx.outcome.ending = Ending::Complete;
        Ok(())
    }
}
