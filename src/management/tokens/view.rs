//! A token as the API shows it: never its secret, only its obfuscated form.

use std::num::NonZeroU64;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::budget_view::BudgetView;
use super::super::openapi::shapes::{self, Id, Notes, Time};
use crate::domain::{Glob, Limits, NanoUsd, ProjectId, Timestamp, Token, TokenId};

/// The shape of list, read and change.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Token")]
pub struct TokenView<'a> {
    #[schemars(with = "Id")]
    id: TokenId,
    name: Option<&'a str>,
    /// The current secret, obfuscated.
    token: &'a str,
    #[schemars(with = "Id")]
    project_id: ProjectId,
    #[schemars(with = "Time")]
    expires_at: Timestamp,
    is_active: bool,
    #[schemars(with = "Option<Time>")]
    deactivated_at: Option<Timestamp>,
    request_count: u64,
    max_requests: Option<NonZeroU64>,
    #[schemars(with = "Time")]
    created_at: Timestamp,
    #[schemars(with = "Option<Time>")]
    last_used_at: Option<Timestamp>,
    cache_hit_count: u64,
    #[schemars(with = "Option<shapes::Budget>")]
    budget: Option<BudgetView>,
    /// What it has cost in all.
    spend_usd: f64,
    #[schemars(with = "Vec<String>")]
    allowed_models: &'a [Glob],
    allowed_endpoints: &'a [String],
    #[schemars(with = "Vec<String>")]
    allowed_ips: &'a [IpNet],
    #[schemars(with = "shapes::Limits")]
    limits: Limits,
    #[schemars(with = "Notes")]
    metadata: &'a Map<String, Value>,
}

impl<'a> TokenView<'a> {
    /// What is shown of `token`.
    pub fn of(token: &'a Token, spent: NanoUsd) -> Self {
        Self {
            id: token.id,
            name: token.name.as_deref(),
            token: &token.obfuscated,
            project_id: token.project_id,
            expires_at: token.expires_at,
            is_active: token.is_active,
            deactivated_at: token.deactivated_at,
            request_count: token.request_count,
            max_requests: token.max_requests,
            created_at: token.created_at,
            last_used_at: token.last_used_at,
            cache_hit_count: token.cache_hit_count,
            spend_usd: spent.as_usd(),
            allowed_models: &token.allowed_models,
            allowed_endpoints: &token.allowed_endpoints,
            allowed_ips: &token.allowed_ips,
            limits: token.limits,
            budget: token.budget.map(BudgetView::of),
            metadata: &token.metadata,
        }
    }
}
