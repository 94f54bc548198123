//! Whether a stored stream of events is whole.

/// Whether the body of an event stream ends with the end marker of its dialect (`[DONE]`, `message_stop`,
/// `response.completed`) and carries no error event.
pub fn stream_is_complete(body: &[u8]) -> bool {
    let mut end = false;
    let mut event: &[u8] = b"";
    for line in body.split(|byte| *byte == b'\n' || *byte == b'\r') {
        if line.is_empty() {
            event = b"";
            continue;
        }
        if let Some(name) = field(line, b"event") {
            event = name;
            if event == b"error" || event == b"response.failed" {
                return false;
            }
            continue;
        }
        let Some(data) = field(line, b"data") else {
            continue;
        };
        if is_error(data) {
            return false;
        }
        end = data == b"[DONE]" || event == b"message_stop" || event == b"response.completed";
    }
    end && (body.ends_with(b"\n") || body.ends_with(b"\r"))
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

fn is_error(data: &[u8]) -> bool {
    let compact = |start: &[u8]| {
        let mut rest = data.iter().filter(|byte| !byte.is_ascii_whitespace());
        start.iter().all(|byte| rest.next() == Some(byte))
    };
    compact(b"{\"error\":{") || compact(b"{\"type\":\"error\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_with_their_end_marker_and_without_an_error_are_whole() {
        let table: [(&str, bool); 12] = [
            ("data: {\"id\":1}\n\ndata: [DONE]\n\n", true),
            ("data:{}\r\n\r\ndata:[DONE]\r\n\r\n", true),
            ("data: {}\n\n", false),
            ("data: {\"text\":\"[DONE]\"}\n\n", false),
            ("data: [DONE]", false),
            ("data: [DONE]\n\ndata: {}\n\n", false),
            ("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", true),
            ("event: content_block_delta\ndata: {}\n\n", false),
            ("event: response.completed\ndata: {}\n\n", true),
            ("event: error\ndata: {}\n\ndata: [DONE]\n\n", false),
            (
                "data: { \"error\": {\"message\":\"x\"}}\n\ndata: [DONE]\n\n",
                false,
            ),
            ("", false),
        ];
        for (body, expected) in table {
            assert_eq!(stream_is_complete(body.as_bytes()), expected, "{body:?}");
        }
    }
}
