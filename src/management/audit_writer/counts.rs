//! Counts what the audit trail lost or left out.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was lost or left out since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditCounts {
    /// Events that found the queue full and are nowhere.
    pub dropped: u64,
    /// Denied events left out because too many came at once; a summary event says how many.
    pub suppressed: u64,
    /// Events that are not in the file, because it could not be written.
    pub missing_in_file: u64,
    /// Events that are not in the store, because it was away for too long.
    pub missing_in_store: u64,
}

#[derive(Debug, Default)]
pub struct Counters {
    dropped: AtomicU64,
    suppressed: AtomicU64,
    missing_in_file: AtomicU64,
    missing_in_store: AtomicU64,
}

impl Counters {
    pub fn read(&self) -> AuditCounts {
        AuditCounts {
            dropped: self.dropped.load(Ordering::Relaxed),
            suppressed: self.suppressed.load(Ordering::Relaxed),
            missing_in_file: self.missing_in_file.load(Ordering::Relaxed),
            missing_in_store: self.missing_in_store.load(Ordering::Relaxed),
        }
    }

    pub fn add_suppressed(&self) {
        self.suppressed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub fn add_missing_in_file(&self, count: u64) {
        self.missing_in_file.fetch_add(count, Ordering::Relaxed);
    }

    pub fn add_missing_in_store(&self, count: u64) {
        self.missing_in_store.fetch_add(count, Ordering::Relaxed);
    }
}
