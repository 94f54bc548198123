//! The event that tells a client that its stream broke.

use bytes::Bytes;
use serde_json::json;

use super::sse::StreamKind;
use crate::domain::DenialCode;

/// The bytes of the error event for a stream of `kind`, its closing empty line included.
///
/// `last_sequence_number` is that of the last event of a Responses stream. If part of an unfinished
/// event has left ([`EventSplitter::is_inside_released_event`](super::sse::EventSplitter)), write an
/// empty line (`\n\n`) first.
pub fn stream_error(
    kind: StreamKind,
    code: DenialCode,
    message: &str,
    last_sequence_number: Option<u64>,
) -> Bytes {
    let event = match kind {
        StreamKind::Chat | StreamKind::Completions | StreamKind::Other => {
            let error = json!({"error": {
                "message": message,
                "type": code.openai_type(),
                "param": null,
                "code": code.as_str(),
            }});
            format!("data: {error}\n\n")
        }
        StreamKind::Responses => {
            let error = json!({
                "type": "error",
                "code": code.as_str(),
                "message": message,
                "param": null,
                "sequence_number": last_sequence_number.map_or(0, |last| last.saturating_add(1)),
            });
            format!("event: error\ndata: {error}\n\n")
        }
        StreamKind::Messages => {
            let error = json!({
                "type": "error",
                "error": {"type": code.anthropic_type(), "message": message},
            });
            format!("event: error\ndata: {error}\n\n")
        }
    };
    event.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::sse::{HttpEnd, Piece, StreamVerdict, StreamWatch};

    #[test]
    fn each_kind_has_its_own_event() {
        let event = |kind| stream_error(kind, DenialCode::IdleTimeout, "a\nb \"c\"", Some(6));
        assert_eq!(
            event(StreamKind::Chat),
            "data: {\"error\":{\"message\":\"a\\nb \\\"c\\\"\",\"type\":\"timeout_error\",\"param\":null,\"code\":\"idle_timeout\"}}\n\n"
        );
        assert_eq!(
            event(StreamKind::Responses),
            "event: error\ndata: {\"type\":\"error\",\"code\":\"idle_timeout\",\"message\":\"a\\nb \\\"c\\\"\",\"param\":null,\"sequence_number\":7}\n\n"
        );
        assert_eq!(
            event(StreamKind::Messages),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",\"message\":\"a\\nb \\\"c\\\"\"}}\n\n"
        );
    }

    #[test]
    fn our_events_read_as_errors_of_their_kind() {
        for kind in [
            StreamKind::Chat,
            StreamKind::Completions,
            StreamKind::Responses,
            StreamKind::Messages,
            StreamKind::Other,
        ] {
            let mut watch = StreamWatch::new(kind, None);
            watch.observe(Piece::Event(&stream_error(
                kind,
                DenialCode::UpstreamUnreachable,
                "gone",
                None,
            )));
            assert_eq!(
                watch.verdict(HttpEnd::Framed),
                StreamVerdict::EndedByProviderError,
                "{kind:?}"
            );
        }
    }
}
