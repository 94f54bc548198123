//! Tokens in PostgreSQL.

use async_trait::async_trait;
use deadpool_postgres::{ClientWrapper, Transaction};
use tokio_postgres::types::Type;

use super::changes::{project_changed, token_changed};
use super::database::Database;
use super::failure::{Failure, is_dangling, is_duplicate};
use super::rows::{TOKEN_WIDTH, project_columns, provider_key_columns, text, text_option, token_columns};
use crate::domain::patch::TokenPatch;
use crate::domain::{ProjectId, Timestamp, Token, TokenHash, TokenId};
use crate::store::columns::{TokenColumns, offset};
use crate::store::tokens::{RevokeCounts, StoredPrincipal, TokenFilter, TokenStore};
use crate::store::{Page, Paged, StoreError};

// One row a provider key, so that one round trip answers everything; a project without keys is one row of nulls.
const BY_HASH: &str = "\
SELECT t.id, t.project_id, t.name, t.obfuscated, t.expires_at, t.is_active, t.deactivated_at, t.created_at,
       t.last_used_at, t.request_count, t.cache_hit_count, t.max_requests, t.allowed_models, t.allowed_endpoints,
       t.allowed_ips, t.rpm, t.tpm, t.concurrency, t.budget_nano_usd, t.budget_period, t.metadata,
       p.id, p.name, p.is_active, p.deactivated_at, p.created_at, p.updated_at, p.allowed_models,
       p.rpm, p.tpm, p.concurrency, p.budget_nano_usd, p.budget_period, p.metadata,
       s.expires_at, k.provider IS NOT NULL, k.provider, k.sealed, k.obfuscated
FROM token_secrets s JOIN tokens t ON t.id = s.token_id JOIN projects p ON p.id = t.project_id
     LEFT JOIN project_provider_keys k ON k.project_id = p.id
WHERE s.hash = $1 LIMIT 1000";

const BY_ID: &str = "\
SELECT id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
       request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips,
       rpm, tpm, concurrency, budget_nano_usd, budget_period, metadata
FROM tokens WHERE id = $1";

const BY_ID_TO_CHANGE: &str = "\
SELECT id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
       request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips,
       rpm, tpm, concurrency, budget_nano_usd, budget_period, metadata
FROM tokens WHERE id = $1 FOR UPDATE";

const LIST: &str = "\
SELECT id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
       request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips,
       rpm, tpm, concurrency, budget_nano_usd, budget_period, metadata
FROM tokens
WHERE ($1 IS NULL OR project_id = $1) AND ($2 IS NULL OR (is_active AND expires_at > $2))
ORDER BY created_at DESC, id LIMIT $3 OFFSET $4";

const COUNT: &str = "\
SELECT COUNT(*) FROM tokens
WHERE ($1 IS NULL OR project_id = $1) AND ($2 IS NULL OR (is_active AND expires_at > $2))";

const INSERT: &str = "\
INSERT INTO tokens (id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
    request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips,
    rpm, tpm, concurrency, budget_nano_usd, budget_period, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)";

const INSERT_SECRET: &str = "INSERT INTO token_secrets (hash, token_id, expires_at) VALUES ($1, $2, NULL)";

// The counters are not here: a patch never takes a request back.
const UPDATE: &str = "\
UPDATE tokens SET name = $2, obfuscated = $3, expires_at = $4, is_active = $5, deactivated_at = $6,
    max_requests = $7, allowed_models = $8, allowed_endpoints = $9, allowed_ips = $10, rpm = $11, tpm = $12,
    concurrency = $13, budget_nano_usd = $14, budget_period = $15, metadata = $16
WHERE id = $1";

const COUNT_OF_PROJECT: &str =
    "SELECT COUNT(*), COUNT(*) FILTER (WHERE NOT is_active) FROM tokens WHERE project_id = $1";

const REVOKE_OF_PROJECT: &str =
    "UPDATE tokens SET is_active = FALSE, deactivated_at = $2 WHERE project_id = $1 AND is_active";

const END_SECRETS: &str = "\
UPDATE token_secrets SET expires_at = $2 WHERE token_id = $1 AND (expires_at IS NULL OR expires_at > $2)";

/// Tokens in PostgreSQL.
pub(super) struct PostgresTokens {
    pub(super) database: Database,
}

