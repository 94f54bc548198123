//! Projects in PostgreSQL.

use async_trait::async_trait;
use deadpool_postgres::{ClientWrapper, Transaction};
use tokio_postgres::types::Type;

use super::changes::project_changed;
use super::database::Database;
use super::failure::{Failure, is_duplicate};
use super::rows::{project_columns, provider_key_columns, text};
use crate::domain::patch::ProjectPatch;
use crate::domain::{Project, ProjectId, Secret, Timestamp};
use crate::store::columns::{ProjectColumns, ProviderKeyColumns, offset};
use crate::store::projects::ProjectStore;
use crate::store::{Page, Paged, StoreError};

const BY_ID: &str = "\
SELECT id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm, concurrency,
       budget_nano_usd, budget_period, metadata
FROM projects WHERE id = $1";

const BY_ID_TO_CHANGE: &str = "\
SELECT id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm, concurrency,
       budget_nano_usd, budget_period, metadata
FROM projects WHERE id = $1 FOR UPDATE";

// Byte order, as SQLite has it, whatever the database's collation.
const LIST: &str = "\
SELECT id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm, concurrency,
       budget_nano_usd, budget_period, metadata
FROM projects ORDER BY name COLLATE \"C\" LIMIT $1 OFFSET $2";

const COUNT: &str = "SELECT COUNT(*) FROM projects";

const KEYS: &str = "\
SELECT project_id, provider, sealed, obfuscated FROM project_provider_keys
WHERE project_id = ANY($1) LIMIT 1000000";

const INSERT: &str = "\
INSERT INTO projects (id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm,
    concurrency, budget_nano_usd, budget_period, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

const UPDATE: &str = "\
UPDATE projects SET name = $2, is_active = $3, deactivated_at = $4, created_at = $5, updated_at = $6,
    allowed_models = $7, rpm = $8, tpm = $9, concurrency = $10, budget_nano_usd = $11, budget_period = $12,
    metadata = $13
WHERE id = $1";

const DELETE_KEYS: &str = "DELETE FROM project_provider_keys WHERE project_id = $1";

const INSERT_KEY: &str = "\
INSERT INTO project_provider_keys (project_id, provider, sealed, obfuscated) VALUES ($1, $2, $3, $4)";

/// Projects in PostgreSQL.
pub(super) struct PostgresProjects {
    pub(super) database: Database,
}

#[async_trait]
impl ProjectStore for PostgresProjects {
    async fn get(&self, id: ProjectId) -> Result<Option<Project>, StoreError> {
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let rows = client
                        .query_typed(BY_ID, &[(&id.to_string(), Type::TEXT)])
                        .await?;
                    let Some(row) = rows.first() else { return Ok(None) };
                    let columns = project_columns(row, 0)?;
                    let keys = keys(client, std::slice::from_ref(&columns.id)).await?;
                    let keys = keys.into_iter().map(|(_, key)| key).collect();
                    Ok(Some(columns.read(keys)?))
                })
            })
            .await
    }

    async fn list(&self, page: Page) -> Result<Paged<Project>, StoreError> {
        self.database
            .run(move |client| Box::pin(list(client, page)))
            .await
    }

    async fn create(&self, project: &Project) -> Result<(), StoreError> {
        let project = project.clone();
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let transaction = client.transaction().await?;
                    write(&transaction, INSERT, &project).await?;
                    insert_keys(&transaction, &project).await?;
                    project_changed(&transaction, project.id).await?;
                    Ok(transaction.commit().await?)
                })
            })
            .await
    }

    async fn patch(
        &self,
        id: ProjectId,
        patch: &ProjectPatch,
        now: Timestamp,
    ) -> Result<Option<Project>, StoreError> {
        let patch = patch.clone();
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let transaction = client.transaction().await?;
                    let Some(mut project) = to_change(&transaction, id).await? else {
                        return Ok(None);
                    };
                    patch.apply(&mut project, now);
                    write(&transaction, UPDATE, &project).await?;
                    if !patch.provider_keys.is_empty() {
                        transaction
                            .execute_typed(DELETE_KEYS, &[(&id.to_string(), Type::TEXT)])
                            .await?;
                        insert_keys(&transaction, &project).await?;
                    }
                    project_changed(&transaction, id).await?;
                    transaction.commit().await?;
                    Ok(Some(project))
                })
            })
            .await
    }
}

