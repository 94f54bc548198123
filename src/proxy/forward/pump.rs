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
use crate::limit::Reservation;
use crate::proxy::caching::Fill;

/// Where the bytes come from, and what is told of each before the client has it.
pub(super) struct Source<'a, 'u> {
    /// The provider's body.
    pub body: &'a mut AnswerBody<'u>,
    /// Its events, if it is a stream.
    pub events: Option<&'a mut EventRelay>,
    /// What is stored of it.
    pub fill: &'a mut Fill,
    /// What the request holds while its answer is under way.
    pub places: &'a mut Option<Reservation>,
    /// How the provider's body ends when it ends cleanly.
    pub http_end: HttpEnd,
    /// The provider's name, for messages.
    pub provider: &'a str,
}

impl Source<'_, '_> {
    /// The next bytes that may be shown: whole events of a stream, anything else as it comes. With a client, it is
    /// watched meanwhile.
    pub(super) async fn next(
        &mut self,
        client: Option<&mut Client<'_>>,
    ) -> Result<Option<Bytes>, RelayFailure> {
        if self.body.is_complete() {
            self.end();
            return Ok(None);
        }
        let piece = match next_piece(self.body, self.events.as_deref_mut(), client).await {
            Ok(piece) => piece,
            Err(failure) => {
                if let RelayFailure::Answer(broken) = &failure {
                    self.tell_of(&refusal(self.provider, broken));
                }
                return Err(failure);
            }
        };
        match &piece {
            Some(bytes) => self.note(bytes),
            None => self.end(),
        }
        Ok(piece)
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
        let event = self.events.as_deref().map(|events| events.error_event(denial));
        self.fill.break_off(event);
    }

    fn note(&mut self, bytes: &Bytes) {
        self.fill.write(bytes);
        let done = self.body.is_complete();
        if done || is_whole(self.events.as_deref()) {
            // its places are free before the client has it all: its next request may come at once
            *self.places = None;
        }
        if done && self.events.is_none() {
            // stored before the client has it all: its next request may come at once
            self.fill.finish();
        }
    }
}

/// Carries everything from `first` on. A client that reads slowly holds nobody up who follows: while it is written to, the
/// provider is read ahead, as far as the store keeps it anyway.
pub(super) async fn pump(
    first: Option<Bytes>,
    mut source: Source<'_, '_>,
    client: &mut Client<'_>,
) -> Result<(), RelayFailure> {
    let mut ahead = VecDeque::new();
    let mut ahead_bytes = 0;
    let mut ended = None;
    if let Some(first) = first {
        source.note(&first);
        ahead.push_back(first);
    } else {
        return Ok(());
    }
    loop {
        let Some(bytes) = ahead.pop_front() else {
            if let Some(ended) = ended {
                return ended;
            }
            match source.next(Some(client)).await? {
                Some(bytes) => ahead.push_back(bytes),
                None => return Ok(()),
            }
            continue;
        };
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
                    Ok(Some(bytes)) => {
                        ahead_bytes += bytes.len() as u64;
                        ahead.push_back(bytes);
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
    mut client: Option<&mut Client<'_>>,
) -> Result<Option<Bytes>, RelayFailure> {
    loop {
        let Some(bytes) = body.next(client.as_deref_mut()).await? else {
            return Ok(None);
        };
        let Some(events) = events.as_deref_mut() else {
            return Ok(Some(bytes));
        };
        if let Some(whole) = events.push(bytes) {
            return Ok(Some(whole));
        }
    }
}

/// Whether the end marker of a stream has come.
pub(super) fn is_whole(events: Option<&EventRelay>) -> bool {
    events.is_some_and(|events| events.verdict(HttpEnd::Broken) == StreamVerdict::Complete)
}
