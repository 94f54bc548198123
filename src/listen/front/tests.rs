use super::test_server::*;
use super::*;

use std::fmt::Write;
use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let server = start(settings());
    let mut client = server.connect().await;
    for turn in 0..3 {
        assert_eq!(
            client.get(&format!("/{turn}")).await.body,
            format!("GET /{turn} 0 0")
        );
    }
    client
        .send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.head.contains("connection: close"));
    assert!(client.rest().await.is_empty());
    server.front.drain().connections().wait_until_empty().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client
        .send(
            "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
             GET /slow HTTP/1.1\r\nHost: a\r\n\r\n\r\n\
             GET /four HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    for expected in [
        "GET /slow 0 0",
        "POST /two 3 294",
        "GET /slow 0 0",
        "GET /four 0 0",
    ] {
        assert_eq!(client.answer().await.body, expected);
    }
    assert!(
        server.events.try_recv().is_err(),
        "a pipelined request is no reason to think the client gone"
    );
}

#[tokio::test]
async fn a_request_that_comes_while_another_is_watched_waits_its_turn() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    client
        .send("GET /second HTTP/1.1\r\nHost: a\r\n\r\nGET /third HT")
        .await;
    assert_eq!(client.answer().await.body, "GET /slow 0 0");
    assert_eq!(client.answer().await.body, "GET /second 0 0");
    client.send("TP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "GET /third 0 0");
    assert!(server.events.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_at_once() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client
        .send("POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    assert_eq!(server.event().await, "waiting");
    drop(client);
    assert_eq!(server.event().await, "gone true");
    server.front.drain().connections().wait_until_empty().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_behind_its_pipelined_requests() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client
        .send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\n")
        .await;
    assert_eq!(server.event().await, "waiting");
    drop(client);
    assert_eq!(server.event().await, "gone true");
}

#[tokio::test]
async fn bodies_and_the_requests_behind_them_stay_in_step() {
    let server = start(settings());
    let mut client = server.connect().await;
    let body = "0123456789abcdef".repeat(64 * 1024);
    let sum: u64 = body.bytes().map(u64::from).sum();
    let expected = format!("POST /body {} {sum}", body.len());
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

    let sized = format!(
        "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}{next}",
        body.len()
    );
    client.send(sized).await;
    assert_eq!(client.answer().await.body, expected);
    assert_eq!(client.answer().await.body, "GET /next 0 0");

    let mut chunked = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for (index, piece) in body.as_bytes().chunks(70_001).enumerate() {
        let extension = if index % 2 == 0 { "" } else { ";name=value" };
        let text = str::from_utf8(piece).unwrap();
        write!(chunked, "{:x}{extension}\r\n{text}\r\n", piece.len()).unwrap();
    }
    chunked.push_str("0\r\nTrailer: x\r\n\r\n");
    for _ in 0..2 {
        client.send(format!("{chunked}{next}")).await;
        assert_eq!(client.answer().await.body, expected);
        assert_eq!(client.answer().await.body, "GET /next 0 0");
    }
}

#[tokio::test]
async fn a_chunked_body_that_comes_byte_by_byte_stays_in_step() {
    let server = start(settings());
    let mut client = server.connect().await;
    let wire = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for byte in wire.bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.body, "POST /body 5 495");
    assert_eq!(client.answer().await.body, "GET /next 0 0");
}

#[tokio::test]
async fn a_broken_chunked_body_ends_the_connection() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send(
            "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\
             GET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    let rest = String::from_utf8(client.rest().await).unwrap();
    assert!(!rest.contains("/next"), "{rest}");
}

#[tokio::test]
async fn a_large_streamed_answer_is_whole() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let text = String::from_utf8(client.rest().await).unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    let chunk = format!("BB8\r\n{}\r\n", "x".repeat(3000));
    assert!(
        body == format!("{}0\r\n\r\n", chunk.repeat(3)),
        "{} {}",
        body.len(),
        body.replace('x', "")
    );
}

#[tokio::test]
async fn head_and_body_leave_in_one_write() {
    let server = start(settings());
    let mut client = server.connect().await;
    client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.received.reserve(4096);
    assert!(client.more().await);
    assert!(
        client.received.ends_with(b"\r\n\r\nGET /one 0 0"),
        "{}",
        client.received.escape_ascii()
    );
}

#[tokio::test]
async fn absolute_form_reaches_the_proxy_as_a_path() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send("POST http://a/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    assert_eq!(client.answer().await.body, "POST /x?y=1 2 209");
    assert_eq!(client.get("/next").await.body, "GET /next 0 0");
}

#[tokio::test]
async fn refused_heads_get_json_and_an_id() {
    let server = start(settings());
    for (wire, status, code) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "malformed_request"),
        ("\x16\x03\x01".to_owned(), 400, "malformed_request"),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            405,
            "method_not_allowed",
        ),
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000)),
            431,
            "header_too_large",
        ),
    ] {
        let mut client = server.connect().await;
        client.send(wire).await;
        let answer = client.answer().await;
        assert_refused(&answer, status, code);
        assert!(answer.head.contains("x-request-id: "), "{answer:?}");
        assert!(client.rest().await.is_empty());
    }
    let metrics = crate::telemetry::Metrics::new(crate::domain::SystemClock::shared()).unwrap();
    server.front.report_to(&metrics);
    let text = metrics.prometheus();
    assert!(
        text.contains("llm_proxy_heads_refused_total{code=\"malformed_request\"} 3"),
        "{text}"
    );
    assert!(text.contains("llm_proxy_connections_accepted_total 4"), "{text}");
    assert_eq!(server.front.counters().oversized_heads.get(), 1);
}

