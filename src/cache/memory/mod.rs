//! Answers in memory: Pingora's `Storage` over a map bounded by bytes.
//!
//! An answer is put into the map when it is finished and whole: of the announced length, within the largest
//! size, a stream with its end marker. A fill that is dropped, cut or too large leaves nothing behind, and no
//! error of the storage ever reaches the client whose answer is being written. Running fills can be shared
//! with other readers; a reader of a fill that fails gets an error, never a clean end. Freshness is kept in
//! monotonic time: a jump of the wall clock neither revives nor kills an entry. Expired entries are misses.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header;
use parking_lot::Mutex;
use pingora_cache::key::CacheHashKey;
use pingora_cache::storage::streaming_write::U64WriteId;
use pingora_cache::storage::{
    HandleMiss, HitHandler, MissFinishType, MissHandler, PurgeOutcome, PurgeTarget,
};
use pingora_cache::storage::{PurgeType, Storage};
use pingora_cache::trace::SpanHandle;
use pingora_cache::{CacheKey, CacheMeta};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::complete::stream_is_complete;
use super::fill::{Fill, FillHit};
use super::hit::WholeHit;
use super::key::{EntryKey, shown};
use super::purge::Purge;
use crate::domain::{Clock, ProjectId, Timestamp};

/// What an entry weighs beside its body and head: map, key, counters.
const OVERHEAD_BYTES: u64 = 600;

/// What the storage must know of a fill, besides key and head; travels in the extensions of the `CacheMeta`.
#[derive(Debug, Clone, Copy)]
pub struct FillRules {
    /// How long the answer is fresh from now.
    pub fresh_for: Duration,
    /// How old it was when it came.
    pub age: Duration,
    /// Larger bodies are not kept.
    pub max_object_bytes: u64,
    /// The announced length.
    pub content_length: Option<u64>,
    /// Kept only with its end marker.
    pub is_stream: bool,
}

/// A head with the times that belong to it.
#[derive(Debug, Clone)]
pub(super) struct Head {
    header: ResponseHeader,
    /// Monotonic: when it came, how old it was then, until when it is fresh.
    came_at: Duration,
    age_then: Duration,
    fresh_until: Duration,
}

impl Head {
    fn new(header: ResponseHeader, now: Duration, rules: &FillRules) -> Self {
        Self {
            header,
            came_at: now,
            age_then: rules.age,
            fresh_until: now + rules.fresh_for,
        }
    }

    fn is_fresh(&self, now: Duration) -> bool {
        now < self.fresh_until
    }

    /// Pingora's form, in the wall time of this moment.
    fn meta(&self, clock: &dyn Clock) -> CacheMeta {
        let now = clock.monotonic();
        let wall = system_time(clock.now());
        let age = now.saturating_sub(self.came_at) + self.age_then;
        let fresh_for = self.fresh_until.saturating_sub(now);
        let created = wall.checked_sub(age).unwrap_or(UNIX_EPOCH);
        CacheMeta::new(wall + fresh_for, created, 0, 0, self.header.clone())
    }

    fn bytes(&self) -> u64 {
        let fields = self.header.headers.iter();
        fields
            .map(|(name, value)| (name.as_str().len() + value.len() + 64) as u64)
            .sum()
    }
}

pub(super) fn system_time(timestamp: Timestamp) -> SystemTime {
    let micros = u64::try_from(timestamp.as_micros()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_micros(micros)
}

/// A whole answer.
#[derive(Debug)]
struct Entry {
    head: Head,
    body: Bytes,
    owner: Option<Owner>,
    weight: u64,
}

/// By what a purge finds an entry; travels in the extensions of the `CacheKey`.
pub(super) type Owner = EntryKey;

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<[u8; 16], Arc<Entry>> for ByBytes {
    fn weight(&self, _: &[u8; 16], entry: &Arc<Entry>) -> u64 {
        entry.weight
    }
}

/// Counts evictions, and lets what was evicted go only after the map's lock.
#[derive(Debug, Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<[u8; 16], Arc<Entry>> for Evictions {
    type RequestState = Vec<Arc<Entry>>;

    fn begin_request(&self) -> Self::RequestState {
        Vec::new()
    }

    fn on_evict(&self, state: &mut Self::RequestState, _: [u8; 16], entry: Arc<Entry>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        state.push(entry);
    }
}

