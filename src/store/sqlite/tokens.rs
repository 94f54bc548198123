//! Tokens in SQLite.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::failure::{Failure, is_dangling, is_duplicate};
use super::rows::{TOKEN_WIDTH, project_columns, provider_keys, token_columns};
use super::threads::Threads;
use crate::domain::patch::TokenPatch;
use crate::domain::{ProjectId, Timestamp, Token, TokenHash, TokenId};
use crate::store::columns::{TokenColumns, offset};
use crate::store::tokens::{RevokeCounts, StoredPrincipal, TokenFilter, TokenStore};
use crate::store::{Page, Paged, StoreError};

const BY_HASH: &str = "\
SELECT t.id, t.project_id, t.name, t.obfuscated, t.expires_at, t.is_active, t.deactivated_at, t.created_at,
       t.last_used_at, t.request_count, t.cache_hit_count, t.max_requests, t.allowed_models, t.allowed_endpoints,
       t.allowed_ips, t.rpm, t.tpm, t.concurrency, t.budget_nano_usd, t.budget_period, t.metadata,
       p.id, p.name, p.is_active, p.deactivated_at, p.created_at, p.updated_at, p.allowed_models,
       p.rpm, p.tpm, p.concurrency, p.budget_nano_usd, p.budget_period, p.metadata,
       s.expires_at
FROM token_secrets s JOIN tokens t ON t.id = s.token_id JOIN projects p ON p.id = t.project_id
WHERE s.hash = ?1";

const BY_ID: &str = "\
SELECT id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
       request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips,
       rpm, tpm, concurrency, budget_nano_usd, budget_period, metadata
FROM tokens WHERE id = ?1";

const LIST: &str = "\
SELECT id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
       request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips,
       rpm, tpm, concurrency, budget_nano_usd, budget_period, metadata
FROM tokens
WHERE (?1 IS NULL OR project_id = ?1) AND (?2 IS NULL OR (is_active = 1 AND expires_at > ?2))
ORDER BY created_at DESC, id LIMIT ?3 OFFSET ?4";

const COUNT: &str = "\
SELECT COUNT(*) FROM tokens
WHERE (?1 IS NULL OR project_id = ?1) AND (?2 IS NULL OR (is_active = 1 AND expires_at > ?2))";

const INSERT: &str = "\
INSERT INTO tokens (id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
    request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips,
    rpm, tpm, concurrency, budget_nano_usd, budget_period, metadata)
VALUES (:id, :project_id, :name, :obfuscated, :expires_at, :is_active, :deactivated_at, :created_at, :last_used_at,
    :request_count, :cache_hit_count, :max_requests, :allowed_models, :allowed_endpoints, :allowed_ips,
    :rpm, :tpm, :concurrency, :budget_nano_usd, :budget_period, :metadata)";

const INSERT_SECRET: &str = "INSERT INTO token_secrets (hash, token_id, expires_at) VALUES (?1, ?2, NULL)";

// The counters are not here: a patch never takes a request back.
const UPDATE: &str = "\
UPDATE tokens SET name = :name, obfuscated = :obfuscated, expires_at = :expires_at, is_active = :is_active,
    deactivated_at = :deactivated_at, max_requests = :max_requests, allowed_models = :allowed_models,
    allowed_endpoints = :allowed_endpoints, allowed_ips = :allowed_ips, rpm = :rpm, tpm = :tpm,
    concurrency = :concurrency, budget_nano_usd = :budget_nano_usd, budget_period = :budget_period,
    metadata = :metadata
WHERE id = :id";

const COUNT_OF_PROJECT: &str =
    "SELECT COUNT(*), COUNT(*) FILTER (WHERE is_active = 0) FROM tokens WHERE project_id = ?1";

const REVOKE_OF_PROJECT: &str =
    "UPDATE tokens SET is_active = 0, deactivated_at = ?2 WHERE project_id = ?1 AND is_active = 1";

const END_SECRETS: &str = "\
UPDATE token_secrets SET expires_at = ?2 WHERE token_id = ?1 AND (expires_at IS NULL OR expires_at > ?2)";

/// Tokens in SQLite.
pub(super) struct SqliteTokens {
    pub(super) threads: Threads,
}

#[async_trait]
impl TokenStore for SqliteTokens {
    async fn by_hash(&self, hash: TokenHash) -> Result<Option<StoredPrincipal>, StoreError> {
        self.threads
            .read(move |connection| principal(connection, hash))
            .await
    }

    async fn get(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        self.threads.read(move |connection| by_id(connection, id)).await
    }

    async fn list(&self, filter: TokenFilter, page: Page) -> Result<Paged<Token>, StoreError> {
        self.threads
            .read(move |connection| list(connection, filter, page))
            .await
    }

    async fn create(&self, token: &Token, hash: TokenHash) -> Result<(), StoreError> {
        let columns = TokenColumns::of(token);
        self.threads
            .write(move |connection| {
                insert(connection, &columns)?;
                insert_secret(connection, &columns.id, hash)
            })
            .await
    }

    async fn patch(
        &self,
        id: TokenId,
        patch: &TokenPatch,
        now: Timestamp,
    ) -> Result<Option<Token>, StoreError> {
        let patch = patch.clone();
        self.threads
            .write(move |connection| {
                let Some(mut token) = by_id(connection, id)? else {
                    return Ok(None);
                };
                patch.apply(&mut token, now)?;
                update(connection, &token)?;
                Ok(Some(token))
            })
            .await
    }

