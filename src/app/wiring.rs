//! Builds every service once, with the back ends that the configuration names.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::auth::AuthSettings;
use crate::config::{
    self, DatabaseDriver, FleetSize, LedgerSettings, ManagementRole, RateFallback, Settings,
};
use crate::domain::Clock;
use crate::domain::crypto::Sealer;
use crate::fleet::ChangeListener;
use crate::fleet::postgres::PostgresChanges;
use crate::limit::{self, LimitSettings};
use crate::listen::FrontSettings;
use crate::management::audit_writer::AuditSettings;
use crate::management::{ManagementSettings, ManagementTokens, Role};
use crate::store::migrate::{MigrationStatus, Schema};
use crate::store::postgres::PostgresOptions;
use crate::store::sqlite::{SqliteLocation, SqliteOptions};
use crate::store::{self, Fsync, SealedKeys, Store, StoreError};
use crate::telemetry::{LogFormat, LogSettings};

/// Where the process listens in fact.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The proxy listeners.
    pub proxy: Vec<SocketAddr>,
    /// The sidecar.
    pub management: Option<SocketAddr>,
}

/// Every live setting that is kept outside the snapshot, so that a reload can swap it.
#[derive(Debug)]
pub struct LiveSettings {
    /// Of the connection front.
    pub front: Arc<ArcSwap<FrontSettings>>,
    /// Of the authenticator.
    pub auth: Arc<ArcSwap<AuthSettings>>,
    /// Of the limiter.
    pub limits: Arc<ArcSwap<LimitSettings>>,
    /// Of the ledger.
    pub ledger: Arc<ArcSwap<LedgerSettings>>,
    /// Of the store.
    pub fsync: Fsync,
}

impl LiveSettings {
    /// From the first configuration.
    pub fn new(settings: &Settings, fsync: Fsync) -> Self {
        Self {
            front: Arc::new(ArcSwap::from_pointee(front_settings(settings))),
            auth: Arc::new(ArcSwap::from_pointee(auth_settings(settings))),
            limits: Arc::new(ArcSwap::from_pointee(limit_settings(settings))),
            ledger: Arc::new(ArcSwap::from_pointee(settings.ledger.clone())),
            fsync,
        }
    }

    /// After a good reload.
    pub fn apply(&self, settings: &Settings) {
        self.front.store(Arc::new(front_settings(settings)));
        self.auth.store(Arc::new(auth_settings(settings)));
        self.limits.store(Arc::new(limit_settings(settings)));
        self.ledger.store(Arc::new(settings.ledger.clone()));
        self.fsync.set(settings.ledger.fsync);
    }
}

fn front_settings(settings: &Settings) -> FrontSettings {
    let server = &settings.server;
    FrontSettings {
        header_timeout: server.header_timeout,
        keepalive_timeout: server.keepalive_timeout,
        max_header_bytes: server.max_header_bytes,
        max_headers: server.max_headers,
        max_connections: server.max_connections,
    }
}

fn auth_settings(settings: &Settings) -> AuthSettings {
    let auth = &settings.auth;
    AuthSettings {
        known_tokens: auth.known_tokens,
        unknown_tokens: auth.unknown_tokens,
        store_timeout: auth.store_timeout,
        max_stale: auth.max_stale,
        failed_per_ip: auth.failed_per_ip,
    }
}

fn limit_settings(settings: &Settings) -> LimitSettings {
    let limits = &settings.limits;
    LimitSettings {
        global: limits.global,
        per_ip: limits.per_ip,
        default_token: limits.default_token,
        default_project: limits.default_project,
        budgets: limit::BudgetDefaults {
            installation: settings.budgets.installation,
            default_project: settings.budgets.default_project,
            default_token: settings.budgets.default_token,
        },
        shared: limits.distributed.enabled,
        prefix: limits.distributed.prefix.clone(),
        fallback: match limits.distributed.fallback {
            RateFallback::Local => limit::Fallback::Local,
            RateFallback::Refuse => limit::Fallback::Refuse,
        },
        fleet_size: match limits.distributed.fleet_size {
            FleetSize::Auto => limit::FleetSize::Auto,
            FleetSize::Fixed(count) => limit::FleetSize::Fixed(count),
        },
        redis_timeout: settings.redis.timeout,
        store_timeout: settings.auth.store_timeout,
    }
}

/// The control plane's settings; the sidecar's address is known once it is bound.
pub fn management_settings(settings: &Settings, sidecar: Option<SocketAddr>) -> ManagementSettings {
    let management = &settings.management;
    let mut tokens = management
        .token
        .as_ref()
        .map_or_else(ManagementTokens::default, ManagementTokens::main);
    for extra in &management.tokens {
        let role = match extra.role {
            ManagementRole::Admin => Role::Admin,
            ManagementRole::Viewer => Role::Viewer,
            ManagementRole::Metrics => Role::Metrics,
        };
        tokens = tokens.and(&extra.name, &extra.token, role);
    }
    ManagementSettings {
        tokens,
        metrics_enabled: management.metrics.enabled,
        metrics_path: management.metrics.path.clone(),
        sidecar,
    }
}

