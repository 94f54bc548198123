use super::*;
use crate::config::{BaseUrl, ProviderSettings};
use crate::domain::{Dialect, ManualClock, SystemClock, Timestamp};
use pingora_http::RequestHeader;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(5);

fn settings(url: &str) -> ProviderSettings {
    let base_url: BaseUrl = url.parse().unwrap();
    ProviderSettings::new("p", Dialect::OpenAi, base_url)
}

fn connector(settings: &ProviderSettings) -> Arc<ProviderConnector> {
    ConnectorRegistry::default()
        .connector(settings, &SystemClock::shared())
        .unwrap()
}

/// Answers every request on a connection with its number on that connection.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; 4096];
    for number in 1.. {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn plain_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    crate::domain::spawn::spawn("plain_server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            crate::domain::spawn::spawn("answer", answer(stream));
        }
    });
    port
}

async fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// One request and its whole answer; the connection goes back into the pool.
async fn exchange(connector: &ProviderConnector, mut connected: Connected) -> String {
    let mut head = RequestHeader::build("GET", b"/", None).unwrap();
    head.insert_header("host", "localhost").unwrap();
    connected
        .session
        .write_request_header(Box::new(head))
        .await
        .unwrap();
    connected.session.finish_request_body().await.unwrap();
    connected.session.read_response_header().await.unwrap();
    let mut body = Vec::new();
    while let Some(chunk) = connected.session.read_response_body().await.unwrap() {
        body.extend_from_slice(&chunk);
    }
    connector.release(connected, Duration::from_mins(1)).await;
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn connections_are_given_back_and_used_again_by_name_and_by_address() {
    let port = plain_server().await;
    for host in ["localhost", "127.0.0.1"] {
        let connector = connector(&settings(&format!("http://{host}:{port}")));
        let first = connector.connect(LIMIT, Reuse::Allowed).await.unwrap();
        assert!(!first.reused);
        assert_eq!(exchange(&connector, first).await, "1");
        let second = connector.connect(LIMIT, Reuse::Allowed).await.unwrap();
        assert!(second.reused, "{host}");
        assert_eq!(exchange(&connector, second).await, "2");
        let fresh = connector.connect(LIMIT, Reuse::Avoided).await.unwrap();
        assert!(!fresh.reused);
        assert_eq!(exchange(&connector, fresh).await, "1");
    }
}

#[tokio::test]
async fn a_connection_that_was_dropped_is_not_used_again() {
    let port = plain_server().await;
    let connector = connector(&settings(&format!("http://127.0.0.1:{port}")));
    drop(connector.connect(LIMIT, Reuse::Allowed).await.unwrap());
    assert!(!connector.connect(LIMIT, Reuse::Allowed).await.unwrap().reused);
}

#[tokio::test]
async fn a_port_without_a_listener_refuses() {
    let port = unused_port().await;
    let connector = connector(&settings(&format!("http://localhost:{port}")));
    let failure = connector.connect(LIMIT, Reuse::Allowed).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::Refused);
    assert_eq!(failure.denial("p").message, "upstream `p` refused the connection");
}

#[tokio::test]
async fn a_name_without_an_address_is_named_so() {
    let connector = connector(&settings("http://nowhere.invalid:80"));
    let failure = connector.connect(LIMIT, Reuse::Allowed).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::Name);
    assert_eq!(failure.denial("p").code, DenialCode::UpstreamUnreachable);
}

#[tokio::test]
async fn every_address_is_tried_and_the_one_that_worked_comes_first() {
    let port = plain_server().await;
    let dead = unused_port().await;
    let connector = connector(&settings(&format!("http://localhost:{port}")));
    let peers = [dead, port].map(|port| connector.peer(SocketAddr::from(([127, 0, 0, 1], port))));
    connector.keep(peers.to_vec());
    let connected = connector.connect(LIMIT, Reuse::Allowed).await.unwrap();
    assert!(Arc::ptr_eq(&connected.peer, &peers[1]));
    let first = connector.addresses.load_full().unwrap().peers[0].clone();
    assert!(Arc::ptr_eq(&first, &peers[1]));
}

#[tokio::test]
async fn a_silent_address_leaves_time_for_the_next() {
    let port = plain_server().await;
    let connector = connector(&settings(&format!("http://localhost:{port}")));
    // nothing routes there, and nothing answers
    let silent = connector.peer("192.0.2.1:81".parse().unwrap());
    let good = connector.peer(SocketAddr::from(([127, 0, 0, 1], port)));
    connector.keep(vec![silent, good]);
    let connected = connector.connect(Duration::from_secs(2), Reuse::Allowed).await;
    assert!(connected.is_ok(), "{connected:?}");
}

