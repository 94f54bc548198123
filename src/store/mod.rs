//! Persistence: ports here, SQL below.
