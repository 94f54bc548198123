//! One answer to the client: its head held until its first bytes, then whole, or ended honestly.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use tokio::time::Instant;

use super::client::{Client, ClientGone};
use super::events::EventRelay;
use super::exchange::Verdict;
use super::first_words::{Choosy, NotShown, first_words};
use super::head::{DownRules, Framing, answer_head};
use super::pump::{Source, is_whole, next_piece, pump};
use super::relay::{AnswerBody, AnswerBroken, ReadAhead, RelayFailure, frame_head};
use crate::cache;
use crate::cache::{AnswerFacts, CacheOutcome, storable};
use crate::dialect::content_coding::{Decoder, is_encoded};
use crate::dialect::sse::{HttpEnd, StreamKind, StreamVerdict};
use crate::domain::{Denial, DenialCode};
use crate::proxy::EdgeProxy;
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;
use crate::proxy::decorate::decorate;
use crate::proxy::outcome::{Ending, Origin};
use crate::upstream::{AttemptFailure, AttemptKey, Provider};

/// How a delivery ended.
pub(crate) enum Delivered {
    /// The client has the whole answer.
    Whole,
    /// Nothing was shown yet: the refusal is the answer.
    Refused(Denial),
    /// Nothing was shown yet, and what came is no answer.
    Abandoned(AttemptFailure),
    /// Part of it was shown, or the client left: the connection ends.
    Broken(Box<Error>),
}

/// What the delivery needs to know of its attempt.
pub(crate) struct Delivery<'a> {
    /// The provider.
    pub provider: &'a Provider,
    /// The provider's name of the model.
    pub model: Option<&'a str>,
    /// The key it was asked with.
    pub key: &'a AttemptKey,
    /// How a stream of this path is written; `None`: it has none.
    pub kind: Option<StreamKind>,
    /// The `n` of the request.
    pub choices: Option<u64>,
    /// The usage of the stream was asked for by us alone.
    pub only_we_asked: bool,
    /// What passes down.
    pub rules: DownRules,
    /// Longest silence.
    pub idle_timeout: Duration,
    /// The beginning of the body, if it was read already.
    pub read_ahead: Option<ReadAhead>,
    /// `timeouts.request`: when a whole answer that is no stream must be there.
    pub whole_by: Option<Instant>,
    /// Waits for what the first words say; `None`: it was judged before.
    pub verdict: Option<Verdict<'a>>,
}

/// Answers longer than this are not held to say in their head what they cost.
const LONGEST_PRICED_BYTES: usize = 1 << 20;

impl EdgeProxy {
    /// The first bytes that may be shown. The head is held until they are there: until then the answer may still turn into a
    /// clean refusal, or into that of another provider.
    async fn first_bytes(
        &self,
        ctx: &mut RequestCtx,
        body: &mut AnswerBody<'_>,
        events: Option<&mut EventRelay>,
        client: &mut Client<'_>,
        choosy: Option<Choosy>,
    ) -> Result<Option<Bytes>, NotShown> {
        let says_cost = !ctx.outcome.streaming && ctx.snapshot.settings.server.expose_headers.cost;
        let meter = ctx.bill.meter();
        let first = match choosy {
            Some(choosy) => first_words(body, events, meter, client, choosy).await?,
            None => next_piece(body, events, meter, Some(client)).await?,
        };
        match first {
            Some(first) if says_cost => Ok(Some(self.with_cost(ctx, body, client, first).await?)),
            first => Ok(first),
        }
    }

    /// Reads the rest of an answer, as far as it is short, so that its head can say what it cost.
    async fn with_cost(
        &self,
        ctx: &mut RequestCtx,
        body: &mut AnswerBody<'_>,
        client: &mut Client<'_>,
        first: Bytes,
    ) -> Result<Bytes, RelayFailure> {
        let mut held = ctx
            .caller
            .as_ref()
            .map(|caller| self.rooms.memory.open(caller.token_id));
        let most = ctx.snapshot.settings.server.memory_budget_bytes;
        let mut room = |bytes: usize| {
            held.as_mut()
                .is_some_and(|held| held.grow(bytes as u64, most).is_ok())
        };
        let mut ended = body.is_complete();
        // without memory for it, or when it is long, it goes on as it comes
        let mut may_hold = ended || room(first.len());
        let mut whole = BytesMut::from(first);
        while !ended && may_hold {
            match next_piece(body, None, ctx.bill.meter(), Some(client)).await? {
                Some(more) => {
                    whole.extend_from_slice(&more);
                    may_hold = whole.len() < LONGEST_PRICED_BYTES && room(more.len());
                }
                None => {
                    body.end_again();
                    ended = true;
                }
            }
            ended |= body.is_complete();
        }
        if ended {
            ctx.end_places();
            self.settle_bill(ctx, false).await;
        }
        Ok(whole.freeze())
    }

