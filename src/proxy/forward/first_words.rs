//! What the first words of an answer say: whether it is one.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::client::{Client, ClientGone};
use super::events::EventRelay;
use super::pump::next_piece;
use super::relay::{AnswerBody, AnswerBroken, RelayFailure};
use crate::dialect::error::is_providers_trouble;
use crate::dialect::sse::{HttpEnd, StreamVerdict};
use crate::metering::Meter;
use crate::upstream::AttemptFailure;

/// Why nothing of an answer was shown.
pub(super) enum NotShown {
    /// By the provider.
    Answer(AnswerBroken),
    /// By the client.
    Client(ClientGone),
    /// It is no answer, and another provider may give one.
    NoAnswer(AttemptFailure),
}

impl From<RelayFailure> for NotShown {
    fn from(failure: RelayFailure) -> Self {
        match failure {
            RelayFailure::Answer(broken) => Self::Answer(broken),
            RelayFailure::Client(gone) => Self::Client(gone),
        }
    }
}

/// Another provider could answer instead: an answer is looked at before it is shown.
pub(super) struct Choosy {
    /// It is a page for people, not an answer of an API.
    pub is_page: bool,
    /// When the first words of a stream must be there.
    pub first_token: Option<Instant>,
    pub http_end: HttpEnd,
}

/// The longest beginning of an answer that is held to see what it is.
const LONGEST_BEGINNING: usize = 64 * 1024;

/// An error object shows itself within so many bytes.
const LONGEST_SIGN: usize = 64;

/// The beginning of an answer up to its first words. A stream that ends, breaks or falls silent before them, and an error
/// in the place of an answer, is none.
pub(super) async fn first_words(
    body: &mut AnswerBody<'_>,
    mut events: Option<&mut EventRelay>,
    mut meter: Option<&mut Meter>,
    client: &mut Client<'_>,
    choosy: Choosy,
) -> Result<Option<Bytes>, NotShown> {
    let mut held = BytesMut::new();
    loop {
        let overtime = async {
            match choosy.first_token {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let piece = tokio::select! {
            biased;
            piece = next_piece(body, events.as_deref_mut(), meter.as_deref_mut(), Some(client)) => piece?,
            () = overtime => return Err(NotShown::NoAnswer(AttemptFailure::FirstTokenTimeout)),
        };
        let Some(piece) = piece else {
            let verdict = events.as_deref().map(|events| events.verdict(choosy.http_end));
            if verdict == Some(StreamVerdict::Broken) {
                let how = "its stream ended before it had said anything".to_owned();
                return Err(NotShown::NoAnswer(AttemptFailure::BrokenOff(how)));
            }
            if events.is_none() && is_trouble(&held) {
                return Err(NotShown::NoAnswer(AttemptFailure::NoAnswer("error_answer")));
            }
            body.end_again();
            return Ok((!held.is_empty()).then(|| held.freeze()));
        };
        let is_first = held.is_empty();
        if !is_first {
            held.extend_from_slice(&piece);
        }
        let whole: &[u8] = if is_first { &piece } else { &held };
        let shown = match events.as_deref() {
            Some(events) => {
                if events.told_error().is_some_and(is_providers_trouble) && !events.has_content() {
                    return Err(NotShown::NoAnswer(AttemptFailure::NoAnswer("error_event")));
                }
                events.has_begun()
            }
            None if looks_like_error(whole) && !body.is_complete() => false,
            None => {
                if is_trouble(whole) {
                    return Err(NotShown::NoAnswer(AttemptFailure::NoAnswer("error_answer")));
                }
                true
            }
        };
        if shown || whole.len() > LONGEST_BEGINNING {
            return Ok(Some(if is_first { piece } else { held.freeze() }));
        }
        if is_first {
            held.extend_from_slice(&piece);
        }
    }
}

fn is_trouble(body: &[u8]) -> bool {
    looks_like_error(body) && is_providers_trouble(body)
}

/// Whether a body begins as an error object does, or may.
fn looks_like_error(body: &[u8]) -> bool {
    let sign = &body[..body.len().min(LONGEST_SIGN)];
    let start: Vec<u8> = sign
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .take(16)
        .collect();
    // as much of it as has come
    [&br#"{"error":"#[..], br#"{"type":"error""#]
        .iter()
        .any(|error| start.starts_with(error) || sign.len() < LONGEST_SIGN && error.starts_with(&start))
}
