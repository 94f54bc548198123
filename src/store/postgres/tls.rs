//! What libpq's `sslmode`s check, on rustls with ring.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Socket;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::{Roots, SslMode, Target};
use crate::store::StoreError;

/// Makes TLS connections for one target.
#[derive(Clone)]
pub(super) struct Tls(MakeRustlsConnect);

impl Tls {
    /// Reads the files that the mode needs.
    pub(super) fn of(target: &Target) -> Result<Self, StoreError> {
        let provider = Arc::new(ring::default_provider());
        let check = match target.mode {
            SslMode::VerifyFull => Check::Name,
            SslMode::VerifyCa => Check::Chain,
            _ => Check::Nothing,
        };
        let trusted = if check == Check::Nothing {
            Trusted::nobody()
        } else {
            Trusted::read(&target.roots)?
        };
        let verifier = Verifier {
            check,
            trusted,
            provider: Arc::clone(&provider),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| cannot("use TLS", &error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &target.client_certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| cannot(&format!("read `sslkey` `{}`", key.display()), &error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| cannot("use `sslcert`", &error))?
            }
        };
        Ok(Self(MakeRustlsConnect::new(config)))
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Self::Error> {
        // A Unix socket has no name, and no TLS either.
        let host = if host.is_empty() { "localhost" } else { host };
        MakeTlsConnect::<Socket>::make_tls_connect(&mut self.0, host)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    Name,
}

/// Roots, and the very certificates they came from: a self-signed certificate that is its own root is trusted, as
/// libpq does it, although webpki takes no authority for a server.
#[derive(Debug)]
struct Trusted {
    roots: RootCertStore,
    themselves: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn nobody() -> Self {
        Self {
            roots: RootCertStore::empty(),
            themselves: Vec::new(),
        }
    }

    fn read(roots: &Roots) -> Result<Self, StoreError> {
        match roots {
            Roots::File(path) => Self::from_file(path),
            Roots::System => Self::from_system(),
            Roots::Unsaid => match std::env::home_dir().map(|home| home.join(".postgresql/root.crt")) {
                Some(path) if path.is_file() => Self::from_file(&path),
                _ => Self::from_system(),
            },
        }
    }

    fn from_file(path: &Path) -> Result<Self, StoreError> {
        let themselves = certificates(path)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(themselves.iter().cloned());
        Ok(Self { roots, themselves })
    }

    fn from_system() -> Result<Self, StoreError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(StoreError::Unavailable(
                "the system has no root certificates; name a file with `sslrootcert`".to_owned(),
            ));
        }
        Ok(Self {
            roots,
            themselves: Vec::new(),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let place = format!("read certificates from `{}`", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| cannot(&place, &error))?
        .collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(cannot(&place, &"there is none")),
        Err(error) => Err(cannot(&place, &error)),
    }
}

fn cannot(what: &str, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("cannot {what}: {why}"))
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    trusted: Trusted,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let is_root_itself = self.trusted.themselves.iter().any(|root| root == end_entity);
        if !is_root_itself {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.trusted.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.check == Check::Name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
