//! Counts open connections and hands out places for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Places above `max_connections`, so that health checks are still answered.
const RESERVED_PLACES: usize = 64;

/// The connections that are open.
#[derive(Debug, Default)]
pub struct ConnectionCount {
    open: AtomicUsize,
    emptied: Notify,
}

impl ConnectionCount {
    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Takes a place; `None` when the reserved ones are taken too.
    pub(super) fn take_place(self: &Arc<Self>, max_connections: usize) -> Option<Place> {
        let taken = self.open.fetch_add(1, Ordering::AcqRel);
        let place = Place {
            connections: Arc::clone(self),
            reserved: taken >= max_connections,
        };
        // dropping the place gives it back
        (taken < max_connections.saturating_add(RESERVED_PLACES)).then_some(place)
    }

    /// Waits until no connection is open.
    pub async fn wait_until_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// One open connection; dropping it closes the account.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<ConnectionCount>,
    reserved: bool,
}

impl Place {
    /// Only health paths are served here.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.connections.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.connections.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_above_the_limit_are_reserved_and_end() {
        let connections = Arc::new(ConnectionCount::default());
        let ordinary = connections.take_place(1).unwrap();
        assert!(!ordinary.is_reserved());
        let reserved: Vec<_> = (0..RESERVED_PLACES)
            .map(|_| connections.take_place(1).unwrap())
            .collect();
        assert!(reserved.iter().all(Place::is_reserved));
        assert!(connections.take_place(1).is_none());
        assert_eq!(connections.open(), 1 + RESERVED_PLACES);
        drop((ordinary, reserved));
        assert_eq!(connections.open(), 0);
        assert!(!connections.take_place(1).unwrap().is_reserved());
    }

    #[tokio::test]
    async fn emptiness_can_be_awaited() {
        let connections = Arc::new(ConnectionCount::default());
        connections.wait_until_empty().await;
        let place = connections.take_place(1).unwrap();
        let waiting = connections.wait_until_empty();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(place);
        waiting.await;
    }
}
