//! The providers and models of one configuration, joined with the state that outlives it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::choose::Wheel;
use super::health::{Breaker, BreakerSnapshot, HealthRegistry, TargetKey};
use super::keys::KeyRegistry;
use super::places::{PlaceLimits, Places};
use super::provider::{Provider, UnsendableHeader};
use super::rules::{RequestFacts, check_class_method, endpoint_not_found};
use super::target::{ConnectorRegistry, UnusableCaFile};
use crate::config::{ModelSettings, ProviderSettings, RouterSettings, Settings, UnknownModels};
use crate::domain::{Clock, Denial, Dialect, PathClass};

/// One place where a model is served.
#[derive(Debug, Clone)]
pub struct Target {
    /// Whom to call.
    pub provider: Arc<Provider>,
    /// The provider's name for the model; `None` for calls without one.
    pub model: Option<Arc<str>>,
    /// The public name it stands for, where the operator configured one: what it costs may be said by that name.
    pub public: Option<Arc<str>>,
    /// Tokens its model can read.
    pub context_window: Option<u64>,
    /// Share among equals.
    pub weight: u32,
    /// Under `priority` the lowest number comes first.
    pub priority: u32,
    pub(super) breaker: Arc<Breaker>,
}

/// A public name and where it is served.
#[derive(Debug)]
pub struct Model {
    /// The public name.
    pub name: Arc<str>,
    /// Where it is served, at least one; behind them those of its fallbacks.
    pub(super) all: Vec<Target>,
    /// Its own targets, then those of each fallback.
    pub(super) groups: Vec<Group>,
    /// `timeouts.first_token`.
    pub first_token: Option<Duration>,
    /// Tokens the model can read.
    pub context_window: Option<u64>,
    /// Tokens the model can write.
    pub max_output_tokens: Option<u64>,
}

/// Targets of one public name, as a part of [`Model::all`].
#[derive(Debug)]
pub(super) struct Group {
    pub range: Range<usize>,
    pub wheel: Arc<Wheel>,
}

impl Model {
    /// Its own targets; at least one.
    pub fn targets(&self) -> &[Target] {
        let own = self.groups.first().map_or(0, |group| group.range.end);
        &self.all[..own]
    }
}

/// Providers and models of one configuration; part of a snapshot, immutable.
#[derive(Debug)]
pub struct Catalogue {
    pub(super) providers: Vec<Arc<Provider>>,
    pub(super) default_provider: Arc<Provider>,
    pub(super) unknown_models: UnknownModels,
    pub(super) models: Vec<Arc<Model>>,
    pub(super) by_name: HashMap<Arc<str>, Arc<Model>>,
    pub(super) upstreams: Arc<Upstreams>,
    /// When breakers open, how often and how long requests are tried.
    pub router: Arc<RouterSettings>,
}

/// Why a configuration gives no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A CA file.
    #[error(transparent)]
    CaFile(#[from] UnusableCaFile),
    /// A header or key.
    #[error(transparent)]
    Header(#[from] UnsendableHeader),
    /// A name without a provider.
    #[error("{place}: there is no provider `{name}`")]
    NoProvider {
        /// The key that names it.
        place: String,
        /// The name.
        name: String,
    },
}

/// What lives as long as the process: connection pools and breakers.
pub struct Upstreams {
    clock: Arc<dyn Clock>,
    connectors: ConnectorRegistry,
    pub(super) health: HealthRegistry,
    pub(super) keys: KeyRegistry,
    places: Mutex<HashMap<String, Arc<Places>>>,
}

/// A provider as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSnapshot {
    /// Its name.
    pub name: String,
    /// The wire format it speaks.
    pub dialect: Dialect,
    /// Where it is.
    pub base_url: String,
    /// Whether it can be called without a key of a project.
    pub has_key: bool,
    /// Attempts that run now.
    pub in_flight: u32,
    /// Requests that wait for a place or for the rate of a key.
    pub waiting: u32,
    /// Its keys, without what they are.
    pub keys: Vec<KeySnapshot>,
    /// Its targets: the configured ones and those that are cooling, failing or in use.
    pub targets: Vec<BreakerSnapshot>,
}

