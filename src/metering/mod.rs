//! What was used: counters of tokens, usage of answers, the ledger.

pub mod counters;
pub mod ledger;
pub mod meter;
pub mod tokenizer;

pub use counters::UsageCounters;
pub use ledger::{Ledger, Opened, Reserved};
pub use meter::{Meter, Metered};
