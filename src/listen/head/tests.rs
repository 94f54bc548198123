use super::*;

fn scan_and_parse(bytes: &[u8], settings: &FrontSettings) -> Result<Option<Head>, Denial> {
    let mut scan = HeadScan::default();
    match scan.find_end(bytes, settings.header_bytes_limit())? {
        Some(length) => Head::parse(&bytes[..length], settings).map(Some),
        None => Ok(None),
    }
}

fn code_of(bytes: &[u8]) -> Option<&'static str> {
    match scan_and_parse(bytes, &FrontSettings::default()) {
        Ok(Some(_)) => None,
        Ok(None) => panic!("{} is not whole", bytes.escape_ascii()),
        Err(denial) => Some(denial.code.as_str()),
    }
}

#[test]
fn malformed_heads_are_refused() {
    let rows: &[&[u8]] = &[
        // request line
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET path HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /#part HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        // absolute form
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        // Host
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        // framing
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        // fields
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        // line ends
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for row in rows {
        assert_eq!(code_of(row), Some("malformed_request"), "{}", row.escape_ascii());
    }
}

#[test]
fn well_formed_heads_pass_untouched() {
    let rows: &[(&[u8], BodyFraming)] = &[
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::Finished),
        (
            b"GET //x/../y?a=%2F&&b=+ HTTP/1.1\r\nHost: a:8080\r\n\r\n",
            BodyFraming::Finished,
        ),
        (
            "GET /ü HTTP/1.1\r\nHost: [::1]:80\r\n\r\n".as_bytes(),
            BodyFraming::Finished,
        ),
        (b"GET / HTTP/1.0\r\n\r\n", BodyFraming::Finished),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::Finished),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", BodyFraming::Finished),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            BodyFraming::Finished,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 007 \r\n\r\n",
            BodyFraming::Length(7),
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            BodyFraming::chunked(),
        ),
    ];
    for (row, framing) in rows {
        let head = scan_and_parse(row, &FrontSettings::default()).unwrap().unwrap();
        assert_eq!(head.framing, *framing, "{}", row.escape_ascii());
        assert_eq!(head.rewritten, None, "{}", row.escape_ascii());
    }
}

#[test]
fn absolute_form_becomes_origin_form() {
    for (target, host, expected) in [
        ("http://a/x?y=1", "a", "/x?y=1"),
        ("http://A:80/x", "a", "/x"),
        ("https://a/", "a:443", "/"),
        ("http://a", "a", "/"),
        ("http://a?q", "a", "/?q"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nX: {target}\r\n\r\n");
        let parsed = scan_and_parse(head.as_bytes(), &FrontSettings::default())
            .unwrap()
            .unwrap();
        let rewritten = String::from_utf8(parsed.rewritten.unwrap()).unwrap();
        assert_eq!(
            rewritten,
            format!("GET {expected} HTTP/1.1\r\nHost: {host}\r\nX: {target}\r\n\r\n")
        );
    }
}

#[test]
fn connect_is_refused_with_the_methods_that_are_served() {
    for target in ["a:443", "/", "http://a/"] {
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let denial = scan_and_parse(head.as_bytes(), &FrontSettings::default()).unwrap_err();
        assert_eq!(denial.code, DenialCode::MethodNotAllowed);
        assert!(denial.allow.is_some_and(|methods| methods.contains("POST")));
    }
}

#[test]
fn heads_above_a_limit_are_refused() {
    let settings = FrontSettings {
        max_header_bytes: 100,
        max_headers: 3,
        ..FrontSettings::default()
    };
    let with_size = |size: usize| {
        let fixed = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(size - fixed)
        )
    };
    let with_fields = |count: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(count - 1)
        )
    };
    let code = |head: String| scan_and_parse(head.as_bytes(), &settings).map_err(|denial| denial.code);
    assert!(code(with_size(100)).unwrap().is_some());
    assert_eq!(code(with_size(101)).unwrap_err(), DenialCode::HeaderTooLarge);
    assert_eq!(code("x".repeat(100)).unwrap_err(), DenialCode::HeaderTooLarge);
    assert!(code("x".repeat(99)).unwrap().is_none());
    assert!(code(with_fields(3)).unwrap().is_some());
    assert_eq!(code(with_fields(4)).unwrap_err(), DenialCode::HeaderTooLarge);
}

#[test]
fn the_end_is_found_however_a_head_is_cut() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut bytes = head.to_vec();
    bytes.extend_from_slice(b"GET");
    for cut in 0..head.len() {
        let mut scan = HeadScan::default();
        assert_eq!(scan.find_end(&bytes[..cut], 1000).unwrap(), None);
        assert_eq!(
            scan.find_end(&bytes, 1000).unwrap(),
            Some(head.len()),
            "cut at {cut}"
        );
    }
}

#[test]
fn health_paths_are_known_by_their_path_alone() {
    for (target, expected) in [
        ("/health", true),
        ("/ready?x=1", true),
        ("http://a/live", true),
        ("/health/readiness", true),
        ("/health/", false),
        ("/v1/models", false),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let parsed = scan_and_parse(head.as_bytes(), &FrontSettings::default())
            .unwrap()
            .unwrap();
        assert_eq!(parsed.asks_for_health, expected, "{target}");
    }
}

#[test]
fn a_tls_greeting_is_named_as_such() {
    assert!(may_begin(0x16).unwrap_err().message.contains("TLS"));
    assert!(may_begin(b'\x80').is_err());
    assert!(may_begin(b'P').is_ok());
}
