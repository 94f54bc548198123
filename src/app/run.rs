//! The process from its first socket to its last record.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;
use tokio::sync::Notify as Switch;

use super::build::{Parts, build};
use super::notify::Notify;
use super::readiness::probe;
use super::runtime::{Asked, Signals, control, start_workers};
use super::tasks::end_step;
use super::wiring::{Addresses, STORE_RETRY, log_settings, open_store, remote_changes, write_whole};
use crate::config::{ConfigErrors, Loaded};
use crate::domain::SystemClock;
use crate::domain::spawn::spawn;
use crate::listen::{Phase, bind, raise_limit};
use crate::live::reload::Trigger;
use crate::management;
use crate::store::StoreError;
use crate::store::state_dir::StateDir;
use crate::telemetry::Logging;

/// How long the first answer of Redis is waited for before requests are served.
const REDIS_FIRST_ANSWER: Duration = Duration::from_millis(500);

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
    parts: Parts,
    _state_dir: StateDir,
}

impl App {
    /// Binds, opens, builds; serves nothing yet. The first thing that fails ends it, in words.
    pub fn build(plan: Plan) -> Result<Self> {
        let settings = plan.loaded.settings.clone();
        raise_limit();
        let clock = SystemClock::shared();
        let started_at = clock.now();
        let logging = Logging::start(&log_settings(&settings), Arc::clone(&clock)).context("logging")?;
        logging.install().context("logging")?;
        report_panics();
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
        let sidecar = settings
            .management
            .listen
            .as_ref()
            .map(|address| bind(&address.to_string()))
            .transpose()?;
        let addresses = Addresses {
            proxy: listeners
                .iter()
                .map(TcpListener::local_addr)
                .collect::<Result<_, _>>()?,
            management: sidecar.as_ref().map(TcpListener::local_addr).transpose()?,
        };
        let state_dir = StateDir::open(&settings.server.state_dir)?;
        crate::upstream::target::install_tls_provider();
        let control = control()?;
        let store = {
            let _entered = control.enter();
            open_store(&settings, &clock, control.handle()).context("database")?
        };
        let built = {
            let _entered = control.enter();
            build(plan, clock, store, addresses.management, Arc::new(logging))?
        };
        crate::live::reload::keep(&built.reloader.running(), started_at);
        Ok(Self {
            parts: built,
            control,
            addresses,
            listeners,
            sidecar,
            _state_dir: state_dir,
        })
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
        let Self {
            control,
            addresses,
            listeners,
            sidecar,
            parts,
            _state_dir,
        } = self;
        let settings = parts.reloader.running().settings.clone();
        let workers = start_workers(settings.server.threads, &listeners, &parts.front)?;
        drop(listeners);
        let stop = StopSwitch::default();
        let outcome: Result<()> = control.block_on(async {
            let mut signals = Signals::listen()?;
            parts.start_store().await?;
            parts.start_background(sidecar)?;
            parts.wait_for_redis().await;
            let notify = Notify::from_environment(std::env::var_os("NOTIFY_SOCKET").as_deref());
            parts.announce(&settings.server.state_dir, &addresses)?;
            notify.ready();
            spawn("started", started(stop.clone(), addresses.clone()));
            parts.serve_until_told(&mut signals, &stop).await;
            let server = parts.reloader.running().settings.server.clone();
            notify.stopping(server.shutdown_delay + server.drain_timeout);
            log::info!(
                "draining: what runs may finish within {} s",
                server.drain_timeout.as_secs()
            );
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

/// Panics become one log line: the usual report looks up every frame, which stops a worker for a while.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        log::error!(place = place.as_str(); "panic at {place}");
    }));
}

/// Waits for a further request to end.
async fn second(signals: &mut Signals) {
    while signals.next().await != Asked::End {}
    log::warn!("told to end a second time: ending at once");
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
                let (truth, tokens) = (Arc::clone(&self.truth), Arc::clone(&self.services.authenticator));
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
        self.services.authenticator.store_answered();
    }

    /// Starts everything that runs beside requests.
    fn start_background(&self, sidecar: Option<TcpListener>) -> Result<()> {
        if let Some(changes) = remote_changes(
            &self.reloader.running().settings,
            self.services.authenticator.clone(),
        )? {
            spawn("changes", changes.run());
        }
        spawn(
            "store-probe",
            probe(
                Arc::clone(&self.truth),
                Arc::clone(&self.store.health),
                Arc::clone(&self.services.authenticator),
                Arc::clone(&self.services.metrics),
            ),
        );
        let mut phase = self.drain.watch();
        let ended = async move {
            // ends with the listeners
            let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
        };
        spawn(
            "configuration-watch",
            crate::live::watch::run(Arc::clone(&self.reloader), ended),
        );
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
    fn announce(&self, state_dir: &Path, addresses: &Addresses) -> Result<()> {
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

    /// Gives Redis a moment to answer first, so that the first requests do not meet the fallback and the other
    /// instances count this one.
    async fn wait_for_redis(&self) {
        let Some(rates) = &self.services.shared_rates else {
            return;
        };
        if !rates.joined_within(REDIS_FIRST_ANSWER).await {
            log::warn!("Redis does not answer yet; rates follow `limits.distributed.fallback` until it does");
        }
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
        end_step("ledger", limit, self.services.ledger.flush()).await;
        end_step("counters", limit, async {
            if let Err(error) = self.services.counters.flush().await {
                log::error!(reason = error.kind(); "counters of tokens could not be written: {error}");
            }
        })
        .await;
        end_step("audit", limit, self.services.audit.stop()).await;
        if let Some(rates) = &self.services.shared_rates {
            end_step("redis", Duration::from_secs(2), rates.leave()).await;
        }
        end_step("grants", Duration::from_secs(2), async {
            self.services.limiter.settle(Duration::from_secs(1)).await;
        })
        .await;
        end_step("store", limit, self.store.close()).await;
        log::info!("ended");
        // when the log cannot be written nobody is left to be told
        let _ = self.logging.flush(Duration::from_secs(2));
    }
}
