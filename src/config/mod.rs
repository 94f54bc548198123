//! From bytes to a configuration that cannot be wrong.
