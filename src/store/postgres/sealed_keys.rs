//! Provider keys at rest in PostgreSQL.

use async_trait::async_trait;
use tokio_postgres::types::Type;

use super::database::Database;
use crate::domain::Secret;
use crate::store::StoreError;
use crate::store::sealed_keys::{SealedKey, SealedKeys};

const AFTER: &str = "\
SELECT project_id, provider, sealed FROM project_provider_keys
WHERE (project_id, provider) > ($1, $2) ORDER BY project_id, provider LIMIT $3";
const REPLACE: &str = "\
UPDATE project_provider_keys SET sealed = $4 WHERE project_id = $1 AND provider = $2 AND sealed = $3";

pub(super) struct PostgresSealedKeys {
    pub(super) database: Database,
}

#[async_trait]
impl SealedKeys for PostgresSealedKeys {
    async fn after(&self, last: Option<&SealedKey>, limit: u32) -> Result<Vec<SealedKey>, StoreError> {
        let (project, provider) = last.map_or_else(Default::default, |last| {
            (last.project_id.clone(), last.provider.clone())
        });
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let rows = client
                        .query_typed(
                            AFTER,
                            &[
                                (&project, Type::TEXT),
                                (&provider, Type::TEXT),
                                (&i64::from(limit), Type::INT8),
                            ],
                        )
                        .await?;
                    rows.iter()
                        .map(|row| {
                            Ok(SealedKey {
                                project_id: row.try_get(0)?,
                                provider: row.try_get(1)?,
                                sealed: Secret::new(row.try_get::<_, String>(2)?),
                            })
                        })
                        .collect()
                })
            })
            .await
    }

    async fn replace(&self, key: &SealedKey, sealed: &Secret) -> Result<bool, StoreError> {
        let (key, sealed) = (key.clone(), sealed.clone());
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let changed = client
                        .execute_typed(
                            REPLACE,
                            &[
                                (&key.project_id, Type::TEXT),
                                (&key.provider, Type::TEXT),
                                (&key.sealed.expose(), Type::TEXT),
                                (&sealed.expose(), Type::TEXT),
                            ],
                        )
                        .await?;
                    Ok(changed == 1)
                })
            })
            .await
    }
}
