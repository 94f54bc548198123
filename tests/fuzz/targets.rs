//! What is fuzzed, and what holds of it whatever comes.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use llm_proxy::cache::policy::CacheControl;
use llm_proxy::cache::{AnswerFacts, Framing, Plan, RuleFacts, storable};
use llm_proxy::config::{CacheSettings, EnvSource, FileChoice, LoadRequest, load, show_yaml};
use llm_proxy::dialect::inspect::{InspectError, Inspector, WatchedKeys, inspect};
use llm_proxy::dialect::multipart;
use llm_proxy::dialect::query::parameter;
use llm_proxy::dialect::sse::{Batch, Event, EventSplitter};
use llm_proxy::dialect::websocket::FrameFollower;
use llm_proxy::domain::Timestamp;
use llm_proxy::management::strict_json::Strict;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::mutate::Mutator;
use crate::runner::fuzz;

fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Cuts `input` into pieces of random lengths.
fn pieces<'a>(mutator: &mut Mutator, input: &'a [u8]) -> Vec<&'a [u8]> {
    let longest = 1 << mutator.below(12);
    let mut rest = input;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let length = (1 + mutator.below(longest)).min(rest.len());
        pieces.push(&rest[..length]);
        rest = &rest[length..];
    }
    pieces
}

/// What the inspector says of a body is what a full parser says, however the body comes.
#[test]
fn request_inspector() {
    let keys = WatchedKeys::default();
    fuzz("body", |body, mutator| {
        let whole = inspect(&keys, body);
        let mut inspector = Inspector::new(&keys);
        let fed = pieces(mutator, body)
            .into_iter()
            .try_for_each(|piece| inspector.feed(piece));
        let in_pieces = fed.and_then(|()| inspector.finish());
        // a body with several faults may be refused for another of them; refused it is
        must(whole == in_pieces || whole.is_err() && in_pieces.is_err(), || {
            format!("whole {whole:?}, in pieces {in_pieces:?}")
        })?;
        let full = serde_json::from_slice::<Value>(body);
        let well_formed = serde_json::from_slice::<IgnoredAny>(body).is_ok();
        match (&whole, full) {
            (Ok(facts), Ok(full)) => {
                let text = |name: &str| full.get(name).and_then(Value::as_str).map(str::to_owned);
                must(facts.model_name().map(str::to_owned) == text("model"), || {
                    format!(
                        "model {:?}, a full parser says {:?}",
                        facts.model_name(),
                        text("model")
                    )
                })?;
                must(
                    facts.stream == full.get("stream").and_then(Value::as_bool),
                    || "stream differs".to_owned(),
                )?;
                must(facts.length == body.len(), || "length differs".to_owned())
            }
            // a lone surrogate in a text that nobody reads, a number that does not fit a float
            (Ok(_), Err(error)) => must(well_formed || is_lenient(&error), || {
                format!("taken, but a full parser says: {error}")
            }),
            (Err(InspectError::Malformed { .. }), Ok(full)) => must(!full.is_object(), || {
                format!("refused as malformed, but a full parser takes it: {whole:?}")
            }),
            (Err(_), _) => Ok(()),
        }
    });
}

fn is_lenient(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    [
        "surrogate",
        "number out of range",
        "hex escape",
        "recursion limit",
    ]
    .iter()
    .any(|lenient| text.contains(lenient))
}

/// Events are the same however their bytes come, and no byte is lost, added or moved.
#[test]
fn event_splitter() {
    fuzz("events", |stream, mutator| {
        let split = |pieces: Vec<&[u8]>| {
            let mut splitter = EventSplitter::new();
            let (mut events, mut bytes, mut batch) = (Vec::new(), Vec::new(), Batch::default());
            for piece in pieces {
                splitter.push(Bytes::copy_from_slice(piece), &mut batch);
                for index in 0..batch.len() {
                    let event = batch.piece_bytes(index);
                    let _ = Event::parse(&event);
                    bytes.extend_from_slice(&event);
                    events.push(event);
                }
            }
            let released = bytes.len();
            bytes.extend_from_slice(&splitter.finish());
            (events, released, bytes)
        };
        let (whole, released, bytes) = split(vec![stream]);
        must(bytes == stream, || "bytes were lost, added or moved".to_owned())?;
        let (pieces, released_in_pieces, bytes) = split(pieces(mutator, stream));
        must(bytes == stream, || {
            "bytes were lost, added or moved in pieces".to_owned()
        })?;
        // a CR at the end of a piece leaves its LF to the next one; what is released in the end is the same
        let text = |events: &[Bytes]| events.concat();
        must(
            released == released_in_pieces && text(&whole) == text(&pieces),
            || format!("{released} bytes released whole, {released_in_pieces} in pieces"),
        )
    });
}

