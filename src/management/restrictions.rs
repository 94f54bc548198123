//! Reads what tokens and projects have in common: limits, budgets, globs, paths, addresses, notes.

use std::num::{NonZeroU32, NonZeroU64};

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::json_fields::{JsonFields, object, refuse_unknown, shortened, texts, wrong_type};
use crate::domain::patch::{BudgetPatch, Change, LimitsPatch};
use crate::domain::{Budget, BudgetPeriod, Glob, Limits};

/// Characters of a name at most.
const LONGEST_NAME: usize = 255;
/// Bytes of notes at most, as JSON.
const LARGEST_METADATA_BYTES: usize = 64 << 10;

/// A name for people: not empty, not endless, one line.
pub fn name(field: &'static str, value: &Value) -> Result<String, ApiError> {
    let name = super::json_fields::text(field, value)?;
    let length = name.chars().count();
    if name.trim().is_empty() {
        return Err(ApiError::Invalid(format!("`{field}` must not be empty")));
    }
    if length > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(ApiError::Invalid(format!(
            "`{field}` must have at most {LONGEST_NAME} characters and no control characters"
        )));
    }
    Ok(name)
}

/// Model patterns.
pub fn globs(field: &'static str, value: &Value) -> Result<Vec<Glob>, ApiError> {
    Ok(texts(field, value, 256)?.into_iter().map(Glob::new).collect())
}

/// Paths in normal form.
pub fn endpoints(field: &'static str, value: &Value) -> Result<Vec<String>, ApiError> {
    let paths = texts(field, value, 512)?;
    match paths.iter().find(|path| !is_normal_path(path)) {
        None => Ok(paths),
        Some(path) => Err(ApiError::Invalid(format!(
            "`{field}`: `{}` is not a path; write one such as `/v1/chat/completions` or `/v1/files/*`",
            shortened(path)
        ))),
    }
}

fn is_normal_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    !path.contains(['?', '#', '%', '\\'])
        && !path.contains(char::is_whitespace)
        && rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

/// Addresses and networks.
pub fn networks(field: &'static str, value: &Value) -> Result<Vec<IpNet>, ApiError> {
    let network = |text: &String| {
        text.parse::<IpNet>()
            .ok()
            .or_else(|| text.parse().ok().map(|ip: std::net::IpAddr| ip.to_canonical().into()))
            .map(|net| net.trunc())
            .ok_or_else(|| {
                ApiError::Invalid(format!(
                    "`{field}`: `{}` is no address or network; write one such as `203.0.113.7` or `10.0.0.0/8`",
                    shortened(text)
                ))
            })
    };
    texts(field, value, 64)?.iter().map(network).collect()
}

/// Rates and concurrency as a merge patch.
pub fn limits(field: &'static str, value: &Value) -> Result<LimitsPatch, ApiError> {
    let limits = object(field, value)?;
    refuse_unknown(limits, &["rpm", "tpm", "concurrency"], &format!("{field}."))?;
    Ok(LimitsPatch {
        rpm: limit("limits.rpm", limits.get("rpm"))?,
        tpm: wide_limit("limits.tpm", limits.get("tpm"))?,
        concurrency: limit("limits.concurrency", limits.get("concurrency"))?,
    })
}

/// Money as a merge patch; `has_one`: there is a budget already, of which parts may be changed.
pub fn budget(field: &'static str, value: &Value, has_one: bool) -> Result<BudgetPatch, ApiError> {
    let budget = object(field, value)?;
    refuse_unknown(budget, &["usd", "period"], &format!("{field}."))?;
    let needed = |name: &str| {
        ApiError::Invalid(format!(
            "`{field}.{name}` is missing; write `{{\"usd\": 10, \"period\": \"month\"}}`, or null for no budget"
        ))
    };
    let usd = match budget.get("usd") {
        None if has_one => None,
        None | Some(Value::Null) => return Err(needed("usd")),
        Some(usd) => Some(dollars(&format!("{field}.usd"), usd)?),
    };
    let period = match budget.get("period") {
        None if has_one => None,
        None | Some(Value::Null) => return Err(needed("period")),
        Some(period) => Some(budget_period(&format!("{field}.period"), period)?),
    };
    Ok(BudgetPatch {
        nano_usd: usd,
        period,
    })
}

