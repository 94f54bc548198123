//! Identities: projects, tokens and records.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

macro_rules! uuid_id {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random identity (UUID v4).
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// From its sixteen bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Its sixteen bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                Uuid::try_parse(text).map(Self).map_err(|_| NotAnId)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id; ids look like `3f2b8c1e-8f0a-4a53-9a57-0a4a2b8f3f10`")]
pub struct NotAnId;

uuid_id!(ProjectId, "The identity of a project (a tenant).");
uuid_id!(TokenId, "The identity of a token; not its secret.");
uuid_id!(AuditId, "The identity of an audit event.");

/// The next of a thread's random numbers. Record ids must differ, they need not be hard to guess: one call to the
/// system's random source a thread, then steps of an odd number, which meet no value twice in 2^128.
fn next_random() -> u128 {
    const STEP: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
    thread_local! {
        static STATE: Cell<u128> = Cell::new(Uuid::new_v4().as_u128());
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(STEP);
        state.set(next);
        next ^ (next >> 64)
    })
}

/// The server-made identity of one client request (a ULID): what keys records and events. The client's
/// request id is an attribute only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(ulid::Ulid);

impl RecordId {
    /// A new identity for the moment `now`.
    pub fn new(now: super::Timestamp) -> Self {
        let millis = u64::try_from(now.as_micros() / 1000).unwrap_or(0);
        Self(ulid::Ulid::from_parts(millis, next_random()))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0u8; ulid::ULID_LEN];
        f.write_str(self.0.array_to_str(&mut buffer))
    }
}

/// The text is not a record's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record's id; they look like `01KYTB0M7R6W2Z0A8C6V1T3N5P`")]
pub struct NotARecordId;

impl FromStr for RecordId {
    type Err = NotARecordId;

    fn from_str(text: &str) -> Result<Self, NotARecordId> {
        ulid::Ulid::from_string(text).map(Self).map_err(|_| NotARecordId)
    }
}

impl RecordId {
    /// A number that differs from record to record, for made-up ids.
    pub fn seed(self) -> u64 {
        let bytes = self.0.to_bytes();
        u64::from_le_bytes([
            bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
        ])
    }
}
