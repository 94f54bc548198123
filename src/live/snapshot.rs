//! One configuration as requests see it: immutable, whole, with the pools and breakers of what did not change.

use std::sync::Arc;

use super::cors::CorsRules;
use crate::config::{OnProxyListener, Settings};
use crate::upstream::{Catalogue, CatalogueError, Upstreams, WatchedKeys};

/// Body parameters that name something the provider keeps per account: a request that sends one reads it.
pub const STATE_PARAMETERS: [&str; 2] = ["previous_response_id", "conversation"];

/// What a request lives on, from its first hook to its last.
#[derive(Debug)]
pub struct Snapshot {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Providers, models, rules.
    pub catalogue: Catalogue,
    /// What browsers are told.
    pub cors: CorsRules,
    /// Body keys that some rule looks at.
    pub watched: Arc<WatchedKeys>,
    /// Whether the sidecar's paths are answered on the proxy listener.
    pub on_proxy_listener: OnProxyListener,
}

impl Snapshot {
    /// Builds a snapshot; opens no connection.
    ///
    /// # Errors
    /// What of the configuration cannot be used: a CA file, a header that cannot be sent.
    pub fn build(settings: &Settings, upstreams: &Arc<Upstreams>) -> Result<Self, CatalogueError> {
        let catalogue = upstreams.catalogue(settings)?;
        let watched = WatchedKeys::new(
            settings
                .providers
                .iter()
                .flat_map(|provider| provider.param_whitelist.iter().map(|(name, _)| name.as_str()))
                .chain(STATE_PARAMETERS),
        );
        let cors = CorsRules::new(
            &settings.cors.allowed_origins,
            &settings.cors.allowed_methods,
            &settings.cors.allowed_headers,
            settings.cors.max_age.as_secs(),
        );
        Ok(Self {
            on_proxy_listener: settings.management.on_proxy_listener,
            settings: Arc::new(settings.clone()),
            catalogue,
            cors,
            watched: Arc::new(watched),
        })
    }
}
