//! The head of an answer is there: is it an answer for the client, about our key, or for another target?

use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use pingora_core::protocols::http::client::HttpSession;
use tokio::time::Instant;

use super::client::Client;
use super::deliver::{Delivered, Delivery};
use super::exchange::{Answer, Exchanged, Failed, Verdict};
use super::head::DownRules;
use super::relay::ReadAhead;
use crate::dialect::error::{UpstreamErrorKind, classify_upstream_error};
use crate::proxy::EdgeProxy;
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;
use crate::upstream::keys::KeyFault;
use crate::upstream::retry::may_retry_status;
use crate::upstream::retry_after::retry_after;
use crate::upstream::{AttemptFailure, KeyOwner};

/// Bytes of a provider's error body that are read to understand it.
const ERROR_BODY_BYTES: usize = 1024 * 1024;
/// How long its reading may take; what has come by then is what there is to understand.
const ERROR_BODY_TIME: Duration = Duration::from_secs(10);

impl EdgeProxy {
    /// Delivers the answer, or says why it is none for the client.
    pub(super) async fn judge<'r>(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        mut answer: Answer<'r>,
        verdict: Verdict<'_>,
    ) -> Exchanged<'r> {
        let status = answer.head.status.as_u16();
        ctx.bill.answered(status);
        let silence = ctx.snapshot.settings.server.stream_idle_timeout;
        if status >= 400 {
            answer.read_ahead = tokio::select! {
                biased;
                ahead = error_body(&mut answer.connected.session, silence) => Some(ahead),
                gone = client.gone() => return Exchanged::Delivered(Self::client_left(ctx, gone)),
            };
        }
        let said = answer.read_ahead.as_ref().map_or(&[][..], |ahead| &ahead.bytes);
        let provider = &answer.target.provider;
        if answer.only_we_asked && matches!(status, 400 | 422) && provider.learn_from_refusal(said) {
            verdict.permit.succeeded();
            return Exchanged::AskAgain;
        }
        let failure = match classify_upstream_error(provider.dialect, status, said) {
            _ if status < 400 => None,
            UpstreamErrorKind::OurKey => Some(AttemptFailure::Key(status, KeyFault::Refused)),
            UpstreamErrorKind::Money => Some(AttemptFailure::Key(status, KeyFault::Money)),
            UpstreamErrorKind::ContextLength if verdict.may_move_on => Some(AttemptFailure::TooLong(status)),
            UpstreamErrorKind::RateLimited => Some(AttemptFailure::Key(status, KeyFault::RateLimited)),
            UpstreamErrorKind::Other if may_retry_status(status) => Some(AttemptFailure::Status(status)),
            // a filter's refusal is the answer, whatever its status
            UpstreamErrorKind::ContentFilter
            | UpstreamErrorKind::ContextLength
            | UpstreamErrorKind::Other => None,
        };
        let Some(failure) = failure else {
            if status >= 400 {
                verdict.permit.succeeded();
            }
            return match self
                .deliver_answer(ctx, client, fill, answer, Some(verdict))
                .await
            {
                Delivered::Abandoned(failure) => Exchanged::Failed(Failed {
                    failure,
                    body_can_be_repeated: ctx.body_can_be_repeated(),
                    retry_after: None,
                    answer: None,
                }),
                delivered => Exchanged::Delivered(delivered),
            };
        };
        let is_ours = failure == AttemptFailure::Key(status, KeyFault::Refused);
        Exchanged::Failed(Failed {
            failure,
            body_can_be_repeated: ctx.body_can_be_repeated(),
            retry_after: retry_after(&answer.head.headers, self.clock.now())
                .filter(|_| matches!(status, 429 | 503)),
            // the client must not take it as said of its own
            answer: (!is_ours).then(|| Box::new(answer)),
        })
    }

    /// Brings an answer to the client, and its connection back to the pool.
    pub(super) async fn deliver_answer(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        answer: Answer<'_>,
        verdict: Option<Verdict<'_>>,
    ) -> Delivered {
        let Answer {
            target,
            key,
            mut connected,
            head,
            owner,
            only_we_asked,
            read_ahead,
        } = answer;
        let provider = &target.provider;
        ctx.outcome.served.is_by(target);
        let server = &ctx.snapshot.settings.server;
        let delivery = Delivery {
            provider,
            model: target.model.as_deref(),
            key: &key,
            kind: ctx.stream_kind(),
            choices: ctx.body.choices(),
            only_we_asked,
            rules: DownRules {
                own_key: owner == KeyOwner::Project,
                own_rates: ctx.outcome.rates.requests.is_some() && server.expose_headers.ratelimit,
                own_token_rates: ctx.outcome.rates.tokens.is_some() && server.expose_headers.ratelimit,
            },
            idle_timeout: server.stream_idle_timeout,
            read_ahead,
            whole_by: provider.timeouts.request.map(|limit| Instant::now() + limit),
            verdict,
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if let Some(verdict) = delivery.verdict {
                verdict.permit.succeeded();
            }
            let tunnel = self.tunnel(ctx, client, connected.session, &head, delivery.rules, target);
            return Box::pin(tunnel).await;
        }
        let delivered = self
            .deliver_either(ctx, client, fill, &mut connected.session, &head, delivery)
            .await;
        if matches!(delivered, Delivered::Whole)
            && connected.session.response_done()
            && let Some(connector) = &provider.connector
        {
            connector
                .release(connected, provider.timeouts.idle_connection)
                .await;
        }
        delivered
    }
}

/// Reads an error body, as far as it is needed to know whose error it is.
async fn error_body(upstream: &mut HttpSession, silence: Duration) -> ReadAhead {
    upstream.set_read_timeout(Some(silence.min(ERROR_BODY_TIME)));
    let until = Instant::now() + ERROR_BODY_TIME;
    let mut bytes = BytesMut::new();
    let mut ended = None;
    while bytes.len() < ERROR_BODY_BYTES {
        match tokio::time::timeout_at(until, upstream.read_response_body()).await {
            Err(_) => break,
            Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
            Ok(end) => {
                ended = Some(end);
                break;
            }
        }
    }
    ReadAhead {
        bytes: bytes.freeze(),
        ended,
    }
}