#[async_trait]
impl TokenStore for PostgresTokens {
    async fn by_hash(&self, hash: TokenHash) -> Result<Option<StoredPrincipal>, StoreError> {
        self.database
            .run(move |client| Box::pin(principal(client, hash)))
            .await
    }

    async fn get(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let row = client
                        .query_typed(BY_ID, &[(&id.to_string(), Type::TEXT)])
                        .await?;
                    let Some(row) = row.first() else { return Ok(None) };
                    Ok(Some(token_columns(row, 0)?.read()?))
                })
            })
            .await
    }

    async fn list(&self, filter: TokenFilter, page: Page) -> Result<Paged<Token>, StoreError> {
        self.database
            .run(move |client| Box::pin(list(client, filter, page)))
            .await
    }

    async fn create(&self, token: &Token, hash: TokenHash) -> Result<(), StoreError> {
        let token = token.clone();
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let transaction = client.transaction().await?;
                    insert(&transaction, &token).await?;
                    insert_secret(&transaction, token.id, hash).await?;
                    token_changed(&transaction, token.id).await?;
                    Ok(transaction.commit().await?)
                })
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
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let transaction = client.transaction().await?;
                    let Some(mut token) = to_change(&transaction, id).await? else {
                        return Ok(None);
                    };
                    patch.apply(&mut token, now)?;
                    update(&transaction, &token).await?;
                    token_changed(&transaction, id).await?;
                    transaction.commit().await?;
                    Ok(Some(token))
                })
            })
            .await
    }

    async fn revoke_all(&self, project: ProjectId, now: Timestamp) -> Result<RevokeCounts, StoreError> {
        self.database
            .run(move |client| Box::pin(revoke_all(client, project, now)))
            .await
    }

    async fn rotate(
        &self,
        id: TokenId,
        hash: TokenHash,
        obfuscated: &str,
        old_valid_until: Timestamp,
    ) -> Result<Option<Token>, StoreError> {
        let obfuscated = text(obfuscated);
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let transaction = client.transaction().await?;
                    let Some(mut token) = to_change(&transaction, id).await? else {
                        return Ok(None);
                    };
                    token.obfuscated = obfuscated;
                    let end = old_valid_until.as_micros();
                    transaction
                        .execute_typed(END_SECRETS, &[(&id.to_string(), Type::TEXT), (&end, Type::INT8)])
                        .await?;
                    insert_secret(&transaction, id, hash).await?;
                    update(&transaction, &token).await?;
                    token_changed(&transaction, id).await?;
                    transaction.commit().await?;
                    Ok(Some(token))
                })
            })
            .await
    }
}

async fn principal(client: &mut ClientWrapper, hash: TokenHash) -> Result<Option<StoredPrincipal>, Failure> {
    const EXPIRY: usize = TOKEN_WIDTH + 13;
    let rows = client
        .query_typed(BY_HASH, &[(&hash.as_bytes().as_slice(), Type::BYTEA)])
        .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let mut keys = Vec::new();
    for row in &rows {
        if row.try_get(EXPIRY + 1)? {
            keys.push(provider_key_columns(row, EXPIRY + 2)?);
        }
    }
    let expires_at: Option<i64> = first.try_get(EXPIRY)?;
    Ok(Some(StoredPrincipal {
        token: token_columns(first, 0)?.read()?,
        project: project_columns(first, TOKEN_WIDTH)?.read(keys)?,
        secret_expires_at: expires_at.map(Timestamp::from_micros),
    }))
}

async fn list(client: &mut ClientWrapper, filter: TokenFilter, page: Page) -> Result<Paged<Token>, Failure> {
    let project = filter.project_id.map(|id| id.to_string());
    let active_at = filter.active_at.map(Timestamp::as_micros);
    let total: i64 = client
        .query_typed_one(COUNT, &[(&project, Type::TEXT), (&active_at, Type::INT8)])
        .await?
        .try_get(0)?;
    let rows = client
        .query_typed(
            LIST,
            &[
                (&project, Type::TEXT),
                (&active_at, Type::INT8),
                (&i64::from(page.size), Type::INT8),
                (&offset(page), Type::INT8),
            ],
        )
        .await?;
    let rows = rows
        .iter()
        .map(|row| Ok(token_columns(row, 0)?.read()?))
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}

