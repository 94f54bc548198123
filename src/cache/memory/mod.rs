//! Answers in memory, in a map bounded by bytes.
//!
//! An answer is put into the map when it is finished and whole: of the announced length, within the largest
//! size, a stream with its end marker. A fill that is dropped, cut or too large leaves nothing behind, and no
//! error of the store ever reaches the client whose answer is being written. What is no longer fresh is a miss; it
//! stays only where the provider can be asked whether it still holds.
//!
//! Answers that vary by request fields are kept under hashes of their own. Under the key itself the store then keeps
//! which fields these are: at most `MOST_NAME_SETS` different sets, the newest first.

mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::{HeaderMap, header};
use pingora_http::ResponseHeader;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

pub use writer::Writer;

use super::answer::{Answer, Head, OVERHEAD_BYTES};
use super::key::{EntryKey, shown};
use super::policy::Storable;
use super::purge::Purge;
use super::vary::VaryNames;
use crate::domain::{Clock, ProjectId};

/// Sets of field names that are known for one key; answers of older ones are found no more.
const MOST_NAME_SETS: usize = 4;

/// What is in the map.
#[derive(Debug, Clone)]
enum Slot {
    Answer(Arc<Answer>),
    /// The fields that answers of this key vary by.
    Names(Arc<NameSets>),
}

#[derive(Debug)]
struct NameSets {
    owner: EntryKey,
    sets: Vec<VaryNames>,
}

impl Slot {
    fn owner(&self) -> &EntryKey {
        match self {
            Self::Answer(answer) => &answer.owner,
            Self::Names(names) => &names.owner,
        }
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<[u8; 16], Slot> for ByBytes {
    fn weight(&self, _: &[u8; 16], slot: &Slot) -> u64 {
        match slot {
            Slot::Answer(answer) => answer.weight(),
            Slot::Names(names) => OVERHEAD_BYTES + names.sets.iter().map(VaryNames::bytes).sum::<u64>(),
        }
    }
}

/// Counts evictions, and lets what was evicted go only after the map's lock.
#[derive(Debug, Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<[u8; 16], Slot> for Evictions {
    type RequestState = Vec<Slot>;

    fn begin_request(&self) -> Self::RequestState {
        Vec::new()
    }

    fn on_evict(&self, state: &mut Self::RequestState, _: [u8; 16], slot: Slot) {
        self.0.fetch_add(1, Ordering::Relaxed);
        state.push(slot);
    }
}

type Entries = quick_cache::sync::Cache<[u8; 16], Slot, ByBytes, DefaultHashBuilder, Evictions>;

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

/// What is known about a question.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// An answer, fresh or not.
    pub(super) answer: Option<Arc<Answer>>,
    /// There are answers, but to requests with other fields.
    pub(super) other_variants: bool,
    /// Under what the answer will be kept, as far as can be told before it is there.
    pub(super) hash: [u8; 16],
}

/// The store.
pub struct MemoryStore {
    entries: Entries,
    clock: Arc<dyn Clock>,
    max_bytes: u64,
    evicted: Arc<AtomicU64>,
    fills: AtomicU64,
    fill_bytes: AtomicU64,
    stored: AtomicU64,
    dropped: AtomicU64,
    purges: AtomicU64,
    /// Whether an answer to a GET was ever kept, so that unsafe requests have something to invalidate.
    kept_a_get: AtomicBool,
}

