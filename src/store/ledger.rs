//! The port for usage records: what every request that reached a provider used and cost.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{Page, Paged, StoreError};
use crate::domain::{NanoUsd, ProjectId, RecordId, Timestamp, TokenId, TokenUsage, UsageRecord};

/// Microseconds of an hour.
pub(super) const HOUR_MICROS: i64 = 3_600_000_000;

/// The subject under which everything that was spent is added up.
pub const INSTALLATION: &str = "installation";

/// How many days what was spent on each of them is kept: longer than any period of a budget but `total`.
pub const SPEND_DAYS_KEPT: i64 = 40;

/// By what usage is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UsageGroup {
    /// The project's id.
    Project,
    /// The token's id.
    Token,
    /// The model asked for.
    Model,
    /// The provider that answered.
    Provider,
    /// The UTC day its answer was over.
    Day,
}

/// What is added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// By these, in this order; none: one sum.
    pub group_by: Vec<UsageGroup>,
    /// Not before.
    pub start: Option<Timestamp>,
    /// Before.
    pub end: Option<Timestamp>,
}

/// Sums of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageSums {
    /// Requests.
    pub requests: u64,
    /// Their tokens (`cache_write_1h` is not summed).
    pub usage: TokenUsage,
    /// Their cost.
    pub cost: NanoUsd,
    /// Of them: with numbers that are ours.
    pub estimated: u64,
    /// Of them: not delivered whole.
    pub cut: u64,
}

impl UsageSums {
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.usage = self.usage.plus(other.usage);
        self.cost = self.cost.plus(other.cost);
        self.estimated += other.estimated;
        self.cut += other.cut;
    }
}

/// One line of a query's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The values of the query's groups, in their order; days as `2026-01-31`.
    pub groups: Vec<String>,
    /// What they used.
    pub sums: UsageSums,
}

/// What a token, a project or the installation has spent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending {
    /// In all.
    pub total: NanoUsd,
    /// On each day (since 1970) on which anything was.
    pub days: Vec<(i64, NanoUsd)>,
}

/// Which records a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// The client's name for the request, or ours.
    pub request_id: Option<String>,
    /// Of a token.
    pub token_id: Option<TokenId>,
    /// Of a project.
    pub project_id: Option<ProjectId>,
    /// Not over before.
    pub start: Option<Timestamp>,
    /// Over before.
    pub end: Option<Timestamp>,
}

/// Usage records, append only, with their sums.
#[async_trait]
pub trait LedgerStore: Send + Sync + 'static {
    /// Adds a batch, its sums by the hour and what its tokens and projects have spent, in one transaction. A record whose
    /// id is there already changes nothing, so that a batch may be given again.
    async fn append(&self, records: &[UsageRecord]) -> Result<(), StoreError>;
    /// Sums by groups, in the groups' order.
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError>;
    /// Records, newest first.
    async fn records(&self, filter: &RecordFilter, page: Page) -> Result<Paged<UsageRecord>, StoreError>;
    /// What these tokens or projects have spent in all; who has spent nothing is left out.
    async fn spent(&self, subjects: Vec<String>) -> Result<HashMap<String, NanoUsd>, StoreError>;
    /// What one of them, or [`INSTALLATION`], has spent in all and on each day since `first_day`.
    async fn spending(&self, subject: &str, first_day: i64) -> Result<Spending, StoreError>;
    /// Forgets what was spent on single days before this one.
    async fn forget_spend_before(&self, day: i64) -> Result<(), StoreError>;
    /// Deletes a bounded number of records that were over before `before`; their sums stay. Answers how many.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError>;
}

/// The parts of a time range: whole days and hours, that sums answer, and what is left at its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Days since 1970, `from..to`.
    Days(i64, i64),
    /// Hours since 1970, `from..to`.
    Hours(i64, i64),
    /// Microseconds since 1970, `from..to`.
    Micros(i64, i64),
}

/// Hours of a day.
const DAY_HOURS: i64 = 24;