    async fn revoke_all(&self, project: ProjectId, now: Timestamp) -> Result<RevokeCounts, StoreError> {
        self.threads
            .write(move |connection| {
                let id = project.to_string();
                let (total, inactive): (i64, i64) = connection
                    .prepare_cached(COUNT_OF_PROJECT)?
                    .query_row(params![id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let revoked = connection
                    .prepare_cached(REVOKE_OF_PROJECT)?
                    .execute(params![id, now.as_micros()])?;
                Ok(RevokeCounts {
                    revoked_count: revoked as u64,
                    already_revoked_count: u64::try_from(inactive).unwrap_or(0),
                    total_tokens: u64::try_from(total).unwrap_or(0),
                })
            })
            .await
    }

    async fn rotate(
        &self,
        id: TokenId,
        hash: TokenHash,
        obfuscated: &str,
        old_valid_until: Timestamp,
    ) -> Result<Option<Token>, StoreError> {
        let obfuscated = obfuscated.to_owned();
        self.threads
            .write(move |connection| {
                let Some(mut token) = by_id(connection, id)? else {
                    return Ok(None);
                };
                token.obfuscated = obfuscated;
                let key = id.to_string();
                connection
                    .prepare_cached(END_SECRETS)?
                    .execute(params![key, old_valid_until.as_micros()])?;
                insert_secret(connection, &key, hash)?;
                update(connection, &token)?;
                Ok(Some(token))
            })
            .await
    }
}

fn principal(connection: &Connection, hash: TokenHash) -> Result<Option<StoredPrincipal>, Failure> {
    const PROJECT_WIDTH: usize = 13;
    let found = connection
        .prepare_cached(BY_HASH)?
        .query_row(params![hash.as_bytes().as_slice()], |row| {
            Ok((
                token_columns(row, 0)?,
                project_columns(row, TOKEN_WIDTH)?,
                row.get::<_, Option<i64>>(TOKEN_WIDTH + PROJECT_WIDTH)?,
            ))
        })
        .optional()?;
    let Some((token, project, expires_at)) = found else {
        return Ok(None);
    };
    let keys = provider_keys(connection, &project.id)?;
    Ok(Some(StoredPrincipal {
        token: token.read()?,
        project: project.read(keys)?,
        secret_expires_at: expires_at.map(Timestamp::from_micros),
    }))
}

fn by_id(connection: &Connection, id: TokenId) -> Result<Option<Token>, Failure> {
    let columns = connection
        .prepare_cached(BY_ID)?
        .query_row(params![id.to_string()], |row| token_columns(row, 0))
        .optional()?;
    Ok(columns.map(TokenColumns::read).transpose()?)
}

fn list(connection: &Connection, filter: TokenFilter, page: Page) -> Result<Paged<Token>, Failure> {
    let project = filter.project_id.map(|id| id.to_string());
    let active_at = filter.active_at.map(Timestamp::as_micros);
    let total: i64 = connection
        .prepare_cached(COUNT)?
        .query_row(params![project, active_at], |row| row.get(0))?;
    let mut statement = connection.prepare_cached(LIST)?;
    let rows = statement.query_map(params![project, active_at, page.size, offset(page)], |row| {
        token_columns(row, 0)
    })?;
    let rows = rows
        .map(|columns| Ok(columns?.read()?))
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}

fn insert(connection: &Connection, token: &TokenColumns) -> Result<(), Failure> {
    let inserted = connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": token.id, ":project_id": token.project_id, ":name": token.name, ":obfuscated": token.obfuscated,
        ":expires_at": token.expires_at, ":is_active": token.is_active, ":deactivated_at": token.deactivated_at,
        ":created_at": token.created_at, ":last_used_at": token.last_used_at,
        ":request_count": token.request_count, ":cache_hit_count": token.cache_hit_count,
        ":max_requests": token.max_requests, ":allowed_models": token.allowed_models,
        ":allowed_endpoints": token.allowed_endpoints, ":allowed_ips": token.allowed_ips,
        ":rpm": token.limits.rpm, ":tpm": token.limits.tpm, ":concurrency": token.limits.concurrency,
        ":budget_nano_usd": token.limits.budget_nano_usd, ":budget_period": token.limits.budget_period,
        ":metadata": token.metadata,
    });
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if is_duplicate(&error) => Err(StoreError::Conflict(token.id.clone()).into()),
        Err(error) if is_dangling(&error) => Err(StoreError::Inconsistent {
            table: "tokens",
            row: token.id.clone(),
            why: format!("there is no project `{}`", token.project_id),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

fn insert_secret(connection: &Connection, token_id: &str, hash: TokenHash) -> Result<(), Failure> {
    let inserted = connection
        .prepare_cached(INSERT_SECRET)?
        .execute(params![hash.as_bytes().as_slice(), token_id]);
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if is_duplicate(&error) => Err(StoreError::Conflict("this secret".to_owned()).into()),
        Err(error) => Err(error.into()),
    }
}

fn update(connection: &Connection, token: &Token) -> Result<(), Failure> {
    let token = TokenColumns::of(token);
    connection.prepare_cached(UPDATE)?.execute(named_params! {
        ":id": token.id, ":name": token.name, ":obfuscated": token.obfuscated, ":expires_at": token.expires_at,
        ":is_active": token.is_active, ":deactivated_at": token.deactivated_at,
        ":max_requests": token.max_requests, ":allowed_models": token.allowed_models,
        ":allowed_endpoints": token.allowed_endpoints, ":allowed_ips": token.allowed_ips,
        ":rpm": token.limits.rpm, ":tpm": token.limits.tpm, ":concurrency": token.limits.concurrency,
        ":budget_nano_usd": token.limits.budget_nano_usd, ":budget_period": token.limits.budget_period,
        ":metadata": token.metadata,
    })?;
    Ok(())
}
