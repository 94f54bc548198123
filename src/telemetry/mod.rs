//! Placeholder.
use std::sync::Arc;
use std::time::Duration;
use crate::domain::{Clock, DenialCode, RecordId};
use crate::domain::denial::LimitScope;
pub mod logging {
    #[derive(Debug)]
    pub struct LogSettings { pub level: log::LevelFilter, pub json: bool, pub file: Option<std::path::PathBuf>, pub max_file_bytes: u64, pub max_backups: u32, pub directives: Option<String> }
    pub struct Logging;
    impl Logging { pub fn flush(&self) {} }
    pub fn start(s: &LogSettings) -> anyhow::Result<Logging> { let _ = env_logger::Builder::new().filter_level(s.level).filter_module("pingora_proxy", log::LevelFilter::Error).try_init(); Ok(Logging) }
}
#[derive(Debug)]
pub struct Metrics;
pub struct CacheCounts { pub hits: u64, pub misses: u64, pub stores: u64, pub bypasses: u64 }
#[derive(Debug)]
pub struct RequestNumbers<'a> { pub project: Option<&'a str>, pub provider: Option<&'a str>, pub model: Option<&'a str>, pub status: u16, pub code: Option<DenialCode>, pub duration: Duration, pub first_byte: Option<Duration>, pub overhead: Duration, pub from_upstream: bool }
impl Metrics {
    pub fn new(_: Arc<dyn Clock>) -> Self { Self }
    pub fn rate_limited(&self, _: LimitScope) {}
    pub fn panicked(&self) {}
    pub fn attempt(&self, _: &str, _: &str) {}
    pub fn store_error(&self, _: &str) {}
    pub fn config_reloaded(&self, _: bool) {}
    pub fn set_open_connections(&self, _: u64) {}
    pub fn set_front_counts(&self, _: u64, _: u64, _: u64, _: u64) {}
    pub fn prometheus_text(&self) -> String { String::new() }
    pub fn json(&self) -> serde_json::Value { serde_json::json!({}) }
    pub fn cache_counts(&self) -> CacheCounts { CacheCounts { hits: 0, misses: 0, stores: 0, bypasses: 0 } }
    pub fn request(&self, _: &RequestNumbers<'_>) {}
    pub fn cache(&self, _: Option<&'static str>) {}
}
pub mod metrics { pub struct ActiveStream; impl ActiveStream { pub fn begin(_: &std::sync::Arc<super::Metrics>) -> Self { Self } } }
#[derive(Debug)]
pub struct AccessLine { pub record_id: RecordId, pub request_id: String, pub token_id: Option<Arc<str>>, pub project_id: Option<Arc<str>>, pub model: Option<String>, pub model_served: Option<Arc<str>>, pub provider: Option<Arc<str>>, pub method: String, pub path: String, pub status: u16, pub code: Option<&'static str>, pub bytes_in: u64, pub bytes_out: u64, pub duration: Duration, pub first_byte: Option<Duration>, pub overhead: Duration, pub attempts: u32, pub cache: Option<&'static str>, pub ending: &'static str }
pub struct AccessLog;
impl AccessLog { pub fn new(_: bool) -> Self { Self } pub fn write(&self, l: AccessLine) { log::info!("access {l:?}"); } }
