//! The bounded read of request bodies that must be understood before they may go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_core::ErrorType;
use pingora_proxy::Session;

use super::memory_budget::{BudgetExceeded, HeldBytes};
use crate::dialect::inspect::{BodyFacts, InspectError, Inspector, WatchedKeys};
use crate::dialect::multipart::{self, MultipartFacts};
use crate::domain::{Denial, DenialCode};

/// How Pingora names a chunked body that is none.
const INVALID_CHUNK: ErrorType = ErrorType::new("InvalidChunk");

/// What is known of a request's body.
#[derive(Debug, Default)]
pub enum RequestBody {
    /// There is none, or nobody looked yet.
    #[default]
    Unread,
    /// Held in memory and understood.
    Held(Box<HeldBody>),
    /// Goes through as it comes.
    Streamed,
}

/// A body held in memory, within the memory budget.
#[derive(Debug)]
pub struct HeldBody {
    /// All its bytes.
    pub bytes: Bytes,
    /// What it says.
    pub facts: Understood,
    /// Its share of the memory budget.
    _held: HeldBytes,
}

/// What a body says.
#[derive(Debug)]
pub enum Understood {
    /// A JSON object.
    Json(BodyFacts),
    /// A form.
    Form(MultipartFacts),
}

impl HeldBody {
    /// The model asked for.
    pub fn model(&self) -> Option<&str> {
        match &self.facts {
            Understood::Json(facts) => facts.model_name(),
            Understood::Form(facts) => facts.model_name(),
        }
    }

    /// Whether a stream was asked for.
    pub fn streaming(&self) -> bool {
        match &self.facts {
            Understood::Json(facts) => facts.is_stream(),
            Understood::Form(facts) => facts.is_stream(),
        }
    }
}

impl RequestBody {
    /// The `n` that was asked for.
    pub fn choices(&self) -> Option<u64> {
        match self {
            Self::Held(held) => match &held.facts {
                Understood::Json(facts) => facts.n,
                Understood::Form(_) => None,
            },
            Self::Unread | Self::Streamed => None,
        }
    }
}

/// Bodies declared to be larger are refused before they are read when there is no room for them now.
const PROBED_BYTES: u64 = 64 * 1024;

/// The bounds of a read.
#[derive(Debug, Clone)]
pub struct ReadBounds {
    /// `server.max_inspected_size`, or `server.max_request_size` if that is smaller.
    pub max_bytes: u64,
    /// Longest silence.
    pub silence: Duration,
    /// `server.memory_budget`.
    pub memory_bytes: u64,
    /// Keys to look at.
    pub watched: Arc<WatchedKeys>,
}

/// Why a body was not read.
#[derive(Debug)]
pub enum Unreadable {
    /// It is refused.
    Denied(Denial),
    /// The client left.
    Gone(Box<pingora_core::Error>),
}

