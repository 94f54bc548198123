//! The data plane: the only module that sees a Pingora session.
//!
//! Hooks are one line each; what decides is in the file that the hook names.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler};
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session, http_proxy};

use self::bill::Unpriced;
use self::ctx::RequestCtx;
use self::memory_budget::MemoryBudget;
use self::model_lists::ModelLists;
use self::own::OwnRefusals;
use self::own_paths::OwnPaths;
use self::places::Places;
use crate::auth::Authenticator;
use crate::cache::ResponseCache;
use crate::domain::Clock;
use crate::domain::audit::AuditSink;
use crate::limit::Limiter;
use crate::live::{Live, Snapshot};
use crate::metering::{Ledger, UsageCounters};
use crate::telemetry::{AccessLog, Metrics};

mod admit;
mod arrival;
pub mod bill;
mod body;
mod cache_lookup;
mod caching;
mod ctx;
mod decorate;
mod forward;
mod media;
pub mod memory_budget;
pub mod model_lists;
mod outcome;
mod own;
mod own_gate;
pub mod own_paths;
mod path;
pub mod places;
mod record;
mod reject;
mod reserve;
mod session_watch;
mod spend;

/// Whether requests that arrive now are still served.
pub trait DrainView: Send + Sync + 'static {
    /// True once listeners have closed: what still arrives is answered 503 `draining`.
    fn refuses_requests(&self) -> bool;
}

/// What the data plane asks, takes from and reports to.
pub struct EdgeProxy {
    /// The configuration that new requests live on.
    pub live: Arc<Live<Snapshot>>,
    /// Who is calling.
    pub authenticator: Arc<Authenticator>,
    /// May they.
    pub limiter: Arc<Limiter>,
    /// What they used.
    pub counters: Arc<UsageCounters>,
    /// A record of each request that reached a provider.
    pub ledger: Arc<Ledger>,
    /// Numbers for operators.
    pub metrics: Arc<Metrics>,
    /// A line for each request.
    pub access_log: AccessLog,
    /// Events for the audit.
    pub audit: Arc<dyn AuditSink>,
    /// The sidecar's paths.
    pub own_paths: Arc<dyn OwnPaths>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Whether the process is ending.
    pub drain: Arc<dyn DrainView>,
    /// Answers kept.
    pub cache: Arc<ResponseCache>,
    /// Bounds and small state of its own.
    pub rooms: Rooms,
}

/// The data plane's own state that outlives requests.
#[derive(Debug, Default, Clone)]
pub struct Rooms {
    /// Held bodies.
    pub memory: Arc<MemoryBudget>,
    /// Requests under way.
    pub places: Arc<Places>,
    /// Panics that were turned into answers.
    pub panics: Arc<std::sync::atomic::AtomicU64>,
    /// Model lists of providers.
    pub model_lists: Arc<ModelLists>,
    /// Models without a price.
    pub unpriced: Arc<Unpriced>,
    /// Refused own paths.
    own_refusals: Arc<OwnRefusals>,
}

/// The data plane as Pingora serves it.
pub type EdgeServer = HttpProxy<EdgeProxy>;

impl EdgeProxy {
    /// Makes it what the connection front serves.
    pub fn into_server(self) -> EdgeServer {
        http_proxy(&Arc::new(ServerConf::default()), self)
    }
}

#[async_trait]
impl ProxyHttp for EdgeProxy {
    type CTX = RequestCtx;

    fn new_ctx(&self) -> RequestCtx {
        RequestCtx::new(self.live.snapshot(), &*self.clock)
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<bool> {
        self.admit(session, ctx).await
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> pingora_core::Result<()> {
        self.look_up(session, ctx);
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, ctx: &mut RequestCtx) -> pingora_core::Result<CacheKey> {
        ctx.cache
            .pingora_key()
            .ok_or_else(|| Error::new_in(ErrorType::InternalError))
    }

    async fn cache_hit_filter(
        &self,
        _: &mut Session,
        _: &CacheMeta,
        _: &mut HitHandler,
        _: bool,
        _: &mut RequestCtx,
    ) -> pingora_core::Result<Option<ForcedFreshness>> {
        // it was judged when it was chosen
        Ok(Some(ForcedFreshness::ForceFresh))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<()> {
        self.dress_hit(session, answer, ctx)
    }

    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<bool> {
        self.forward(session, ctx).await.map(|()| false)
    }

    async fn upstream_peer(
        &self,
        _: &mut Session,
        _: &mut RequestCtx,
    ) -> pingora_core::Result<Box<HttpPeer>> {
        // the forwarding loop answers every request: Pingora's own way upstream is never taken
        Err(Error::new_in(ErrorType::InternalError))
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestCtx) -> FailToProxy {
        self.fail(session, error, ctx).await
    }

    fn suppress_error_log(&self, _: &Session, _: &RequestCtx, _: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut RequestCtx) {
        self.close_bill(ctx).await;
        self.record(session, error, ctx);
    }
}
