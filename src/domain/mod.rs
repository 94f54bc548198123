//! Nouns and rules: no I/O, no sockets, no store.

pub mod audit;
pub mod budget;
pub mod client_address;
pub mod clock;
pub mod crypto;
pub mod denial;
pub mod endpoint;
pub mod glob;
pub mod ids;
pub mod limits;
pub mod money;
pub mod obfuscate;
pub mod patch;
pub mod price;
pub mod project;
pub mod provider_dialect;
pub mod secret;
pub mod spawn;
pub mod together;
pub mod token;
pub mod usage;

pub use budget::{Budget, BudgetPeriod, BudgetWarning, Windows};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use denial::{Denial, DenialCode};
pub use endpoint::{EndpointPattern, PathClass};
pub use glob::Glob;
pub use ids::{ProjectId, RecordId, TokenId};
pub use limits::Limits;
pub use money::{NanoUsd, PerMillion};
pub use price::{CacheWrites, ModelPrice, PriceTable, Priced, Prices};
pub use project::Project;
pub use provider_dialect::Dialect;
pub use secret::Secret;
pub use token::{Token, TokenHash};
pub use usage::{AttemptRecord, MediaUsage, TokenUsage, UsageRecord};
