//! Counts requests under way against `server.max_concurrent_requests`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The requests under way.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicU32,
}

/// One request's place; dropping it frees the place.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes a place; `None` when `limit` are taken.
    pub fn take(self: &Arc<Self>, limit: Option<u32>) -> Option<Place> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        limit.is_none_or(|limit| before < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_refused_is_not_taken() {
        let places = Arc::new(Places::default());
        let first = places.take(Some(1));
        assert!(first.is_some());
        assert!(places.take(Some(1)).is_none());
        assert_eq!(places.taken(), 1);
        drop(first);
        assert_eq!(places.taken(), 0);
    }
}
