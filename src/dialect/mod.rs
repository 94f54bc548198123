//! Provider wire formats: bytes in, facts and bytes out; sans I/O.
