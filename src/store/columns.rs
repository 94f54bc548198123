//! Turns tokens, projects and audit events into columns and back, the same for both back ends.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::domain::audit::{AuditEvent, AuditOutcome};
use crate::domain::project::ProviderKey;
use crate::domain::{Budget, BudgetPeriod, Limits, Project, Secret, Timestamp, Token};

/// `limits` and `budget` as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LimitColumns {
    pub rpm: Option<i64>,
    pub tpm: Option<i64>,
    pub concurrency: Option<i64>,
    pub budget_nano_usd: Option<i64>,
    pub budget_period: Option<String>,
}

/// A row of `tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenColumns {
    pub id: String,
    pub project_id: String,
    pub name: Option<String>,
    pub obfuscated: String,
    pub expires_at: i64,
    pub is_active: bool,
    pub deactivated_at: Option<i64>,
    pub created_at: i64,
    pub last_used_at: Option<i64>,
    pub request_count: i64,
    pub cache_hit_count: i64,
    pub max_requests: Option<i64>,
    pub allowed_models: String,
    pub allowed_endpoints: String,
    pub allowed_ips: String,
    pub limits: LimitColumns,
    pub metadata: String,
}

/// A row of `projects`; its provider keys are rows of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProjectColumns {
    pub id: String,
    pub name: String,
    pub is_active: bool,
    pub deactivated_at: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
    pub allowed_models: String,
    pub limits: LimitColumns,
    pub metadata: String,
}

/// A row of `project_provider_keys`.
#[derive(Clone)]
pub(super) struct ProviderKeyColumns {
    pub provider: String,
    pub sealed: Secret,
    pub obfuscated: String,
}

/// A row of `audit_events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuditColumns {
    pub id: String,
    pub timestamp: i64,
    pub action: String,
    pub actor: String,
    pub outcome: String,
    pub project_id: Option<String>,
    pub token_id: Option<String>,
    pub request_id: Option<String>,
    pub correlation_id: Option<String>,
    pub client_ip: Option<String>,
    pub method: Option<String>,
    pub path: Option<String>,
    pub user_agent: Option<String>,
    pub reason: Option<String>,
    pub metadata: String,
}

/// Which row is being read, for the error that says so.
struct RowName<'a> {
    table: &'static str,
    id: &'a str,
}

impl RowName<'_> {
    fn wrong(&self, column: &str, found: impl std::fmt::Display) -> StoreError {
        StoreError::Inconsistent {
            table: self.table,
            row: self.id.to_owned(),
            why: format!("`{column}` holds `{:.80}`", found.to_string()),
        }
    }

    fn parsed<T: FromStr>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        text.parse().map_err(|_| self.wrong(column, text))
    }

    fn parsed_option<T: FromStr>(&self, column: &str, text: Option<String>) -> Result<Option<T>, StoreError> {
        text.map(|text| self.parsed(column, &text)).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|_| self.wrong(column, text))
    }

    fn count(&self, column: &str, value: i64) -> Result<u64, StoreError> {
        u64::try_from(value).map_err(|_| self.wrong(column, value))
    }

    fn positive(&self, column: &str, value: Option<i64>) -> Result<Option<NonZeroU64>, StoreError> {
        let Some(value) = value else { return Ok(None) };
        NonZeroU64::new(self.count(column, value)?)
            .map(Some)
            .ok_or_else(|| self.wrong(column, value))
    }

    fn positive_32(&self, column: &str, value: Option<i64>) -> Result<Option<NonZeroU32>, StoreError> {
        self.positive(column, value)?
            .map(|value| NonZeroU32::try_from(value).map_err(|_| self.wrong(column, value)))
            .transpose()
    }
}

/// A count as a signed column; what does not fit is the largest that does.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// SQL's `OFFSET` for a page.
pub(super) fn offset(page: super::Page) -> i64 {
    i64::from(page.number.saturating_sub(1)) * i64::from(page.size)
}

fn json_text(value: &impl Serialize) -> String {
    // Strings, addresses and JSON values always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

fn micros(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_micros)
}

fn time(micros: Option<i64>) -> Option<Timestamp> {
    micros.map(Timestamp::from_micros)
}

fn period_word(period: BudgetPeriod) -> &'static str {
    match period {
        BudgetPeriod::Day => "day",
        BudgetPeriod::Week => "week",
        BudgetPeriod::Month => "month",
        BudgetPeriod::Total => "total",
    }
}

fn period(word: &str) -> Option<BudgetPeriod> {
    [
        BudgetPeriod::Day,
        BudgetPeriod::Week,
        BudgetPeriod::Month,
        BudgetPeriod::Total,
    ]
    .into_iter()
    .find(|period| period_word(*period) == word)
}

impl LimitColumns {
    fn of(limits: Limits, budget: Option<Budget>) -> Self {
        Self {
            rpm: limits.rpm.map(|n| i64::from(n.get())),
            tpm: limits.tpm.map(|n| signed(n.get())),
            concurrency: limits.concurrency.map(|n| i64::from(n.get())),
            budget_nano_usd: budget.map(|budget| budget.nano_usd),
            budget_period: budget.map(|budget| period_word(budget.period).to_owned()),
        }
    }

    fn read(&self, row: &RowName<'_>) -> Result<(Limits, Option<Budget>), StoreError> {
        let limits = Limits {
            rpm: row.positive_32("rpm", self.rpm)?,
            tpm: row.positive("tpm", self.tpm)?,
            concurrency: row.positive_32("concurrency", self.concurrency)?,
        };
        let budget = match (self.budget_nano_usd, self.budget_period.as_deref()) {
            (None, None) => None,
            (Some(nano_usd), Some(word)) => Some(Budget {
                nano_usd,
                period: period(word).ok_or_else(|| row.wrong("budget_period", word))?,
            }),
            (amount, _) => return Err(row.wrong("budget_nano_usd", format_args!("{amount:?}"))),
        };
        Ok((limits, budget))
    }
}