    /// Brings the answer whose head is `upstream_head` to the client.
    pub(crate) async fn deliver(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        upstream: &mut HttpSession,
        upstream_head: &ResponseHeader,
        delivery: Delivery<'_>,
    ) -> Delivered {
        let origin = client.origin();
        let framing = Framing::of(upstream_head, client.request_head().method == http::Method::HEAD);
        let streamed = is_event_stream(upstream_head) && framing != Framing::Empty;
        let mut events = watched(ctx, upstream_head, &delivery, streamed);
        let mut head = match shown_head(upstream_head, delivery.rules, framing) {
            Ok(head) => head,
            Err(error) => return Delivered::Broken(error),
        };
        let choosy = delivery.choosy(upstream_head, framing, streamed);
        if choosy.as_ref().is_some_and(|choosy| choosy.is_page) {
            return Delivered::Abandoned(AttemptFailure::NoAnswer("no_api_answer"));
        }
        let whole_by = delivery.whole_by.filter(|_| !streamed);
        let mut body =
            AnswerBody::new(upstream, framing, delivery.idle_timeout, whole_by).behind(delivery.read_ahead);
        let _counted = streamed.then(|| self.metrics.stream_began());
        ctx.outcome.streaming = streamed;
        let first = self
            .first_bytes(ctx, &mut body, events.as_mut(), client, choosy)
            .await;
        let first = match first {
            Ok(first) => first,
            Err(NotShown::Client(gone)) => return gone_away(ctx, fill, gone),
            Err(NotShown::Answer(broken)) => match failure_of(broken) {
                Some(failure) => return Delivered::Abandoned(failure),
                None => {
                    fill.abandon();
                    return Delivered::Refused(refusal(&delivery.provider.name, &AnswerBroken::Overtime));
                }
            },
            Err(NotShown::NoAnswer(failure)) => return Delivered::Abandoned(failure),
        };
        ctx.outcome.origin = Origin::Upstream;
        ctx.outcome.status = head.status.as_u16();
        if let Some(verdict) = delivery.verdict {
            verdict.good(head.status, delivery.key, delivery.model);
        }
        self.invalidate(ctx, client, head.status);
        self.begin_fill(ctx, client, fill, upstream_head, framing);
        if client.is_promised_events() && !(streamed && head.status.is_success()) {
            return self
                .tell_in_stream(ctx, client, fill, &mut body, first, delivery.provider)
                .await;
        }
        if let Err(error) = frame_head(&mut head, framing, events.is_some(), client)
            .and_then(|()| decorate(ctx, origin.as_ref(), &mut head, self.clock.now()))
        {
            return Delivered::Broken(error);
        }
        ctx.outcome.first_byte = Some(self.clock.monotonic().saturating_sub(ctx.arrival.started));
        if first.is_none() {
            // the head is all there is
            ctx.end_places();
            self.settle_bill(ctx, false).await;
        }
        if let Err(gone) = client.write_head(head).await {
            return gone_away(ctx, fill, gone);
        }
        self.carry(
            ctx,
            client,
            fill,
            &mut body,
            events,
            first,
            framing,
            &delivery.provider.name,
        )
        .await
    }

