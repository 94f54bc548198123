//! How many requests are under way at once, in this process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;

use super::charge::Bucket;

const SHARDS: usize = 64;

/// Counts requests under way per bucket. A bucket is kept only while something is under way in it, so the
/// map is as bounded as connections are. Requests are counted while their bucket is limited; those that
/// began before it was, are not.
pub(super) struct Concurrency {
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
}

type Shard = HashMap<Bucket, u32, DefaultHashBuilder>;

/// One request under way; ends when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    concurrency: Arc<Concurrency>,
    bucket: Bucket,
}

impl Concurrency {
    pub(super) fn new() -> Arc<Self> {
        let hasher = DefaultHashBuilder::default();
        Arc::new(Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(HashMap::with_hasher(hasher.clone())))
                .collect(),
            hasher,
        })
    }

    /// One more, or `None` when `most` are under way.
    pub(super) fn enter(self: &Arc<Self>, bucket: Bucket, most: NonZeroU32) -> Option<Permit> {
        let mut shard = self.shard(bucket).lock();
        let count = shard.entry(bucket).or_insert(0);
        if *count >= most.get() {
            return None;
        }
        *count += 1;
        Some(Permit {
            concurrency: self.clone(),
            bucket,
        })
    }

    fn shard(&self, bucket: Bucket) -> &Mutex<Shard> {
        &self.shards[(self.hasher.hash_one(bucket) >> 16) as usize % SHARDS]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl std::fmt::Debug for Concurrency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Concurrency")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shard = self.concurrency.shard(self.bucket).lock();
        if let Entry::Occupied(mut entry) = shard.entry(self.bucket) {
            if *entry.get() <= 1 {
                entry.remove();
            } else {
                *entry.get_mut() -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_lets_the_next_one_in_and_leaves_nothing_behind() {
        let concurrency = Concurrency::new();
        let two = NonZeroU32::new(2).unwrap();
        let first = concurrency.enter(Bucket::Global, two).unwrap();
        let second = concurrency.enter(Bucket::Global, two).unwrap();
        assert!(concurrency.enter(Bucket::Global, two).is_none());
        drop(first);
        let third = concurrency.enter(Bucket::Global, two).unwrap();
        drop((second, third));
        assert_eq!(concurrency.len(), 0);
    }
}
