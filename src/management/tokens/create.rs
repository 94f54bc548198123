//! `POST /manage/tokens`: the only answer besides rotation that shows a secret.

use std::time::Duration;

use axum::extract::State;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::{JsonFields, integer, text, time};
use super::super::openapi::shapes::{Id, Time};
use super::super::restrictions::{metadata, name};
use super::super::services::{Services, Shared};
use crate::domain::crypto::random_bytes;
use crate::domain::patch::{Change, TokenPatch};
use crate::domain::token::NewSecret;
use crate::domain::{Limits, Project, ProjectId, Timestamp, Token, TokenId};
use crate::fleet::Changed;

/// The fields that are read.
pub const FIELDS: &[&str] = &[
    "project_id",
    "duration_minutes",
    "expires_at",
    "max_requests",
    "name",
    "allowed_models",
    "allowed_endpoints",
    "allowed_ips",
    "limits",
    "budget",
    "metadata",
];
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
const LONGEST_LIFE: Duration = Duration::from_hours(365 * 24);

/// What is answered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CreatedToken")]
pub struct Created<'a> {
    #[schemars(with = "Id")]
    id: TokenId,
    /// Shown this once.
    token: &'a str,
    #[schemars(with = "Time")]
    expires_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_requests: Option<std::num::NonZeroU64>,
}

/// Makes a token for an active project.
pub async fn create(State(services): State<Shared>, body: Bytes) -> Result<Answer, ApiError> {
    let fields = JsonFields::parse(&body, FIELDS)?;
    let now = services.clock.now();
    let expires_at = read_expiry(&fields, now)?;
    let project_id = fields.optional("project_id", text)?.unwrap_or_default();
    if project_id.is_empty() {
        return Err(ApiError::Rule(
            "project_id is required",
            "name the project the token is for",
        ));
    }
    let rules = read_rules(&fields)?;
    let project = active_project(&project_id, &services).await?;
    let secret = NewSecret::from_random(random_bytes()?);
    let mut token = new_token(project.id, &secret, now, expires_at);
    rules.apply(&mut token, now)?;
    token.metadata = fields.optional("metadata", metadata)?.unwrap_or_default();
    let written = services.tokens.create(&token, secret.hash).await;
    services.changes.changed(Changed::Token(token.id));
    written?;
    Ok(answer(&token, &secret))
}

fn answer(token: &Token, secret: &NewSecret) -> Answer {
    let created = Created {
        id: token.id,
        token: secret.secret.expose(),
        expires_at: token.expires_at,
        max_requests: token.max_requests,
    };
    Answer::ok(&created)
        .about_project(token.project_id)
        .about_token(token.id)
        .noting("expires_at", token.expires_at.to_rfc3339())
        .noting("max_requests", token.max_requests.map(std::num::NonZeroU64::get))
}

fn read_rules(fields: &JsonFields) -> Result<TokenPatch, ApiError> {
    let mut rules = super::read_rules(fields, false)?;
    rules.name = fields.optional("name", name)?.map_or(Change::Keep, Change::Set);
    Ok(rules)
}

/// Exactly one of `duration_minutes` and `expires_at`.
fn read_expiry(fields: &JsonFields, now: Timestamp) -> Result<Timestamp, ApiError> {
    let minutes = fields.optional("duration_minutes", integer)?;
    let expires_at = match (minutes, fields.optional("expires_at", time)?) {
        (Some(_), Some(_)) => {
            return Err(ApiError::Rule(
                "give exactly one of duration_minutes and expires_at",
                "both were given",
            ));
        }
        (Some(minutes), None) if minutes > 0 => {
            now.plus(Duration::from_secs(minutes.unsigned_abs().saturating_mul(60)))
        }
        (_, None) => {
            return Err(ApiError::Rule(
                "project_id and duration_minutes are required",
                "give `duration_minutes` of at least 1, or `expires_at`",
            ));
        }
        (None, Some(expires_at)) => expires_at,
    };
    if expires_at > now.plus(LONGEST_LIFE) {
        return Err(if minutes.is_some() {
            ApiError::Rule(
                "duration_minutes exceeds maximum allowed",
                "at most 525600 (365 days)",
            )
        } else {
            ApiError::Rule("expires_at exceeds maximum allowed", "at most 365 days ahead")
        });
    }
    if expires_at < now.plus(SHORTEST_LIFE) {
        return Err(ApiError::Rule(
            "expires_at must be at least 1 s ahead",
            "it is in the past",
        ));
    }
    Ok(expires_at)
}

async fn active_project(id: &str, services: &Services) -> Result<Project, ApiError> {
    let not_found = ApiError::NotFound("project not found");
    let Ok(id) = id.parse::<ProjectId>() else {
        return Err(not_found);
    };
    let project = services.projects.get(id).await?.ok_or(not_found)?;
    if !project.is_active {
        return Err(ApiError::ProjectInactive(id));
    }
    Ok(project)
}

fn new_token(project_id: ProjectId, secret: &NewSecret, now: Timestamp, expires_at: Timestamp) -> Token {
    Token {
        id: TokenId::random(),
        project_id,
        name: None,
        obfuscated: secret.obfuscated.clone(),
        expires_at,
        is_active: true,
        deactivated_at: None,
        created_at: now,
        last_used_at: None,
        request_count: 0,
        cache_hit_count: 0,
        max_requests: None,
        allowed_models: Vec::new(),
        allowed_endpoints: Vec::new(),
        allowed_ips: Vec::new(),
        limits: Limits::default(),
        budget: None,
        metadata: serde_json::Map::new(),
    }
}
