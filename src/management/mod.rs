//! The control plane: the only module that sees axum.