/// A key of the installation as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySnapshot {
    /// Its name.
    pub id: String,
    /// How long it is left alone, and why.
    pub benched: Option<(Duration, &'static str)>,
    /// Requests that wait for its rate.
    pub waiting: u32,
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

impl Upstreams {
    /// No pools and no breakers yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            connectors: ConnectorRegistry::default(),
            health: HealthRegistry::default(),
            keys: KeyRegistry::default(),
            places: Mutex::new(HashMap::new()),
        })
    }

    /// The catalogue of a configuration, with the pools and breakers of what did not change. Reads the CA
    /// files that are new; opens no connection.
    pub fn catalogue(self: &Arc<Self>, settings: &Settings) -> Result<Catalogue, CatalogueError> {
        let mut providers = Vec::with_capacity(settings.providers.len());
        for one in &settings.providers {
            let connector = match one.dialect {
                Dialect::Demo => None,
                Dialect::OpenAi | Dialect::Anthropic | Dialect::Azure => {
                    Some(self.connectors.connector(one, &self.clock)?)
                }
            };
            let provider = Provider::new(one, connector, &self.keys, self.places(one))?;
            providers.push(Arc::new(provider));
        }
        let default_provider = find(&providers, &settings.default_provider, || {
            "default_provider".to_owned()
        })?;
        let mut own = Vec::with_capacity(settings.models.len());
        for model in &settings.models {
            own.push(self.own_targets(model, &providers)?);
        }
        let models = settings
            .models
            .iter()
            .map(|model| Arc::new(assemble(model, settings, &own)));
        let models: Vec<Arc<Model>> = models.collect();
        let by_name = models
            .iter()
            .map(|model| (Arc::clone(&model.name), Arc::clone(model)))
            .collect();
        Ok(Catalogue {
            providers,
            default_provider,
            unknown_models: settings.unknown_models,
            models,
            by_name,
            upstreams: Arc::clone(self),
            router: Arc::new(settings.router.clone()),
        })
    }

    /// Places and who waits for them outlive a reload.
    fn places(&self, settings: &ProviderSettings) -> Arc<Places> {
        let limits = PlaceLimits {
            most: settings.max_concurrency,
            queue: settings.max_queue,
        };
        let mut places = self.places.lock();
        places.retain(|name, places| *name == settings.name || Arc::strong_count(places) > 1);
        if let Some(known) = places.get(&settings.name) {
            known.set(limits);
            return Arc::clone(known);
        }
        let new = Places::new(limits);
        places.insert(settings.name.clone(), Arc::clone(&new));
        new
    }

    fn own_targets(
        &self,
        settings: &ModelSettings,
        providers: &[Arc<Provider>],
    ) -> Result<OwnTargets, CatalogueError> {
        let public: Arc<str> = settings.name.as_str().into();
        let mut targets = Vec::with_capacity(settings.targets.len());
        for target in &settings.targets {
            let provider = find(providers, &target.provider, || {
                format!("models.{}.targets", settings.name)
            })?;
            let model: Arc<str> = target.model.as_str().into();
            let breaker = self.health.configured(TargetKey {
                provider: Arc::clone(&provider.name),
                address: Arc::clone(&provider.address_text),
                model: Arc::clone(&model),
            });
            targets.push(Target {
                provider,
                model: Some(model),
                public: Some(Arc::clone(&public)),
                context_window: settings.context_window,
                weight: target.weight,
                priority: target.priority,
                breaker,
            });
        }
        Ok(OwnTargets {
            wheel: Arc::new(Wheel::new(settings.strategy, targets.len())),
            targets,
        })
    }

    /// Forgets the breakers of targets that no catalogue names any more. Call it after a swap.
    pub fn forget_unused(&self) {
        self.health.forget_unused();
    }
}

/// The targets of one public name, before its fallbacks are known.
struct OwnTargets {
    targets: Vec<Target>,
    wheel: Arc<Wheel>,
}

