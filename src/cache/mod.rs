//! Have we answered this before: freshness rules, keys and the bounded memory store.
