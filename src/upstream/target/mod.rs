//! Connections to one provider: names, addresses, TLS, the pool.
//!
//! Names are resolved without blocking. After 15 s a newer answer is fetched in the background; until it is
//! there, and for ten minutes when none can be had, the older one serves. An address that worked stays the first to be tried, so that the pool finds
//! its connections again. Pingora's connector reads root certificates and panics on bad ones: it is built at
//! the first call, off the runtime, after the file was checked.

mod tls_fault;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::{ALPN, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::OnceCell;
use tokio::time::{error::Elapsed, timeout};

use crate::config::{Http2, ProviderSettings};
use crate::domain::spawn::spawn;
use crate::domain::{Clock, Denial, DenialCode};

pub use tls_fault::TlsFault;

/// How long resolved addresses are taken as they are: a changed one is noticed within twice this time.
const ADDRESSES_FRESH_FOR: Duration = Duration::from_secs(15);
/// How long they serve while no newer ones can be had.
const ADDRESSES_USABLE_FOR: Duration = Duration::from_mins(10);
/// How long a question in the background may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 16;
/// What one address gets at least before the next one is tried.
const LEAST_PER_ADDRESS: Duration = Duration::from_millis(250);
/// Streams of one HTTP/2 connection. Times the window of a stream it is the window of the connection, so that
/// streams whose clients do not read can never stop the others.
const HTTP2_STREAMS: u32 = 64;
const HTTP2_STREAM_WINDOW: u32 = 512 * 1024;

/// Why no connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectFailure {
    /// It took longer than `timeouts.connect`.
    Timeout,
    /// Nobody listens there.
    Refused,
    /// The name has no address.
    Name,
    /// The TLS handshake or the certificate.
    Tls(TlsFault),
    /// The network said no in another way.
    Network,
    /// Nothing can be called: why, for people.
    Unusable(String),
}

impl ConnectFailure {
    /// The refusal that the client gets when it is the last word.
    pub fn denial(&self, provider: &str) -> Denial {
        let unreachable = |message| Denial::new(DenialCode::UpstreamUnreachable, message);
        match self {
            Self::Timeout => Denial::new(
                DenialCode::ConnectTimeout,
                format!("no connection to upstream `{provider}` within its `timeouts.connect`"),
            ),
            Self::Refused => unreachable(format!("upstream `{provider}` refused the connection")),
            Self::Name => unreachable(format!(
                "the name of upstream `{provider}` cannot be resolved to an address"
            )),
            Self::Tls(fault) => unreachable(format!(
                "upstream `{provider}` cannot be reached over TLS: {}",
                fault.as_str()
            )),
            Self::Network => unreachable(format!("upstream `{provider}` cannot be reached")),
            Self::Unusable(why) => unreachable(format!("upstream `{provider}` cannot be called: {why}")),
        }
    }

    /// A word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Name => "name",
            Self::Tls(_) => "tls",
            Self::Network => "network",
            Self::Unusable(_) => "unusable",
        }
    }
}

/// A `ca_file` that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("provider `{provider}`: ca_file `{}`: {why}", path.display())]
pub struct UnusableCaFile {
    provider: String,
    path: PathBuf,
    why: String,
}

/// Makes ring the TLS implementation of the process; call it once, before any connection.
pub fn install_tls_provider() {
    // a second call finds it installed already
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Which connection to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// An idle one if there is one.
    Allowed,
    /// A new one: an idle one has just proved dead.
    Avoided,
    /// A new one over HTTP/1.1, which alone can become a WebSocket.
    Upgradable,
}

/// An open connection (HTTP/1) or stream (HTTP/2). Dropping it closes or resets it; give it back with
/// [`ProviderConnector::release`] after a complete answer.
pub struct Connected {
    /// Pingora's session, ready for a request head.
    pub session: HttpSession,
    /// Whether it served other requests before.
    pub reused: bool,
    /// Whom it is connected to, for giving it back and for `prefer_http1`.
    pub peer: Arc<HttpPeer>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("reused", &self.reused)
            .field("peer", &self.peer._address)
            .finish_non_exhaustive()
    }
}

/// What makes two providers share nothing: a change of any of these is another pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ConnectorKey {
    provider: String,
    host: String,
    port: u16,
    tls: bool,
    http2: Http2,
    ca_file: Option<PathBuf>,
    max_idle_connections: usize,
}

