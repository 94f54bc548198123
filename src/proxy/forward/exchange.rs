//! One exchange with one target: connect, send, judge the head, deliver.

use std::sync::Arc;

use bytes::BytesMut;
use http::header::{self, HeaderValue};
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Instant;

use super::client::Client;
use super::deliver::{Delivered, Delivery};
use super::head::{DownRules, UpRules, copy_request_fields};
use super::relay::ReadAhead;
use super::sending::{AttemptBody, SendFailure, SendTimeouts, Upload, send};
use crate::cache::Validators;
use crate::dialect::error::{UpstreamErrorKind, classify_upstream_error};
use crate::dialect::splice::{Edit, splice};
use crate::dialect::sse::StreamKind;
use crate::dialect::websocket::{ask, protocols_up};
use crate::domain::{Denial, DenialCode};
use crate::proxy::EdgeProxy;
use crate::proxy::body::{RequestBody, Understood, too_large};
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;
use crate::upstream::catalogue::Target;
use crate::upstream::target::{Connected, Reuse};
use crate::upstream::{AttemptFailure, KeyOwner, Permit, Provider, RetryBudget};

/// Bytes of a provider's error body that are read to understand it.
const ERROR_BODY_BYTES: usize = 1024 * 1024;

/// What an exchange works with.
pub(super) struct Exchange<'a> {
    /// Whom to call.
    pub target: &'a Target,
    /// Over which connection.
    pub from: Reuse,
    /// The end of the last head, over all attempts.
    pub overall: Instant,
    /// What is left of the retries.
    pub budget: &'a mut RetryBudget,
    /// Whether another target should answer instead of one that answered with this status.
    pub may_move_on: &'a (dyn Fn(u16, &mut RetryBudget) -> bool + Sync),
}

/// What came of it.
pub(super) enum Exchanged {
    /// The client has its answer, as far as it can have one.
    Delivered(Delivered),
    /// The provider answered with this status and another target is asked instead.
    MovedOn(u16),
    /// The provider refused what we alone had added: it is asked again without it.
    AskAgain,
    /// No byte of an answer came.
    Failed {
        /// Why.
        failure: AttemptFailure,
        /// Whether the body can be sent again.
        body_can_be_repeated: bool,
    },
}

impl Exchanged {
    fn refused(denial: Denial) -> Self {
        Self::Delivered(Delivered::Refused(denial))
    }
}

impl EdgeProxy {
    /// One try at one target.
    pub(super) async fn exchange(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        exchange: Exchange<'_>,
        permit: &mut Permit,
    ) -> Exchanged {
        let provider = Arc::clone(&exchange.target.provider);
        let (mut head, owner) = match Self::request_head(ctx, client, exchange.target, fill.is_possible()) {
            Ok(dressed) => dressed,
            Err(denial) => return Exchanged::refused(denial),
        };
        let asks_usage = asks_usage(ctx, &provider);
        let (body, only_we_asked) = attempt_body(&ctx.body, exchange.target, asks_usage, &mut head);
        let Some(connector) = &provider.connector else {
            self.open_bill(ctx, exchange.target, owner);
            return Exchanged::Delivered(self.deliver_demo(ctx, client, permit).await);
        };
        let before = self.clock.monotonic();
        let from = if ctx.is_realtime() {
            Reuse::Upgradable
        } else {
            exchange.from
        };
        let connecting = tokio::select! {
            biased;
            connected = connector.connect(provider.timeouts.connect, from) => connected,
            gone = client.gone() => return Exchanged::Delivered(Self::client_left(ctx, gone)),
            () = tokio::time::sleep_until(exchange.overall) => return Exchanged::refused(overall_timeout(&provider.name)),
        };
        let mut connected = match connecting {
            Ok(connected) => connected,
            Err(failure) => {
                return Exchanged::Failed {
                    failure: AttemptFailure::Connect(failure),
                    body_can_be_repeated: true,
                };
            }
        };
        self.open_bill(ctx, exchange.target, owner);
        fill.reached();
        address(&mut head, &connected.session, &provider);
        ctx.outcome.served.request_started_at = Some(self.clock.now());
        let mut upload = Upload {
            limit_bytes: ctx.snapshot.settings.server.max_request_bytes,
            sent_bytes: 0,
            touched: false,
        };
        let timeouts = SendTimeouts {
            response_header: provider.timeouts.response_header,
            overall: exchange.overall,
            body_silence: ctx.snapshot.settings.server.body_timeout,
            write: ctx.snapshot.settings.server.body_timeout,
        };
        let sent = send(&mut connected.session, client, head, &body, timeouts, &mut upload).await;
        if matches!(body, AttemptBody::Streamed) {
            ctx.outcome.bytes_in = upload.sent_bytes;
        }
        let waited = self.clock.monotonic().saturating_sub(before);
        ctx.outcome.served.waited += waited;
        match sent {
            Ok(answer) => {
                ctx.outcome.served.head_at = Some(self.clock.now());
                self.judge(
                    ctx,
                    client,
                    fill,
                    Answer {
                        exchange,
                        connected,
                        head: answer,
                        owner,
                        only_we_asked,
                        waited,
                    },
                    permit,
                )
                .await
            }
            Err(failure) => {
                // a streamed body that was touched is with nobody any more
                let repeatable =
                    !matches!(body, AttemptBody::Streamed) || upload.sent_bytes == 0 && !upload.touched;
                Self::send_failed(ctx, &provider, failure, connected.reused, repeatable)
            }
        }
    }

