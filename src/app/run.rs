//! The process from its first socket to its last record.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::runtime::Runtime;
use tokio::sync::Notify as Switch;

use super::notify::Notify;
use super::readiness::{Truth, probe};
use super::runtime::{Asked, Signals, control, start_workers};
use super::tasks::end_step;
use super::views::{CacheView, CatalogueView, ConfigurationView, CountersView, Ending, HandOver, NumbersView};
use super::wiring::{
    Addresses, LiveSettings, STORE_RETRY, management_settings, open_store, remote_changes, sealer, write_whole,
};
use crate::auth::Authenticator;
use crate::cache::{ResponseCache, RunningFills};
use crate::config::{ConfigErrors, Loaded};
use crate::domain::spawn::spawn;
use crate::domain::{Clock, SystemClock};
use crate::limit::{Limiter, RedisRates};
use crate::listen::{Drain, Front, Phase, bind, raise_limit};
use crate::live::Snapshot;
use crate::live::reload::{Reloader, Trigger};
use crate::management::audit_writer::{AuditSettings, AuditWriter};
use crate::management::{self, Services};
use crate::metering::UsageCounters;
use crate::proxy::{EdgeProxy, Rooms};
use crate::store::state_dir::StateDir;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::{ReloadResult, Source};
use crate::telemetry::{AccessLog, Metrics, logging};
use crate::upstream::Upstreams;

/// What is to be run.
pub struct Plan {
    /// The configuration.
    pub loaded: Loaded,
    /// Reads it again, for reloads.
    pub reread: Box<dyn Fn() -> Result<Loaded, ConfigErrors> + Send + Sync>,
}

/// Ends the process from inside, in order.
#[derive(Debug, Clone, Default)]
pub struct StopSwitch(Arc<Switch>);

impl StopSwitch {
    /// As SIGTERM does.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

/// Everything built, nothing served yet.
pub struct App {
    control: Runtime,
    addresses: Addresses,
    listeners: Vec<TcpListener>,
    sidecar: Option<TcpListener>,
    front: Arc<Front<HttpProxy<EdgeProxy>>>,
    parts: Parts,
    _state_dir: StateDir,
}

/// What lives as long as the process.
struct Parts {
    clock: Arc<dyn Clock>,
    store: Store,
    truth: Arc<Truth>,
    drain: Arc<Drain>,
    reloader: Arc<Reloader<Snapshot>>,
    own_paths: Arc<management::OwnPaths>,
    audit: Arc<AuditWriter>,
    counters: Arc<UsageCounters>,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    logging: logging::Logging,
    sidecar_end: tokio::sync::watch::Sender<bool>,
}

impl App {
    /// Binds, opens, builds; serves nothing yet. The first thing that fails ends it, in words.
    pub fn build(plan: Plan) -> Result<Self> {
        let settings = plan.loaded.settings.clone();
        raise_limit();
        let logging = logging::start(&log_settings(&plan.loaded)).context("logging")?;
        for warning in &plan.loaded.warnings {
            log::warn!("{warning}");
        }
        for key in &plan.loaded.inactive_keys {
            log::warn!(key = key.as_str(); "not active in this version: {key}");
        }
        let mut listeners = Vec::with_capacity(settings.server.listen.len());
        for address in &settings.server.listen {
            listeners.push(bind(&address.to_string())?);
        }
        let sidecar = settings.management.listen.as_ref().map(|address| bind(&address.to_string())).transpose()?;
        let addresses = Addresses {
            proxy: listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?,
            management: sidecar.as_ref().map(TcpListener::local_addr).transpose()?,
        };
        let state_dir = StateDir::open(&settings.server.state_dir)?;
        crate::upstream::target::install_tls_provider();
        let control = control()?;
        let clock = SystemClock::shared();
        let store = {
            let _entered = control.enter();
            open_store(&settings, &clock, control.handle()).context("database")?
        };
        let built = {
            let _entered = control.enter();
            build_services(plan, clock, store, &control, addresses.management, logging)?
        };
        Ok(Self { front: built.0, parts: built.1, control, addresses, listeners, sidecar, _state_dir: state_dir })
    }