struct NoVariables;

impl EnvSource for NoVariables {
    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// A configuration is taken or refused with reasons; one that is taken can be shown.
#[test]
fn configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("llm-proxy.yaml");
    fuzz("configuration", |text, _| {
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        let request = LoadRequest {
            file: FileChoice::Path(path.clone()),
            env: &NoVariables,
            cwd: folder.path().to_owned(),
            needs_management_token: false,
        };
        match load(&request) {
            Ok(loaded) => must(!show_yaml(&loaded).is_empty(), || "nothing to show".to_owned()),
            Err(errors) => must(!errors.to_string().is_empty(), || {
                "refused without a reason".to_owned()
            }),
        }
    });
}

/// Management bodies: what a full parser reads, but no name twice.
#[test]
fn management_json() {
    fuzz("management", |body, _| {
        let strict = serde_json::from_slice::<Strict>(body).map(|Strict(value)| value);
        match (strict, serde_json::from_slice::<Value>(body)) {
            (Ok(strict), Ok(full)) => must(strict == full, || format!("{strict} is not {full}")),
            (Ok(strict), Err(error)) => Err(format!("{strict} was taken: {error}")),
            (Err(error), Ok(_)) => must(error.to_string().contains("occurs twice"), || error.to_string()),
            (Err(_), Err(_)) => Ok(()),
        }
    });
}

fn headers_of(text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

/// Cache headers: nothing that says `no-store`, `private` or `Vary: *` is kept, and no freshness is beyond measure.
#[test]
fn cache_headers() {
    let settings = CacheSettings {
        enabled: true,
        ..CacheSettings::default()
    };
    fuzz("cache_headers", |text, mutator| {
        let split = text.len().min(mutator.below(text.len() + 1));
        let (request, answer) = (headers_of(&text[..split]), headers_of(&text[split..]));
        let lookup = match Plan::of(
            &settings,
            if text.len() % 2 == 0 { "GET" } else { "POST" },
            &request,
            RuleFacts::default(),
        ) {
            Plan::Lookup(lookup) => lookup,
            Plan::Bypass(_) => return Ok(()),
        };
        let facts = AnswerFacts {
            status: 200,
            headers: &answer,
            framing: Framing::Length(10),
            encoding_is_ours: true,
            now: Timestamp::from_micros(1_790_000_000_000_000),
        };
        let Ok(kept) = storable(&lookup, &settings, &facts) else {
            return Ok(());
        };
        let said = CacheControl::of(&answer);
        must(!said.no_store && !said.private, || format!("{said:?} was kept"))?;
        must(answer.get_all("vary").iter().all(|vary| vary != "*"), || {
            "`Vary: *` was kept".to_owned()
        })?;
        must(
            kept.fresh_for.as_secs() <= 1 << 31 && kept.age.as_secs() <= 1 << 31,
            || format!("{kept:?}"),
        )
    });
}

/// Frames, forms and queries: read in bounds, and frames the same however they come.
#[test]
fn frames_forms_and_queries() {
    fuzz("frames", |bytes, mutator| {
        let follow = |pieces: Vec<&[u8]>| {
            let mut follower = FrameFollower::default();
            for piece in pieces {
                follower.advance(piece);
            }
            (
                follower.is_between_frames(),
                follower.has_closed(),
                follower.rest_of_frame(&[0; 300]),
            )
        };
        let (whole, pieces) = (follow(vec![bytes]), follow(pieces(mutator, bytes)));
        must(whole == pieces, || {
            format!("whole {whole:?}, in pieces {pieces:?}")
        })?;
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = parameter(text, "model");
        }
        if let Ok(facts) = multipart::inspect("multipart/form-data; boundary=x", bytes) {
            must(
                facts.model_name().is_none_or(|model| model.len() <= bytes.len()),
                || "a model longer than its form".to_owned(),
            )?;
        }
        Ok(())
    });
}
