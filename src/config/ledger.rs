//! `ledger`: when a usage record is safe, and how long it is kept.

use std::time::Duration;

use super::schema::Key;
use super::section::{Section, TEN_YEARS};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "ledger.durability",
        "strict",
        "When a client sees the end of its answer: `strict` after its record is committed, `batched` at once (a crash may lose 100 ms of records); `off`: at once, and only requests under a budget are recorded.",
    ),
    Key::new(
        "ledger.fsync",
        "false",
        "Whether every commit waits for the disk, so that records survive a loss of power.",
    ),
    Key::new(
        "ledger.on_full",
        "refuse",
        "When neither the store nor the spool takes records: `refuse` new requests (503), or `drop` the records.",
    ),
    Key::new(
        "ledger.spool_max",
        "1GiB",
        "Size of the spool, which takes records while the store is away.",
    ),
    Key::new(
        "ledger.retention",
        "400d",
        "How long records are kept; their sums stay.",
    ),
];

/// `ledger.durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The end of an answer waits for the commit of its record.
    Strict,
    /// It does not.
    Batched,
    /// Nothing is recorded but what is spent under a budget, for which nobody waits.
    Off,
}

/// `ledger.on_full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnFull {
    /// New requests are refused.
    Refuse,
    /// Records are dropped, and counted.
    Drop,
}

/// `ledger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSettings {
    /// When the end of an answer may be seen.
    pub durability: Durability,
    /// Whether commits wait for the disk.
    pub fsync: bool,
    /// When nothing takes records.
    pub on_full: OnFull,
    /// Bytes of the spool.
    pub spool_max_bytes: u64,
    /// How long records are kept.
    pub retention: Duration,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Strict,
            fsync: false,
            on_full: OnFull::Refuse,
            spool_max_bytes: 1 << 30,
            retention: Duration::from_hours(400 * 24),
        }
    }
}

impl LedgerSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let durability = [
            ("strict", Durability::Strict),
            ("batched", Durability::Batched),
            ("off", Durability::Off),
        ];
        let on_full = [("refuse", OnFull::Refuse), ("drop", OnFull::Drop)];
        Self {
            durability: section.choice("durability", default.durability, &durability, &[]),
            fsync: section.flag("fsync", default.fsync),
            on_full: section.choice("on_full", default.on_full, &on_full, &[]),
            spool_max_bytes: section.size("spool_max", default.spool_max_bytes, 0..=1 << 40),
            retention: section.duration("retention", default.retention, Duration::from_secs(1)..=TEN_YEARS),
        }
    }
}
