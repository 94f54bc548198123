//! `POST /manage/tokens/{id}/rotate`: a new secret for the same token; the old ones end after an overlap.

use std::time::Duration;

use axum::extract::{Path, State};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::{JsonFields, integer};
use super::super::openapi::shapes::{Id, Time};
use super::super::services::Shared;
use crate::domain::crypto::random_bytes;
use crate::domain::token::NewSecret;
use crate::domain::{Timestamp, TokenId};
use crate::fleet::Changed;

const LONGEST_OVERLAP_MINUTES: u64 = 10_080;

/// What is answered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RotatedToken")]
pub struct Rotated<'a> {
    #[schemars(with = "Id")]
    id: TokenId,
    /// Shown this once.
    token: &'a str,
    #[schemars(with = "Time")]
    expires_at: Timestamp,
    #[schemars(with = "Time")]
    old_valid_until: Timestamp,
}

/// Gives a token a new secret.
pub async fn rotate(
    State(services): State<Shared>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let overlap_minutes = read_overlap(&body)?;
    let id = super::parse_id(&id)?;
    let current = services.tokens.get(id).await?.ok_or(super::NOT_FOUND)?;
    let now = services.clock.now();
    if !current.is_active || current.expires_at <= now {
        return Err(ApiError::Rule(
            "cannot rotate a revoked or expired token",
            "reactivate it, or create a new one",
        ));
    }
    let secret = NewSecret::from_random(random_bytes()?);
    let old_valid_until = now
        .plus(Duration::from_secs(overlap_minutes * 60))
        .min(current.expires_at);
    let written = services
        .tokens
        .rotate(id, secret.hash, &secret.obfuscated, old_valid_until)
        .await;
    services.changes.changed(Changed::Token(id));
    let token = written?.ok_or(super::NOT_FOUND)?;
    let rotated = Rotated {
        id,
        token: secret.secret.expose(),
        expires_at: token.expires_at,
        old_valid_until,
    };
    Ok(Answer::ok(&rotated)
        .about_project(token.project_id)
        .noting("old_valid_until", old_valid_until.to_rfc3339()))
}

fn read_overlap(body: &[u8]) -> Result<u64, ApiError> {
    let fields = JsonFields::parse_optional(body, &["overlap_minutes"])?;
    let minutes = fields.optional("overlap_minutes", integer)?.unwrap_or(0);
    u64::try_from(minutes)
        .ok()
        .filter(|minutes| *minutes <= LONGEST_OVERLAP_MINUTES)
        .ok_or_else(|| {
            ApiError::Invalid(format!(
                "`overlap_minutes` must be from 0 to {LONGEST_OVERLAP_MINUTES}; found `{minutes}`"
            ))
        })
}