    /// Carries the body from its first bytes to its end.
    #[expect(
        clippy::too_many_arguments,
        reason = "both sides of a transfer and what is told of it"
    )]
    async fn carry(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        body: &mut AnswerBody<'_>,
        mut events: Option<EventRelay>,
        first: Option<Bytes>,
        framing: Framing,
        provider: &str,
    ) -> Delivered {
        let http_end = clean_end(framing);
        let source = Source {
            body,
            events: events.as_mut(),
            fill,
            ctx,
            http_end,
            provider,
        };
        let ended = pump(self, first, source, client).await;
        // nothing of it is under way at the provider any more: free before the client hears the end
        ctx.end_places();
        ctx.outcome.bytes_out = client.bytes_out;
        match ended {
            Ok(()) => self.end_whole(ctx, client, fill, events.as_ref(), http_end).await,
            // its end marker came: what broke afterwards took nothing from it
            Err(RelayFailure::Answer(_)) if is_whole(events.as_ref()) => {
                self.end_whole(ctx, client, fill, events.as_ref(), HttpEnd::Broken)
                    .await
            }
            Err(RelayFailure::Client(gone)) => gone_away(ctx, fill, gone),
            Err(RelayFailure::Answer(broken)) => {
                ctx.outcome.ending = Ending::Cut;
                self.settle_bill(ctx, true).await;
                let denial = refusal(provider, &broken);
                end_broken(client, fill, events.as_ref(), &denial).await
            }
        }
    }

    /// The provider's answer ended cleanly: if it is a stream, is it whole?
    async fn end_whole(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        events: Option<&EventRelay>,
        http_end: HttpEnd,
    ) -> Delivered {
        let verdict = events.map_or(StreamVerdict::Complete, |events| events.verdict(http_end));
        if verdict == StreamVerdict::Broken {
            ctx.outcome.ending = Ending::Cut;
            self.settle_bill(ctx, true).await;
            return end_broken(client, fill, events, &ended_early()).await;
        }
        let whole = verdict == StreamVerdict::Complete;
        self.settle_bill(ctx, !whole).await;
        if whole {
            fill.finish();
        } else {
            fill.finish_unkept();
        }
        if let Err(gone) = client.write_body(Bytes::new(), true).await {
            return gone_away(ctx, fill, gone);
        }
        ctx.outcome.ending = if whole { Ending::Complete } else { Ending::Cut };
        Delivered::Whole
    }

    fn begin_fill(
        &self,
        ctx: &mut RequestCtx,
        client: &mut Client<'_>,
        fill: &mut Fill,
        upstream_head: &ResponseHeader,
        framing: Framing,
    ) {
        let (Some(lookup), Some(key)) = (ctx.cache.lookup, &ctx.cache.key) else {
            return;
        };
        let settings = &ctx.snapshot.settings.cache;
        let facts = AnswerFacts {
            status: upstream_head.status.as_u16(),
            headers: &upstream_head.headers,
            framing: match framing {
                Framing::Empty => cache::Framing::Length(0),
                Framing::Length(length) => cache::Framing::Length(length),
                Framing::Marked => cache::Framing::Marked,
                Framing::Close => cache::Framing::Close,
            },
            encoding_is_ours: ctx.is_inference(),
            now: self.clock.now(),
        };
        match storable(&lookup, settings, &facts) {
            Ok(answer) if fill.is_possible() => {
                let most = settings.max_object_bytes;
                let request = &client.request_head().headers;
                fill.begin(&self.cache, key, request, upstream_head, &answer, most);
                ctx.cache.outcome = Some(CacheOutcome::Stored {
                    forced: answer.forced,
                    forwarded: ctx.cache.why(),
                });
            }
            _ => {
                client.lose_audience();
                if may_be_better_next_time(upstream_head.status) {
                    fill.abandon();
                } else {
                    fill.unshared();
                }
                ctx.cache.miss();
            }
        }
    }

    /// What was answered to a GET of an address that has been changed holds no more.
    fn invalidate(&self, ctx: &RequestCtx, client: &Client<'_>, status: http::StatusCode) {
        let head = client.request_head();
        let changes = !head.method.is_safe() && !ctx.is_inference();
        if changes
            && (status.is_success() || status.is_redirection())
            && let (Some(caller), Some(path)) = (&ctx.caller, &ctx.path)
        {
            self.cache
                .invalidate(caller.project_id, &path.path, head.uri.query());
        }
    }
}

/// The head as the client may see it, before it is known how its body is framed.
fn shown_head(
    upstream: &ResponseHeader,
    rules: DownRules,
    framing: Framing,
) -> pingora_core::Result<ResponseHeader> {
    let mut head = answer_head(upstream, rules)?;
    let length = upstream.headers.get(header::CONTENT_LENGTH);
    if let Some(length) = length.filter(|_| framing == Framing::Empty) {
        // a HEAD's length is told though no body comes
        head.insert_header(header::CONTENT_LENGTH, length.clone())?;
    }
    Ok(head)
}

impl Delivery<'_> {
    fn choosy(&self, head: &ResponseHeader, framing: Framing, streamed: bool) -> Option<Choosy> {
        let verdict = self.verdict.as_ref()?;
        if !verdict.may_move_on || !head.status.is_success() || framing == Framing::Empty {
            return None;
        }
        Some(Choosy {
            is_page: content_type_is(head, b"text/html"),
            first_token: verdict.first_token.filter(|_| streamed),
            http_end: clean_end(framing),
        })
    }
}