fn dollars(field: &str, value: &Value) -> Result<i64, ApiError> {
    let usd = value
        .as_f64()
        .ok_or_else(|| wrong_type(field, "a number", value))?;
    Budget::nanos_of_usd(usd).ok_or_else(|| {
        ApiError::Invalid(format!(
            "`{field}` must be from 0 to {}; found `{usd}`",
            Budget::MOST_USD
        ))
    })
}

fn budget_period(field: &str, value: &Value) -> Result<BudgetPeriod, ApiError> {
    let text = value
        .as_str()
        .ok_or_else(|| wrong_type(field, "a string", value))?;
    [
        BudgetPeriod::Day,
        BudgetPeriod::Week,
        BudgetPeriod::Month,
        BudgetPeriod::Total,
    ]
    .into_iter()
    .find(|period| period.as_str() == text)
    .ok_or_else(|| {
        ApiError::Invalid(format!(
            "`{field}` must be `day`, `week`, `month` or `total`; found `{}`",
            shortened(text)
        ))
    })
}

fn limit(field: &str, value: Option<&Value>) -> Result<Change<NonZeroU32>, ApiError> {
    positive(field, value, u64::from(u32::MAX), |number| {
        u32::try_from(number).ok().and_then(NonZeroU32::new)
    })
}

fn wide_limit(field: &str, value: Option<&Value>) -> Result<Change<NonZeroU64>, ApiError> {
    positive(field, value, Limits::MOST_TPM, NonZeroU64::new)
}

fn positive<T>(
    field: &str,
    value: Option<&Value>,
    most: u64,
    of: impl FnOnce(u64) -> Option<T>,
) -> Result<Change<T>, ApiError> {
    let Some(value) = value else {
        return Ok(Change::Keep);
    };
    if value.is_null() {
        return Ok(Change::Remove);
    }
    let number = value
        .as_i64()
        .ok_or_else(|| wrong_type(field, "an integer", value))?;
    u64::try_from(number)
        .ok()
        .filter(|number| *number <= most)
        .and_then(of)
        .map(Change::Set)
        .ok_or_else(|| {
            ApiError::Invalid(format!(
                "`{field}` must be from 1 to {most}; found `{number}`; leave it out for no limit"
            ))
        })
}

/// `max_requests`: 0 means no limit.
pub fn max_requests(fields: &JsonFields) -> Result<Change<NonZeroU64>, ApiError> {
    let number = fields.change("max_requests", super::json_fields::integer)?;
    Ok(match number {
        Change::Keep => Change::Keep,
        Change::Remove | Change::Set(0) => Change::Remove,
        Change::Set(number) => {
            let number = u64::try_from(number).ok().and_then(NonZeroU64::new);
            Change::Set(number.ok_or(ApiError::Rule(
                "max_requests must be >= 0",
                "write a positive number, or 0 for no limit",
            ))?)
        }
    })
}

/// The owner's notes.
pub fn metadata(field: &'static str, value: &Value) -> Result<Map<String, Value>, ApiError> {
    let metadata = object(field, value)?.clone();
    check_metadata(&metadata)?;
    Ok(metadata)
}

/// Whether the notes, after a merge, are still small enough to be kept.
pub fn check_metadata(metadata: &Map<String, Value>) -> Result<(), ApiError> {
    let bytes = serde_json::to_vec(metadata).map_or(usize::MAX, |bytes| bytes.len());
    if bytes > LARGEST_METADATA_BYTES {
        return Err(ApiError::Invalid(format!(
            "`metadata` must have at most {LARGEST_METADATA_BYTES} bytes as JSON"
        )));
    }
    Ok(())
}
