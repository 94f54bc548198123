//! Looks at everything a server needs, one check after another, and says what is wrong and what to do.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::wiring::{LiveSettings, migrate};
use crate::config::{DatabaseDriver, Loaded, ProviderSource, Settings};
use crate::domain::{Dialect, SystemClock};
use crate::limit::RedisRates;
use crate::listen::bind;
use crate::proxy::model_lists::probe;
use crate::store::{Fsync, StoreError};
use crate::upstream::target::TlsFault;
use crate::upstream::{ConnectFailure, Provider, Upstreams};

/// Free space below which a database is in danger.
const LITTLE_SPACE: u64 = 200 << 20;
/// How long Redis and a provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, and a person should know.
    Warning,
    /// It does not work.
    Failure,
}

impl Verdict {
    /// Its word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was looked at, such as `provider openai`.
    pub check: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn good(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict: Verdict::Good,
            found: found.into(),
            remedy: String::new(),
        }
    }

    /// It does not work.
    pub fn failure(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Failure,
            remedy: remedy.into(),
            ..Self::good(check, found)
        }
    }

    /// It works, and a person should know.
    pub fn warning(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warning,
            ..Self::failure(check, found, remedy)
        }
    }
}

/// Every check that needs no running server. `own_pid`: the server's, if one runs with this configuration.
pub fn examine(loaded: &Loaded, own_pid: Option<u32>) -> anyhow::Result<Vec<Finding>> {
    let settings = &loaded.settings;
    let mut findings = configuration(loaded);
    findings.extend(ports(settings, own_pid));
    findings.extend(store(settings));
    findings.extend(space(settings));
    crate::upstream::target::install_tls_provider();
    let runtime = super::runtime::control()?;
    findings.extend(runtime.block_on(redis(settings)));
    match Upstreams::new(SystemClock::shared()).catalogue(settings) {
        Ok(catalogue) => runtime.block_on(async {
            for provider in catalogue.providers() {
                let in_file = settings
                    .providers
                    .iter()
                    .any(|one| one.name == *provider.name && one.source == ProviderSource::File);
                if in_file || provider.has_key() || Arc::ptr_eq(provider, catalogue.default_provider()) {
                    findings.push(upstream(provider).await);
                }
            }
        }),
        Err(error) => findings.push(Finding::failure(
            "providers",
            error.to_string(),
            "correct the configuration",
        )),
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(findings)
}

fn configuration(loaded: &Loaded) -> Vec<Finding> {
    let place = loaded.path.as_ref().map_or_else(
        || "no file: built-in defaults and the environment".to_owned(),
        |path| format!("`{}`", path.display()),
    );
    let mut findings = vec![Finding::good("configuration", place)];
    for warning in &loaded.warnings {
        findings.push(Finding::warning(
            "configuration",
            warning.as_str(),
            "see docs/configuration.md",
        ));
    }
    for key in &loaded.inactive_keys {
        findings.push(Finding::warning(
            "configuration",
            format!("`{key}` is set and not active in this version"),
            "remove it, or know that it does nothing",
        ));
    }
    let mut private: Vec<&Path> = loaded
        .watched_files
        .iter()
        .map(std::path::PathBuf::as_path)
        // the YAML may be read by all: its secrets belong into files of their own
        .filter(|file| !is_same(file, loaded.path.as_deref()))
        .collect();
    if loaded.settings.database.driver == DatabaseDriver::Sqlite {
        private.push(&loaded.settings.database.path);
    }
    for file in private {
        let Ok(data) = std::fs::metadata(file) else {
            continue;
        };
        if data.permissions().mode() & 0o007 != 0 {
            findings.push(Finding::warning(
                "file modes",
                format!("every user of this machine can read `{}`", file.display()),
                format!("chmod 600 {}", file.display()),
            ));
        }
    }
    findings
}

fn is_same(one: &Path, other: Option<&Path>) -> bool {
    other.is_some_and(|other| one == other || one.canonicalize().ok() == other.canonicalize().ok())
}

fn ports(settings: &Settings, own_pid: Option<u32>) -> Vec<Finding> {
    let proxy = settings
        .server
        .listen
        .iter()
        .map(|address| ("proxy listener", address));
    let sidecar = settings
        .management
        .listen
        .iter()
        .map(|address| ("management listener", address));
    let ours = own_pid.map(|pid| format!("pid {pid} ("));
    proxy
        .chain(sidecar)
        .map(|(check, address)| match bind(&address.to_string()) {
            Ok(listener) => {
                drop::<TcpListener>(listener);
                Finding::good(check, format!("`{address}` is free"))
            }
            Err(error) => {
                let text = error.to_string();
                if ours.as_ref().is_some_and(|ours| text.contains(ours.as_str())) {
                    Finding::good(check, format!("`{address}` is held by the running server"))
                } else {
                    Finding::failure(
                        check,
                        text,
                        "stop the program that holds it, or choose another address",
                    )
                }
            }
        })
        .collect()
}

fn store(settings: &Settings) -> Vec<Finding> {
    let database = &settings.database;
    let check = format!("store ({})", database.driver.name());
    if database.is_in_memory() {
        return vec![Finding::warning(
            check,
            "the database is in memory: nothing survives the process",
            "set `database.path` to a file",
        )];
    }
    if database.driver == DatabaseDriver::Sqlite && !database.path.exists() {
        return vec![Finding::good(
            check,
            format!("`{}` is made at the first start", database.path.display()),
        )];
    }
    let rows = match migrate(settings, false) {
        Ok(rows) => rows,
        Err(error) => {
            let remedy = match error.downcast_ref::<StoreError>() {
                Some(StoreError::Damaged(_)) => "restore a backup: llm-proxy restore FILE",
                Some(StoreError::NewerSchema { .. }) => {
                    "use the newer program that made it, or restore an older backup"
                }
                Some(StoreError::ReadOnly(_)) => {
                    "make the file and its folder writable for the server's user"
                }
                Some(StoreError::Full(_)) => "free space on its disk",
                _ if database.driver == DatabaseDriver::Postgres => {
                    "see that PostgreSQL runs, and that host, user, password and database of `database.url` are right"
                }
                _ => "see that the path is right and belongs to the server's user",
            };
            return vec![Finding::failure(check, format!("{error:#}"), remedy)];
        }
    };
    let missing = rows.iter().filter(|row| row.applied_at.is_none()).count();
    vec![if missing == 0 {
        Finding::good(
            check,
            format!("reached; all {} migrations are applied", rows.len()),
        )
    } else {
        Finding::warning(
            check,
            format!("reached; {missing} migrations are missing"),
            "they are applied at the next start, or by `llm-proxy migrate up`",
        )
    }]
}

fn space(settings: &Settings) -> Vec<Finding> {
    let mut folders = vec![settings.server.state_dir.clone()];
    if settings.database.driver == DatabaseDriver::Sqlite
        && let Some(folder) = settings.database.path.parent()
    {
        folders.push(folder.to_owned());
    }
    folders.dedup();
    folders
        .iter()
        .filter_map(|folder| {
            let stat = rustix::fs::statvfs(folder.as_path()).ok()?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{} MiB are free at `{}`", free >> 20, folder.display());
            Some(if free < LITTLE_SPACE {
                Finding::failure("disk", found, "free space: a full disk refuses every change")
            } else {
                Finding::good("disk", found)
            })
        })
        .collect()
}

async fn redis(settings: &Settings) -> Option<Finding> {
    let url = settings.redis.url.as_ref()?;
    let limits = LiveSettings::new(settings, Fsync::default()).limits;
    let runtime = tokio::runtime::Handle::current();
    Some(
        match RedisRates::connect(url, &runtime, SystemClock::shared(), limits) {
            Err(error) => Finding::failure("redis", error.to_string(), "correct `redis.url`"),
            Ok(rates) => {
                let joined = rates.joined_within(Duration::from_secs(3)).await;
                rates.leave().await;
                if joined {
                    Finding::good("redis", "it answers")
                } else {
                    Finding::failure(
                        "redis",
                        "no answer within 3 s: rates fall back to `limits.distributed.fallback`",
                        "see that Redis runs, and that address and password of `redis.url` are right",
                    )
                }
            }
        },
    )
}

async fn upstream(provider: &Provider) -> Finding {
    let check = format!("provider {}", provider.name);
    if provider.dialect == Dialect::Demo {
        return Finding::good(check, "the built-in demonstration");
    }
    let has_key = provider.has_key();
    let base = &provider.address_text;
    let mut probed = tokio::time::timeout(PATIENCE, probe(provider)).await;
    if provider.is_tls() && !matches!(probed, Ok(Ok(_))) && speaks_plain_http(&provider.authority).await {
        probed = Ok(Err(ConnectFailure::Tls(TlsFault::NotTls)));
    }
    let (found, remedy) = match probed {
        Ok(Ok(401 | 403)) if has_key => (
            format!("`{base}` refuses the key"),
            "set a valid `api_key`: requests without a project's own key fail with `upstream_auth_error`"
                .to_owned(),
        ),
        Ok(Ok(status)) => {
            let found = format!("`{base}` answers (status {status} for its model list)");
            return if has_key {
                Finding::good(check, found)
            } else {
                Finding::warning(
                    check,
                    format!("{found}; no key is configured"),
                    "only projects with an own key can use it; set `api_key` for the others",
                )
            };
        }
        Ok(Err(ConnectFailure::Name)) => (
            format!("the name in `{base}` has no address"),
            "see `base_url`, and that this machine's DNS works".to_owned(),
        ),
        Ok(Err(ConnectFailure::Refused)) => (
            format!("nobody listens at `{base}`"),
            "see `base_url` and its port, and that the provider runs".to_owned(),
        ),
        Ok(Err(ConnectFailure::Tls(fault))) => (
            format!("no TLS with `{base}`: {}", fault.as_str()),
            match fault {
                TlsFault::Untrusted => "set `ca_file` to the authority that signed it, as PEM",
                TlsFault::Expired => "see the clock of this machine; else its owner must renew it",
                TlsFault::OtherName => "write the name of the certificate into `base_url`",
                TlsFault::NotTls => "write `http://` into `base_url`, or the port where TLS is spoken",
                TlsFault::Handshake => {
                    "see that it speaks TLS 1.2 or 1.3 there, and that no proxy is in between"
                }
            }
            .to_owned(),
        ),
        Ok(Err(ConnectFailure::Unusable(why))) => (why, "correct the configuration".to_owned()),
        Ok(Err(ConnectFailure::Timeout)) | Err(_) => (
            format!("no answer from `{base}` in time"),
            "see that a firewall or proxy lets this machine out".to_owned(),
        ),
        Ok(Err(ConnectFailure::Network)) => (
            format!("the network has no way to `{base}`, or its answer was no HTTP"),
            "see `base_url`, and the routes of this machine".to_owned(),
        ),
    };
    Finding::failure(check, found, remedy)
}

/// Whether plain HTTP is answered where TLS is expected.
async fn speaks_plain_http(authority: &HeaderValue) -> bool {
    let Ok(authority) = authority.to_str() else {
        return false;
    };
    let address = if authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        authority.to_owned()
    } else {
        format!("{authority}:443")
    };
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"HEAD / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut beginning = [0; 5];
        stream.read_exact(&mut beginning).await.ok()?;
        Some(&beginning == b"HTTP/")
    };
    let answered = tokio::time::timeout(Duration::from_secs(2), ask).await;
    matches!(answered, Ok(Some(true)))
}
