//! What the control plane asks, answered by the services that know.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::cache::{self, ResponseCache};
use crate::config::{self, Strategy};
use crate::domain::{Clock, Dialect};
use crate::listen::Drain;
use crate::live::reload::{Reloader, Trigger};
use crate::live::{Live, Snapshot};
use crate::management::ports::{
    CacheAdmin, CacheStats, ConfigView, Cooldown, KeyEntry, KeyState, MetricsView, ModelEntry, ModelTarget,
    ModelView, ProviderEntry, ProviderHealth, ProviderView, Purge, PurgeOutcome, ReloadAnswer, TargetEntry,
    UsageFlush,
};
use crate::management::{self, Listener};
use crate::metering::UsageCounters;
use crate::proxy::model_lists::ModelLists;
use crate::proxy::{self, DrainView};
use crate::telemetry::Metrics;
use crate::upstream::BreakerSnapshot;

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
                            reason: target.reason.to_owned(),
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
                    waiting: u64::from(provider.waiting),
                    targets: provider.targets.into_iter().map(target_entry).collect(),
                    keys: provider
                        .keys
                        .into_iter()
                        .map(|key| KeyEntry {
                            id: key.id,
                            state: key.benched.map_or("ok", |(_, fault)| fault).to_owned(),
                            until: key.benched.map(|(left, _)| wall.plus(left)),
                            waiting: u64::from(key.waiting),
                        })
                        .collect(),
                }
            })
            .collect()
    }

    fn default_provider(&self) -> String {
        self.live.snapshot().catalogue.default_provider().name.to_string()
    }

    fn has_configured_key(&self, name: &str) -> Option<bool> {
        self.live
            .snapshot()
            .catalogue
            .provider(name)
            .map(|provider| provider.has_key())
    }
}

fn target_entry(target: BreakerSnapshot) -> TargetEntry {
    TargetEntry {
        model: target.model,
        state: target.state.to_owned(),
        failures: target.failures,
        in_flight: u64::from(target.in_flight),
        latency_ms: target.latency.map(|latency| latency.as_micros() as f64 / 1000.0),
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
                    Strategy::LeastBusy => "least_busy".to_owned(),
                    Strategy::LowestLatency => "lowest_latency".to_owned(),
                },
                context_window: model.context_window,
                max_output_tokens: model.max_output_tokens,
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
    pub cache: Arc<ResponseCache>,
    pub model_lists: Arc<ModelLists>,
}

#[async_trait]
impl CacheAdmin for CacheView {
    async fn purge(&self, purge: Purge) -> PurgeOutcome {
        if !self.live.snapshot().settings.cache.enabled {
            return PurgeOutcome::Disabled;
        }
        let mut lists = 0;
        let purge = match purge {
            Purge::Url {
                method,
                path_and_query,
                project,
            } => {
                if method == "GET" && path_and_query == "/v1/models" {
                    lists = u64::from(self.model_lists.purge());
                }
                cache::Purge::address(&method, &path_and_query, project)
            }
            Purge::Prefix(prefix) => cache::Purge::key_prefix(&prefix),
            Purge::Project(project) => cache::Purge::Project(project),
            Purge::All => {
                self.model_lists.purge();
                cache::Purge::All
            }
        };
        PurgeOutcome::Deleted(self.cache.purge(&purge) + lists)
    }

    fn stats(&self) -> CacheStats {
        let stats = self.cache.stats();
        CacheStats {
            enabled: self.live.snapshot().settings.cache.enabled,
            backend: "memory",
            entries: stats.store.entries,
            bytes: stats.store.bytes,
            max_bytes: stats.store.max_bytes,
            hits: stats.hits,
            misses: stats.misses,
            stores: stats.stores,
            bypasses: stats.bypasses,
            coalesced: stats.coalesced,
            followers: stats.followers,
        }
    }
}

/// Counters of tokens that are still in memory.
pub struct CountersView(pub Arc<UsageCounters>);

#[async_trait]
impl UsageFlush for CountersView {
    async fn flush(&self) {
        if let Err(error) = self.0.flush().await {
            log::warn!(reason = error.kind(); "counters of tokens could not be written: {error}");
        }
    }
}

/// Metrics.
pub struct NumbersView(pub Arc<Metrics>);

impl MetricsView for NumbersView {
    fn prometheus(&self) -> String {
        self.0.prometheus()
    }

    fn json(&self) -> Value {
        self.0.json()
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
    proxy::own_paths::OwnResponse {
        status: response.status,
        headers: response.headers,
        body: response.body,
    }
}

/// Whether requests are still served.
pub struct Ending(pub Arc<Drain>);

impl DrainView for Ending {
    fn refuses_requests(&self) -> bool {
        self.0.refusing_flag().load(std::sync::atomic::Ordering::Acquire)
    }
}
