//! What PostgreSQL and the way to it say, named by situation.

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::url::reasons;
use crate::store::StoreError;

/// A failure inside an operation.
#[derive(Debug)]
pub(super) enum Failure {
    Store(StoreError),
    Postgres(Error),
    Pool(PoolError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Postgres(error),
            other => Self::Pool(other),
        }
    }
}

impl From<crate::domain::patch::PatchRefused> for Failure {
    fn from(error: crate::domain::patch::PatchRefused) -> Self {
        Self::Store(error.into())
    }
}

impl Failure {
    /// The situation in words; the caller takes the password out of them.
    pub(super) fn named(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Pool(error) => StoreError::Unavailable(error.to_string()),
            Self::Postgres(error) => named(&error),
        }
    }
}

/// Whether the error is a broken `UNIQUE` or primary key.
pub(super) fn is_duplicate(error: &Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// Whether the error is a reference to a row that does not exist.
pub(super) fn is_dangling(error: &Error) -> bool {
    error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION)
}

fn named(error: &Error) -> StoreError {
    let Some(server) = error.as_db_error() else {
        return StoreError::Unavailable(format!("PostgreSQL: {}", reasons(error)));
    };
    // Not its detail: that quotes rows.
    let text = format!("PostgreSQL: {} ({})", server.message(), server.code().code());
    match server.code() {
        code if *code == SqlState::DISK_FULL => StoreError::Full(text),
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::ReadOnly(text),
        code if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) => {
            StoreError::Damaged(text)
        }
        code if [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
            SqlState::DUPLICATE_TABLE,
        ]
        .contains(code) =>
        {
            StoreError::Damaged(format!(
                "{text}: the schema is not that of llm-proxy; see `llm-proxy migrate status`"
            ))
        }
        _ => StoreError::Unavailable(text),
    }
}
