//! Every service, built once and joined.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::budgets::{BudgetWarnings, LedgerBacklog};
use super::numbers;
use super::readiness::Truth;
use super::run::Plan;
use super::views::{
    CacheView, CatalogueView, ConfigurationView, CountersView, Ending, HandOver, NumbersView,
};
use super::wiring::{LiveSettings, audit_settings, log_settings, management_settings, sealer};
use crate::auth::Authenticator;
use crate::cache::ResponseCache;
use crate::config::Settings;
use crate::domain::Clock;
use crate::domain::crypto::Sealer;
use crate::fleet::local::LocalChanges;
use crate::limit::{Limiter, RedisRates, WholeSlices};
use crate::listen::{Drain, Front};
use crate::live::Snapshot;
use crate::live::reload::{Observer, Reloader};
use crate::management::audit_writer::AuditWriter;
use crate::management::{self, Services};
use crate::metering::{Ledger, UsageCounters};
use crate::proxy::{EdgeProxy, EdgeServer, Rooms};
use crate::store::Store;
use crate::telemetry::metrics::ReloadResult;
use crate::telemetry::{Logging, Metrics};
use crate::upstream::Upstreams;

/// What lives as long as the process.
pub(super) struct Parts {
    /// Connections and the requests on them.
    pub front: Arc<Front<EdgeServer>>,
    /// The database.
    pub store: Store,
    /// What `/ready` says.
    pub truth: Arc<Truth>,
    /// How far the end has come.
    pub drain: Arc<Drain>,
    /// The configuration.
    pub reloader: Arc<Reloader<Snapshot>>,
    /// The control plane.
    pub own_paths: Arc<management::OwnPaths>,
    /// Services of the data plane.
    pub services: Common,
    /// The log.
    pub logging: Arc<Logging>,
    /// Ends the sidecar.
    pub sidecar_end: watch::Sender<bool>,
}

/// Services that both planes and the background use.
#[derive(Clone)]
pub(super) struct Common {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who is calling.
    pub authenticator: Arc<Authenticator>,
    /// May they.
    pub limiter: Arc<Limiter>,
    /// Rates shared through Redis.
    pub shared_rates: Option<Arc<RedisRates>>,
    /// What they used.
    pub counters: Arc<UsageCounters>,
    /// Usage records.
    pub ledger: Arc<Ledger>,
    /// The audit trail.
    pub audit: Arc<AuditWriter>,
    /// Answers kept.
    pub cache: Arc<ResponseCache>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// The data plane's own state.
    pub rooms: Rooms,
}

/// Builds everything; the runtime that drives the background must be entered.
pub(super) fn build(
    plan: Plan,
    clock: Arc<dyn Clock>,
    store: Store,
    sidecar: Option<SocketAddr>,
    logging: Arc<Logging>,
) -> Result<Parts> {
    let settings = plan.loaded.settings.clone();
    let live_settings = Arc::new(LiveSettings::new(&settings, store.fsync.clone()));
    let sealer = Arc::new(sealer(&settings)?);
    let common = common(&settings, &live_settings, &store, &sealer, clock)?;
    let drain = Drain::new();
    let truth = Truth::new(Arc::clone(&drain));
    let late = Arc::new(Late::default());
    let upstreams = Upstreams::new(Arc::clone(&common.clock));
    let observer = observer(
        &late,
        live_settings.clone(),
        &common,
        &logging,
        &upstreams,
        sidecar,
    );
    let reloader = Arc::new(reloader(plan, &common, upstreams, observer)?);
    let own_paths = control_plane(&settings, &common, &store, sealer, &reloader, &truth, sidecar);
    // set once, here
    let _ = late.reloader.set(Arc::clone(&reloader));
    let _ = late.own_paths.set(Arc::clone(&own_paths));
    let proxy = EdgeProxy {
        live: Arc::clone(reloader.live()),
        authenticator: Arc::clone(&common.authenticator),
        limiter: Arc::clone(&common.limiter),
        counters: Arc::clone(&common.counters),
        ledger: Arc::clone(&common.ledger),
        metrics: Arc::clone(&common.metrics),
        access_log: logging.access_log(),
        audit: common.audit.clone(),
        own_paths: Arc::new(HandOver(Arc::clone(&own_paths))),
        clock: Arc::clone(&common.clock),
        drain: Arc::new(Ending(Arc::clone(&drain))),
        cache: Arc::clone(&common.cache),
        rooms: common.rooms.clone(),
    };
    let front = Front::new(
        Arc::new(proxy.into_server()),
        Arc::clone(&live_settings.front),
        Arc::clone(&drain),
    );
    numbers::connect(&common, &front, &drain, &logging);
    Ok(Parts {
        front,
        store,
        truth,
        drain,
        reloader,
        own_paths,
        services: common,
        logging,
        sidecar_end: watch::Sender::new(false),
    })
}

