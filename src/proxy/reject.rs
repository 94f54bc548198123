//! The only writer of data-plane errors once a head was parsed: a refusal becomes bytes in the client's dialect.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::EdgeProxy;
use super::ctx::RequestCtx;
use super::decorate::decorate;
use super::outcome::{Ending, Origin};
use crate::dialect::error::render_denial;
use crate::domain::{Denial, DenialCode};

impl EdgeProxy {
    /// Answers a refusal. The connection stays usable when the request's body was read or is empty.
    pub(super) async fn reject(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        denial: Denial,
    ) -> pingora_core::Result<()> {
        ctx.outcome.refusal = Some(denial.code);
        ctx.outcome.origin = Origin::Proxy;
        ctx.outcome.status = denial.code.status();
        // attempts that came to nothing are paid, and everything else is free, before the client hears of it
        self.settle_bill(ctx, false).await;
        ctx.reservation = None;
        if let Some(scope) = denial.scope {
            self.metrics.count_rate_limited(scope);
        }
        let body = render_denial(ctx.arrival.dialect, &denial, ctx.arrival.request_id());
        let mut head = ResponseHeader::build_no_case(denial.code.status(), Some(24))?;
        head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
        head.insert_header(
            "x-llm-proxy-error-code",
            HeaderValue::from_static(denial.code.as_str()),
        )?;
        if let Some(seconds) = denial.retry_after_seconds() {
            head.insert_header(header::RETRY_AFTER, seconds)?;
        }
        if let Some(retry) = denial.code.should_retry() {
            head.insert_header("x-should-retry", if retry { "true" } else { "false" })?;
        }
        if let Some(allow) = &denial.allow
            && let Ok(value) = HeaderValue::from_str(allow)
        {
            head.insert_header(header::ALLOW, value)?;
        }
        if denial.code == DenialCode::UpgradeRequired {
            // RFC 9110 §15.5.22, RFC 6455 §4.4
            head.insert_header(header::UPGRADE, HeaderValue::from_static("websocket"))?;
            head.insert_header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))?;
        }
        ctx.cache.outcome = None;
        self.answer(session, ctx, head, body).await
    }

    /// Writes an answer of our own, whole.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        mut head: ResponseHeader,
        body: Bytes,
    ) -> pingora_core::Result<()> {
        decorate(
            ctx,
            session.get_header(header::ORIGIN),
            &mut head,
            self.clock.now(),
        )?;
        ctx.outcome.status = head.status.as_u16();
        ctx.outcome.first_byte = Some(self.clock.monotonic().saturating_sub(ctx.arrival.started));
        let bodiless = matches!(head.status.as_u16(), 204 | 304);
        if !bodiless && !head.headers.contains_key(header::CONTENT_LENGTH) {
            head.insert_header(header::CONTENT_LENGTH, body.len())?;
        }
        let is_head = session.req_header().method == http::Method::HEAD;
        if !is_head && !bodiless {
            ctx.outcome.bytes_out = body.len() as u64;
        }
        if !session.downstream_session.is_body_done() {
            // the rest of the upload is not read: the connection cannot be used again
            session.set_keepalive(None);
        }
        let downstream = &mut session.downstream_session;
        downstream.write_response_header(Box::new(head)).await?;
        downstream
            .write_response_body(if is_head || bodiless { Bytes::new() } else { body }, true)
            .await?;
        ctx.outcome.ending = Ending::Complete;
        Ok(())
    }
}