/// Seals provider keys with the configured key, or passes them through.
pub fn sealer(settings: &Settings) -> Result<Sealer> {
    // without any key the configuration has warned about it
    let encryption = &settings.encryption;
    Sealer::with_keys(&encryption.keys, encryption.key.as_ref()).context("encryption")
}

fn sqlite_options(settings: &Settings, clock: &Arc<dyn Clock>) -> SqliteOptions {
    let location = if settings.database.is_in_memory() {
        SqliteLocation::Memory
    } else {
        SqliteLocation::File(settings.database.path.clone())
    };
    SqliteOptions {
        location,
        state_dir: settings.server.state_dir.clone(),
        timeout: settings.auth.store_timeout,
        fsync: Fsync::new(settings.ledger.fsync),
        clock: Arc::clone(clock),
    }
}

/// The provider keys at rest, beside a server that may run.
pub fn sealed_keys(settings: &Settings, runtime: &Handle) -> Result<Arc<dyn SealedKeys>, StoreError> {
    let clock = crate::domain::SystemClock::shared();
    match settings.database.driver {
        DatabaseDriver::Sqlite => Ok(store::sqlite::sealed_keys(
            sqlite_options(settings, &clock).location,
        )),
        DatabaseDriver::Postgres => {
            store::postgres::sealed_keys(&postgres_options(settings, &clock, runtime))
        }
    }
}

fn postgres_options(settings: &Settings, clock: &Arc<dyn Clock>, runtime: &Handle) -> PostgresOptions {
    PostgresOptions {
        url: settings.database.url.clone().unwrap_or_default(),
        pool_size: settings.database.pool_size,
        timeout: settings.database.timeout,
        runtime: runtime.clone(),
        fsync: Fsync::new(settings.ledger.fsync),
        clock: Arc::clone(clock),
    }
}

/// The schema of the configured database.
pub fn schema(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Arc<dyn Schema>, StoreError> {
    match settings.database.driver {
        DatabaseDriver::Sqlite => {
            let options = sqlite_options(settings, clock);
            Ok(store::sqlite::schema(options.location, options.clock))
        }
        DatabaseDriver::Postgres => store::postgres::schema(&postgres_options(settings, clock, runtime)),
    }
}

/// Opens the configured database. PostgreSQL may be away: it is then tried again and again.
pub fn open_store(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Store, StoreError> {
    match settings.database.driver {
        DatabaseDriver::Sqlite => store::sqlite::open(&sqlite_options(settings, clock)),
        DatabaseDriver::Postgres => store::postgres::open(&postgres_options(settings, clock, runtime)),
    }
}

/// Migrations of the configured database, for the command line.
pub fn migrate(settings: &Settings, up: bool) -> Result<Vec<MigrationStatus>> {
    let runtime = super::runtime::control()?;
    let clock = crate::domain::SystemClock::shared();
    let schema = schema(settings, &clock, runtime.handle())?;
    let rows = runtime.block_on(async {
        if up {
            schema.up().await?;
        }
        schema.status().await
    })?;
    Ok(rows)
}

/// Writes a small file whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

/// How long a database that is away at start is left alone between tries.
pub const STORE_RETRY: Duration = Duration::from_secs(1);

/// Hears what other instances on the same PostgreSQL change; SQLite has no other instance.
pub fn remote_changes(
    settings: &Settings,
    listener: Arc<dyn ChangeListener>,
) -> Result<Option<PostgresChanges>> {
    let database = &settings.database;
    if database.driver != DatabaseDriver::Postgres {
        return Ok(None);
    }
    let Some(url) = database.listen_url.as_ref().or(database.url.as_ref()) else {
        return Ok(None);
    };
    let connector = store::postgres::Connector::new(url, database.timeout).context("database.listen_url")?;
    let connect = Arc::new(move || -> BoxFuture<'static, _> {
        let connector = connector.clone();
        Box::pin(async move { connector.dedicated().await.map_err(|error| error.to_string()) })
    });
    Ok(Some(PostgresChanges {
        connect,
        listener,
        timeout: database.timeout,
    }))
}

/// The audit writer's settings.
pub fn audit_settings(settings: &Settings) -> AuditSettings {
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

/// The log's settings.
pub fn log_settings(settings: &Settings) -> LogSettings {
    let logging = &settings.logging;
    LogSettings {
        level: logging.level,
        format: match logging.format {
            config::LogFormat::Json => LogFormat::Json,
            config::LogFormat::Text => LogFormat::Text,
        },
        access_log: logging.access_log,
        file: logging.file.clone(),
        max_file_bytes: logging.max_file_bytes,
        max_backups: logging.max_backups,
        directives: logging.directives.clone(),
    }
}