/// What an answer that broke off before anything was shown is to the loop; none: its own time is over.
fn failure_of(broken: AnswerBroken) -> Option<AttemptFailure> {
    match broken {
        AnswerBroken::Cut(how) => Some(AttemptFailure::BrokenOff(how)),
        AnswerBroken::Idle => Some(AttemptFailure::Silent),
        AnswerBroken::Overtime => None,
    }
}

/// How the events of the answer are watched, if it is a stream; and how its body is read if it comes encoded.
fn watched(
    ctx: &mut RequestCtx,
    head: &ResponseHeader,
    delivery: &Delivery<'_>,
    streamed: bool,
) -> Option<EventRelay> {
    let encoded = is_encoded(&head.headers);
    let kind = delivery.kind.filter(|_| streamed);
    if !encoded {
        return kind.map(|kind| EventRelay::new(kind, delivery.choices, delivery.only_we_asked));
    }
    let decoder = Decoder::of(&head.headers);
    match (kind, decoder) {
        (Some(kind), Some(decoder)) => Some(EventRelay::encoded(kind, delivery.choices, decoder)),
        (_, decoder) => {
            if let Some(meter) = ctx.bill.meter() {
                meter.decode(decoder);
            }
            None
        }
    }
}

/// Whether the same question may get another answer at once: those who wait for this one try it one by one.
fn may_be_better_next_time(status: http::StatusCode) -> bool {
    status.is_server_error()
        || status == http::StatusCode::TOO_MANY_REQUESTS
        || status == http::StatusCode::REQUEST_TIMEOUT
}

/// How HTTP ends an answer that ends cleanly.
fn clean_end(framing: Framing) -> HttpEnd {
    if framing == Framing::Close {
        HttpEnd::Closed
    } else {
        HttpEnd::Framed
    }
}

/// The client has left and nobody else wants the answer.
pub(super) fn gone_away(ctx: &mut RequestCtx, fill: &mut Fill, gone: ClientGone) -> Delivered {
    fill.abandon();
    ctx.outcome.ending = Ending::ClientGone;
    Delivered::Broken(gone.0)
}

/// Ends an answer that was begun and cannot be finished, so that the client can tell.
async fn end_broken(
    client: &mut Client<'_>,
    fill: &mut Fill,
    events: Option<&EventRelay>,
    denial: &Denial,
) -> Delivered {
    let event = events.and_then(|events| events.error_event(denial));
    end_with_event(client, fill, event, &denial.message).await
}

/// The last words of a stream that is not whole.
pub(super) async fn end_with_event(
    client: &mut Client<'_>,
    fill: &mut Fill,
    event: Option<Bytes>,
    why: &str,
) -> Delivered {
    let error = Error::explain(ErrorType::ConnectionClosed, why.to_owned()).into_up();
    fill.break_off(event.clone());
    if let Some(event) = event {
        // HTTP/2 ends the stream after the event, HTTP/1.1 closes without the last chunk
        let end = client.is_http2();
        if client.write_body(event, end).await.is_ok() && end {
            return Delivered::Whole;
        }
    }
    client.flush_and_cut().await;
    Delivered::Broken(error)
}

/// A stream without its end marker.
pub(super) fn ended_early() -> Denial {
    Denial::new(
        DenialCode::UpstreamProtocolError,
        "the upstream ended its stream before it was complete",
    )
}

/// What is said of an answer that broke off.
pub(super) fn refusal(provider: &str, broken: &AnswerBroken) -> Denial {
    match broken {
        AnswerBroken::Cut(how) => Denial::new(
            DenialCode::UpstreamProtocolError,
            format!("upstream `{provider}` broke its answer off: {how}"),
        ),
        AnswerBroken::Idle => Denial::new(
            DenialCode::IdleTimeout,
            format!("upstream `{provider}` was silent for longer than `server.stream_idle_timeout`"),
        ),
        AnswerBroken::Overtime => Denial::new(
            DenialCode::RequestTimeout,
            format!("upstream `{provider}` did not finish its answer within `timeouts.request`"),
        ),
    }
}

fn is_event_stream(head: &ResponseHeader) -> bool {
    content_type_is(head, b"text/event-stream")
}

fn content_type_is(head: &ResponseHeader, kind: &[u8]) -> bool {
    head.headers
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .and_then(|value| value.get(..kind.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(kind))
}