type Entries = quick_cache::sync::Cache<[u8; 16], Arc<Entry>, ByBytes, DefaultHashBuilder, Evictions>;

/// Whether requests may read the running fill of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunningFills {
    /// Each request asks the provider for itself until an answer is stored.
    Private,
    /// A running fill is a hit. Whoever fills must then go on while somebody reads.
    Shared,
}

/// What operators see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Answers kept.
    pub entries: u64,
    /// Their bytes, heads and overhead included.
    pub bytes: u64,
    /// The most they may have.
    pub max_bytes: u64,
    /// Fills that run.
    pub fills: u64,
    /// Their bytes so far.
    pub fill_bytes: u64,
    /// Answers put into the map.
    pub stored: u64,
    /// Fills that left nothing: cut, too large, not whole, or purged meanwhile.
    pub dropped: u64,
    /// Answers that made room for others.
    pub evicted: u64,
}

/// The store. Lives as long as the process, as Pingora demands.
pub struct MemoryStore {
    entries: Entries,
    running: Mutex<HashMap<[u8; 16], Vec<Arc<Fill>>>>,
    sharing: RunningFills,
    clock: Arc<dyn Clock>,
    max_bytes: u64,
    evicted: Arc<AtomicU64>,
    fills: AtomicU64,
    fill_bytes: AtomicU64,
    stored: AtomicU64,
    dropped: AtomicU64,
    next_fill: AtomicU64,
    purges: AtomicU64,
}

impl MemoryStore {
    /// A store of at most `max_bytes`, never to be freed.
    pub fn leak(max_bytes: u64, sharing: RunningFills, clock: Arc<dyn Clock>) -> &'static Self {
        let evictions = Evictions::default();
        // shards divide the bytes among them: few, so that the largest answers fit
        let shards = usize::try_from(max_bytes >> 23).unwrap_or(16).clamp(1, 16);
        let expected = usize::try_from(max_bytes / 4096)
            .unwrap_or(usize::MAX)
            .clamp(64, 100_000);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(expected)
            .weight_capacity(max_bytes.max(1))
            .shards(shards)
            .build();
        let evicted = Arc::clone(&evictions.0);
        let entries = match options {
            Ok(options) => Entries::with_options(options, ByBytes, DefaultHashBuilder::default(), evictions),
            Err(_) => Entries::with(
                expected,
                max_bytes.max(1),
                ByBytes,
                DefaultHashBuilder::default(),
                evictions,
            ),
        };
        Box::leak(Box::new(Self {
            entries,
            running: Mutex::new(HashMap::new()),
            sharing,
            clock,
            max_bytes,
            evicted,
            fills: AtomicU64::new(0),
            fill_bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            next_fill: AtomicU64::new(1),
            purges: AtomicU64::new(0),
        }))
    }

    /// What operators see.
    pub fn stats(&self) -> StoreStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            entries: self.entries.len() as u64,
            bytes: self.entries.weight(),
            max_bytes: self.max_bytes,
            fills: read(&self.fills),
            fill_bytes: read(&self.fill_bytes),
            stored: read(&self.stored),
            dropped: read(&self.dropped),
            evicted: read(&self.evicted),
        }
    }

    /// Removes entries and answers how many. What is being filled at this moment is not stored.
    pub fn purge_entries(&self, purge: &Purge) -> u64 {
        self.purges.fetch_add(1, Ordering::SeqCst);
        let removed = AtomicU64::new(0);
        self.entries.retain(|hash, entry| {
            let hit = match (purge, &entry.owner) {
                (Purge::All, _) => true,
                (Purge::KeyPrefix(prefix), _) => shown(hash).starts_with(prefix.as_str()),
                (Purge::Project(project), Some(owner)) => owner.project == *project,
                (Purge::Address { address, project }, Some(owner)) => {
                    *owner.address == *address && project.is_none_or(|one: ProjectId| one == owner.project)
                }
                (Purge::Project(_) | Purge::Address { .. }, None) => false,
            };
            if hit {
                removed.fetch_add(1, Ordering::Relaxed);
            }
            !hit
        });
        removed.into_inner()
    }

    fn shares(&self) -> bool {
        self.sharing == RunningFills::Shared
    }

    fn running_fill(&self, hash: &[u8; 16], id: Option<u64>) -> Option<Arc<Fill>> {
        let running = self.running.lock();
        let fills = running.get(hash)?;
        match id {
            Some(id) => fills.iter().find(|fill| fill.id == id).cloned(),
            None => fills.iter().find(|fill| !fill.has_failed()).cloned(),
        }
    }

    fn forget_fill(&self, hash: &[u8; 16], id: u64) {
        let mut running = self.running.lock();
        if let Some(fills) = running.get_mut(hash) {
            fills.retain(|fill| fill.id != id);
            if fills.is_empty() {
                running.remove(hash);
            }
        }
    }

    fn fill_hit(&self, fill: &Arc<Fill>) -> (CacheMeta, HitHandler) {
        let hit = FillHit::new(Arc::clone(fill));
        (fill.head.meta(&*self.clock), Box::new(hit))
    }

    fn lookup_entry(&self, hash: &[u8; 16]) -> Option<(CacheMeta, HitHandler)> {
        let entry = self.entries.get(hash)?;
        if !entry.head.is_fresh(self.clock.monotonic()) {
            self.entries
                .remove_if(hash, |current| Arc::ptr_eq(current, &entry));
            return None;
        }
        let hit = WholeHit::new(entry.body.clone());
        Some((entry.head.meta(&*self.clock), Box::new(hit)))
    }
}

