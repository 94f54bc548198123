//! Tells everybody in this process who wants to hear of changes.

use std::sync::Arc;

use super::{ChangeListener, Changed};

/// Several listeners as one. Whoever changes something tells it after the change is stored and before the answer goes
/// out; the listener of the other instances' changes tells it too.
#[derive(Default)]
pub struct LocalChanges {
    listeners: Vec<Arc<dyn ChangeListener>>,
}

impl LocalChanges {
    /// For these listeners.
    pub fn new(listeners: Vec<Arc<dyn ChangeListener>>) -> Self {
        Self { listeners }
    }
}

impl ChangeListener for LocalChanges {
    fn changed(&self, change: Changed) {
        for listener in &self.listeners {
            listener.changed(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    struct Ear(Mutex<Vec<Changed>>);

    impl ChangeListener for Ear {
        fn changed(&self, change: Changed) {
            self.0.lock().push(change);
        }
    }

    #[test]
    fn everybody_hears_of_a_change_before_the_call_returns() {
        let ears = [Arc::new(Ear(Mutex::default())), Arc::new(Ear(Mutex::default()))];
        let changes = LocalChanges::new(ears.iter().map(|ear| Arc::clone(ear) as _).collect());
        changes.changed(Changed::Everything);
        assert!(ears.iter().all(|ear| *ear.0.lock() == [Changed::Everything]));
    }
}