/// Every provider's connector, for as long as the process lives: a reload finds those of unchanged providers
/// with their pools.
#[derive(Default)]
pub struct ConnectorRegistry {
    connectors: Mutex<HashMap<ConnectorKey, Weak<ProviderConnector>>>,
}

impl ConnectorRegistry {
    /// The connector of a provider, made when it is new.
    pub fn connector(
        &self,
        settings: &ProviderSettings,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<ProviderConnector>, UnusableCaFile> {
        let key = ConnectorKey {
            provider: settings.name.clone(),
            host: settings.base_url.host.clone(),
            port: settings.base_url.port,
            tls: settings.base_url.is_tls(),
            http2: settings.connection.http2,
            ca_file: settings.ca_file.clone(),
            max_idle_connections: settings.connection.max_idle_connections,
        };
        let mut connectors = self.connectors.lock();
        connectors.retain(|_, connector| connector.strong_count() > 0);
        if let Some(known) = connectors.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        if let Some(path) = &key.ca_file {
            check_ca_file(path).map_err(|why| UnusableCaFile {
                provider: settings.name.clone(),
                path: path.clone(),
                why,
            })?;
        }
        let connector = Arc::new(ProviderConnector::new(key.clone(), Arc::clone(clock)));
        connectors.insert(key, Arc::downgrade(&connector));
        Ok(connector)
    }
}

impl fmt::Debug for ConnectorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorRegistry").finish_non_exhaustive()
    }
}

fn check_ca_file(path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut store = rustls::RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    if store.is_empty() {
        return Err("no certificate in it; write PEM".to_owned());
    }
    Ok(())
}

struct Addresses {
    /// When the name was last answered with these.
    answered_at: Duration,
    /// When it was last asked for.
    asked_at: Duration,
    peers: Vec<Arc<HttpPeer>>,
}

/// The connections to one provider: one pool, shared by all runtimes.
pub struct ProviderConnector {
    key: ConnectorKey,
    clock: Arc<dyn Clock>,
    connector: OnceCell<Connector>,
    addresses: ArcSwapOption<Addresses>,
    resolving: tokio::sync::Mutex<()>,
    refreshing: AtomicBool,
}

/// Allows the next question when it goes, whatever became of this one.
struct Refreshing(Arc<ProviderConnector>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        self.0.refreshing.store(false, Ordering::Release);
    }
}

impl fmt::Debug for ProviderConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderConnector")
            .field("provider", &self.key.provider)
            .finish_non_exhaustive()
    }
}

impl ProviderConnector {
    fn new(key: ConnectorKey, clock: Arc<dyn Clock>) -> Self {
        Self {
            key,
            clock,
            connector: OnceCell::new(),
            addresses: ArcSwapOption::empty(),
            resolving: tokio::sync::Mutex::new(()),
            refreshing: AtomicBool::new(false),
        }
    }

    /// A connection within `limit` (`timeouts.connect`): name, TCP and TLS together. All addresses of the
    /// name are tried in turn, each within its share of what is left.
    pub async fn connect(
        self: &Arc<Self>,
        limit: Duration,
        reuse: Reuse,
    ) -> Result<Connected, ConnectFailure> {
        let started = self.clock.monotonic();
        let left = |now: Duration| limit.saturating_sub(now.saturating_sub(started));
        let timed_out = |_: Elapsed| ConnectFailure::Timeout;
        let connector = timeout(limit, self.connector()).await.map_err(timed_out)??;
        let peers = timeout(left(self.clock.monotonic()), self.peers())
            .await
            .map_err(timed_out)??;
        let mut failure = ConnectFailure::Name;
        for (index, peer) in peers.iter().enumerate() {
            let left = left(self.clock.monotonic());
            if left.is_zero() {
                return Err(ConnectFailure::Timeout);
            }
            let share = left / u32::try_from(peers.len() - index).unwrap_or(1);
            let share = share.max(LEAST_PER_ADDRESS).min(left);
            // WHY: boxed, for every move of a request's future would copy a handshake's state with it
            failure = match timeout(share, Box::pin(open(connector, peer, reuse))).await {
                Ok(Ok(connected)) => {
                    if index > 0 {
                        self.prefer_address(peer);
                    }
                    return Ok(connected);
                }
                Ok(Err(error)) => {
                    log::debug!(provider = self.key.provider; "no connection to `{}`: {error}", peer._address);
                    classify(&error)
                }
                Err(_) => ConnectFailure::Timeout,
            };
        }
        Err(failure)
    }

