//! Everything the handlers may use, built once by `app`.

use std::sync::Arc;
use std::time::Duration;

use super::ports::{
    AuditTrail, CacheAdmin, ConfigView, MetricsView, ModelView, ProviderView, Readiness, UsageFlush,
};
use crate::domain::crypto::Sealer;
use crate::domain::{Clock, NanoUsd};
use crate::fleet::ChangeListener;
use crate::store::{AuditStore, Grants, LedgerStore, Paged, ProjectStore, StoreError, TokenStore};

/// The services of the control plane.
pub struct Services {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Projects.
    pub projects: Arc<dyn ProjectStore>,
    /// Tokens.
    pub tokens: Arc<dyn TokenStore>,
    /// Audit events that can be read back; absent: the audit paths answer 503.
    pub audit_store: Option<Arc<dyn AuditStore>>,
    /// Grants of limited tokens.
    pub grants: Arc<dyn Grants>,
    /// Seals provider keys.
    pub sealer: Arc<Sealer>,
    /// Hears of every write before it is answered.
    pub changes: Arc<dyn ChangeListener>,
    /// Usage records.
    pub ledger: Arc<dyn LedgerStore>,
    /// Counters that are not in the store yet.
    pub usage: Arc<dyn UsageFlush>,
    /// Takes audit events.
    pub audit: Arc<dyn AuditTrail>,
    /// The running configuration.
    pub configuration: Arc<dyn ConfigView>,
    /// The configured providers.
    pub providers: Arc<dyn ProviderView>,
    /// The configured models.
    pub models: Arc<dyn ModelView>,
    /// The HTTP cache.
    pub cache: Arc<dyn CacheAdmin>,
    /// Metrics.
    pub metrics: Arc<dyn MetricsView>,
    /// The truth of `/ready`.
    pub readiness: Arc<dyn Readiness>,
}

/// What handlers are given.
pub type Shared = Arc<Services>;

impl Services {
    /// What a token or a project has spent in all.
    pub async fn spent(&self, subject: &(dyn std::fmt::Display + Sync)) -> Result<NanoUsd, StoreError> {
        let subject = subject.to_string();
        let spent = self.ledger.spent(vec![subject.clone()]).await?;
        Ok(spent.get(&subject).copied().unwrap_or_default())
    }

    /// Rows with what each has spent in all.
    pub async fn with_spent<T>(
        &self,
        paged: Paged<T>,
        subject: impl Fn(&T) -> String,
    ) -> Result<Paged<(T, NanoUsd)>, StoreError> {
        let subjects: Vec<String> = paged.rows.iter().map(&subject).collect();
        let spent = self.ledger.spent(subjects).await?;
        let rows = paged
            .rows
            .into_iter()
            .map(|row| {
                let amount = spent.get(&subject(&row)).copied().unwrap_or_default();
                (row, amount)
            })
            .collect();
        Ok(Paged {
            rows,
            total: paged.total,
        })
    }

    /// Brings the counters of tokens into the store, as far as that works within a second; what is read next
    /// is then true.
    pub async fn flush_counters(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let flush = async {
            self.usage.flush().await;
            self.grants.flush().await
        };
        match tokio::time::timeout(PATIENCE, flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log::warn!(reason = error.kind(); "counters of tokens shown may be behind: {error}");
            }
            Err(_) => log::warn!("counters of tokens shown may be behind: writing them takes too long"),
        }
    }
}