    /// Where it will serve.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until a signal or the switch ends it, then drains. `started` runs once everything accepts.
    pub fn run<S, F>(self, started: S) -> Result<()>
    where
        S: FnOnce(StopSwitch, Addresses) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { control, addresses, listeners, sidecar, front, parts, _state_dir } = self;
        let settings = parts.reloader.running().settings.clone();
        let workers = start_workers(settings.server.threads, &listeners, &front)?;
        drop(listeners);
        let stop = StopSwitch::default();
        let outcome: Result<()> = control.block_on(async {
            let mut signals = Signals::listen()?;
            parts.start_store().await?;
            parts.start_background(sidecar)?;
            let notify = Notify::from_environment(std::env::var_os("NOTIFY_SOCKET").as_deref());
            parts.announce(&settings.server.state_dir, &addresses)?;
            notify.ready();
            spawn("started", started(stop.clone(), addresses.clone()));
            parts.serve_until_told(&mut signals, &stop).await;
            let server = parts.reloader.running().settings.server.clone();
            notify.stopping(server.shutdown_delay + server.drain_timeout);
            log::info!("ending: what runs may finish within {} s", server.drain_timeout.as_secs());
            tokio::select! {
                left = parts.drain.run(server.shutdown_delay, server.drain_timeout) => {
                    if left > 0 {
                        log::warn!(left; "{left} connections were cut at `server.drain_timeout`");
                    }
                }
                () = second(&mut signals) => parts.drain.cut(),
            }
            parts.finish().await;
            Ok(())
        });
        if outcome.is_ok() {
            for worker in workers {
                // a worker that panicked has said so
                let _ = worker.join();
            }
        }
        control.shutdown_timeout(Duration::from_secs(1));
        outcome
    }
}

/// Waits for a further request to end.
async fn second(signals: &mut Signals) {
    while signals.next().await != Asked::End {}
    log::warn!("told to end a second time: ending at once");
}

fn log_settings(loaded: &Loaded) -> logging::LogSettings {
    let logging = &loaded.settings.logging;
    logging::LogSettings {
        level: logging.level,
        json: logging.format == crate::config::LogFormat::Json,
        file: logging.file.clone(),
        max_file_bytes: logging.max_file_bytes,
        max_backups: logging.max_backups,
        directives: logging.directives.clone(),
    }
}

type Built = (Arc<Front<HttpProxy<EdgeProxy>>>, Parts);

/// Every service, built once.
fn build_services(
    plan: Plan,
    clock: Arc<dyn Clock>,
    store: Store,
    control: &Runtime,
    sidecar: Option<SocketAddr>,
    logging: logging::Logging,
) -> Result<Built> {
    let settings = plan.loaded.settings.clone();
    let live_settings = Arc::new(LiveSettings::new(&settings));
    let metrics = Metrics::new(Arc::clone(&clock))?;
    let drain = Drain::new();
    let truth = Truth::new(Arc::clone(&drain));
    let upstreams = Upstreams::new(Arc::clone(&clock));
    let sealer = Arc::new(sealer(&settings)?);
    let authenticator = Arc::new(Authenticator::new(
        Arc::clone(&store.tokens),
        Arc::clone(&sealer),
        Arc::clone(&clock),
        Arc::clone(&live_settings.auth),
    ));
    let shared_rates = match &settings.redis.url {
        Some(url) => Some(
            RedisRates::connect(url, control.handle(), Arc::clone(&clock), Arc::clone(&live_settings.limits))
                .context("redis.url")?,
        ),
        None => None,
    };
    let limiter = Arc::new(Limiter::new(
        Arc::clone(&live_settings.limits),
        Arc::clone(&clock),
        Arc::clone(&store.grants),
        shared_rates,
    ));
    let counters = UsageCounters::start(Arc::clone(&store.usage), Arc::clone(&clock));
    let audit = AuditWriter::start(audit_settings(&settings), Some(Arc::clone(&store.audit)), Arc::clone(&clock))
        .context("audit")?;
    let cache = Arc::new(ResponseCache::new(settings.cache.max_size_bytes, RunningFills::Private, Arc::clone(&clock)));
    let rooms = Rooms::default();
    let rooms_seen = rooms.clone();
    let access_log = Arc::new(AccessLog::new(settings.logging.access_log));
    let pending: Arc<std::sync::OnceLock<Arc<management::OwnPaths>>> = Arc::default();
    let running: Arc<std::sync::OnceLock<Arc<Reloader<Snapshot>>>> = Arc::default();
    let reloader = Arc::new(
        Reloader::start(
            plan.loaded,
            plan.reread,
            Box::new(move |settings, _| Snapshot::build(settings, &upstreams).map_err(|error| error.to_string())),
            observer(&pending, &live_settings, &metrics, sidecar, Arc::clone(&running)),
            Arc::clone(&clock),
        )
        .map_err(anyhow::Error::msg)
        .context("configuration")?,
    );
    // nobody else sets it
    let _ = running.set(Arc::clone(&reloader));
    let catalogue_view = Arc::new(CatalogueView { live: Arc::clone(reloader.live()), clock: Arc::clone(&clock) });
    let own_paths = management::OwnPaths::new(
        Services {
            clock: Arc::clone(&clock),
            projects: Arc::clone(&store.projects),
            tokens: Arc::clone(&store.tokens),
            audit_store: Some(Arc::clone(&store.audit)),
            grants: Arc::clone(&store.grants),
            sealer,
            changes: authenticator.clone(),
            usage: Arc::new(CountersView(Arc::clone(&counters))),
            audit: audit.clone(),
            configuration: Arc::new(ConfigurationView(Arc::clone(&reloader))),
            providers: catalogue_view.clone(),
            models: catalogue_view,
            cache: Arc::new(CacheView {
                live: Arc::clone(reloader.live()),
                cache: Arc::clone(&cache),
                model_lists: Arc::clone(&rooms.model_lists),
            }),
            metrics: Arc::new(NumbersView(Arc::clone(&metrics))),
            readiness: truth.clone(),
        },
        management_settings(&settings, sidecar),
    );
    // nobody else sets it
    let _ = pending.set(Arc::clone(&own_paths));
    let proxy = EdgeProxy {
        live: Arc::clone(reloader.live()),
        authenticator: Arc::clone(&authenticator),
        limiter,
        counters: Arc::clone(&counters),
        metrics: Arc::clone(&metrics),
        access_log,
        audit: audit.clone(),
        own_paths: Arc::new(HandOver(Arc::clone(&own_paths))),
        clock: Arc::clone(&clock),
        drain: Arc::new(Ending(Arc::clone(&drain))),
        cache: Arc::clone(&cache),
        rooms,
    };
    let server_conf = Arc::new(pingora_core::server::configuration::ServerConf::default());
    let front = Front::new(Arc::new(http_proxy(&server_conf, proxy)), Arc::clone(&live_settings.front), Arc::clone(&drain));
    connect_numbers(&metrics, &front, &drain, &cache, &audit, &counters, &rooms_seen);
    let parts = Parts {
        clock,
        store,
        truth,
        drain,
        reloader,
        own_paths,
        audit,
        counters,
        authenticator,
        metrics,
        logging,
        sidecar_end: tokio::sync::watch::Sender::new(false),
    };
    Ok((front, parts))
}