    /// Gives a connection back after a complete answer; it is kept for `idle` (`timeouts.idle_connection`).
    pub async fn release(&self, connected: Connected, idle: Duration) {
        if let Some(connector) = self.connector.get() {
            let Connected { session, peer, .. } = connected;
            connector.release_http_session(session, &*peer, Some(idle)).await;
        }
    }

    /// From now on HTTP/1.1 to this peer: it asked for it (`HTTP_1_1_REQUIRED`).
    pub fn prefer_http1(&self, peer: &HttpPeer) {
        if let Some(connector) = self.connector.get() {
            connector.prefer_h1(peer);
        }
    }

    async fn connector(&self) -> Result<&Connector, ConnectFailure> {
        if let Some(connector) = self.connector.get() {
            return Ok(connector);
        }
        self.connector
            .get_or_try_init(|| async {
                let mut options = ConnectorOptions::new(self.key.max_idle_connections.max(1));
                options.ca_file = match &self.key.ca_file {
                    Some(path) => Some(path.to_string_lossy().into_owned()),
                    // WHY: without TLS no root certificate is needed, and reading them all takes a while
                    None if !self.key.tls => Some("/dev/null".to_owned()),
                    None => None,
                };
                let built = tokio::task::spawn_blocking(|| {
                    std::panic::catch_unwind(AssertUnwindSafe(|| Connector::new(Some(options))))
                });
                match built.await {
                    Ok(Ok(connector)) => Ok(connector),
                    Ok(Err(_)) | Err(_) => Err(ConnectFailure::Unusable(
                        "the root certificates cannot be read".to_owned(),
                    )),
                }
            })
            .await
    }

    async fn peers(self: &Arc<Self>) -> Result<Arc<Addresses>, ConnectFailure> {
        if let Some(known) = self.known_addresses() {
            if self.clock.monotonic().saturating_sub(known.asked_at) >= ADDRESSES_FRESH_FOR {
                self.refresh();
            }
            return Ok(known);
        }
        let _turn = self.resolving.lock().await;
        if let Some(known) = self.known_addresses() {
            return Ok(known);
        }
        let found = self.resolve().await;
        if found.is_empty() {
            return Err(ConnectFailure::Name);
        }
        let peers = arrange(found, None, |address| self.peer(address));
        Ok(self.keep(peers))
    }

    fn known_addresses(&self) -> Option<Arc<Addresses>> {
        let now = self.clock.monotonic();
        self.addresses
            .load_full()
            .filter(|known| now.saturating_sub(known.answered_at) < ADDRESSES_USABLE_FOR)
    }

    /// Asks for newer addresses in the background, one question at a time.
    fn refresh(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let refreshing = Refreshing(Arc::clone(self));
        spawn("resolve_upstream", async move {
            let connector = &refreshing.0;
            let found = timeout(RESOLVE_TIMEOUT, connector.resolve())
                .await
                .unwrap_or_default();
            let before = connector.addresses.load_full();
            if !found.is_empty() {
                let peers = arrange(found, before.as_deref(), |address| connector.peer(address));
                connector.keep(peers);
            } else if let Some(before) = before {
                log::warn!(provider = connector.key.provider;
                    "the name of upstream `{}` cannot be resolved, its last addresses serve on",
                    connector.key.provider);
                connector.addresses.store(Some(Arc::new(Addresses {
                    answered_at: before.answered_at,
                    asked_at: connector.clock.monotonic(),
                    peers: before.peers.clone(),
                })));
            }
        });
    }

    fn keep(&self, peers: Vec<Arc<HttpPeer>>) -> Arc<Addresses> {
        let now = self.clock.monotonic();
        let addresses = Arc::new(Addresses {
            answered_at: now,
            asked_at: now,
            peers,
        });
        self.addresses.store(Some(Arc::clone(&addresses)));
        addresses
    }

