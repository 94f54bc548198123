//! Projects in SQLite.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::failure::{Failure, is_duplicate};
use super::rows::{project_columns, provider_keys};
use super::threads::Threads;
use crate::domain::patch::ProjectPatch;
use crate::domain::{Project, ProjectId, Timestamp};
use crate::store::columns::{ProjectColumns, offset};
use crate::store::projects::ProjectStore;
use crate::store::{Page, Paged, StoreError};

const BY_ID: &str = "\
SELECT id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm, concurrency,
       budget_nano_usd, budget_period, metadata
FROM projects WHERE id = ?1";

const LIST: &str = "\
SELECT id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm, concurrency,
       budget_nano_usd, budget_period, metadata
FROM projects ORDER BY name LIMIT ?1 OFFSET ?2";

const COUNT: &str = "SELECT COUNT(*) FROM projects";

const INSERT: &str = "\
INSERT INTO projects (id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm,
    concurrency, budget_nano_usd, budget_period, metadata)
VALUES (:id, :name, :is_active, :deactivated_at, :created_at, :updated_at, :allowed_models, :rpm, :tpm,
    :concurrency, :budget_nano_usd, :budget_period, :metadata)";

const UPDATE: &str = "\
UPDATE projects SET name = :name, is_active = :is_active, deactivated_at = :deactivated_at, updated_at = :updated_at,
    allowed_models = :allowed_models, rpm = :rpm, tpm = :tpm, concurrency = :concurrency,
    budget_nano_usd = :budget_nano_usd, budget_period = :budget_period, metadata = :metadata
WHERE id = :id";

const DELETE_KEYS: &str = "DELETE FROM project_provider_keys WHERE project_id = ?1";

const INSERT_KEY: &str = "\
INSERT INTO project_provider_keys (project_id, provider, sealed, obfuscated) VALUES (?1, ?2, ?3, ?4)";

/// Projects in SQLite.
pub(super) struct SqliteProjects {
    pub(super) threads: Threads,
}

#[async_trait]
impl ProjectStore for SqliteProjects {
    async fn get(&self, id: ProjectId) -> Result<Option<Project>, StoreError> {
        self.threads.read(move |connection| by_id(connection, id)).await
    }

    async fn list(&self, page: Page) -> Result<Paged<Project>, StoreError> {
        self.threads.read(move |connection| list(connection, page)).await
    }

    async fn create(&self, project: &Project) -> Result<(), StoreError> {
        let project = project.clone();
        self.threads
            .write(move |connection| {
                insert(connection, &project)?;
                write_keys(connection, &project)
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
        self.threads
            .write(move |connection| {
                let Some(mut project) = by_id(connection, id)? else {
                    return Ok(None);
                };
                patch.apply(&mut project, now);
                update(connection, &project)?;
                if !patch.provider_keys.is_empty() {
                    write_keys(connection, &project)?;
                }
                Ok(Some(project))
            })
            .await
    }
}

fn by_id(connection: &Connection, id: ProjectId) -> Result<Option<Project>, Failure> {
    let columns = connection
        .prepare_cached(BY_ID)?
        .query_row(params![id.to_string()], |row| project_columns(row, 0))
        .optional()?;
    columns.map(|columns| with_keys(connection, columns)).transpose()
}

fn with_keys(connection: &Connection, columns: ProjectColumns) -> Result<Project, Failure> {
    let keys = provider_keys(connection, &columns.id)?;
    Ok(columns.read(keys)?)
}

fn list(connection: &Connection, page: Page) -> Result<Paged<Project>, Failure> {
    let total: i64 = connection
        .prepare_cached(COUNT)?
        .query_row([], |row| row.get(0))?;
    let mut statement = connection.prepare_cached(LIST)?;
    let rows = statement.query_map(params![page.size, offset(page)], |row| project_columns(row, 0))?;
    let rows = rows
        .map(|columns| with_keys(connection, columns?))
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}

fn insert(connection: &Connection, project: &Project) -> Result<(), Failure> {
    let columns = ProjectColumns::of(project);
    let inserted = connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": columns.id, ":name": columns.name, ":is_active": columns.is_active,
        ":deactivated_at": columns.deactivated_at, ":created_at": columns.created_at,
        ":updated_at": columns.updated_at, ":allowed_models": columns.allowed_models,
        ":rpm": columns.limits.rpm, ":tpm": columns.limits.tpm, ":concurrency": columns.limits.concurrency,
        ":budget_nano_usd": columns.limits.budget_nano_usd, ":budget_period": columns.limits.budget_period,
        ":metadata": columns.metadata,
    });
    unique(inserted, &project.name)
}

fn update(connection: &Connection, project: &Project) -> Result<(), Failure> {
    let columns = ProjectColumns::of(project);
    let updated = connection.prepare_cached(UPDATE)?.execute(named_params! {
        ":id": columns.id, ":name": columns.name, ":is_active": columns.is_active,
        ":deactivated_at": columns.deactivated_at, ":updated_at": columns.updated_at,
        ":allowed_models": columns.allowed_models,
        ":rpm": columns.limits.rpm, ":tpm": columns.limits.tpm, ":concurrency": columns.limits.concurrency,
        ":budget_nano_usd": columns.limits.budget_nano_usd, ":budget_period": columns.limits.budget_period,
        ":metadata": columns.metadata,
    });
    unique(updated, &project.name)
}

fn unique(written: rusqlite::Result<usize>, name: &str) -> Result<(), Failure> {
    match written {
        Ok(_) => Ok(()),
        Err(error) if is_duplicate(&error) => Err(StoreError::Conflict(name.to_owned()).into()),
        Err(error) => Err(error.into()),
    }
}

fn write_keys(connection: &Connection, project: &Project) -> Result<(), Failure> {
    let id = project.id.to_string();
    connection.prepare_cached(DELETE_KEYS)?.execute(params![id])?;
    let mut insert = connection.prepare_cached(INSERT_KEY)?;
    for (provider, key) in &project.provider_keys {
        insert.execute(params![id, provider, key.sealed.expose(), key.obfuscated])?;
    }
    Ok(())
}
