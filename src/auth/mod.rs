//! Who is calling: finds, hashes and verifies the credential of a request.

mod changes;
mod credential;
mod directory;
mod failures;
mod principal;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::domain::crypto::Sealer;
use crate::domain::denial::LimitScope;
use crate::domain::{Clock, Denial, DenialCode, TokenHash};
use crate::fleet::{ChangeListener, Changed};
use crate::store::TokenStore;

pub use credential::{CREDENTIAL_HEADERS, credential_hash};
pub use principal::Principal;

use directory::{Directory, Found, Recall};
use failures::Failures;

/// Bounds of what is kept in memory, and of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthSettings {
    /// Credentials kept with their principals; above it the least used are read again when they come back.
    pub known_tokens: usize,
    /// Unknown credentials remembered; above it the least used are looked up again.
    pub unknown_tokens: usize,
    /// How long one read of the store may take.
    pub store_timeout: Duration,
    /// How long known tokens are served while the store is away (one second at least).
    pub max_stale: Duration,
    /// Unknown credentials a minute from one address before they are refused without a look-up; 0 = any.
    pub failed_per_ip: u32,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            known_tokens: 100_000,
            unknown_tokens: 100_000,
            store_timeout: Duration::from_secs(2),
            max_stale: Duration::from_hours(1),
            failed_per_ip: 60,
        }
    }
}

/// A refusal, and whom it concerns when that is known (revoked, expired, project inactive), for the audit.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What the client is told.
    pub denial: Denial,
    /// Whose credential it was.
    pub principal: Option<Arc<Principal>>,
}

impl From<Refused> for Denial {
    fn from(refused: Refused) -> Self {
        refused.denial
    }
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        Self {
            denial,
            principal: None,
        }
    }
}

/// How full the memory is and how often the store was asked, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthStatistics {
    /// Credentials kept with their principals.
    pub known_tokens: usize,
    /// Unknown credentials remembered.
    pub unknown_tokens: usize,
    /// Reads of the store.
    pub store_reads: u64,
    /// Reads that failed.
    pub store_failures: u64,
    /// Unknown credentials refused without a look-up because their address sent too many.
    pub throttled: u64,
}

/// Verifies credentials: from memory for known ones, from the store for new ones.
pub struct Authenticator {
    directory: Arc<Directory>,
    failures: Failures,
    clock: Arc<dyn Clock>,
    settings: Arc<ArcSwap<AuthSettings>>,
    throttled: AtomicU64,
    changed: watch::Sender<()>,
}

impl Authenticator {
    /// An authenticator that knows nobody yet.
    pub fn new(
        store: Arc<dyn TokenStore>,
        sealer: Arc<Sealer>,
        clock: Arc<dyn Clock>,
        settings: Arc<ArcSwap<AuthSettings>>,
    ) -> Self {
        Self {
            directory: Arc::new(Directory::new(store, sealer, clock.clone(), settings.clone())),
            failures: Failures::new(),
            clock,
            settings,
            throttled: AtomicU64::new(0),
            changed: watch::Sender::new(()),
        }
    }

    /// Wakes whoever waits for the next change of a token or project.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whose credential this is. Does not suspend for a known token; else reads the store, once at a time
    /// per credential, for `store_timeout` at most. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// 401 `token_not_found`, `token_inactive`, `token_expired`; 403 `project_inactive`; 429
    /// `rate_limit_exceeded` for an unknown credential from an address that sent too many; 503
    /// `store_unavailable`.
    pub async fn authenticate(&self, hash: TokenHash, client: IpAddr) -> Result<Arc<Principal>, Refused> {
        let now = self.clock.monotonic();
        let principal = match self.directory.recall(hash, now) {
            Recall::Serve(principal) => principal,
            Recall::ReadAgain => Box::pin(self.read(hash, client, None)).await?,
            Recall::ReadAgainOrServe(principal) => Box::pin(self.read(hash, client, Some(principal))).await?,
            Recall::Never => {
                self.admit_unknown(hash, client, now)?;
                Box::pin(self.read(hash, client, None)).await?
            }
        };
        match principal.check_alive(self.clock.now()) {
            Ok(()) => Ok(principal),
            Err(denial) => Err(Refused {
                denial,
                principal: Some(principal),
            }),
        }
    }

    /// Tells that the store answered someone else (a health probe), so that known tokens count as verified.
    pub fn store_answered(&self) {
        self.directory.store_answered(self.clock.monotonic());
    }

    /// For metrics.
    pub fn statistics(&self) -> AuthStatistics {
        AuthStatistics {
            known_tokens: self.directory.known_len(),
            unknown_tokens: self.directory.unknown_len(),
            store_reads: self.directory.store_reads.load(Ordering::Relaxed),
            store_failures: self.directory.store_failures.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
        }
    }

    fn admit_unknown(&self, hash: TokenHash, client: IpAddr, now: Duration) -> Result<(), Denial> {
        let per_minute = self.settings.load().failed_per_ip;
        if let Some(wait) = self.failures.wait(client, now, per_minute) {
            self.throttled.fetch_add(1, Ordering::Relaxed);
            return Err(Denial::new(
                DenialCode::RateLimitExceeded,
                format!("too many unknown tokens came from this address; it may send {per_minute} a minute"),
            )
            .with_retry_after(wait)
            .with_scope(LimitScope::Ip));
        }
        if self.directory.is_unknown(hash, now) {
            self.failures.charge(client, now, per_minute);
            return Err(not_found());
        }
        Ok(())
    }

    async fn read(
        &self,
        hash: TokenHash,
        client: IpAddr,
        otherwise: Option<Arc<Principal>>,
    ) -> Result<Arc<Principal>, Denial> {
        match self.directory.look_up(hash).await {
            Found::Principal(principal) => Ok(principal),
            Found::Nobody => {
                let per_minute = self.settings.load().failed_per_ip;
                self.failures.charge(client, self.clock.monotonic(), per_minute);
                Err(not_found())
            }
            Found::Unavailable => otherwise.ok_or_else(unavailable),
        }
    }
}

impl ChangeListener for Authenticator {
    fn changed(&self, change: Changed) {
        self.directory.changes.note(change);
        self.changed.send_replace(());
    }
}

fn not_found() -> Denial {
    Denial::new(
        DenialCode::TokenNotFound,
        "this token is not known here; check that it was copied whole and belongs to this proxy",
    )
}

fn unavailable() -> Denial {
    Denial::new(
        DenialCode::StoreUnavailable,
        "the token cannot be verified now because the store does not answer; try again",
    )
    .with_retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
