//! Counts requests and cache hits of tokens in memory and adds them to the store each second.
//!
//! What could not be written stays and is written later; a clean stop calls [`UsageCounters::flush`] last.
//! There is one entry per token that was used since the last write, and while the store is away only known
//! tokens get in, so the memory is bounded by what authentication keeps. Above `EARLY` entries a write starts
//! at once; above `MOST` a further token's counts are lost, logged and counted in `lost`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;
use tokio::sync::Notify;

use crate::domain::{Clock, Timestamp, TokenId, spawn};
use crate::store::{StoreError, UsageDelta, UsageStore};

const SHARDS: usize = 32;
const EARLY: usize = 16_384;
const MOST: usize = 1_048_576;
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Rows in one transaction.
const BATCH: usize = 1_000;
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Counters of tokens, on their way to the store.
pub struct UsageCounters {
    pending: Arc<Pending>,
    store: Arc<dyn UsageStore>,
    clock: Arc<dyn Clock>,
    /// One write at a time, so that who waits for a flush also waits for the one under way.
    writing: Arc<tokio::sync::Mutex<()>>,
    most: usize,
}

#[derive(Debug, Clone, Copy)]
struct Counts {
    requests: u64,
    cache_hits: u64,
    last_used_at: Timestamp,
}

type Shard = HashMap<TokenId, Counts, DefaultHashBuilder>;

struct Pending {
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
    entries: AtomicUsize,
    early: Notify,
    lost: AtomicU64,
}

impl UsageCounters {
    /// Starts the task that writes each second, on the current runtime; it ends when this is dropped.
    pub fn start(store: Arc<dyn UsageStore>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let counters = Arc::new(Self::new(store, clock, MOST));
        spawn::spawn(
            "usage counters",
            write_each_second(Arc::downgrade(&counters), counters.pending.clone()),
        );
        counters
    }

    fn new(store: Arc<dyn UsageStore>, clock: Arc<dyn Clock>, most: usize) -> Self {
        let hasher = DefaultHashBuilder::default();
        Self {
            pending: Arc::new(Pending {
                shards: (0..SHARDS)
                    .map(|_| Mutex::new(HashMap::with_hasher(hasher.clone())))
                    .collect(),
                hasher,
                entries: AtomicUsize::new(0),
                early: Notify::new(),
                lost: AtomicU64::new(0),
            }),
            store,
            clock,
            writing: Arc::new(tokio::sync::Mutex::new(())),
            most,
        }
    }

    /// A request of a token without `max_requests` was let through to a provider.
    pub fn count_request(&self, token: TokenId) {
        self.count(token, 1, 0);
    }

    /// A request of a token with `max_requests` was let through; grants count it, this only notes the time.
    pub fn note_use(&self, token: TokenId) {
        self.count(token, 0, 0);
    }

    /// A request was answered from the cache.
    pub fn count_cache_hit(&self, token: TokenId) {
        self.count(token, 0, 1);
    }

    /// Writes everything that was counted before this call; when it fails, nothing is lost and the next
    /// write tries again. Goes on to the end even if the caller leaves.
    ///
    /// # Errors
    /// What the store says.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let (pending, store, writing) = (self.pending.clone(), self.store.clone(), self.writing.clone());
        let task = spawn::spawn("usage write", async move {
            let _one_at_a_time = writing.lock().await;
            pending.write(store.as_ref()).await
        });
        task.await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(
                "the write of usage counters was interrupted".into(),
            ))
        })
    }

    /// Counts that were lost because too many tokens waited to be written, for metrics.
    pub fn lost(&self) -> u64 {
        self.pending.lost.load(Ordering::Relaxed)
    }

    /// Tokens with counts that are not written yet.
    pub fn pending(&self) -> usize {
        self.pending.entries.load(Ordering::Relaxed)
    }

    fn count(&self, token: TokenId, requests: u64, cache_hits: u64) {
        let counts = Counts {
            requests,
            cache_hits,
            last_used_at: self.clock.now(),
        };
        self.pending.add(token, counts, self.most);
    }
}

impl Pending {
    fn add(&self, token: TokenId, counts: Counts, most: usize) {
        let mut shard = self.shards[(self.hasher.hash_one(token) >> 16) as usize % SHARDS].lock();
        if let Some(known) = shard.get_mut(&token) {
            known.requests += counts.requests;
            known.cache_hits += counts.cache_hits;
            known.last_used_at = known.last_used_at.max(counts.last_used_at);
            return;
        }
        let entries = self.entries.fetch_add(1, Ordering::Relaxed);
        if entries >= most {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            drop(shard);
            if self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                log::error!("usage counts are lost: the store was away too long for so many tokens");
            }
            return;
        }
        shard.insert(token, counts);
        drop(shard);
        if entries == EARLY {
            self.early.notify_one();
        }
    }

    async fn write(&self, store: &dyn UsageStore) -> Result<(), StoreError> {
        for index in 0..self.shards.len() {
            let taken = std::mem::take(&mut *self.shards[index].lock());
            self.entries.fetch_sub(taken.len(), Ordering::Relaxed);
            let mut unwritten = Unwritten {
                pending: self,
                deltas: taken.into_iter().map(delta).collect(),
            };
            while !unwritten.deltas.is_empty() {
                let start = unwritten.deltas.len().saturating_sub(BATCH);
                let adding = store.add(&unwritten.deltas[start..]);
                match tokio::time::timeout(BATCH_TIMEOUT, adding).await {
                    Ok(Ok(())) => unwritten.deltas.truncate(start),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {
                        return Err(StoreError::Unavailable(format!(
                            "no answer within {BATCH_TIMEOUT:?}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What was taken out to be written; whatever is left of it goes back, on any path.
struct Unwritten<'a> {
    pending: &'a Pending,
    deltas: Vec<UsageDelta>,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        for delta in self.deltas.drain(..) {
            let counts = Counts {
                requests: delta.requests,
                cache_hits: delta.cache_hits,
                last_used_at: delta.last_used_at,
            };
            self.pending.add(delta.token_id, counts, usize::MAX);
        }
    }
}

fn delta((token_id, counts): (TokenId, Counts)) -> UsageDelta {
    UsageDelta {
        token_id,
        requests: counts.requests,
        cache_hits: counts.cache_hits,
        last_used_at: counts.last_used_at,
    }
}

async fn write_each_second(counters: Weak<UsageCounters>, pending: Arc<Pending>) {
    let mut failing = false;
    loop {
        let early = pending.early.notified();
        let _ = tokio::time::timeout(FLUSH_EVERY, early).await;
        let Some(counters) = counters.upgrade() else {
            return;
        };
        if counters.pending() == 0 {
            continue;
        }
        match counters.flush().await {
            Ok(()) if failing => {
                failing = false;
                log::info!("usage counters are written again");
            }
            Ok(()) => {}
            Err(error) => {
                if !failing {
                    log::warn!(kind = error.kind(); "usage counters wait for the store: {error}");
                }
                failing = true;
                drop(counters);
                tokio::time::sleep(FLUSH_EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