    async fn resolve(&self) -> Vec<SocketAddr> {
        if let Ok(ip) = self.key.host.parse::<IpAddr>() {
            return vec![SocketAddr::new(ip, self.key.port)];
        }
        match tokio::net::lookup_host((self.key.host.as_str(), self.key.port)).await {
            Ok(found) => {
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for address in found {
                    if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                addresses
            }
            Err(error) => {
                log::debug!(provider = self.key.provider; "`{}` cannot be resolved: {error}", self.key.host);
                Vec::new()
            }
        }
    }

    fn peer(&self, address: SocketAddr) -> Arc<HttpPeer> {
        let mut peer = HttpPeer::new(address, self.key.tls, self.key.host.clone());
        let options = &mut peer.options;
        options.alpn = match (self.key.http2, self.key.tls) {
            (Http2::Always, _) => ALPN::H2,
            (Http2::Auto, true) => ALPN::H2H1,
            (Http2::Auto, false) | (Http2::Never, _) => ALPN::H1,
        };
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_mins(1),
            interval: Duration::from_secs(10),
            count: 3,
            user_timeout: Duration::ZERO,
        });
        options.max_h2_streams = HTTP2_STREAMS as usize;
        options.h2_stream_window_size = Some(HTTP2_STREAM_WINDOW);
        options.h2_connection_window_size = Some(HTTP2_STREAM_WINDOW * HTTP2_STREAMS);
        Arc::new(peer)
    }

    fn prefer_address(&self, peer: &Arc<HttpPeer>) {
        self.addresses.rcu(|current| {
            let current = current.as_ref()?;
            let mut peers = current.peers.clone();
            let place = peers.iter().position(|known| Arc::ptr_eq(known, peer))?;
            peers[..=place].rotate_right(1);
            Some(Arc::new(Addresses {
                answered_at: current.answered_at,
                asked_at: current.asked_at,
                peers,
            }))
        });
    }
}

impl Addresses {
    fn iter(&self) -> std::slice::Iter<'_, Arc<HttpPeer>> {
        self.peers.iter()
    }

    fn len(&self) -> usize {
        self.peers.len()
    }
}

/// New addresses in their order, but the one that was first stays first while it exists; peers that were
/// known stay the same.
fn arrange(
    found: Vec<SocketAddr>,
    before: Option<&Addresses>,
    make: impl Fn(SocketAddr) -> Arc<HttpPeer>,
) -> Vec<Arc<HttpPeer>> {
    let known = |address: SocketAddr| {
        before.and_then(|before| {
            before
                .iter()
                .position(|peer| peer._address.as_inet() == Some(&address))
        })
    };
    let mut peers: Vec<Arc<HttpPeer>> = Vec::with_capacity(found.len());
    for address in found {
        match (known(address), before) {
            (Some(0), Some(before)) => peers.insert(0, Arc::clone(&before.peers[0])),
            (Some(place), Some(before)) => peers.push(Arc::clone(&before.peers[place])),
            _ => peers.push(make(address)),
        }
    }
    peers
}

async fn open(connector: &Connector, peer: &Arc<HttpPeer>, reuse: Reuse) -> Result<Connected, Box<Error>> {
    let pooled = Arc::clone(peer);
    if reuse == Reuse::Upgradable {
        let mut apart = HttpPeer::clone(peer);
        apart.group_key = 2;
        apart.options.alpn = ALPN::H1;
        let (session, reused) = connector.get_http_session(&apart).await?;
        return Ok(Connected {
            session,
            reused,
            peer: Arc::new(apart),
        });
    }
    if reuse == Reuse::Avoided {
        // another group is another key in the pool
        let mut apart = HttpPeer::clone(peer);
        apart.group_key = 1;
        let (session, reused) = connector.get_http_session(&apart).await?;
        let peer = match &session {
            HttpSession::H2(_) => Arc::new(apart),
            HttpSession::H1(_) | HttpSession::Custom(()) => pooled,
        };
        return Ok(Connected {
            session,
            reused,
            peer,
        });
    }
    let (session, reused) = match connector.get_http_session(&**peer).await {
        // an HTTP/2 connection of the pool that had just died: it is out of the pool now
        Err(error) if matches!(error.etype(), ErrorType::H2Error | ErrorType::ConnectionClosed) => {
            connector.get_http_session(&**peer).await?
        }
        other => other?,
    };
    Ok(Connected {
        session,
        reused,
        peer: pooled,
    })
}

fn classify(error: &Error) -> ConnectFailure {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => ConnectFailure::Timeout,
        ErrorType::ConnectRefused => ConnectFailure::Refused,
        ErrorType::TLSHandshakeFailure
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError
        | ErrorType::TLSWantX509Lookup => ConnectFailure::Tls(TlsFault::of(&error.to_string())),
        _ => ConnectFailure::Network,
    }
}

#[cfg(test)]
mod tests;
