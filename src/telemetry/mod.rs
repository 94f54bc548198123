//! What operators see: logs, the access log, metrics.
use std::sync::Arc;
use std::time::Duration;
use crate::domain::RecordId;
pub mod metrics;
pub use metrics::Metrics;
pub mod logging {
    #[derive(Debug)]
    pub struct LogSettings { pub level: log::LevelFilter, pub json: bool, pub file: Option<std::path::PathBuf>, pub max_file_bytes: u64, pub max_backups: u32, pub directives: Option<String> }
    pub struct Logging;
    impl Logging { pub fn flush(&self) {} }
    pub fn start(s: &LogSettings) -> anyhow::Result<Logging> { let _ = env_logger::Builder::new().filter_level(s.level).filter_module("pingora_proxy", log::LevelFilter::Error).try_init(); Ok(Logging) }
}
#[derive(Debug)]
pub struct AccessLine { pub record_id: RecordId, pub request_id: String, pub token_id: Option<Arc<str>>, pub project_id: Option<Arc<str>>, pub model: Option<String>, pub model_served: Option<Arc<str>>, pub provider: Option<Arc<str>>, pub method: String, pub path: String, pub status: u16, pub code: Option<&'static str>, pub bytes_in: u64, pub bytes_out: u64, pub duration: Duration, pub first_byte: Option<Duration>, pub overhead: Duration, pub attempts: u32, pub cache: Option<&'static str>, pub ending: &'static str }
pub struct AccessLog;
impl AccessLog { pub fn new(_: bool) -> Self { Self } pub fn write(&self, l: AccessLine) { log::info!("access {l:?}"); } }
