//! One exchange with one target: connect, send, judge the head, deliver.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Instant;

use super::client::Client;
use super::deliver::{Delivered, Delivery};
use super::head::{UpRules, copy_request_fields};
use super::relay::ReadAhead;
use super::sending::{AttemptBody, SendFailure, SendTimeouts, Upload, send};
use crate::cache::Validators;
use crate::dialect::splice::{Edit, splice};
use crate::dialect::sse::StreamKind;
use crate::dialect::websocket::{ask, protocols_up};
use crate::domain::{Denial, DenialCode};
use crate::proxy::EdgeProxy;
use crate::proxy::body::{RequestBody, Understood, too_large};
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;
use crate::upstream::catalogue::Target;
use crate::upstream::target::{Connected, ProviderConnector, Reuse};
use crate::upstream::{AttemptFailure, AttemptKey, KeyOwner, Permit, Provider};

/// What an exchange works with.
pub(super) struct Exchange<'r> {
    /// Whom to call.
    pub target: &'r Target,
    /// With whose key.
    pub key: AttemptKey,
    /// Over which connection.
    pub from: Reuse,
    /// The end of the last head, over all attempts.
    pub overall: Instant,
    /// Another target could answer instead: what is no answer is not shown.
    pub may_move_on: bool,
    /// Longest wait for the first words, from the sent request.
    pub first_token: Option<Duration>,
}

/// What came of it.
pub(super) enum Exchanged<'r> {
    /// The client has its answer, as far as it can have one.
    Delivered(Delivered),
    /// The provider refused what we alone had added: it is asked again without it.
    AskAgain,
    /// Nothing was shown to the client.
    Failed(Failed<'r>),
}

/// An attempt without an answer that is good enough.
pub(super) struct Failed<'r> {
    /// Why.
    pub failure: AttemptFailure,
    /// Whether the body can be sent again.
    pub body_can_be_repeated: bool,
    /// When the provider says that it may be asked again.
    pub retry_after: Option<Duration>,
    /// What it answered, if that may be shown when there is nothing better.
    pub answer: Option<Box<Answer<'r>>>,
}

/// An answer of a provider whose head is there.
pub(super) struct Answer<'r> {
    pub target: &'r Target,
    pub key: AttemptKey,
    pub connected: Connected,
    pub head: ResponseHeader,
    pub owner: KeyOwner,
    pub only_we_asked: bool,
    /// The beginning of its body, if it was read.
    pub read_ahead: Option<ReadAhead>,
}

/// Whether a good answer is one is seen with its first words.
pub(crate) struct Verdict<'a> {
    pub permit: &'a mut Permit,
    /// From the attempt's beginning to its head.
    pub waited: Duration,
    /// Another target could answer instead.
    pub may_move_on: bool,
    /// When the first words must be there.
    pub first_token: Option<Instant>,
}

impl Verdict<'_> {
    /// It is an answer: good for the target, and for the key where it is a good one.
    pub(super) fn good(self, status: http::StatusCode, key: &AttemptKey, model: Option<&str>) {
        self.permit.succeeded();
        if status.is_success() {
            self.permit.answered_after(self.waited);
            key.worked(self.permit.since(), model);
        }
    }
}

impl Exchanged<'_> {
    fn refused(denial: Denial) -> Self {
        Self::Delivered(Delivered::Refused(denial))
    }

    fn failed(failure: AttemptFailure, body_can_be_repeated: bool) -> Self {
        Self::Failed(Failed {
            failure,
            body_can_be_repeated,
            retry_after: None,
            answer: None,
        })
    }
}