async fn list(client: &mut ClientWrapper, page: Page) -> Result<Paged<Project>, Failure> {
    let total: i64 = client.query_typed_one(COUNT, &[]).await?.try_get(0)?;
    let rows = client
        .query_typed(
            LIST,
            &[(&i64::from(page.size), Type::INT8), (&offset(page), Type::INT8)],
        )
        .await?;
    let columns = rows
        .iter()
        .map(|row| project_columns(row, 0))
        .collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<String> = columns.iter().map(|columns| columns.id.clone()).collect();
    let mut by_project = std::collections::HashMap::<String, Vec<ProviderKeyColumns>>::new();
    for (project, key) in keys(client, &ids).await? {
        by_project.entry(project).or_default().push(key);
    }
    let rows = columns
        .into_iter()
        .map(|columns| {
            let keys = by_project.remove(&columns.id).unwrap_or_default();
            Ok(columns.read(keys)?)
        })
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}

async fn keys(
    client: &tokio_postgres::Client,
    projects: &[String],
) -> Result<Vec<(String, ProviderKeyColumns)>, Failure> {
    let rows = client.query_typed(KEYS, &[(&projects, Type::TEXT_ARRAY)]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, provider_key_columns(row, 1)?)))
        .collect()
}

async fn to_change(transaction: &Transaction<'_>, id: ProjectId) -> Result<Option<Project>, Failure> {
    let rows = transaction
        .query_typed(BY_ID_TO_CHANGE, &[(&id.to_string(), Type::TEXT)])
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let columns = project_columns(row, 0)?;
    let ids = [columns.id.clone()];
    let rows = transaction
        .query_typed(KEYS, &[(&ids.as_slice(), Type::TEXT_ARRAY)])
        .await?;
    let keys = rows
        .iter()
        .map(|row| provider_key_columns(row, 1))
        .collect::<Result<_, _>>()?;
    Ok(Some(columns.read(keys)?))
}

async fn write(
    transaction: &Transaction<'_>,
    statement: &'static str,
    project: &Project,
) -> Result<(), Failure> {
    let columns = ProjectColumns::of(project);
    let written = transaction
        .execute_typed(
            statement,
            &[
                (&columns.id, Type::TEXT),
                (&text(&columns.name), Type::TEXT),
                (&columns.is_active, Type::BOOL),
                (&columns.deactivated_at, Type::INT8),
                (&columns.created_at, Type::INT8),
                (&columns.updated_at, Type::INT8),
                (&columns.allowed_models, Type::TEXT),
                (&columns.limits.rpm, Type::INT8),
                (&columns.limits.tpm, Type::INT8),
                (&columns.limits.concurrency, Type::INT8),
                (&columns.limits.budget_nano_usd, Type::INT8),
                (&columns.limits.budget_period, Type::TEXT),
                (&columns.metadata, Type::TEXT),
            ],
        )
        .await;
    match written {
        Ok(_) => Ok(()),
        Err(error) if is_duplicate(&error) => Err(StoreError::Conflict(project.name.clone()).into()),
        Err(error) => Err(error.into()),
    }
}

async fn insert_keys(transaction: &Transaction<'_>, project: &Project) -> Result<(), Failure> {
    for (provider, key) in &project.provider_keys {
        let sealed = Secret::new(text(key.sealed.expose()));
        transaction
            .execute_typed(
                INSERT_KEY,
                &[
                    (&project.id.to_string(), Type::TEXT),
                    (&text(provider), Type::TEXT),
                    (&sealed.expose(), Type::TEXT),
                    (&text(&key.obfuscated), Type::TEXT),
                ],
            )
            .await?;
    }
    Ok(())
}
