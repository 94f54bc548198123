//! The body of an answer on its way: from the provider to the client, to the store, and to those who follow.

use std::collections::VecDeque;
use std::pin::pin;

use bytes::Bytes;

use super::client::Client;
use super::deliver::{ended_early, refusal};
use super::events::EventRelay;
use super::relay::{AnswerBody, RelayFailure};
use crate::dialect::sse::{HttpEnd, StreamVerdict};
use crate::domain::Denial;
use crate::metering::Meter;
use crate::proxy::EdgeProxy;
use crate::proxy::caching::Fill;
use crate::proxy::ctx::RequestCtx;

/// Where the bytes come from, and what is told of each before the client has it.
pub(super) struct Source<'a, 'u> {
    /// The provider's body.
    pub body: &'a mut AnswerBody<'u>,
    /// Its events, if it is a stream.
    pub events: Option<&'a mut EventRelay>,
    /// What is stored of it.
    pub fill: &'a mut Fill,
    /// The request: what it holds while its answer is under way, and what it uses.
    pub ctx: &'a mut RequestCtx,
    /// How the provider's body ends when it ends cleanly.
    pub http_end: HttpEnd,
    /// The provider's name, for messages.
    pub provider: &'a str,
}

/// Bytes on their way, and whether the client has a whole answer once it has them.
struct Pending {
    bytes: Bytes,
    closes: bool,
}

impl Source<'_, '_> {
    /// The next bytes that may be shown: whole events of a stream, anything else as it comes. With a client, it is
    /// watched meanwhile.
    async fn next(&mut self, client: Option<&mut Client<'_>>) -> Result<Option<Pending>, RelayFailure> {
        if self.body.is_complete() {
            self.end();
            return Ok(None);
        }
        let meter = self.ctx.bill.meter();
        let piece = match next_piece(self.body, self.events.as_deref_mut(), meter, client).await {
            Ok(piece) => piece,
            Err(failure) => {
                if let RelayFailure::Answer(broken) = &failure {
                    self.tell_of(&refusal(self.provider, broken));
                }
                return Err(failure);
            }
        };
        let Some(bytes) = piece else {
            self.end();
            return Ok(None);
        };
        Ok(Some(self.note(bytes)))
    }

    /// The provider has ended its answer. Those who follow hear of it now, however far the client is.
    fn end(&mut self) {
        let verdict = self.events.as_deref().map(|events| events.verdict(self.http_end));
        match verdict {
            None | Some(StreamVerdict::Complete) => self.fill.finish(),
            Some(StreamVerdict::Broken) => self.tell_of(&ended_early()),
            Some(StreamVerdict::EndedByProviderError) => self.fill.finish_unkept(),
        }
    }

    /// The answer has broken off: unless it was whole before, those who follow get the event that says so.
    fn tell_of(&mut self, denial: &Denial) {
        if is_whole(self.events.as_deref()) {
            return;
        }
        let event = self
            .events
            .as_deref()
            .and_then(|events| events.error_event(denial));
        self.fill.break_off(event);
    }

    fn note(&mut self, bytes: Bytes) -> Pending {
        self.fill.write(&bytes);
        let done = self.body.is_complete();
        let closes = done || is_whole(self.events.as_deref());
        if closes {
            // its places are free before the client has it all: its next request may come at once
            self.ctx.end_places();
        }
        if done && self.events.is_none() {
            // stored before the client has it all: its next request may come at once
            self.fill.finish();
        }
        Pending { bytes, closes }
    }
}

/// Carries everything from `first` on. A client that reads slowly holds nobody up who follows: while it is written to, the
/// provider is read ahead, as far as the store keeps it anyway.
/// The bytes that make the answer whole leave once its record is safe.
pub(super) async fn pump(
    proxy: &EdgeProxy,
    first: Option<Bytes>,
    mut source: Source<'_, '_>,
    client: &mut Client<'_>,
) -> Result<(), RelayFailure> {
    let mut ahead = VecDeque::new();
    let mut ahead_bytes = 0;
    let mut ended = None;
    if let Some(first) = first {
        let first = source.note(first);
        ahead.push_back(first);
    } else {
        return Ok(());
    }
    loop {
        let Some(Pending { bytes, closes }) = ahead.pop_front() else {
            if let Some(ended) = ended {
                return ended;
            }
            match source.next(Some(client)).await? {
                Some(pending) => ahead.push_back(pending),
                None => return Ok(()),
            }
            continue;
        };
        if closes {
            proxy.settle_bill(source.ctx, false).await;
        }
        let Some(most_ahead) = source.fill.read_ahead_bytes() else {
            client.write_body(bytes, false).await?;
            continue;
        };
        ahead_bytes = u64::saturating_sub(ahead_bytes, bytes.len() as u64);
        let mut write = pin!(client.write_body(bytes, false));
        loop {
            tokio::select! {
                biased;
                written = &mut write => {
                    written?;
                    break;
                }
                next = source.next(None), if ended.is_none() && ahead_bytes < most_ahead => match next {
                    Ok(Some(pending)) => {
                        ahead_bytes += pending.bytes.len() as u64;
                        ahead.push_back(pending);
                    }
                    Ok(None) => ended = Some(Ok(())),
                    Err(failure) => ended = Some(Err(failure)),
                },
            }
        }
    }
}

/// The next bytes that may be shown.
pub(super) async fn next_piece(
    body: &mut AnswerBody<'_>,
    mut events: Option<&mut EventRelay>,
    mut meter: Option<&mut Meter>,
    mut client: Option<&mut Client<'_>>,
) -> Result<Option<Bytes>, RelayFailure> {
    loop {
        let Some(bytes) = body.next(client.as_deref_mut()).await? else {
            return Ok(None);
        };
        let Some(events) = events.as_deref_mut() else {
            if let Some(meter) = meter {
                meter.body(&bytes);
            }
            return Ok(Some(bytes));
        };
        if let Some(whole) = events.push(bytes, meter.as_deref_mut()) {
            return Ok(Some(whole));
        }
    }
}

/// Whether the end marker of a stream has come.
pub(super) fn is_whole(events: Option<&EventRelay>) -> bool {
    events.is_some_and(|events| events.verdict(HttpEnd::Broken) == StreamVerdict::Complete)
}