#[tokio::test]
async fn a_refusal_keeps_the_clients_id_and_survives_the_unread_body() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send("POST / HTTP/1.1\r\nX-Request-ID: mine\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    client.send(vec![b'x'; 1_000_000]).await;
    let answer = client.answer().await;
    assert_refused(&answer, 400, "malformed_request");
    assert!(answer.head.contains("x-request-id: mine"), "{answer:?}");
}

#[tokio::test]
async fn an_early_answer_survives_the_unread_body() {
    let server = start(settings());
    let mut client = server.connect().await;
    client
        .send(format!(
            "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            8 << 20
        ))
        .await;
    for _ in 0..8 {
        client.send(vec![b'x'; 1 << 20]).await;
    }
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "too large"));
    assert!(answer.head.contains("connection: close"));
}

#[tokio::test]
async fn a_head_that_drips_is_refused_at_the_deadline() {
    let server = start(FrontSettings {
        header_timeout: Duration::from_millis(60),
        ..settings()
    });
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\n").await;
    let dripping = async {
        loop {
            client.socket.write_all(b"X: y\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            if client
                .socket
                .try_read_buf(&mut client.received)
                .is_ok_and(|count| count > 0)
            {
                return;
            }
        }
    };
    tokio::time::timeout(GENEROUS, dripping).await.unwrap();
    assert_refused(&client.answer().await, 408, "header_timeout");
    assert_eq!(server.front.counters().slow_heads.get(), 1);
}

#[tokio::test]
async fn a_head_that_ends_early_is_refused() {
    let server = start(settings());
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    client.socket.shutdown().await.unwrap();
    assert_refused(&client.answer().await, 400, "malformed_request");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let server = start(FrontSettings {
        keepalive_timeout: Duration::from_millis(30),
        ..settings()
    });
    let fresh = server.connect().await;
    assert!(fresh.rest().await.is_empty());
    let mut used = server.connect().await;
    used.get("/").await;
    assert!(used.rest().await.is_empty());
}

#[tokio::test]
async fn a_panic_closes_that_connection_only() {
    let server = start(settings());
    let mut bystander = server.connect().await;
    bystander.get("/before").await;
    let mut client = server.connect().await;
    client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.rest().await.is_empty());
    assert_eq!(bystander.get("/after").await.body, "GET /after 0 0");
    assert_eq!(server.front.counters().panics.get(), 1);
}

#[tokio::test]
async fn above_the_connection_limit_only_health_is_served() {
    let server = start(FrontSettings {
        max_connections: 1,
        ..settings()
    });
    let mut first = server.connect().await;
    first.get("/first").await;

    let mut second = server.connect().await;
    second
        .send("POST /v1/x HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let answer = second.answer().await;
    assert_refused(&answer, 503, "overloaded");
    assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    assert!(answer.head.contains("x-request-id: mine"), "{answer:?}");

    let mut third = server.connect().await;
    let health = third.get("/health").await;
    assert_eq!(health.body, "GET /health 0 0");
    assert!(health.head.contains("connection: close"), "{health:?}");
    assert!(third.rest().await.is_empty());

    assert_eq!(first.get("/again").await.body, "GET /again 0 0");
    assert_eq!(server.front.counters().connections_refused.get(), 1);
}

#[tokio::test]
async fn when_reserved_places_are_taken_too_the_refusal_comes_at_once() {
    let server = start(FrontSettings {
        max_connections: 0,
        ..settings()
    });
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(server.connect().await);
    }
    let mut client = server.connect().await;
    let answer = client.answer().await;
    assert_refused(&answer, 503, "overloaded");
    assert!(client.rest().await.is_empty());
    drop(silent);
}

#[tokio::test]
async fn a_swapped_setting_holds_for_the_next_request() {
    let server = start(settings());
    let mut client = server.connect().await;
    client.get("/").await;
    server.front.settings.store(Arc::new(FrontSettings {
        max_headers: 1,
        ..settings()
    }));
    client.get("/still-read-with-the-old-or-new").await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n").await;
    assert_refused(&client.answer().await, 431, "header_too_large");
}

#[tokio::test]
async fn a_drain_says_close_then_closes_idle_connections_and_listeners() {
    let server = start(settings());
    let mut client = server.connect().await;
    client.get("/").await;
    let idle = server.connect().await;

    server.front.drain().begin_soft();
    let answer = client.get("/soft").await;
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert!(client.rest().await.is_empty());
    let mut late = server.connect().await;
    assert_eq!(late.get("/late").await.status, 200);

    server.front.drain().close_idle();
    tokio::time::timeout(GENEROUS, server.accepting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(idle.rest().await.is_empty());
    assert_eq!(server.front.drain().wait_empty(GENEROUS).await, 0);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_request_behind_a_running_one_reaches_the_proxy_while_draining() {
    let server = start(settings());
    let refusing = server.front.drain().refusing_flag();
    let mut client = server.connect().await;
    client
        .send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /behind HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    server.front.drain().close_idle();
    assert!(refusing.load(Ordering::Acquire));
    assert_eq!(client.answer().await.body, "GET /slow 0 0");
    let answer = client.answer().await;
    assert_eq!(answer.body, "GET /behind 0 0");
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert_eq!(server.front.drain().wait_empty(GENEROUS).await, 0);
}

#[tokio::test]
async fn what_outlives_the_drain_is_cut() {
    let mut server = start(settings());
    let mut client = server.connect().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(server.event().await, "waiting");
    server.front.drain().close_idle();
    assert_eq!(
        server.front.drain().wait_empty(Duration::from_millis(20)).await,
        1
    );
    server.front.drain().cut();
    assert!(client.rest().await.is_empty());
    assert_eq!(server.front.drain().wait_empty(GENEROUS).await, 0);
}
