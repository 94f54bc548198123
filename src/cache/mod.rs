//! Placeholder.
use std::sync::Arc;
use arc_swap::ArcSwap;
use crate::domain::Clock;
#[derive(Debug, Clone)]
pub struct CacheSettings { pub enabled: bool, pub default_ttl: std::time::Duration, pub max_object_bytes: u64, pub stream_responses: bool }
#[derive(Debug)]
pub struct MemoryStorage;
pub struct Stats { pub entries: u64, pub bytes: u64, pub max_bytes: u64 }
impl MemoryStorage {
    pub fn leak(_: u64, _: Arc<ArcSwap<CacheSettings>>, _: Arc<dyn Clock>) -> &'static Self { Box::leak(Box::new(Self)) }
    pub fn purge_url(&self, _: &str, _: &str, _: Option<&str>) -> u64 { 0 }
    pub fn purge_prefix(&self, _: &str) -> u64 { 0 }
    pub fn purge_project(&self, _: &str) -> u64 { 0 }
    pub fn purge_all(&self) -> u64 { 0 }
    pub fn stats(&self) -> Stats { Stats { entries: 0, bytes: 0, max_bytes: 0 } }
}
