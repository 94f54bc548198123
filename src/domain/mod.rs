//! Nouns and rules: no I/O, no async.
