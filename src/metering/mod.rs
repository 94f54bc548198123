//! What was used: counters that survive a clean stop.