    fn send_failed(
        ctx: &mut RequestCtx,
        provider: &Provider,
        failure: SendFailure,
        reused: bool,
        body_can_be_repeated: bool,
    ) -> Exchanged {
        let failed = |failure| Exchanged::Failed {
            failure,
            body_can_be_repeated,
        };
        match failure {
            SendFailure::ClosedBeforeHead(how) => {
                log::debug!(provider = &*provider.name; "the connection ended before an answer: {how}");
                failed(AttemptFailure::ClosedBeforeHead { reused })
            }
            SendFailure::NoHttp(how) => {
                log::debug!(provider = &*provider.name; "the answer is no HTTP: {how}");
                failed(AttemptFailure::Protocol)
            }
            SendFailure::FirstByteTimeout => failed(AttemptFailure::FirstByteTimeout),
            SendFailure::RequestTimeout => Exchanged::refused(overall_timeout(&provider.name)),
            SendFailure::BodyTimeout => Exchanged::refused(Denial::new(
                DenialCode::BodyTimeout,
                "no byte of the request body came within `server.body_timeout`",
            )),
            SendFailure::BodyTooLarge => {
                Exchanged::refused(too_large(ctx.snapshot.settings.server.max_request_bytes))
            }
            SendFailure::Client(gone) => Exchanged::Delivered(Self::client_left(ctx, gone)),
        }
    }

    /// What an answer's status says of the target that gave it.
    fn judge_target(
        &self,
        ctx: &RequestCtx,
        permit: &mut Permit,
        status: http::StatusCode,
        waited: std::time::Duration,
    ) {
        if AttemptFailure::Status(status.as_u16()).counts_against_target() {
            permit.failed(self.clock.monotonic(), &ctx.snapshot.catalogue.cooldown);
            return;
        }
        permit.succeeded();
        if status.is_success() {
            permit.answered_after(waited);
        }
    }

