//! Tells the other instances of a change, in its own transaction.

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::failure::Failure;
use crate::domain::{ProjectId, TokenId};

// The counter's row lock makes notifications come in the order of commits.
const NOTIFY: &str = "\
WITH moved AS (UPDATE change_counter SET value = value + 1 WHERE id = 1 RETURNING value)
SELECT pg_notify('llm_proxy_changes', $1 || ' ' || value::TEXT) FROM moved";

/// `token <uuid> <counter>`
pub(super) async fn token_changed(transaction: &Transaction<'_>, id: TokenId) -> Result<(), Failure> {
    notify(transaction, &format!("token {id}")).await
}

/// `project <uuid> <counter>`
pub(super) async fn project_changed(transaction: &Transaction<'_>, id: ProjectId) -> Result<(), Failure> {
    notify(transaction, &format!("project {id}")).await
}

async fn notify(transaction: &Transaction<'_>, what: &str) -> Result<(), Failure> {
    transaction.query_typed(NOTIFY, &[(&what, Type::TEXT)]).await?;
    Ok(())
}
