//! What the control plane asks, answered by the services that know.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::cache::MemoryStorage;
use crate::config::{self, Strategy};
use crate::domain::{Clock, Dialect};
use crate::listen::{Drain, FrontCounters};
use crate::live::reload::{Reloader, Trigger};
use crate::live::{Live, Snapshot};
use crate::management::ports::{
    CacheAdmin, CacheStats, ConfigView, Cooldown, KeyState, MetricsView, ModelEntry, ModelTarget, ModelView,
    ProviderEntry, ProviderHealth, ProviderView, Purge, PurgeOutcome, ReloadAnswer, UsageFlush,
};
use crate::management::{self, Listener};
use crate::metering::UsageCounters;
use crate::proxy::model_lists::ModelLists;
use crate::proxy::{self, DrainView};
use crate::telemetry::Metrics;

/// `GET /manage/config` and its reload.
pub struct ConfigurationView(pub Arc<Reloader<Snapshot>>);

#[async_trait]
impl ConfigView for ConfigurationView {
    fn show(&self) -> Value {
        let running = self.0.running();
        json!({
            "generation": self.0.live().generation(),
            "file": running.path,
            "configuration": config::show(&running),
            "not_active": running.inactive_keys,
            "warnings": running.warnings,
            "last_reload": *self.0.last_outcome(),
        })
    }

    async fn reload(&self) -> ReloadAnswer {
        let outcome = self.0.reload(Trigger::Api).await;
        if outcome.ok {
            return ReloadAnswer::Applied(serde_json::to_value(&*outcome).unwrap_or_default());
        }
        let mut errors: Vec<String> = outcome.faults.iter().map(ToString::to_string).collect();
        if errors.is_empty() {
            errors.extend(outcome.error.clone());
        }
        ReloadAnswer::Refused(errors)
    }
}

/// Providers and models of the running configuration.
pub struct CatalogueView {
    pub live: Arc<Live<Snapshot>>,
    pub clock: Arc<dyn Clock>,
}

impl ProviderView for CatalogueView {
    fn list(&self) -> Vec<ProviderEntry> {
        let snapshot = self.live.snapshot();
        let catalogue = &snapshot.catalogue;
        let wall = self.clock.now();
        let default = &*catalogue.default_provider().name;
        catalogue
            .snapshot(self.clock.monotonic())
            .into_iter()
            .map(|provider| {
                let cooldowns: Vec<Cooldown> = provider
                    .targets
                    .iter()
                    .filter_map(|target| {
                        Some(Cooldown {
                            model: Some(target.model.clone()).filter(|model| !model.is_empty()),
                            until: wall.plus(target.cooling_for?),
                            reason: "failures".to_owned(),
                        })
                    })
                    .collect();
                let health = if cooldowns.is_empty() {
                    ProviderHealth::Healthy
                } else if cooldowns.len() < provider.targets.len() {
                    ProviderHealth::Degraded
                } else {
                    ProviderHealth::CoolingDown
                };
                ProviderEntry {
                    default: provider.name == default,
                    key: match (provider.dialect, provider.has_key) {
                        (Dialect::Demo, _) => KeyState::NotNeeded,
                        (_, true) => KeyState::Configured,
                        (_, false) => KeyState::Missing,
                    },
                    name: provider.name,
                    dialect: provider.dialect,
                    base_url: provider.base_url,
                    health,
                    cooldowns,
                    in_flight: u64::from(provider.in_flight),
                }
            })
            .collect()
    }

    fn default_provider(&self) -> String {
        self.live.snapshot().catalogue.default_provider().name.to_string()
    }

    fn has_configured_key(&self, name: &str) -> Option<bool> {
        self.live.snapshot().catalogue.provider(name).map(|provider| provider.has_key())
    }
}

impl ModelView for CatalogueView {
    fn list(&self) -> Vec<ModelEntry> {
        let settings = Arc::clone(&self.live.snapshot().settings);
        settings
            .models
            .iter()
            .map(|model| ModelEntry {
                name: model.name.clone(),
                strategy: match model.strategy {
                    Strategy::Weighted => "weighted".to_owned(),
                    Strategy::Priority => "priority".to_owned(),
                },
                targets: model
                    .targets
                    .iter()
                    .map(|target| ModelTarget {
                        provider: target.provider.clone(),
                        model: target.model.clone(),
                        weight: target.weight,
                        priority: target.priority,
                    })
                    .collect(),
            })
            .collect()
    }
}

