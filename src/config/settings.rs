//! The whole validated configuration, as the program holds it.

pub use super::address::{BaseUrl, ListenAddress, Scheme};
pub use super::auth::AuthSettings;
pub use super::budgets::BudgetsSettings;
pub use super::cache::{CacheRule, CacheScope, CacheSettings};
pub use super::ledger::{Durability, LedgerSettings, OnFull};
pub use super::limits::{DistributedSettings, FleetSize, LimitsSettings, RateFallback};
pub use super::management::{
    ManagementRole, ManagementSettings, ManagementToken, MetricsSettings, OnProxyListener,
};
pub use super::observing::{AuditSettings, CorsSettings, LogFormat, LoggingSettings};
pub use super::prices::{PriceSettings, UnknownPrice};
pub use super::provider_keys::KeySettings;
pub use super::providers::{
    Http2, IncludeUsage, ProviderConnection, ProviderSettings, ProviderSource, ProviderTimeouts, SharedState,
};
pub use super::routing::{
    CooldownSettings, ModelSettings, RetryAmbiguous, RouterSettings, Share, Strategy, TargetSettings,
    UnknownModels,
};
pub use super::server::{ExposedHeaders, ServerSettings};
pub use super::stores::{DatabaseDriver, DatabaseSettings, EncryptionSettings, RedisSettings};

/// Everything that can be configured, checked. `Default` is the program without a file and without
/// environment, except that `management.token` has no default.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `server`.
    pub server: ServerSettings,
    /// `management`.
    pub management: ManagementSettings,
    /// `auth`.
    pub auth: AuthSettings,
    /// `database`.
    pub database: DatabaseSettings,
    /// `encryption`.
    pub encryption: EncryptionSettings,
    /// `redis`.
    pub redis: RedisSettings,
    /// `default_provider`; one of `providers`.
    pub default_provider: String,
    /// `unknown_models`.
    pub unknown_models: UnknownModels,
    /// `providers`: those of the file in its order, then built-in ones that it does not mention.
    pub providers: Vec<ProviderSettings>,
    /// `models`, in the order of the file.
    pub models: Vec<ModelSettings>,
    /// `router`.
    pub router: RouterSettings,
    /// `limits`.
    pub limits: LimitsSettings,
    /// `budgets`.
    pub budgets: BudgetsSettings,
    /// `prices`.
    pub prices: PriceSettings,
    /// `ledger`.
    pub ledger: LedgerSettings,
    /// `cache`.
    pub cache: CacheSettings,
    /// `audit`.
    pub audit: AuditSettings,
    /// `cors`.
    pub cors: CorsSettings,
    /// `logging`.
    pub logging: LoggingSettings,
}

impl Settings {
    /// The provider of that name.
    pub fn provider(&self, name: &str) -> Option<&ProviderSettings> {
        self.providers.iter().find(|provider| provider.name == name)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: ServerSettings::default(),
            management: ManagementSettings::default(),
            auth: AuthSettings::default(),
            database: DatabaseSettings::default(),
            encryption: EncryptionSettings::default(),
            redis: RedisSettings::default(),
            default_provider: "openai".to_owned(),
            unknown_models: UnknownModels::PassThrough,
            providers: ProviderSettings::built_in(),
            models: Vec::new(),
            router: RouterSettings::default(),
            limits: LimitsSettings::default(),
            budgets: BudgetsSettings::default(),
            prices: PriceSettings::default(),
            ledger: LedgerSettings::default(),
            cache: CacheSettings::default(),
            audit: AuditSettings::default(),
            cors: CorsSettings::default(),
            logging: LoggingSettings::default(),
        }
    }
}
