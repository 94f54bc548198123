//! The data plane: the only module that sees a Pingora session.
