//! From a socket to a Pingora session.