impl TokenColumns {
    pub(super) fn of(token: &Token) -> Self {
        Self {
            id: token.id.to_string(),
            project_id: token.project_id.to_string(),
            name: token.name.clone(),
            obfuscated: token.obfuscated.clone(),
            expires_at: token.expires_at.as_micros(),
            is_active: token.is_active,
            deactivated_at: micros(token.deactivated_at),
            created_at: token.created_at.as_micros(),
            last_used_at: micros(token.last_used_at),
            request_count: signed(token.request_count),
            cache_hit_count: signed(token.cache_hit_count),
            max_requests: token.max_requests.map(|n| signed(n.get())),
            allowed_models: json_text(&token.allowed_models),
            allowed_endpoints: json_text(&token.allowed_endpoints),
            allowed_ips: json_text(&token.allowed_ips),
            limits: LimitColumns::of(token.limits, token.budget),
            metadata: json_text(&token.metadata),
        }
    }

    pub(super) fn read(self) -> Result<Token, StoreError> {
        let row = RowName {
            table: "tokens",
            id: &self.id,
        };
        let (limits, budget) = self.limits.read(&row)?;
        Ok(Token {
            id: row.parsed("id", &self.id)?,
            project_id: row.parsed("project_id", &self.project_id)?,
            expires_at: Timestamp::from_micros(self.expires_at),
            is_active: self.is_active,
            deactivated_at: time(self.deactivated_at),
            created_at: Timestamp::from_micros(self.created_at),
            last_used_at: time(self.last_used_at),
            request_count: row.count("request_count", self.request_count)?,
            cache_hit_count: row.count("cache_hit_count", self.cache_hit_count)?,
            max_requests: row.positive("max_requests", self.max_requests)?,
            allowed_models: row.json("allowed_models", &self.allowed_models)?,
            allowed_endpoints: row.json("allowed_endpoints", &self.allowed_endpoints)?,
            allowed_ips: row.json("allowed_ips", &self.allowed_ips)?,
            limits,
            budget,
            metadata: row.json("metadata", &self.metadata)?,
            name: self.name,
            obfuscated: self.obfuscated,
        })
    }
}

impl ProjectColumns {
    pub(super) fn of(project: &Project) -> Self {
        Self {
            id: project.id.to_string(),
            name: project.name.clone(),
            is_active: project.is_active,
            deactivated_at: micros(project.deactivated_at),
            created_at: project.created_at.as_micros(),
            updated_at: project.updated_at.as_micros(),
            allowed_models: json_text(&project.allowed_models),
            limits: LimitColumns::of(project.limits, project.budget),
            metadata: json_text(&project.metadata),
        }
    }

    pub(super) fn read(self, keys: Vec<ProviderKeyColumns>) -> Result<Project, StoreError> {
        let row = RowName {
            table: "projects",
            id: &self.id,
        };
        let (limits, budget) = self.limits.read(&row)?;
        Ok(Project {
            id: row.parsed("id", &self.id)?,
            is_active: self.is_active,
            deactivated_at: time(self.deactivated_at),
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            provider_keys: provider_keys(keys),
            allowed_models: row.json("allowed_models", &self.allowed_models)?,
            limits,
            budget,
            metadata: row.json("metadata", &self.metadata)?,
            name: self.name,
        })
    }
}

fn provider_keys(rows: Vec<ProviderKeyColumns>) -> BTreeMap<String, ProviderKey> {
    rows.into_iter()
        .map(|row| {
            let key = ProviderKey {
                sealed: row.sealed,
                obfuscated: row.obfuscated,
            };
            (row.provider, key)
        })
        .collect()
}

impl AuditColumns {
    pub(super) fn of(event: &AuditEvent) -> Self {
        Self {
            id: event.id.to_string(),
            timestamp: event.timestamp.as_micros(),
            action: event.action.clone(),
            actor: event.actor.clone(),
            outcome: event.outcome.as_str().to_owned(),
            project_id: event.project_id.map(|id| id.to_string()),
            token_id: event.token_id.map(|id| id.to_string()),
            request_id: event.request_id.clone(),
            correlation_id: event.correlation_id.clone(),
            client_ip: event.client_ip.map(|ip| ip.to_string()),
            method: event.method.clone(),
            path: event.path.clone(),
            user_agent: event.user_agent.clone(),
            reason: event.reason.clone(),
            metadata: json_text(&event.metadata),
        }
    }

    pub(super) fn read(self) -> Result<AuditEvent, StoreError> {
        let row = RowName {
            table: "audit_events",
            id: &self.id,
        };
        Ok(AuditEvent {
            id: row.parsed("id", &self.id)?,
            timestamp: Timestamp::from_micros(self.timestamp),
            outcome: AuditOutcome::parse(&self.outcome).ok_or_else(|| row.wrong("outcome", &self.outcome))?,
            project_id: row.parsed_option("project_id", self.project_id)?,
            token_id: row.parsed_option("token_id", self.token_id)?,
            client_ip: row.parsed_option("client_ip", self.client_ip)?,
            metadata: row.json("metadata", &self.metadata)?,
            action: self.action,
            actor: self.actor,
            request_id: self.request_id,
            correlation_id: self.correlation_id,
            method: self.method,
            path: self.path,
            user_agent: self.user_agent,
            reason: self.reason,
        })
    }
}