/// Splits a query's range so that each record is in one part. Without an end it goes on for ever.
pub(super) fn parts(query: &UsageQuery) -> Vec<Part> {
    // beyond any clock, and far enough from the end of the numbers
    const FAR: i64 = i64::MAX / 2;
    let start = query.start.map_or(-FAR, Timestamp::as_micros);
    let end = query.end.map_or(FAR, Timestamp::as_micros);
    if start >= end {
        return Vec::new();
    }
    let up = |number: i64, unit: i64| -(-number).div_euclid(unit);
    let (first, last) = (up(start, HOUR_MICROS), end.div_euclid(HOUR_MICROS));
    if first >= last {
        return vec![Part::Micros(start, end)];
    }
    let mut parts = Vec::with_capacity(5);
    // the sums by the day do not know tokens
    let by_token = query.group_by.contains(&UsageGroup::Token);
    let (first_day, last_day) = (up(first, DAY_HOURS), last.div_euclid(DAY_HOURS));
    if by_token || first_day >= last_day {
        parts.push(Part::Hours(first, last));
    } else {
        parts.push(Part::Days(first_day, last_day));
        if first < first_day * DAY_HOURS {
            parts.push(Part::Hours(first, first_day * DAY_HOURS));
        }
        if last_day * DAY_HOURS < last {
            parts.push(Part::Hours(last_day * DAY_HOURS, last));
        }
    }
    if start < first * HOUR_MICROS {
        parts.push(Part::Micros(start, first * HOUR_MICROS));
    }
    if end > last * HOUR_MICROS {
        parts.push(Part::Micros(last * HOUR_MICROS, end));
    }
    parts
}

/// The days that a budget looks at, the first of them given: bounded, whatever the clock says.
pub(super) fn days_looked_at(first_day: i64) -> Vec<i64> {
    (first_day..first_day.saturating_add(SPEND_DAYS_KEPT)).collect()
}

/// The columns that a query groups by, in a table whose rows have this number of a day.
pub(super) fn group_columns(groups: &[UsageGroup], day: &'static str) -> Vec<&'static str> {
    groups
        .iter()
        .map(|group| match group {
            UsageGroup::Project => "project_id",
            UsageGroup::Token => "token_id",
            UsageGroup::Model => "model",
            UsageGroup::Provider => "provider",
            UsageGroup::Day => day,
        })
        .collect()
}

/// Adds up what the parts answered; one part has each group once.
#[derive(Debug, Default)]
pub(super) struct Summary {
    rows: Vec<UsageRow>,
}

impl Summary {
    pub(super) fn add(&mut self, groups: Vec<String>, sums: UsageSums) {
        if sums.requests > 0 {
            self.rows.push(UsageRow { groups, sums });
        }
    }

    pub(super) fn finish(mut self) -> Vec<UsageRow> {
        self.rows.sort_unstable_by(|a, b| a.groups.cmp(&b.groups));
        self.rows.dedup_by(|next, row| {
            let is_same = next.groups == row.groups;
            if is_same {
                row.sums.add(&next.sums);
            }
            is_same
        });
        self.rows
    }
}

/// A day since 1970 as people write it.
pub(super) fn day_text(day: i64) -> String {
    let at = Timestamp::from_micros(day.saturating_mul(24 * HOUR_MICROS));
    at.to_string().chars().take(10).collect()
}

/// The id of a record that a row names.
pub(super) fn record_id(text: &str) -> Result<RecordId, StoreError> {
    text.parse().map_err(|_| StoreError::Inconsistent {
        table: "usage_records",
        row: text.to_owned(),
        why: "`record_id` is no record's id".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_falls_into_parts_that_neither_overlap_nor_leave_gaps() {
        let hour = HOUR_MICROS;
        let query = |start: i64, end: i64, group_by: &[UsageGroup]| UsageQuery {
            group_by: group_by.to_vec(),
            start: Some(Timestamp::from_micros(start)),
            end: Some(Timestamp::from_micros(end)),
        };
        let parts_of = |start, end| parts(&query(start, end, &[UsageGroup::Model]));
        assert_eq!(parts_of(hour, 3 * hour), [Part::Hours(1, 3)]);
        assert_eq!(
            parts_of(hour - 1, 3 * hour + 1),
            [
                Part::Hours(1, 3),
                Part::Micros(hour - 1, hour),
                Part::Micros(3 * hour, 3 * hour + 1)
            ]
        );
        assert_eq!(parts_of(5, 7), [Part::Micros(5, 7)]);
        assert_eq!(parts_of(hour - 5, hour + 5), [Part::Micros(hour - 5, hour + 5)]);
        assert_eq!(
            parts_of(23 * hour - 1, 74 * hour),
            [
                Part::Days(1, 3),
                Part::Hours(23, 24),
                Part::Hours(72, 74),
                Part::Micros(23 * hour - 1, 23 * hour)
            ]
        );
        assert_eq!(
            parts(&query(23 * hour, 74 * hour, &[UsageGroup::Token])),
            [Part::Hours(23, 74)]
        );
        assert!(parts_of(7, 7).is_empty() && parts_of(9, 7).is_empty());
        let all = parts(&UsageQuery::default());
        assert!(
            matches!(all[0], Part::Days(first, last) if first < 0 && last > 0),
            "{all:?}"
        );
    }

    #[test]
    fn days_are_written_as_people_do() {
        assert_eq!(day_text(0), "1970-01-01");
        assert_eq!(day_text(20_484), "2026-01-31");
    }
}