impl MemoryStore {
    /// A store of at most `max_bytes`.
    pub fn new(max_bytes: u64, clock: Arc<dyn Clock>) -> Self {
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
        Self {
            entries,
            clock,
            max_bytes,
            evicted,
            fills: AtomicU64::new(0),
            fill_bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            kept_a_get: AtomicBool::new(false),
        }
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

    /// What is known about a question that came with these fields. An answer that is not fresh and that nobody can be
    /// asked about is let go.
    pub(super) fn look(&self, key: &EntryKey, request: &HeaderMap) -> Known {
        match self.entries.get(&key.hash) {
            None => Known {
                hash: key.hash,
                ..Known::default()
            },
            Some(Slot::Answer(answer)) => Known {
                answer: self.if_useful(answer),
                other_variants: false,
                hash: key.hash,
            },
            Some(Slot::Names(names)) => {
                let mut hashes = names.sets.iter().map(|set| set.hash(key, request));
                let newest = hashes.next().unwrap_or(key.hash);
                let found =
                    std::iter::once(newest)
                        .chain(hashes)
                        .find_map(|hash| match self.entries.get(&hash) {
                            Some(Slot::Answer(answer)) => self.if_useful(answer),
                            _ => None,
                        });
                Known {
                    other_variants: found.is_none(),
                    hash: found.as_ref().map_or(newest, |answer| answer.hash),
                    answer: found,
                }
            }
        }
    }

    fn if_useful(&self, answer: Arc<Answer>) -> Option<Arc<Answer>> {
        let fresh = !answer.head.fresh_for(self.clock.monotonic()).is_zero();
        if fresh || (answer.owner.address.method == "GET" && answer.validators().is_some()) {
            return Some(answer);
        }
        self.remove(&answer);
        None
    }

    /// Lets go of an answer, unless another one has taken its place.
    pub(super) fn remove(&self, answer: &Arc<Answer>) {
        self.entries.remove_if(
            &answer.hash,
            |slot| matches!(slot, Slot::Answer(current) if Arc::ptr_eq(current, answer)),
        );
    }

    /// Begins to keep an answer to a request with these fields; `head` is as it will be stored.
    pub(super) fn begin(
        self: &Arc<Self>,
        key: &EntryKey,
        request: &HeaderMap,
        head: ResponseHeader,
        storable: &Storable,
        max_object_bytes: u64,
    ) -> Writer {
        let hash = storable.vary.hash(key, request);
        let purges = self.purges.load(Ordering::SeqCst);
        if !storable.vary.is_empty() {
            // known before the answer is whole: whoever waits for it asks again under its own variant
            self.learn(key, &storable.vary);
        }
        let head = Head::new(head, self.clock.monotonic(), storable);
        Writer::new(
            Arc::clone(self),
            key.clone(),
            hash,
            head,
            storable,
            max_object_bytes,
            purges,
        )
    }

    /// Puts a kept answer in its own place with a new head, after the provider has said that it still holds.
    pub(super) fn refresh(
        &self,
        answer: &Answer,
        request: &HeaderMap,
        head: ResponseHeader,
        storable: &Storable,
    ) -> Arc<Answer> {
        let purges = self.purges.load(Ordering::SeqCst);
        let refreshed = Arc::new(Answer {
            head: Head::new(head, self.clock.monotonic(), storable),
            body: answer.body.clone(),
            owner: answer.owner.clone(),
            hash: storable.vary.hash(&answer.owner, request),
        });
        if !storable.vary.is_empty() {
            self.learn(&answer.owner, &storable.vary);
        }
        self.insert(Arc::clone(&refreshed), purges);
        refreshed
    }

    fn learn(&self, key: &EntryKey, names: &VaryNames) {
        let mut sets = match self.entries.get(&key.hash) {
            Some(Slot::Names(known)) if known.sets.first() == Some(names) => return,
            Some(Slot::Names(known)) => known.sets.clone(),
            Some(Slot::Answer(_)) | None => Vec::new(),
        };
        sets.retain(|set| set != names);
        sets.insert(0, names.clone());
        sets.truncate(MOST_NAME_SETS);
        let owner = key.clone();
        self.entries
            .insert(key.hash, Slot::Names(Arc::new(NameSets { owner, sets })));
    }

    /// Keeps an answer unless a purge ran since `purges` was read; answers whether.
    fn insert(&self, answer: Arc<Answer>, purges: u64) -> bool {
        let unpurged = || self.purges.load(Ordering::SeqCst) == purges;
        if !unpurged() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if answer.owner.address.method == "GET" {
            self.kept_a_get.store(true, Ordering::SeqCst);
        }
        self.entries
            .insert(answer.hash, Slot::Answer(Arc::clone(&answer)));
        if unpurged() {
            self.stored.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        // a purge ran between the two looks: it may have missed this entry
        self.remove(&answer);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Removes entries and answers how many. What is being filled at this moment is not stored.
    pub fn purge_entries(&self, purge: &Purge) -> u64 {
        self.purges.fetch_add(1, Ordering::SeqCst);
        let removed = AtomicU64::new(0);
        self.entries.retain(|_, slot| {
            let owner = slot.owner();
            let hit = match purge {
                Purge::All => true,
                Purge::KeyPrefix(prefix) => shown(&owner.hash).starts_with(prefix.as_str()),
                Purge::Project(project) => owner.project == *project,
                Purge::Address { address, project } => {
                    *owner.address == *address && project.is_none_or(|one: ProjectId| one == owner.project)
                }
            };
            if hit && matches!(slot, Slot::Answer(_)) {
                removed.fetch_add(1, Ordering::Relaxed);
            }
            !hit
        });
        removed.into_inner()
    }

    /// Whether there may be answers to GETs.
    pub(super) fn may_have_gets(&self) -> bool {
        self.kept_a_get.load(Ordering::SeqCst)
    }
}

/// The head as it is stored: with the length of its body.
fn framed(mut head: ResponseHeader, body_bytes: usize) -> Option<ResponseHeader> {
    if !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.insert_header(header::CONTENT_LENGTH, body_bytes).ok()?;
    }
    Some(head)
}

#[cfg(test)]
mod tests;