/// What a reload changes beside the snapshot.
fn observer(
    own_paths: &Arc<std::sync::OnceLock<Arc<management::OwnPaths>>>,
    live: &Arc<LiveSettings>,
    metrics: &Arc<Metrics>,
    sidecar: Option<SocketAddr>,
    running: Arc<std::sync::OnceLock<Arc<Reloader<Snapshot>>>>,
) -> crate::live::reload::Observer {
    let (own_paths, live, metrics) = (Arc::clone(own_paths), Arc::clone(live), Arc::clone(metrics));
    Box::new(move |outcome| {
        metrics.count_config_reload(if outcome.ok { ReloadResult::Applied } else { ReloadResult::Refused });
        let Some(reloader) = running.get() else { return };
        if !outcome.ok {
            return;
        }
        let loaded = reloader.running();
        live.apply(&loaded.settings);
        if let Some(own_paths) = own_paths.get() {
            own_paths.configure(management_settings(&loaded.settings, sidecar));
        }
    })
}

impl Parts {
    /// Brings the schema up to date. A database that is away is waited for in the background, everything else
    /// that is wrong with it ends the start.
    async fn start_store(&self) -> Result<()> {
        let schema = Arc::clone(&self.store.schema);
        match schema.up().await {
            Ok(_) => self.truth_after_migration(),
            Err(StoreError::Unavailable(why)) if self.store.driver == "postgres" => {
                log::error!("the database cannot be reached yet and is tried again: {why}");
                let (truth, tokens) = (Arc::clone(&self.truth), Arc::clone(&self.authenticator));
                spawn("migrate", async move {
                    loop {
                        tokio::time::sleep(STORE_RETRY).await;
                        match schema.up().await {
                            Ok(_) => break,
                            Err(error) if truth.store_failed(&error) => log::error!("the database: {error}"),
                            Err(_) => {}
                        }
                    }
                    log::info!("the database is reached, its schema is up to date");
                    truth.store_answered();
                    tokens.store_answered();
                });
            }
            Err(error) => return Err(anyhow::Error::new(error).context("database")),
        }
        Ok(())
    }

    fn truth_after_migration(&self) {
        self.truth.store_answered();
        self.authenticator.store_answered();
    }

    /// Starts everything that runs beside requests.
    fn start_background(&self, sidecar: Option<TcpListener>) -> Result<()> {
        if let Some(changes) = remote_changes(&self.reloader.running().settings, self.authenticator.clone())? {
            spawn("changes", changes.run());
        }
        spawn(
            "store-probe",
            probe(
                Arc::clone(&self.truth),
                Arc::clone(&self.store.health),
                Arc::clone(&self.authenticator),
                Arc::clone(&self.metrics),
            ),
        );
        let mut phase = self.drain.watch();
        let ended = async move {
            // ends with the listeners
            let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
        };
        spawn("configuration-watch", crate::live::watch::run(Arc::clone(&self.reloader), ended));
        if let Some(listener) = sidecar {
            let own_paths = Arc::clone(&self.own_paths);
            // the sidecar answers until the last stream has ended
            let ended = self.sidecar_end.subscribe();
            spawn("sidecar", async move {
                if let Err(error) = management::serve::serve(own_paths, listener, ended).await {
                    log::error!("the sidecar's listener could not be served: {error}");
                }
            });
        }
        Ok(())
    }

