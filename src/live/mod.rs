//! The running view of the configuration: one snapshot, swapped whole.

mod cors;
mod folders;
pub mod reload;
mod snapshot;
pub mod watch;

pub use crate::config::OnProxyListener;
pub use cors::CorsRules;
pub use snapshot::{STATE_PARAMETERS, Snapshot};

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch::{Receiver, Sender};

/// The current snapshot. Who takes one keeps it for as long as he likes; a swap changes nothing for him.
#[derive(Debug)]
pub struct Live<S> {
    current: ArcSwap<S>,
    generation: Sender<u64>,
}

impl<S> Live<S> {
    /// Begins with `snapshot` as generation 1.
    pub fn new(snapshot: S) -> Self {
        Self {
            current: ArcSwap::from_pointee(snapshot),
            generation: Sender::new(1),
        }
    }

    /// The current snapshot: one atomic increment, no lock.
    pub fn snapshot(&self) -> Arc<S> {
        self.current.load_full()
    }

    /// How many snapshots there were, this one included.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Puts `snapshot` in place for everybody who asks from now on, and answers its generation.
    pub fn swap(&self, snapshot: Arc<S>) -> u64 {
        self.current.store(snapshot);
        let mut generation = 0;
        self.generation.send_modify(|current| {
            *current += 1;
            generation = *current;
        });
        generation
    }

    /// Wakes whoever waits for the next swap.
    pub fn swaps(&self) -> Receiver<u64> {
        self.generation.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_does_not_touch_what_is_held() {
        let live = Live::new(1);
        let held = live.snapshot();
        assert_eq!(live.swap(Arc::new(2)), 2);
        assert_eq!((*held, *live.snapshot(), live.generation()), (1, 2, 2));
    }
}
