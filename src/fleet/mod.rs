//! The other instances: how a change made on one is heard on all.
