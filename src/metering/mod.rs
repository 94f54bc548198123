//! What was used: counters of tokens, gathered in memory and written in groups.

pub mod counters;

pub use counters::UsageCounters;
