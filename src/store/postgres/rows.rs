//! Reads PostgreSQL's rows into columns, and makes text fit for it.

use tokio_postgres::{Error, Row};

use crate::domain::Secret;
use crate::store::columns::{AuditColumns, LimitColumns, ProjectColumns, ProviderKeyColumns, TokenColumns};

/// PostgreSQL's text holds no NUL; it becomes the replacement character.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// [`text`] for what may be absent.
pub(super) fn text_option(value: Option<&String>) -> Option<String> {
    value.map(|value| text(value))
}

/// How many columns [`token_columns`] reads.
pub(super) const TOKEN_WIDTH: usize = 21;

/// The columns in the order of the table.
pub(super) fn token_columns(row: &Row, first: usize) -> Result<TokenColumns, Error> {
    Ok(TokenColumns {
        id: row.try_get(first)?,
        project_id: row.try_get(first + 1)?,
        name: row.try_get(first + 2)?,
        obfuscated: row.try_get(first + 3)?,
        expires_at: row.try_get(first + 4)?,
        is_active: row.try_get(first + 5)?,
        deactivated_at: row.try_get(first + 6)?,
        created_at: row.try_get(first + 7)?,
        last_used_at: row.try_get(first + 8)?,
        request_count: row.try_get(first + 9)?,
        cache_hit_count: row.try_get(first + 10)?,
        max_requests: row.try_get(first + 11)?,
        allowed_models: row.try_get(first + 12)?,
        allowed_endpoints: row.try_get(first + 13)?,
        allowed_ips: row.try_get(first + 14)?,
        limits: limit_columns(row, first + 15)?,
        metadata: row.try_get(first + 20)?,
    })
}

/// The columns in the order of the table.
pub(super) fn project_columns(row: &Row, first: usize) -> Result<ProjectColumns, Error> {
    Ok(ProjectColumns {
        id: row.try_get(first)?,
        name: row.try_get(first + 1)?,
        is_active: row.try_get(first + 2)?,
        deactivated_at: row.try_get(first + 3)?,
        created_at: row.try_get(first + 4)?,
        updated_at: row.try_get(first + 5)?,
        allowed_models: row.try_get(first + 6)?,
        limits: limit_columns(row, first + 7)?,
        metadata: row.try_get(first + 12)?,
    })
}

fn limit_columns(row: &Row, first: usize) -> Result<LimitColumns, Error> {
    Ok(LimitColumns {
        rpm: row.try_get(first)?,
        tpm: row.try_get(first + 1)?,
        concurrency: row.try_get(first + 2)?,
        budget_nano_usd: row.try_get(first + 3)?,
        budget_period: row.try_get(first + 4)?,
    })
}

/// `provider, sealed, obfuscated`, beginning at a column.
pub(super) fn provider_key_columns(row: &Row, first: usize) -> Result<ProviderKeyColumns, Error> {
    Ok(ProviderKeyColumns {
        provider: row.try_get(first)?,
        sealed: Secret::new(row.try_get::<_, String>(first + 1)?),
        obfuscated: row.try_get(first + 2)?,
    })
}

/// The columns in the order of the table.
pub(super) fn audit_columns(row: &Row) -> Result<AuditColumns, Error> {
    Ok(AuditColumns {
        id: row.try_get(0)?,
        timestamp: row.try_get(1)?,
        action: row.try_get(2)?,
        actor: row.try_get(3)?,
        outcome: row.try_get(4)?,
        project_id: row.try_get(5)?,
        token_id: row.try_get(6)?,
        request_id: row.try_get(7)?,
        correlation_id: row.try_get(8)?,
        client_ip: row.try_get(9)?,
        method: row.try_get(10)?,
        path: row.try_get(11)?,
        user_agent: row.try_get(12)?,
        reason: row.try_get(13)?,
        metadata: row.try_get(14)?,
    })
}
