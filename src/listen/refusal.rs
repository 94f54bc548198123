//! The bytes of an answer to a request whose head never became one.

use std::fmt::Write;

use uuid::Uuid;

use crate::domain::Denial;

/// Writes `denial` as a whole HTTP/1.1 response in OpenAI's error form, closing the connection.
pub(super) fn render(denial: &Denial, request_id: &str) -> Vec<u8> {
    let status = denial.code.status();
    let body = serde_json::json!({
        "error": {
            "message": denial.message,
            "type": denial.code.openai_type(),
            "param": denial.param,
            "code": denial.code.as_str(),
        }
    })
    .to_string();
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let mut answer = format!(
        "HTTP/1.1 {status} {reason}\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\
         Connection: close\r\n\
         X-Request-ID: {request_id}\r\n\
         X-LLM-Proxy-Origin: proxy\r\n\
         X-LLM-Proxy-Error-Code: {}\r\n",
        body.len(),
        denial.code.as_str(),
    );
    if let Some(seconds) = denial.retry_after_seconds() {
        // writing to a `String` cannot fail
        let _ = write!(answer, "Retry-After: {seconds}\r\n");
    }
    if let Some(methods) = &denial.allow {
        let _ = write!(answer, "Allow: {methods}\r\n");
    }
    answer.push_str("\r\n");
    answer.push_str(&body);
    answer.into_bytes()
}

/// The id the answer carries: the client's if the head, however broken, has a sane one, else a new one.
pub(super) fn request_id(head: &[u8]) -> String {
    const NAME: &[u8] = b"x-request-id:";
    let found = head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then(|| value.trim_ascii())
    });
    found
        .filter(|id| (1..=128).contains(&id.len()) && id.iter().all(|byte| is_id_byte(*byte)))
        .and_then(|id| std::str::from_utf8(id).ok())
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DenialCode;
    use std::time::Duration;

    #[test]
    fn a_refusal_is_a_whole_json_response() {
        let denial =
            Denial::new(DenialCode::Overloaded, "too \"many\"").with_retry_after(Duration::from_secs(1));
        let text = String::from_utf8(render(&denial, "abc")).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        for line in [
            "Content-Type: application/json",
            "Connection: close",
            "X-Request-ID: abc",
            "X-LLM-Proxy-Origin: proxy",
            "X-LLM-Proxy-Error-Code: overloaded",
            "Retry-After: 1",
        ] {
            assert!(head.lines().any(|found| found == line), "{line} in {head}");
        }
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(value["error"]["message"], "too \"many\"");
        assert_eq!(value["error"]["type"], "service_unavailable_error");
        assert_eq!(value["error"]["param"], serde_json::Value::Null);
        assert_eq!(value["error"]["code"], "overloaded");
    }

    #[test]
    fn a_sane_request_id_is_kept_and_another_replaced() {
        assert_eq!(
            request_id(b"GET / HTTP/1.1\r\nx-REQUEST-id:  a.B_9-\r\n"),
            "a.B_9-"
        );
        for head in [
            "GET /",
            "GET / HTTP/1.1\r\nX-Request-Id: a b\r\n",
            "GET / HTTP/1.1\r\nX-Request-Id:\r\n",
        ] {
            assert!(Uuid::parse_str(&request_id(head.as_bytes())).is_ok(), "{head}");
        }
        let long = format!("X-Request-Id: {}\r\n", "a".repeat(129));
        assert!(Uuid::parse_str(&request_id(long.as_bytes())).is_ok());
    }
}