#[async_trait]
impl Storage for MemoryStore {
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let hash = key.combined_bin();
        if self.shares()
            && let Some(fill) = self.running_fill(&hash, None)
        {
            return Ok(Some(self.fill_hit(&fill)));
        }
        Ok(self.lookup_entry(&hash))
    }

    async fn lookup_streaming_write(
        &'static self,
        key: &CacheKey,
        tag: Option<&[u8]>,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(id) = tag.and_then(|tag| U64WriteId::try_from(tag).ok()) else {
            return Ok(None);
        };
        let fill = self.running_fill(&key.combined_bin(), Some(id.into()));
        Ok(fill.map(|fill| self.fill_hit(&fill)))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<MissHandler> {
        let Some(rules) = meta.extensions().get::<FillRules>().copied() else {
            return Error::e_explain(ErrorType::InternalError, "a fill without its rules");
        };
        let hash = key.combined_bin();
        let id = self.next_fill.fetch_add(1, Ordering::Relaxed);
        let head = Head::new(meta.response_header_copy(), self.clock.monotonic(), &rules);
        let fill = Arc::new(Fill::new(id, head));
        if self.shares() {
            self.running
                .lock()
                .entry(hash)
                .or_default()
                .push(Arc::clone(&fill));
        }
        self.fills.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Writer {
            store: self,
            hash,
            owner: key.extensions.get::<Owner>().cloned(),
            tag: id.into(),
            purges: self.purges.load(Ordering::SeqCst),
            fill,
            rules,
            bytes: 0,
            fate: Fate::Undecided,
        }))
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        _: PurgeType,
        _: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let removed = self.entries.remove(&target.key().combined_bin());
        Ok(match removed {
            Some(_) => PurgeOutcome::Purged(None),
            None => PurgeOutcome::NotFound,
        })
    }

    /// Nothing is revalidated, so nothing is updated.
    async fn update_meta(&'static self, _: &CacheKey, _: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        Ok(false)
    }

    fn support_streaming_partial_write(&self) -> bool {
        self.shares()
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Undecided,
    /// Too large, or too much at once: the rest is not even looked at.
    GivenUp,
    Finished,
}

