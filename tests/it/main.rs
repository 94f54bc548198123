//! Drives the real program from outside, on free ports, against a scriptable provider.
