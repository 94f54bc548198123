//! Where a request goes: which provider, which key, which target next, over which connection.
//!
//! Everything that decides is pure; `target.rs` alone knows Pingora.

pub mod catalogue;
pub mod choose;
pub mod health;
pub mod keys;
pub mod names;
pub mod pace;
pub mod places;
pub mod provider;
pub mod resolve;
pub mod retry;
pub mod retry_after;
pub mod rules;
pub mod target;

pub use catalogue::{Catalogue, CatalogueError, Model, ProviderSnapshot, Target, Upstreams};
pub use choose::Wheel;
pub use health::{Breaker, BreakerSnapshot, HealthRegistry, Permit};
pub use provider::{KeyOwner, Provider};
pub use resolve::{AllowedModels, Asked, Attempt, AttemptKey, Attempts, OwnKeys, Route};
pub use retry::{AttemptFailure, Reach, Retries, Situation};
pub use rules::{RequestFacts, Rules};
pub use target::{ConnectFailure, Connected, ConnectorRegistry, ProviderConnector, Reuse};

pub use crate::dialect::inspect::WatchedKeys;