fn common(
    settings: &Settings,
    live: &LiveSettings,
    store: &Store,
    sealer: &Arc<Sealer>,
    clock: Arc<dyn Clock>,
) -> Result<Common> {
    let authenticator = Authenticator::new(
        Arc::clone(&store.tokens),
        Arc::clone(sealer),
        Arc::clone(&clock),
        Arc::clone(&live.auth),
    );
    let shared_rates = match &settings.redis.url {
        Some(url) => Some(
            RedisRates::connect(
                url,
                &Handle::current(),
                Arc::clone(&clock),
                Arc::clone(&live.limits),
            )
            .context("redis.url")?,
        ),
        None => None,
    };
    let audit = AuditWriter::start(
        audit_settings(settings),
        Some(Arc::clone(&store.audit)),
        Arc::clone(&clock),
    )
    .context("audit")?;
    let ledger = Ledger::start(
        Arc::clone(&store.ledger),
        &settings.server.state_dir,
        Arc::clone(&live.ledger),
        Arc::clone(&clock),
    );
    let slices = WholeSlices {
        grants: Arc::clone(&store.grants),
        ledger: Arc::clone(&store.ledger),
        backlog: Arc::new(LedgerBacklog(Arc::clone(&ledger))),
    };
    let limiter = Limiter::new(
        Arc::clone(&live.limits),
        Arc::clone(&clock),
        Arc::new(slices),
        shared_rates.clone(),
        Arc::new(BudgetWarnings {
            audit: audit.clone(),
            clock: Arc::clone(&clock),
        }),
    );
    Ok(Common {
        authenticator: Arc::new(authenticator),
        limiter: Arc::new(limiter),
        shared_rates,
        counters: UsageCounters::start(Arc::clone(&store.usage), Arc::clone(&clock)),
        ledger,
        audit,
        cache: Arc::new(ResponseCache::new(
            settings.cache.max_size_bytes,
            Arc::clone(&clock),
        )),
        metrics: Metrics::new(Arc::clone(&clock))?,
        rooms: Rooms::default(),
        clock,
    })
}

fn reloader(
    plan: Plan,
    common: &Common,
    upstreams: Arc<Upstreams>,
    observer: Observer,
) -> Result<Reloader<Snapshot>> {
    Reloader::start(
        plan.loaded,
        plan.reread,
        Box::new(move |settings, _| Snapshot::build(settings, &upstreams).map_err(|error| error.to_string())),
        observer,
        Arc::clone(&common.clock),
    )
    .map_err(anyhow::Error::msg)
    .context("configuration")
}

fn control_plane(
    settings: &Settings,
    common: &Common,
    store: &Store,
    sealer: Arc<Sealer>,
    reloader: &Arc<Reloader<Snapshot>>,
    truth: &Arc<Truth>,
    sidecar: Option<SocketAddr>,
) -> Arc<management::OwnPaths> {
    let catalogue = Arc::new(CatalogueView {
        live: Arc::clone(reloader.live()),
        clock: Arc::clone(&common.clock),
    });
    let services = Services {
        clock: Arc::clone(&common.clock),
        projects: Arc::clone(&store.projects),
        tokens: Arc::clone(&store.tokens),
        audit_store: Some(Arc::clone(&store.audit)),
        grants: Arc::clone(&store.grants),
        sealer,
        changes: Arc::new(LocalChanges::new(vec![common.authenticator.clone()])),
        ledger: Arc::clone(&store.ledger),
        usage: Arc::new(CountersView(Arc::clone(&common.counters))),
        audit: common.audit.clone(),
        configuration: Arc::new(ConfigurationView(Arc::clone(reloader))),
        providers: catalogue.clone(),
        models: catalogue,
        cache: Arc::new(CacheView {
            live: Arc::clone(reloader.live()),
            cache: Arc::clone(&common.cache),
            model_lists: Arc::clone(&common.rooms.model_lists),
        }),
        metrics: Arc::new(NumbersView(Arc::clone(&common.metrics))),
        readiness: truth.clone(),
    };
    management::OwnPaths::new(services, management_settings(settings, sidecar))
}

/// What the observer of reloads needs and that is built after it.
#[derive(Default)]
struct Late {
    reloader: OnceLock<Arc<Reloader<Snapshot>>>,
    own_paths: OnceLock<Arc<management::OwnPaths>>,
}

/// What a reload changes beside the snapshot.
fn observer(
    late: &Arc<Late>,
    live: Arc<LiveSettings>,
    common: &Common,
    logging: &Arc<Logging>,
    upstreams: &Arc<Upstreams>,
    sidecar: Option<SocketAddr>,
) -> Observer {
    let (late, logging, upstreams) = (Arc::clone(late), Arc::clone(logging), Arc::clone(upstreams));
    let (metrics, audit) = (Arc::clone(&common.metrics), Arc::clone(&common.audit));
    Box::new(move |outcome| {
        metrics.count_config_reload(if outcome.ok {
            ReloadResult::Applied
        } else {
            ReloadResult::Refused
        });
        let (true, Some(reloader)) = (outcome.ok, late.reloader.get()) else {
            return;
        };
        let settings = &reloader.running().settings;
        upstreams.forget_unused();
        live.apply(settings);
        logging.apply(&log_settings(settings));
        audit.configure(audit_settings(settings));
        if let Some(own_paths) = late.own_paths.get() {
            own_paths.configure(management_settings(settings, sidecar));
        }
    })
}