    /// The head is there: is it an answer for the client, or about our key, or for another target?
    async fn judge(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        answer: Answer<'_>,
        permit: &mut Permit,
    ) -> Exchanged {
        let Answer {
            exchange,
            mut connected,
            head,
            owner,
            only_we_asked,
            waited,
        } = answer;
        let provider = &exchange.target.provider;
        let status = head.status.as_u16();
        ctx.bill.answered(status);
        self.judge_target(ctx, permit, head.status, waited);
        let silence = ctx.snapshot.settings.server.stream_idle_timeout;
        let mut read_ahead = None;
        if status == 401 || status == 403 {
            let ahead = error_body(&mut connected.session, silence).await;
            if classify_upstream_error(provider.dialect, status, &ahead.bytes) == UpstreamErrorKind::OurKey {
                log::error!(provider = &*provider.name, status; "upstream `{}` refused our key", provider.name);
                return Exchanged::refused(provider.auth_error("it refused the key that was sent"));
            }
            read_ahead = Some(ahead);
        } else if only_we_asked && (status == 400 || status == 422) {
            let ahead = error_body(&mut connected.session, silence).await;
            if provider.learn_from_refusal(&ahead.bytes) {
                return Exchanged::AskAgain;
            }
            read_ahead = Some(ahead);
        } else if crate::upstream::retry::may_retry_status(status)
            && ctx.body_can_be_repeated()
            && (exchange.may_move_on)(status, exchange.budget)
        {
            return Exchanged::MovedOn(status);
        }
        let server = &ctx.snapshot.settings.server;
        let delivery = Delivery {
            provider: &provider.name,
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
        };
        if status == 101 {
            let tunnel = self.tunnel(
                ctx,
                client,
                connected.session,
                &head,
                delivery.rules,
                exchange.target,
            );
            return Exchanged::Delivered(Box::pin(tunnel).await);
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
        Exchanged::Delivered(delivered)
    }

    /// What the provider sends, or what is stored, if the provider says that it still holds.
    async fn deliver_either(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        upstream: &mut HttpSession,
        head: &ResponseHeader,
        delivery: Delivery<'_>,
    ) -> Delivered {
        let not_modified = head.status == http::StatusCode::NOT_MODIFIED;
        match ctx.cache.stale().cloned().filter(|_| not_modified) {
            Some(stale) => {
                self.deliver_stored(ctx, client, fill, &stale, head, delivery.rules)
                    .await
            }
            None => self.deliver(ctx, client, fill, upstream, head, delivery).await,
        }
    }

    /// The head of this attempt: the client's fields that may pass, and the credential of this provider alone.
    fn request_head(
        ctx: &RequestCtx,
        client: &Client<'_>,
        to: &Target,
        filling_cache: bool,
    ) -> Result<(RequestHeader, KeyOwner), Denial> {
        let provider = &*to.provider;
        let request = client.request_head();
        let project_key = match ctx
            .caller
            .as_ref()
            .and_then(|caller| caller.provider_keys.get(&*provider.name))
        {
            Some(Ok(key)) => Some(key),
            Some(Err(error)) => {
                return Err(provider.auth_error(&format!("the project's key for it: {error}")));
            }
            None => None,
        };
        let target = match &ctx.path {
            Some(path) => path.target_for(to.model.as_deref()),
            None => "/".into(),
        };
        let broken = |error: Box<pingora_core::Error>| {
            Denial::new(
                DenialCode::MalformedRequest,
                format!("the request cannot be passed on: {}", error.etype().as_str()),
            )
        };
        let mut head = RequestHeader::build_no_case(
            request.method.as_str(),
            provider.address(&target, to.model.as_deref()).as_bytes(),
            Some(request.headers.len() + 8),
        )
        .map_err(broken)?;
        let rules = UpRules {
            own_key: project_key.is_some(),
            plain_answer: ctx.is_inference(),
            filling_cache,
        };
        copy_request_fields(request, &mut head, rules).map_err(broken)?;
        let mut inserted = Ok(());
        let owner = provider.dress(project_key, &request.headers, |name, value| {
            if inserted.is_ok() {
                inserted = head.insert_header(name.clone(), value);
            }
        })?;
        inserted.map_err(broken)?;
        head.insert_header("x-request-id", ctx.arrival.request_id.clone())
            .map_err(broken)?;
        head.insert_header("x-proxy", HeaderValue::from_static("llm-proxy"))
            .map_err(broken)?;
        if filling_cache && let Some(validators) = ctx.cache.stale().and_then(|stale| stale.validators()) {
            ask_whether_it_holds(&mut head, validators).map_err(broken)?;
        }
        if ctx.is_realtime() {
            ask_for_websocket(&mut head, project_key.is_some()).map_err(broken)?;
        }
        if matches!(ctx.body, RequestBody::Streamed) {
            let framed = match request.headers.get(header::CONTENT_LENGTH) {
                Some(length) => head.insert_header(header::CONTENT_LENGTH, length.clone()),
                None => head.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
            };
            framed.map_err(broken)?;
        }
        Ok((head, owner))
    }
}

/// A conditional request for what is stored: RFC 9111 §4.3.1.
fn ask_whether_it_holds(head: &mut RequestHeader, validators: Validators<'_>) -> pingora_core::Result<()> {
    if let Some(etag) = validators.etag {
        head.insert_header(header::IF_NONE_MATCH, etag.clone())?;
    }
    if let Some(last_modified) = validators.last_modified {
        head.insert_header(header::IF_MODIFIED_SINCE, last_modified.clone())?;
    }
    Ok(())
}

/// The handshake's own fields: those that are hop-by-hop, and subprotocols without what is not the provider's business.
fn ask_for_websocket(head: &mut RequestHeader, own_key: bool) -> pingora_core::Result<()> {
    let protocols = protocols_up(&head.headers, own_key);
    head.remove_header(&header::SEC_WEBSOCKET_PROTOCOL);
    // compressed, what was used could not be read (RFC 6455 §9.1 lets an intermediary decline)
    head.remove_header(&header::SEC_WEBSOCKET_EXTENSIONS);
    if let Some(protocols) = protocols {
        head.insert_header(header::SEC_WEBSOCKET_PROTOCOL, protocols)?;
    }
    let mut fields = Ok(());
    ask(|name, value| {
        if fields.is_ok() {
            fields = head.insert_header(name, value);
        }
    });
    fields
}

struct Answer<'a> {
    exchange: Exchange<'a>,
    connected: Connected,
    head: ResponseHeader,
    owner: KeyOwner,
    only_we_asked: bool,
    /// From the attempt's beginning to its head.
    waited: std::time::Duration,
}

