//! Reads SQLite's rows into columns.

use rusqlite::{Connection, Row, params};

use super::failure::Failure;
use crate::domain::Secret;
use crate::store::columns::{LimitColumns, ProjectColumns, ProviderKeyColumns, TokenColumns};

const PROVIDER_KEYS: &str =
    "SELECT provider, sealed, obfuscated FROM project_provider_keys WHERE project_id = ?1 LIMIT 1000";

/// How many columns [`token_columns`] reads.
pub(super) const TOKEN_WIDTH: usize = 21;

/// `id, project_id, name, obfuscated, expires_at, is_active, deactivated_at, created_at, last_used_at,
/// request_count, cache_hit_count, max_requests, allowed_models, allowed_endpoints, allowed_ips, rpm, tpm,
/// concurrency, budget_nano_usd, budget_period, metadata`
pub(super) fn token_columns(row: &Row<'_>, first: usize) -> rusqlite::Result<TokenColumns> {
    Ok(TokenColumns {
        id: row.get(first)?,
        project_id: row.get(first + 1)?,
        name: row.get(first + 2)?,
        obfuscated: row.get(first + 3)?,
        expires_at: row.get(first + 4)?,
        is_active: row.get(first + 5)?,
        deactivated_at: row.get(first + 6)?,
        created_at: row.get(first + 7)?,
        last_used_at: row.get(first + 8)?,
        request_count: row.get(first + 9)?,
        cache_hit_count: row.get(first + 10)?,
        max_requests: row.get(first + 11)?,
        allowed_models: row.get(first + 12)?,
        allowed_endpoints: row.get(first + 13)?,
        allowed_ips: row.get(first + 14)?,
        limits: limit_columns(row, first + 15)?,
        metadata: row.get(first + 20)?,
    })
}

/// `id, name, is_active, deactivated_at, created_at, updated_at, allowed_models, rpm, tpm, concurrency,
/// budget_nano_usd, budget_period, metadata`
pub(super) fn project_columns(row: &Row<'_>, first: usize) -> rusqlite::Result<ProjectColumns> {
    Ok(ProjectColumns {
        id: row.get(first)?,
        name: row.get(first + 1)?,
        is_active: row.get(first + 2)?,
        deactivated_at: row.get(first + 3)?,
        created_at: row.get(first + 4)?,
        updated_at: row.get(first + 5)?,
        allowed_models: row.get(first + 6)?,
        limits: limit_columns(row, first + 7)?,
        metadata: row.get(first + 12)?,
    })
}

fn limit_columns(row: &Row<'_>, first: usize) -> rusqlite::Result<LimitColumns> {
    Ok(LimitColumns {
        rpm: row.get(first)?,
        tpm: row.get(first + 1)?,
        concurrency: row.get(first + 2)?,
        budget_nano_usd: row.get(first + 3)?,
        budget_period: row.get(first + 4)?,
    })
}

/// The provider keys of a project.
pub(super) fn provider_keys(
    connection: &Connection,
    project_id: &str,
) -> Result<Vec<ProviderKeyColumns>, Failure> {
    let mut statement = connection.prepare_cached(PROVIDER_KEYS)?;
    let rows = statement.query_map(params![project_id], |row| {
        Ok(ProviderKeyColumns {
            provider: row.get(0)?,
            sealed: Secret::new(row.get::<_, String>(1)?),
            obfuscated: row.get(2)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
