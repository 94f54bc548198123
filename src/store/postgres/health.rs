//! Asks PostgreSQL whether it reads and would write.

use async_trait::async_trait;

use super::database::Database;
use crate::store::{StoreError, StoreHealth};

const PING: &str =
    "SELECT current_setting('transaction_read_only') = 'on', value FROM change_counter WHERE id = 1";

/// Health of PostgreSQL.
pub(super) struct PostgresHealth {
    pub(super) database: Database,
}

#[async_trait]
impl StoreHealth for PostgresHealth {
    async fn ping(&self) -> Result<(), StoreError> {
        self.database
            .run(|client| {
                Box::pin(async move {
                    let is_read_only: bool = client.query_typed_one(PING, &[]).await?.try_get(0)?;
                    if is_read_only {
                        let why =
                            "PostgreSQL takes no writes (a standby, or `default_transaction_read_only`)";
                        return Err(StoreError::ReadOnly(why.to_owned()).into());
                    }
                    Ok(())
                })
            })
            .await
    }
}
