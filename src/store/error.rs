//! What can go wrong with a store, named by situation.

/// A storage failure. None of these ever means "no such row": absence is `Ok(None)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The server cannot be reached, the file cannot be opened, or the answer did not come in time.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The file or server holds something that is no database of this program.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The store refuses writes.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
    /// No space is left.
    #[error("the store is full: {0}")]
    Full(String),
    /// The database file was removed or replaced while running.
    #[error("the database file was removed or replaced: {0}")]
    Replaced(String),
    /// The schema was made by a newer version.
    #[error("the schema has version {found}, this program knows up to {known}; use a newer llm-proxy")]
    NewerSchema {
        /// What the store has.
        found: u32,
        /// What this program knows.
        known: u32,
    },
    /// A name that must be unique is taken.
    #[error("`{0}` exists already")]
    Conflict(String),
    /// A patch that does not fit what is stored.
    #[error(transparent)]
    Refused(#[from] crate::domain::patch::PatchRefused),
    /// A row holds something that this program never writes.
    #[error("row `{row}` of `{table}` is inconsistent: {why}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
        /// What is wrong with it.
        why: String,
    },
}

impl StoreError {
    /// A bounded word for metrics and `/ready`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Damaged(_) => "damaged",
            Self::ReadOnly(_) => "read_only",
            Self::Full(_) => "full",
            Self::Replaced(_) => "replaced",
            Self::NewerSchema { .. } => "newer_schema",
            Self::Conflict(_) => "conflict",
            Self::Refused(_) => "refused",
            Self::Inconsistent { .. } => "inconsistent",
        }
    }

    /// Whether the store itself is in trouble (and not what was asked of it).
    pub fn is_trouble(&self) -> bool {
        !matches!(self, Self::Conflict(_) | Self::Refused(_))
    }
}