/// The writing end of a fill. Dropped without `finish`, the fill has failed.
struct Writer {
    store: &'static MemoryStore,
    hash: [u8; 16],
    owner: Option<Owner>,
    tag: U64WriteId,
    purges: u64,
    fill: Arc<Fill>,
    rules: FillRules,
    bytes: u64,
    fate: Fate,
}

impl Writer {
    fn give_up(&mut self) {
        self.fate = Fate::GivenUp;
        self.fill.fail();
        self.store.forget_fill(&self.hash, self.fill.id);
        self.release_bytes();
    }

    fn release_bytes(&mut self) {
        self.store.fill_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }

    fn is_whole(&self, body: &[u8]) -> bool {
        let right_length = self
            .rules
            .content_length
            .is_none_or(|length| length == body.len() as u64);
        right_length && (!self.rules.is_stream || stream_is_complete(body))
    }

    fn keep(&self, body: Bytes) {
        let mut head = self.fill.head.clone();
        let framed = head.header.headers.contains_key(header::CONTENT_LENGTH);
        if !framed
            && head
                .header
                .insert_header(header::CONTENT_LENGTH, body.len())
                .is_err()
        {
            return;
        }
        let weight = OVERHEAD_BYTES + head.bytes() + body.len() as u64;
        let entry = Arc::new(Entry {
            head,
            body,
            owner: self.owner.clone(),
            weight,
        });
        let unpurged = || self.store.purges.load(Ordering::SeqCst) == self.purges;
        if !unpurged() {
            self.store.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.store.entries.insert(self.hash, Arc::clone(&entry));
        if unpurged() {
            self.store.stored.fetch_add(1, Ordering::Relaxed);
        } else {
            // a purge ran between the two looks: it may have missed this entry
            self.store
                .entries
                .remove_if(&self.hash, |current| Arc::ptr_eq(current, &entry));
            self.store.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl HandleMiss for Writer {
    async fn write_body(&mut self, data: Bytes, _: bool) -> Result<()> {
        if self.fate != Fate::Undecided || data.is_empty() {
            return Ok(());
        }
        let length = data.len() as u64;
        let all_fills = self.store.fill_bytes.fetch_add(length, Ordering::Relaxed) + length;
        self.bytes += length;
        if self.bytes > self.rules.max_object_bytes || all_fills > self.store.max_bytes {
            self.give_up();
        } else {
            self.fill.push(data);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<MissFinishType> {
        if self.fate != Fate::Undecided {
            return Ok(MissFinishType::Created(0));
        }
        self.fate = Fate::Finished;
        // WHY: one copy, for the chunks are slices of read buffers of 64 KiB each
        let mut body = BytesMut::with_capacity(usize::try_from(self.bytes).unwrap_or(0));
        self.fill.each_chunk(|chunk| body.extend_from_slice(chunk));
        let body = body.freeze();
        let size = body.len();
        if self.is_whole(&body) {
            self.keep(body);
            self.fill.complete();
        } else {
            self.store.dropped.fetch_add(1, Ordering::Relaxed);
            if self
                .rules
                .content_length
                .is_some_and(|length| length != size as u64)
            {
                self.fill.fail();
            } else {
                self.fill.complete();
            }
        }
        Ok(MissFinishType::Created(size))
    }

    fn streaming_write_tag(&self) -> Option<&[u8]> {
        Some(self.tag.as_bytes())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.fate != Fate::Finished {
            self.store.dropped.fetch_add(1, Ordering::Relaxed);
            self.fill.fail();
        }
        self.store.forget_fill(&self.hash, self.fill.id);
        self.release_bytes();
        self.store.fills.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