    /// Says where the process listens: in the log, and in `state_dir/listening.json`.
    fn announce(&self, state_dir: &std::path::Path, addresses: &Addresses) -> Result<()> {
        self.truth.mark_started();
        let listening = serde_json::json!({
            "pid": std::process::id(),
            "proxy": addresses.proxy,
            "management": addresses.management,
        });
        write_whole(&state_dir.join("listening.json"), &listening.to_string()).context("state_dir")?;
        for address in &addresses.proxy {
            log::info!(address = address.to_string(); "the proxy listens on {address}");
        }
        if let Some(address) = addresses.management {
            log::info!(address = address.to_string(); "the management sidecar listens on {address}");
        }
        Ok(())
    }

    async fn serve_until_told(&self, signals: &mut Signals, stop: &StopSwitch) {
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End => return,
                    Asked::Reload => {
                        let reloader = Arc::clone(&self.reloader);
                        spawn("reload", async move { reloader.reload(Trigger::Signal).await });
                    }
                },
                () = stop.0.notified() => return,
            }
        }
    }

    /// Writes everything that is still in memory.
    async fn finish(&self) {
        let limit = Duration::from_secs(10);
        self.sidecar_end.send_replace(true);
        end_step("counters", limit, async {
            if let Err(error) = self.counters.flush().await {
                log::error!(reason = error.kind(); "counters of tokens could not be written: {error}");
            }
        })
        .await;
        end_step("audit", limit, self.audit.stop()).await;
        end_step("store", limit, self.store.close()).await;
        log::info!("ended");
        self.logging.flush();
    }
}

fn audit_settings(settings: &crate::config::Settings) -> AuditSettings {
    let audit = &settings.audit;
    AuditSettings {
        enabled: audit.enabled,
        file: audit.file.clone(),
        store_in_database: audit.store_in_database,
        retention: Some(audit.retention),
        max_size_bytes: audit.max_file_bytes,
        max_backups: audit.max_backups,
    }
}

/// Numbers that other parts count by themselves.
fn connect_numbers(
    metrics: &Metrics,
    front: &Front<HttpProxy<EdgeProxy>>,
    drain: &Arc<Drain>,
    cache: &Arc<ResponseCache>,
    audit: &Arc<AuditWriter>,
    counters: &Arc<UsageCounters>,
    rooms: &Rooms,
) {
    let counted = front.counters();
    let connections = Arc::clone(drain);
    metrics.connect(Source::ConnectionsOpen, move || connections.connections().open() as u64);
    for (source, read) in [
        (Source::ConnectionsAccepted, (|c| c.connections_accepted.get()) as fn(&crate::listen::FrontCounters) -> u64),
        (Source::ConnectionsRefused, |c| c.connections_refused.get()),
        (Source::AcceptErrors, |c| c.accept_errors.get()),
        (Source::HeadsMalformed, |c| c.malformed_heads.get()),
        (Source::HeadsTooLarge, |c| c.oversized_heads.get()),
        (Source::HeadsTooSlow, |c| c.slow_heads.get()),
    ] {
        let counted = Arc::clone(counted);
        metrics.connect(source, move || read(&counted));
    }
    let (panics, counted) = (Arc::clone(&rooms.panics), Arc::clone(counted));
    metrics.connect(Source::Panics, move || {
        counted.panics.get() + panics.load(std::sync::atomic::Ordering::Relaxed)
    });
    let audit = Arc::clone(audit);
    metrics.connect(Source::AuditEventsDropped, move || audit.counts().dropped);
    let pending = Arc::clone(counters);
    metrics.connect(Source::UsageUpdatesPending, move || pending.pending() as u64);
    let lost = Arc::clone(counters);
    metrics.connect(Source::UsageUpdatesLost, move || lost.lost());
    for (source, read) in [
        (Source::CacheBytes, (|s| s.bytes) as fn(&crate::cache::StoreStats) -> u64),
        (Source::CacheEntries, |s| s.entries),
        (Source::CacheEvictions, |s| s.evicted),
    ] {
        let cache = Arc::clone(cache);
        metrics.connect(source, move || read(&cache.stats().store));
    }
    metrics.connect(Source::BackgroundTasks, || crate::domain::spawn::running() as u64);
}
