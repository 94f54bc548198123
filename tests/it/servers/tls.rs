//! A provider behind TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// The protocol of each handshake.
pub type Agreed = Arc<Mutex<Vec<Option<Vec<u8>>>>>;

/// A provider behind TLS with a certificate of an own authority; keeps what was agreed on in each handshake.
pub fn tls_provider() -> (String, Agreed) {
    use rustls::pki_types::pem::PemObject as _;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/upstream/target");
    let certificates = rustls::pki_types::CertificateDer::pem_file_iter(format!("{folder}/localhost.pem"));
    let certificates: Vec<_> = certificates
        .expect("certificates")
        .map(|pem| pem.expect("a certificate"))
        .collect();
    let key =
        rustls::pki_types::PrivateKeyDer::from_pem_file(format!("{folder}/localhost.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let agreed = Agreed::default();
    let kept = Arc::clone(&agreed);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut session = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut stream = rustls::Stream::new(&mut session, &mut socket);
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).is_err() {
                continue;
            }
            let protocol = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
            if protocol.as_deref() != Some(b"h2") {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
            }
            kept.lock().expect("agreed").push(protocol);
        }
    });
    (format!("https://localhost:{port}"), agreed)
}