/// A model with the targets of its fallbacks, which take the turns that they take for their own name.
fn assemble(settings: &ModelSettings, all: &Settings, own: &[OwnTargets]) -> Model {
    let (mut targets, mut groups) = (Vec::new(), Vec::new());
    for name in std::iter::once(&settings.name).chain(&settings.fallbacks) {
        let Some(part) = all.models.iter().position(|model| model.name == *name) else {
            continue;
        };
        let part = &own[part];
        let from = targets.len();
        targets.extend(part.targets.iter().cloned());
        groups.push(Group {
            range: from..targets.len(),
            wheel: Arc::clone(&part.wheel),
        });
    }
    Model {
        name: settings.name.as_str().into(),
        all: targets,
        groups,
        first_token: settings.first_token,
        context_window: settings.context_window,
        max_output_tokens: settings.max_output_tokens,
    }
}

fn find(
    providers: &[Arc<Provider>],
    name: &str,
    place: impl FnOnce() -> String,
) -> Result<Arc<Provider>, CatalogueError> {
    providers
        .iter()
        .find(|provider| *provider.name == *name)
        .cloned()
        .ok_or_else(|| CatalogueError::NoProvider {
            place: place(),
            name: name.to_owned(),
        })
}

impl Catalogue {
    /// What is known of keys.
    pub fn key_registry(&self) -> &KeyRegistry {
        &self.upstreams.keys
    }

    /// The provider of that name.
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| *provider.name == *name)
    }

    /// Where requests go that nothing else sends elsewhere.
    pub fn default_provider(&self) -> &Arc<Provider> {
        &self.default_provider
    }

    /// Every provider: those of the file in its order, then the built-in ones.
    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// Every public model, in the order of the file.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// Whether models that nobody configured are passed through.
    pub fn passes_through(&self) -> bool {
        self.unknown_models == UnknownModels::PassThrough
    }

    /// Before the credential: whether any provider could serve this path (404) by this method (405).
    pub fn admit_path(&self, client: Dialect, request: &RequestFacts<'_>) -> Result<(), Denial> {
        let mut refused = None;
        for provider in self.could_serve(client, request) {
            match provider.rules.check_method(request) {
                Ok(()) => return Ok(()),
                Err(denial) => refused = refused.or(Some(denial)),
            }
        }
        if let Some(denial) = refused {
            return Err(denial);
        }
        // The path of a dialect that no provider speaks: what the model is decides what to say.
        let default_list = |provider: &Arc<Provider>| provider.rules.has_default_endpoints();
        if request.class == PathClass::Inference && self.providers.iter().any(default_list) {
            return check_class_method(request);
        }
        Err(endpoint_not_found(request.path))
    }

    /// Before the body: whether any provider that could serve this path lets the origin and the headers pass.
    pub fn admit_origin(&self, client: Dialect, request: &RequestFacts<'_>) -> Result<(), Denial> {
        let mut refused = None;
        for provider in self.could_serve(client, request) {
            match provider.rules.check_origin_and_headers(request) {
                Ok(()) => return Ok(()),
                Err(denial) => refused = refused.or(Some(denial)),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn could_serve<'a>(
        &'a self,
        client: Dialect,
        request: &'a RequestFacts<'_>,
    ) -> impl Iterator<Item = &'a Arc<Provider>> {
        self.providers.iter().filter(move |provider| {
            provider.dialect.serves(client) && provider.rules.check_path(request).is_ok()
        })
    }

    /// Providers and their breakers, for operators.
    pub fn snapshot(&self, now: Duration) -> Vec<ProviderSnapshot> {
        let mut targets = self.upstreams.health.snapshot(now);
        self.providers
            .iter()
            .map(|provider| {
                let (own, others) = targets
                    .drain(..)
                    .partition::<Vec<_>, _>(|target| target.provider == *provider.name);
                targets = others;
                ProviderSnapshot {
                    name: provider.name.to_string(),
                    dialect: provider.dialect,
                    base_url: provider.address_text.to_string(),
                    has_key: provider.has_key(),
                    in_flight: own.iter().map(|target| target.in_flight).sum(),
                    waiting: provider.places.waiting() + provider.keys.waiting(),
                    keys: provider.keys.snapshot(now),
                    targets: own,
                }
            })
            .collect()
    }
}