impl From<Denial> for Unreadable {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// The refusal of a body above `limit` bytes.
pub fn too_large(limit: u64) -> Denial {
    Denial::new(
        DenialCode::RequestTooLarge,
        format!("the request body is larger than the limit of {limit} bytes"),
    )
}

/// The refusal when `server.memory_budget` is used up.
fn over_budget(exceeded: BudgetExceeded) -> Denial {
    let whose = match exceeded {
        BudgetExceeded::Process => "all requests together",
        BudgetExceeded::Token => "the requests of this token together",
    };
    Denial::new(
        DenialCode::Overloaded,
        format!("{whose} hold as much memory as they may; try again in a moment"),
    )
    .with_retry_after(Duration::from_secs(1))
}

fn body_timeout(silence: Duration) -> Denial {
    Denial::new(
        DenialCode::BodyTimeout,
        format!("no byte of the request body came for {} s", silence.as_secs_f32()),
    )
}

/// What an inspector found wrong, as a refusal.
pub fn invalid_json(error: &InspectError) -> Denial {
    let denial = Denial::new(DenialCode::InvalidJson, error.to_string());
    match error.param() {
        Some(param) => denial.with_param(param.to_owned()),
        None => denial,
    }
}

enum Reader<'keys> {
    Json(Box<Inspector<'keys>>),
    Form(String),
}

/// Reads the whole body and understands it, chunk by chunk while it arrives.
pub async fn read_held(
    session: &mut Session,
    mut held: HeldBytes,
    bounds: &ReadBounds,
) -> Result<HeldBody, Unreadable> {
    let declared = super::forward::head::content_length(&session.req_header().headers);
    if let Some(length) = declared {
        if length > bounds.max_bytes {
            return Err(too_large(bounds.max_bytes).into());
        }
        if length > PROBED_BYTES {
            held.would_fit(length, bounds.memory_bytes).map_err(over_budget)?;
        }
    }
    let mut reader = match form_content_type(session) {
        Some(content_type) => Reader::Form(content_type),
        None => Reader::Json(Box::new(Inspector::new(&bounds.watched))),
    };
    send_continue(session).await?;
    let mut first: Option<Bytes> = None;
    let mut rest: Option<BytesMut> = None;
    let mut length = 0u64;
    while let Some(chunk) = next_chunk(session, bounds.silence).await? {
        length += chunk.len() as u64;
        if length > bounds.max_bytes {
            return Err(too_large(bounds.max_bytes).into());
        }
        // charged as it comes: who declares much and sends nothing holds nothing
        held.grow(chunk.len() as u64, bounds.memory_bytes)
            .map_err(over_budget)?;
        if let Reader::Json(inspector) = &mut reader {
            inspector.feed(&chunk).map_err(|error| invalid_json(&error))?;
        }
        match (&mut rest, &first) {
            (Some(buffer), _) => buffer.extend_from_slice(&chunk),
            (None, None) => first = Some(chunk),
            (None, Some(start)) => {
                let capacity = declared.unwrap_or(length * 2).min(bounds.max_bytes);
                let mut buffer =
                    BytesMut::with_capacity(usize::try_from(capacity).unwrap_or(0).max(start.len()));
                buffer.extend_from_slice(start);
                buffer.extend_from_slice(&chunk);
                rest = Some(buffer);
            }
        }
    }
    let bytes = rest.map(BytesMut::freeze).or(first).unwrap_or_default();
    let facts = match reader {
        Reader::Json(inspector) => {
            Understood::Json(inspector.finish().map_err(|error| invalid_json(&error))?)
        }
        Reader::Form(content_type) => {
            Understood::Form(multipart::inspect(&content_type, &bytes).map_err(|error| {
                let denial = Denial::new(DenialCode::InvalidJson, error.to_string());
                match error.param() {
                    Some(param) => denial.with_param(param),
                    None => denial,
                }
            })?)
        }
    };
    Ok(HeldBody {
        bytes,
        facts,
        _held: held,
    })
}

/// The next chunk of the body, within the longest silence.
async fn next_chunk(session: &mut Session, silence: Duration) -> Result<Option<Bytes>, Unreadable> {
    match tokio::time::timeout(silence, session.downstream_session.read_request_body()).await {
        Err(_) => Err(body_timeout(silence).into()),
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(match error.etype() {
            kind if *kind == INVALID_CHUNK || *kind == ErrorType::InvalidHTTPHeader => {
                Unreadable::Denied(Denial::new(
                    DenialCode::MalformedRequest,
                    "the chunked framing of the request body is broken",
                ))
            }
            ErrorType::ReadTimedout => body_timeout(silence).into(),
            _ => Unreadable::Gone(error.into_down()),
        }),
    }
}

/// Answers `Expect: 100-continue`: only now is the client asked to send its body.
pub async fn send_continue(session: &mut Session) -> Result<(), Unreadable> {
    let expects = session
        .req_header()
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects && !session.is_http2() {
        session
            .downstream_session
            .write_continue_response()
            .await
            .map_err(|error| Unreadable::Gone(error.into_down()))?;
    }
    Ok(())
}

/// The content type of a form; everything else is JSON, whatever it calls itself.
fn form_content_type(session: &Session) -> Option<String> {
    let content_type = session
        .req_header()
        .headers
        .get(header::CONTENT_TYPE)?
        .to_str()
        .ok()?;
    multipart::is_form_data(content_type).then(|| content_type.to_owned())
}