async fn to_change(transaction: &Transaction<'_>, id: TokenId) -> Result<Option<Token>, Failure> {
    let rows = transaction
        .query_typed(BY_ID_TO_CHANGE, &[(&id.to_string(), Type::TEXT)])
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(token_columns(row, 0)?.read()?))
}

async fn revoke_all(
    client: &mut ClientWrapper,
    project: ProjectId,
    now: Timestamp,
) -> Result<RevokeCounts, Failure> {
    let id = project.to_string();
    let transaction = client.transaction().await?;
    let revoked = transaction
        .execute_typed(
            REVOKE_OF_PROJECT,
            &[(&id, Type::TEXT), (&now.as_micros(), Type::INT8)],
        )
        .await?;
    let counts = transaction
        .query_typed_one(COUNT_OF_PROJECT, &[(&id, Type::TEXT)])
        .await?;
    project_changed(&transaction, project).await?;
    transaction.commit().await?;
    let (total, inactive): (i64, i64) = (counts.try_get(0)?, counts.try_get(1)?);
    Ok(RevokeCounts {
        revoked_count: revoked,
        already_revoked_count: u64::try_from(inactive).unwrap_or(0).saturating_sub(revoked),
        total_tokens: u64::try_from(total).unwrap_or(0),
    })
}

async fn insert(transaction: &Transaction<'_>, token: &Token) -> Result<(), Failure> {
    let columns = TokenColumns::of(token);
    let inserted = transaction
        .execute_typed(
            INSERT,
            &[
                (&columns.id, Type::TEXT),
                (&columns.project_id, Type::TEXT),
                (&text_option(columns.name.as_ref()), Type::TEXT),
                (&text(&columns.obfuscated), Type::TEXT),
                (&columns.expires_at, Type::INT8),
                (&columns.is_active, Type::BOOL),
                (&columns.deactivated_at, Type::INT8),
                (&columns.created_at, Type::INT8),
                (&columns.last_used_at, Type::INT8),
                (&columns.request_count, Type::INT8),
                (&columns.cache_hit_count, Type::INT8),
                (&columns.max_requests, Type::INT8),
                (&columns.allowed_models, Type::TEXT),
                (&columns.allowed_endpoints, Type::TEXT),
                (&columns.allowed_ips, Type::TEXT),
                (&columns.limits.rpm, Type::INT8),
                (&columns.limits.tpm, Type::INT8),
                (&columns.limits.concurrency, Type::INT8),
                (&columns.limits.budget_nano_usd, Type::INT8),
                (&columns.limits.budget_period, Type::TEXT),
                (&columns.metadata, Type::TEXT),
            ],
        )
        .await;
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if is_duplicate(&error) => Err(StoreError::Conflict(columns.id).into()),
        Err(error) if is_dangling(&error) => Err(StoreError::Inconsistent {
            table: "tokens",
            row: columns.id,
            why: format!("there is no project `{}`", columns.project_id),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

async fn insert_secret(transaction: &Transaction<'_>, id: TokenId, hash: TokenHash) -> Result<(), Failure> {
    let inserted = transaction
        .execute_typed(
            INSERT_SECRET,
            &[
                (&hash.as_bytes().as_slice(), Type::BYTEA),
                (&id.to_string(), Type::TEXT),
            ],
        )
        .await;
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if is_duplicate(&error) => Err(StoreError::Conflict("this secret".to_owned()).into()),
        Err(error) => Err(error.into()),
    }
}

async fn update(transaction: &Transaction<'_>, token: &Token) -> Result<(), Failure> {
    let columns = TokenColumns::of(token);
    transaction
        .execute_typed(
            UPDATE,
            &[
                (&columns.id, Type::TEXT),
                (&text_option(columns.name.as_ref()), Type::TEXT),
                (&text(&columns.obfuscated), Type::TEXT),
                (&columns.expires_at, Type::INT8),
                (&columns.is_active, Type::BOOL),
                (&columns.deactivated_at, Type::INT8),
                (&columns.max_requests, Type::INT8),
                (&columns.allowed_models, Type::TEXT),
                (&columns.allowed_endpoints, Type::TEXT),
                (&columns.allowed_ips, Type::TEXT),
                (&columns.limits.rpm, Type::INT8),
                (&columns.limits.tpm, Type::INT8),
                (&columns.limits.concurrency, Type::INT8),
                (&columns.limits.budget_nano_usd, Type::INT8),
                (&columns.limits.budget_period, Type::TEXT),
                (&columns.metadata, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}