/// Reads an error body, as far as it is needed to know whose error it is.
async fn error_body(upstream: &mut HttpSession, silence: std::time::Duration) -> ReadAhead {
    upstream.set_read_timeout(Some(silence.min(std::time::Duration::from_secs(10))));
    let mut bytes = BytesMut::new();
    let mut ended = None;
    while bytes.len() < ERROR_BODY_BYTES {
        match upstream.read_response_body().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            end => {
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

/// Whether the stream that this request asks for is asked for its usage.
fn asks_usage(ctx: &RequestCtx, provider: &Provider) -> bool {
    let kind = ctx.path.as_ref().map(|path| path.facts.stream);
    matches!(kind, Some(StreamKind::Chat | StreamKind::Completions)) && provider.is_asked_for_usage()
}

/// The bytes of this attempt: the client's own, but for the model's name where the target has another, or where the
/// client named it in its path, and for the usage of a stream. Says whether that is asked for by us alone.
fn attempt_body(
    body: &RequestBody,
    target: &Target,
    asks_usage: bool,
    head: &mut RequestHeader,
) -> (AttemptBody, bool) {
    let held = match body {
        RequestBody::Unread => return (AttemptBody::Empty, false),
        RequestBody::Streamed => return (AttemptBody::Streamed, false),
        RequestBody::Held(held) => held,
    };
    let usage = match &held.facts {
        Understood::Json(facts) if asks_usage && facts.is_stream() => {
            crate::dialect::splice::request_usage(facts)
        }
        Understood::Json(_) | Understood::Form(_) => None,
    };
    let only_we_asked = usage.is_some();
    let rename = target.model.as_deref().and_then(|model| match &held.facts {
        Understood::Json(facts) => crate::dialect::splice::name_model(facts, model),
        Understood::Form(facts) => facts.name_model(model),
    });
    let edits: Vec<_> = merged(rename, usage).into_iter().collect();
    let (pieces, length) = if edits.is_empty() {
        (vec![held.bytes.clone()], held.bytes.len())
    } else {
        let segments = splice(std::slice::from_ref(&held.bytes), edits);
        (segments.pieces, segments.length)
    };
    // a number is always a valid field value
    let _ = head.insert_header(header::CONTENT_LENGTH, length);
    let body = if length == 0 {
        AttemptBody::Empty
    } else {
        AttemptBody::Held(pieces)
    };
    (body, only_we_asked)
}

/// Two edits; those that insert at one place become one, for edits must not overlap.
fn merged(first: Option<Edit>, second: Option<Edit>) -> Vec<Edit> {
    match (first, second) {
        (Some(first), Some(second)) if first.span == second.span => vec![Edit {
            span: first.span,
            with: [first.with, second.with].concat().into(),
        }],
        (first, second) => first.into_iter().chain(second).collect(),
    }
}

/// Names the provider in the way of the protocol that was negotiated.
pub(in crate::proxy) fn address(head: &mut RequestHeader, session: &HttpSession, provider: &Provider) {
    if session.as_http2().is_none() {
        let _ = head.insert_header(header::HOST, provider.authority.clone());
        return;
    }
    head.remove_header(&header::TRANSFER_ENCODING);
    head.set_version(http::Version::HTTP_2);
    let path = head
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let uri = http::uri::Builder::new()
        .scheme(if provider.is_tls() { "https" } else { "http" })
        .authority(provider.authority.as_bytes())
        .path_and_query(path)
        .build();
    if let Ok(uri) = uri {
        head.set_uri(uri);
    }
}

fn overall_timeout(provider: &str) -> Denial {
    Denial::new(
        DenialCode::RequestTimeout,
        format!("no answer within `server.request_timeout`; the last attempt was at upstream `{provider}`"),
    )
}