impl EdgeProxy {
    /// One try at one target.
    pub(super) async fn exchange<'r>(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        exchange: Exchange<'r>,
        permit: &mut Permit,
    ) -> Exchanged<'r> {
        let provider = Arc::clone(&exchange.target.provider);
        let (mut head, owner) = match Self::request_head(ctx, client, &exchange, fill.is_possible()) {
            Ok(dressed) => dressed,
            Err(denial) => return Exchanged::refused(denial),
        };
        let asks_usage = asks_usage(ctx, &provider);
        let (body, only_we_asked) = attempt_body(&ctx.body, exchange.target, asks_usage, &mut head);
        let Some(connector) = &provider.connector else {
            self.open_bill(ctx, exchange.target, owner, &exchange.key);
            return Exchanged::Delivered(self.deliver_demo(ctx, client, permit).await);
        };
        let before = self.clock.monotonic();
        let mut connected = match Self::connect(ctx, client, connector, &exchange).await {
            Ok(connected) => connected,
            Err(ended) => return ended,
        };
        self.open_bill(ctx, exchange.target, owner, &exchange.key);
        fill.reached();
        address(&mut head, &connected.session, &provider);
        ctx.outcome.served.request_started_at = Some(self.clock.now());
        let mut upload = Upload {
            limit_bytes: ctx.snapshot.settings.server.max_request_bytes,
            sent_bytes: 0,
            touched: false,
        };
        let first_token = exchange.first_token;
        let response_header = provider.timeouts.response_header;
        let head_within = first_token.map_or(response_header, |limit| limit.min(response_header));
        let sent_at = Instant::now();
        let timeouts = SendTimeouts {
            response_header: head_within,
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
                let answer = Answer {
                    target: exchange.target,
                    key: exchange.key,
                    connected,
                    head: answer,
                    owner,
                    only_we_asked,
                    read_ahead: None,
                };
                let verdict = Verdict {
                    permit,
                    waited,
                    may_move_on: exchange.may_move_on,
                    first_token: first_token.map(|limit| sent_at + limit),
                };
                self.judge(ctx, client, fill, answer, verdict).await
            }
            Err(failure) => {
                // a streamed body that was touched is with nobody any more
                let repeatable =
                    !matches!(body, AttemptBody::Streamed) || upload.sent_bytes == 0 && !upload.touched;
                if matches!(failure, SendFailure::FirstByteTimeout) && head_within < response_header {
                    return Exchanged::failed(AttemptFailure::FirstTokenTimeout, repeatable);
                }
                Self::send_failed(ctx, &provider, failure, connected.reused, repeatable)
            }
        }
    }

    async fn connect(
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        connector: &Arc<ProviderConnector>,
        exchange: &Exchange<'_>,
    ) -> Result<Connected, Exchanged<'static>> {
        let provider = &exchange.target.provider;
        let from = if ctx.is_realtime() {
            Reuse::Upgradable
        } else {
            exchange.from
        };
        let connected = tokio::select! {
            biased;
            connected = connector.connect(provider.timeouts.connect, from) => connected,
            gone = client.gone() => return Err(Exchanged::Delivered(Self::client_left(ctx, gone))),
            () = tokio::time::sleep_until(exchange.overall) => {
                return Err(Exchanged::refused(overall_timeout(&provider.name)));
            }
        };
        connected.map_err(|failure| Exchanged::failed(AttemptFailure::Connect(failure), true))
    }

    fn send_failed(
        ctx: &mut RequestCtx,
        provider: &Provider,
        failure: SendFailure,
        reused: bool,
        body_can_be_repeated: bool,
    ) -> Exchanged<'static> {
        let failed = |failure| Exchanged::failed(failure, body_can_be_repeated);
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

    /// What the provider sends, or what is stored, if the provider says that it still holds.
    pub(super) async fn deliver_either(
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
                if let Some(verdict) = delivery.verdict {
                    verdict.permit.succeeded();
                }
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
        exchange: &Exchange<'_>,
        filling_cache: bool,
    ) -> Result<(RequestHeader, KeyOwner), Denial> {
        let to = exchange.target;
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
        let owner = provider.dress(
            project_key,
            exchange.key.pooled(),
            &request.headers,
            |name, value| {
                if inserted.is_ok() {
                    inserted = head.insert_header(name.clone(), value);
                }
            },
        )?;
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