#[tokio::test]
async fn the_time_limit_covers_a_handshake_that_never_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connector = connector(&settings(&format!("https://127.0.0.1:{port}")));
    connector.connector().await.unwrap();
    let failure = connector
        .connect(Duration::from_millis(300), Reuse::Allowed)
        .await
        .unwrap_err();
    assert_eq!(failure, ConnectFailure::Timeout);
    assert_eq!(failure.denial("p").code, DenialCode::ConnectTimeout);
    drop(listener);
}

#[tokio::test]
async fn addresses_are_kept_for_a_while_and_the_old_ones_serve_when_none_can_be_had() {
    let clock = ManualClock::at(Timestamp::EPOCH);
    let as_dyn: Arc<dyn Clock> = clock.clone();
    let connector = ConnectorRegistry::default()
        .connector(&settings("http://nowhere.invalid:80"), &as_dyn)
        .unwrap();
    let kept = connector.keep(vec![connector.peer("127.0.0.1:80".parse().unwrap())]);
    clock.advance(Duration::from_secs(14));
    assert!(Arc::ptr_eq(&connector.peers().await.unwrap(), &kept));
    assert!(!connector.refreshing.load(Ordering::Acquire));
    clock.advance(Duration::from_secs(2));
    assert!(
        Arc::ptr_eq(&connector.peers().await.unwrap(), &kept),
        "the older answer serves"
    );
    while connector.refreshing.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    let again = connector.peers().await.unwrap();
    assert_eq!(again.asked_at, Duration::from_secs(16));
    clock.advance(Duration::from_secs(583));
    assert!(connector.peers().await.is_ok(), "for ten minutes");
    clock.advance(Duration::from_secs(1));
    assert!(connector.peers().await.is_err());
}

#[test]
fn new_addresses_keep_the_known_peers_and_the_first_place() {
    let connector = connector(&settings("http://localhost:80"));
    let peer = |last: u8| connector.peer(SocketAddr::from(([10, 0, 0, last], 80)));
    let before = Addresses {
        answered_at: Duration::ZERO,
        asked_at: Duration::ZERO,
        peers: vec![peer(1), peer(2)],
    };
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
    let now = arrange(vec![address(3), address(2), address(1)], Some(&before), |a| {
        connector.peer(a)
    });
    let shown: Vec<String> = now.iter().map(|peer| peer._address.to_string()).collect();
    assert_eq!(shown, ["10.0.0.1:80", "10.0.0.3:80", "10.0.0.2:80"]);
    assert!(Arc::ptr_eq(&now[0], &before.peers[0]));
    assert!(Arc::ptr_eq(&now[2], &before.peers[1]));
}

mod tls {
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/upstream/target")
            .join(name)
    }

    async fn tls_server() -> u16 {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = CertificateDer::from_pem_file(file("localhost.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("localhost.key")).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = pingora_core::tls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        crate::domain::spawn::spawn("tls_server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                crate::domain::spawn::spawn("answer", async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream).await;
                    }
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn a_certificate_of_the_configured_authority_is_accepted_for_name_and_address() {
        let port = tls_server().await;
        for host in ["localhost", "127.0.0.1"] {
            let mut settings = settings(&format!("https://{host}:{port}"));
            settings.ca_file = Some(file("localhost_ca.pem"));
            let connector = connector(&settings);
            for turn in ["1", "2"] {
                let connected = connector.connect(LIMIT, Reuse::Allowed).await.unwrap();
                assert_eq!(exchange(&connector, connected).await, turn, "{host}");
            }
        }
    }

    #[tokio::test]
    async fn a_certificate_of_a_stranger_is_not() {
        let port = tls_server().await;
        let connector = connector(&settings(&format!("https://localhost:{port}")));
        let failure = connector.connect(LIMIT, Reuse::Allowed).await.unwrap_err();
        assert!(matches!(failure, ConnectFailure::Tls(_)), "{failure:?}");
    }

    #[test]
    fn a_ca_file_that_cannot_be_used_is_named() {
        let mut settings = settings("https://localhost");
        let registry = ConnectorRegistry::default();
        for (name, why) in [
            ("nowhere.pem", "No such file"),
            ("localhost.key", "no certificate"),
        ] {
            settings.ca_file = Some(file(name));
            let error = registry.connector(&settings, &SystemClock::shared()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(why), "{text}");
        }
    }
}
