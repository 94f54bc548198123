//! `PATCH /manage/tokens/{id}`: a merge patch that may shorten the expiry, never extend it.

use axum::extract::{Path, State};
use bytes::Bytes;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::{JsonFields, boolean, time};
use super::super::restrictions::{check_metadata, metadata, name};
use super::super::services::Shared;
use super::view::TokenView;
use crate::domain::patch::{Change, PatchRefused, TokenPatch};
use crate::domain::{Timestamp, Token};
use crate::fleet::Changed;

/// The fields that are read.
pub const FIELDS: &[&str] = &[
    "is_active",
    "name",
    "expires_at",
    "max_requests",
    "allowed_models",
    "allowed_endpoints",
    "allowed_ips",
    "limits",
    "budget",
    "metadata",
];

/// Changes a token.
pub async fn update(
    State(services): State<Shared>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let fields = JsonFields::parse(&body, FIELDS)?;
    let id = super::parse_id(&id)?;
    services.flush_counters().await;
    let current = services.tokens.get(id).await?.ok_or(super::NOT_FOUND)?;
    // read before it is changed: a change that was made is not answered as an error
    let spent = services.spent(&id).await?;
    let now = services.clock.now();
    let patch = read(&fields, current, now)?;
    let written = services.tokens.patch(id, &patch, now).await;
    if !patch.max_requests.is_keep() {
        services.grants.forget(id).await?;
    }
    services.changes.changed(Changed::Token(id));
    let token = written?.ok_or(super::NOT_FOUND)?;
    Ok(Answer::ok(&TokenView::of(&token, spent))
        .about_project(token.project_id)
        .noting("fields", fields.names()))
}

fn read(fields: &JsonFields, current: Token, now: Timestamp) -> Result<TokenPatch, ApiError> {
    if fields.is_empty() {
        return Err(ApiError::Rule("no fields to update", "name at least one field"));
    }
    let mut patch = super::read_rules(fields, current.budget.is_some())?;
    patch.is_active = fields.not_null("is_active", boolean)?;
    patch.name = fields.change("name", name)?;
    patch.metadata = fields.change("metadata", metadata)?;
    patch.expires_at = match fields.change("expires_at", time)? {
        Change::Keep => None,
        Change::Remove => return Err(PatchRefused::ExpiryExtended.into()),
        Change::Set(expires_at) => Some(expires_at),
    };
    let mut merged = current;
    patch.apply(&mut merged, now)?;
    check_metadata(&merged.metadata)?;
    Ok(patch)
}