/// The HTTP cache.
pub struct CacheView {
    pub live: Arc<Live<Snapshot>>,
    pub storage: &'static MemoryStorage,
    pub model_lists: Arc<ModelLists>,
    pub metrics: Arc<Metrics>,
}

#[async_trait]
impl CacheAdmin for CacheView {
    async fn purge(&self, purge: Purge) -> PurgeOutcome {
        if !self.live.snapshot().settings.cache.enabled {
            return PurgeOutcome::Disabled;
        }
        let deleted = match purge {
            Purge::Url { method, path_and_query, project } => {
                let lists = path_and_query == "/v1/models" && method == "GET" && self.model_lists.purge();
                let project = project.map(|id| id.to_string());
                self.storage.purge_url(&method, &path_and_query, project.as_deref()) + u64::from(lists)
            }
            Purge::Prefix(prefix) => self.storage.purge_prefix(&prefix),
            Purge::Project(project) => self.storage.purge_project(&project.to_string()),
            Purge::All => {
                self.model_lists.purge();
                self.storage.purge_all()
            }
        };
        PurgeOutcome::Deleted(deleted)
    }

    fn stats(&self) -> CacheStats {
        let storage = self.storage.stats();
        let counted = self.metrics.cache_counts();
        CacheStats {
            enabled: self.live.snapshot().settings.cache.enabled,
            backend: "memory",
            entries: storage.entries,
            bytes: storage.bytes,
            max_bytes: storage.max_bytes,
            hits: counted.hits,
            misses: counted.misses,
            stores: counted.stores,
            bypasses: counted.bypasses,
        }
    }
}

/// Counters of tokens that are still in memory.
pub struct CountersView(pub Arc<UsageCounters>);

#[async_trait]
impl UsageFlush for CountersView {
    async fn flush(&self) {
        self.0.flush().await;
    }
}

/// Metrics, with what is only known elsewhere copied in first.
pub struct NumbersView {
    pub metrics: Arc<Metrics>,
    pub front: Arc<std::sync::OnceLock<Arc<FrontCounters>>>,
    pub drain: Arc<Drain>,
}

impl NumbersView {
    fn refresh(&self) {
        self.metrics.set_open_connections(self.drain.connections().open() as u64);
        if let Some(front) = self.front.get() {
            self.metrics.set_front_counts(
                front.connections_accepted.get(),
                front.connections_refused.get(),
                front.accept_errors.get(),
                front.malformed_heads.get() + front.oversized_heads.get() + front.slow_heads.get(),
            );
        }
    }
}

impl MetricsView for NumbersView {
    fn prometheus(&self) -> String {
        self.refresh();
        self.metrics.prometheus_text()
    }

    fn json(&self) -> Value {
        self.refresh();
        self.metrics.json()
    }
}

/// The sidecar's router, as the data plane sees it.
pub struct HandOver(pub Arc<management::OwnPaths>);

#[async_trait]
impl proxy::own_paths::OwnPaths for HandOver {
    fn owns(&self, path: &str) -> bool {
        self.0.owns(path)
    }

    fn health(&self, path: &str) -> Option<proxy::own_paths::OwnResponse> {
        self.0.health_answer(path, Listener::Proxy).map(translate)
    }

    async fn handle(&self, request: proxy::own_paths::OwnRequest) -> proxy::own_paths::OwnResponse {
        let request = management::OwnRequest {
            method: request.method,
            uri: request.target.parse().unwrap_or_default(),
            headers: request.headers,
            body: request.body,
            client: request.client,
            via: Listener::Proxy,
        };
        translate(self.0.handle(request).await)
    }
}

fn translate(response: management::OwnResponse) -> proxy::own_paths::OwnResponse {
    proxy::own_paths::OwnResponse { status: response.status, headers: response.headers, body: response.body }
}

/// Whether requests are still served.
pub struct Ending(pub Arc<Drain>);

impl DrainView for Ending {
    fn refuses_requests(&self) -> bool {
        self.0.refusing_flag().load(std::sync::atomic::Ordering::Acquire)
    }
}
