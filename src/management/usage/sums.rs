//! `GET /manage/usage`: sums by project, token, model, provider and day.

use axum::extract::State;
use http::Uri;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::shortened;
use super::super::query::Query;
use super::super::services::Shared;
use super::Format;
use crate::store::{UsageGroup, UsageQuery, UsageRow};

/// Lines of an answer at most.
const MOST_ROWS: usize = 100_000;

const NUMBERS: [&str; 9] = [
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd",
    "estimated",
    "cut",
];

/// Sums.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Usage")]
pub struct Listed<'a> {
    data: Vec<Line<'a>>,
}

/// The values of the groups by their names.
struct Groups<'a> {
    names: &'a [&'static str],
    values: &'a [String],
}

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().zip(self.values))
    }
}

/// One sum, beside the values of the groups that were asked for.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UsageLine")]
struct Line<'a> {
    /// `project`, `token`, `model`, `provider`, `day`: those of `group_by`.
    #[serde(flatten)]
    #[schemars(with = "Map<String, Value>")]
    groups: Groups<'a>,
    /// Requests that reached a provider.
    requests: u64,
    /// Tokens of prompts, cached ones included.
    prompt_tokens: u64,
    /// Tokens of answers, thoughts included.
    completion_tokens: u64,
    /// Of the prompts: read from the provider's cache.
    cache_read_tokens: u64,
    /// Of the prompts: written to the provider's cache.
    cache_write_tokens: u64,
    /// Of the answers: thoughts.
    reasoning_tokens: u64,
    /// What they cost.
    cost_usd: f64,
    /// Requests with numbers that the provider did not tell.
    estimated: u64,
    /// Requests whose answers did not reach the client whole.
    cut: u64,
}

/// Adds up.
pub async fn sums(State(services): State<Shared>, uri: Uri) -> Result<Answer, ApiError> {
    let query = Query::of(&uri);
    let format = Format::of(&query)?;
    let groups = groups_of(&query)?;
    let asked = UsageQuery {
        group_by: groups.iter().map(|(_, group)| *group).collect(),
        start: query.time("start_time")?,
        end: query.time("end_time")?,
    };
    let rows = services.ledger.usage(&asked).await?;
    if rows.len() > MOST_ROWS {
        return Err(ApiError::Invalid(format!(
            "the answer has `{}` lines, more than {MOST_ROWS}; ask for a shorter time or fewer groups",
            rows.len()
        )));
    }
    let names: Vec<&'static str> = groups.iter().map(|(name, _)| *name).collect();
    let listed = Listed {
        data: rows.iter().map(|row| line(&names, row)).collect(),
    };
    match format {
        Format::Json => Ok(Answer::ok(&listed)),
        Format::Csv => {
            let rows: Vec<Value> = listed
                .data
                .iter()
                .map(|line| serde_json::to_value(line).unwrap_or_default())
                .collect();
            let columns: Vec<&str> = names.iter().copied().chain(NUMBERS).collect();
            Ok(super::csv::answer(&columns, &rows))
        }
    }
}

fn line<'a>(names: &'a [&'static str], row: &'a UsageRow) -> Line<'a> {
    let sums = &row.sums;
    Line {
        groups: Groups {
            names,
            values: &row.groups,
        },
        requests: sums.requests,
        prompt_tokens: sums.usage.prompt,
        completion_tokens: sums.usage.completion,
        cache_read_tokens: sums.usage.cache_read,
        cache_write_tokens: sums.usage.cache_write,
        reasoning_tokens: sums.usage.reasoning,
        cost_usd: sums.cost.as_usd(),
        estimated: sums.estimated,
        cut: sums.cut,
    }
}

fn groups_of(query: &Query) -> Result<Vec<(&'static str, UsageGroup)>, ApiError> {
    let words = [
        ("project", UsageGroup::Project),
        ("token", UsageGroup::Token),
        ("model", UsageGroup::Model),
        ("provider", UsageGroup::Provider),
        ("day", UsageGroup::Day),
    ];
    let mut groups = Vec::new();
    for word in query.all("group_by").flat_map(|text| text.split(',')) {
        let word = word.trim();
        if word.is_empty() {
            continue;
        }
        let Some(found) = words.iter().find(|(name, _)| *name == word) else {
            return Err(ApiError::Invalid(format!(
                "`group_by` must be any of `project`, `token`, `model`, `provider`, `day`; found `{}`",
                shortened(word)
            )));
        };
        if !groups.contains(found) {
            groups.push(*found);
        }
    }
    Ok(groups)
}
