//! Usage records in SQLite.

use std::collections::HashMap;

use async_trait::async_trait;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use super::failure::Failure;
use super::records::Records;
use super::threads::Threads;
use crate::domain::{MediaUsage, NanoUsd, Timestamp, TokenUsage, UsageRecord};
use crate::store::columns::offset;
use crate::store::ledger::{
    INSTALLATION, LedgerStore, Part, RecordFilter, Spending, Summary, UsageGroup, UsageQuery, UsageRow,
    UsageSums, day_text, days_looked_at, group_columns, parts,
};
use crate::store::ledger_columns::{RECORD_COLUMNS, RecordColumns};
use crate::store::{Page, Paged, StoreError};

/// `hour`, `project_id`, `token_id`, `model`, `provider`.
type Group<'a> = (i64, &'a str, &'a str, &'a str, &'a str);

/// Sums of a group: requests, five kinds of tokens, cost, estimated, cut.
type Sums = [i64; 9];

const INSERT: &str = "\
INSERT INTO usage_records (record_id, request_id, project_id, token_id, endpoint, model, provider, served_model,
    status, prompt_tokens, completion_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
    reasoning_tokens, cost_nano_usd, received_at, finished_at, duration_us, first_byte_us, estimated, cut, attempts,
    media)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)
ON CONFLICT (record_id) DO NOTHING";

const ADD_HOUR: &str = "\
INSERT INTO usage_hours (hour, project_id, token_id, model, provider, requests, prompt_tokens, completion_tokens,
    cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_nano_usd, estimated, cut)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
ON CONFLICT (hour, project_id, token_id, model, provider) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd,
    estimated = estimated + excluded.estimated,
    cut = cut + excluded.cut";

const ADD_DAY: &str = "\
INSERT INTO usage_days (day, project_id, model, provider, requests, prompt_tokens, completion_tokens,
    cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_nano_usd, estimated, cut)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
ON CONFLICT (day, project_id, model, provider) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd,
    estimated = estimated + excluded.estimated,
    cut = cut + excluded.cut";

const ADD_SPEND_OF_DAY: &str = "\
INSERT INTO spend_days (day, subject, nano_usd) VALUES (?1, ?2, ?3)
ON CONFLICT (day, subject) DO UPDATE SET nano_usd = nano_usd + excluded.nano_usd";

const TOTAL: &str = "SELECT nano_usd FROM spend WHERE subject = ?1";

// each day is looked up by itself: the table is in the order of days
const SPENT_BY_DAY: &str = "\
SELECT day, nano_usd FROM spend_days WHERE day IN (SELECT value FROM json_each(?1)) AND subject = ?2 ORDER BY day";

const FORGET_DAYS: &str = "DELETE FROM spend_days WHERE day < ?1";

const ADD_SPEND: &str = "\
INSERT INTO spend (subject, nano_usd) VALUES (?1, ?2)
ON CONFLICT (subject) DO UPDATE SET nano_usd = nano_usd + excluded.nano_usd";

const SPENT: &str = "SELECT subject, nano_usd FROM spend WHERE subject IN (SELECT value FROM json_each(?1))";

const PRUNE: &str = "\
DELETE FROM usage_records WHERE record_id IN (
    SELECT record_id FROM usage_records WHERE finished_at < ?1 ORDER BY finished_at LIMIT 1000)";

/// Usage records in SQLite.
pub(super) struct SqliteLedger {
    pub(super) threads: Threads,
    /// Absent in memory, where there is nothing to be safe in.
    pub(super) records: Option<Records>,
}

impl SqliteLedger {
    /// Brings what is logged into the database, before it is read there.
    async fn fold(&self) -> Result<(), StoreError> {
        match &self.records {
            Some(records) => records.fold().await,
            None => Ok(()),
        }
    }

    /// The same, for people: what the database has is shown while it takes nothing more.
    async fn fold_if_possible(&self) {
        if let Err(error) = self.fold().await {
            log::debug!("the newest usage records are not shown: {error}");
        }
    }
}

#[async_trait]
impl LedgerStore for SqliteLedger {
    async fn append(&self, records: &[UsageRecord]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let rows: Vec<RecordColumns> = records.iter().map(RecordColumns::of).collect();
        match &self.records {
            Some(records) => records.append(rows).await,
            None => {
                self.threads
                    .write(move |connection| insert(connection, &rows))
                    .await
            }
        }
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        self.fold_if_possible().await;
        let query = query.clone();
        self.threads
            .read(move |connection| {
                let mut summary = Summary::default();
                for part in parts(&query) {
                    sum_up(connection, &query.group_by, part, &mut summary)?;
                }
                Ok(summary.finish())
            })
            .await
    }

    async fn records(&self, filter: &RecordFilter, page: Page) -> Result<Paged<UsageRecord>, StoreError> {
        self.fold_if_possible().await;
        let filter = filter.clone();
        self.threads
            .read(move |connection| list(connection, &filter, page))
            .await
    }

    async fn spent(&self, subjects: Vec<String>) -> Result<HashMap<String, NanoUsd>, StoreError> {
        self.fold_if_possible().await;
        let wanted = serde_json::Value::from(subjects).to_string();
        self.threads
            .read(move |connection| {
                let mut statement = connection.prepare_cached(SPENT)?;
                let rows = statement.query_map(params![wanted], |row| {
                    Ok((row.get(0)?, NanoUsd::from_nanos(row.get(1)?)))
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn spending(&self, subject: &str, first_day: i64) -> Result<Spending, StoreError> {
        self.fold().await?;
        let (subject, days) = (subject.to_owned(), days_looked_at(first_day));
        let days = serde_json::Value::from(days).to_string();
        self.threads
            .read(move |connection| {
                let total: Option<i64> = connection
                    .prepare_cached(TOTAL)?
                    .query_row(params![subject], |row| row.get(0))
                    .optional()?;
                let mut statement = connection.prepare_cached(SPENT_BY_DAY)?;
                let rows = statement.query_map(params![days, subject], |row| {
                    Ok((row.get(0)?, NanoUsd::from_nanos(row.get(1)?)))
                })?;
                Ok(Spending {
                    total: NanoUsd::from_nanos(total.unwrap_or(0)),
                    days: rows.collect::<Result<_, _>>()?,
                })
            })
            .await
    }

    async fn forget_spend_before(&self, day: i64) -> Result<(), StoreError> {
        self.threads
            .write(move |connection| {
                connection.prepare_cached(FORGET_DAYS)?.execute(params![day])?;
                Ok(())
            })
            .await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.fold().await?;
        self.threads
            .write(move |connection| {
                let deleted = connection
                    .prepare_cached(PRUNE)?
                    .execute(params![before.as_micros()])?;
                Ok(deleted as u64)
            })
            .await
    }
}

/// Adds records, their sums and what was spent; what is there already changes nothing.
///
/// WHY: sums are added up here and written once for each group, for a group of records mostly has few of them.
pub(super) fn insert(connection: &Connection, rows: &[RecordColumns]) -> Result<(), Failure> {
    let mut hours: HashMap<Group<'_>, Sums> = HashMap::new();
    let mut spent: HashMap<(i64, &str), i64> = HashMap::new();
    let mut add_record = connection.prepare_cached(INSERT)?;
    for row in rows {
        let n = &row.numbers;
        let added = add_record.execute(params![
            row.record_id,
            row.request_id,
            row.project_id,
            row.token_id,
            row.endpoint,
            row.model,
            row.provider,
            row.served_model,
            n[0],
            n[1],
            n[2],
            n[3],
            n[4],
            n[5],
            n[6],
            n[7],
            n[8],
            n[9],
            n[10],
            row.first_byte_us,
            row.estimated,
            row.cut,
            row.attempts,
            row.media,
        ])?;
        if added == 0 {
            continue;
        }
        let group = (
            row.hour(),
            &*row.project_id,
            &*row.token_id,
            &*row.model,
            &*row.provider,
        );
        let numbers = [
            1,
            n[1],
            n[2],
            n[3],
            n[4],
            n[6],
            n[7],
            i64::from(row.estimated),
            i64::from(row.cut),
        ];
        add(hours.entry(group).or_default(), &numbers);
        for subject in [&*row.token_id, &*row.project_id, INSTALLATION] {
            let sum = spent.entry((row.day(), subject)).or_default();
            *sum = sum.saturating_add(n[7]);
        }
    }
    add_sums(connection, hours)?;
    add_spend(connection, spent)
}

fn add(sums: &mut Sums, numbers: &Sums) {
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum = sum.saturating_add(*number);
    }
}

fn add_sums(connection: &Connection, hours: HashMap<Group<'_>, Sums>) -> Result<(), Failure> {
    let mut days: HashMap<(i64, &str, &str, &str), Sums> = HashMap::new();
    let mut add_hour = connection.prepare_cached(ADD_HOUR)?;
    for ((hour, project, token, model, provider), n) in hours {
        add_hour.execute(params![
            hour, project, token, model, provider, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8],
        ])?;
        let day = (hour.div_euclid(24), project, model, provider);
        add(days.entry(day).or_default(), &n);
    }
    let mut add_day = connection.prepare_cached(ADD_DAY)?;
    for ((day, project, model, provider), n) in days {
        add_day.execute(params![
            day, project, model, provider, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8],
        ])?;
    }
    Ok(())
}

fn add_spend(connection: &Connection, spent: HashMap<(i64, &str), i64>) -> Result<(), Failure> {
    let mut add_spend = connection.prepare_cached(ADD_SPEND)?;
    let mut add_day = connection.prepare_cached(ADD_SPEND_OF_DAY)?;
    for ((day, subject), sum) in spent.into_iter().filter(|(_, sum)| *sum != 0) {
        add_spend.execute(params![subject, sum])?;
        add_day.execute(params![day, subject, sum])?;
    }
    Ok(())
}

fn sum_up(
    connection: &Connection,
    groups: &[UsageGroup],
    part: Part,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let (table, when, requests, day, range) = match part {
        Part::Days(from, to) => ("usage_days", "day", "SUM(requests)", "day", (from, to)),
        Part::Hours(from, to) => ("usage_hours", "hour", "SUM(requests)", "hour / 24", (from, to)),
        Part::Micros(from, to) => (
            "usage_records",
            "finished_at",
            "COUNT(*)",
            "finished_at / 86400000000",
            (from, to),
        ),
    };
    let columns = group_columns(groups, day);
    let mut list = columns.join(", ");
    if !list.is_empty() {
        list.push_str(", ");
    }
    let by = if columns.is_empty() {
        String::new()
    } else {
        format!("GROUP BY {}", columns.join(", "))
    };
    let sql = format!(
        "SELECT {list}{requests}, TOTAL(prompt_tokens), TOTAL(completion_tokens), TOTAL(cache_read_tokens),
                TOTAL(cache_write_tokens), TOTAL(reasoning_tokens), SUM(cost_nano_usd), SUM(estimated), SUM(cut)
         FROM {table} WHERE {when} >= ?1 AND {when} < ?2 {by}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter([range.0, range.1]))?;
    while let Some(row) = rows.next()? {
        let mut names = Vec::with_capacity(groups.len());
        for (index, group) in groups.iter().enumerate() {
            names.push(if *group == UsageGroup::Day {
                day_text(row.get(index)?)
            } else {
                row.get(index)?
            });
        }
        summary.add(names, sums(row, groups.len())?);
    }
    Ok(())
}

/// `SUM` of nothing is NULL, `TOTAL` a float that cannot overflow.
fn number(row: &Row<'_>, index: usize) -> Result<i64, rusqlite::Error> {
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    Ok(match row.get_ref(index)? {
        ValueRef::Integer(number) => number,
        ValueRef::Real(number) => number as i64,
        _ => 0,
    })
}

fn sums(row: &Row<'_>, first: usize) -> Result<UsageSums, rusqlite::Error> {
    let count =
        |index: usize| Ok::<_, rusqlite::Error>(u64::try_from(number(row, first + index)?).unwrap_or(0));
    Ok(UsageSums {
        requests: count(0)?,
        usage: TokenUsage {
            prompt: count(1)?,
            completion: count(2)?,
            cache_read: count(3)?,
            cache_write: count(4)?,
            cache_write_1h: 0,
            reasoning: count(5)?,
            media: MediaUsage::default(),
        },
        cost: NanoUsd::from_nanos(number(row, first + 6)?),
        estimated: count(7)?,
        cut: count(8)?,
    })
}

/// What a filter asks for, and nothing else: a condition that may be absent would keep SQLite from its indexes.
fn wanted(filter: &RecordFilter) -> (String, Vec<Value>) {
    let id = |id: String| Value::from(id);
    let conditions = [
        ("token_id = ?", filter.token_id.map(|token| id(token.to_string()))),
        (
            "project_id = ?",
            filter.project_id.map(|project| id(project.to_string())),
        ),
        (
            "finished_at >= ?",
            filter.start.map(|start| start.as_micros().into()),
        ),
        ("finished_at < ?", filter.end.map(|end| end.as_micros().into())),
    ];
    let (mut texts, mut values) = (Vec::new(), Vec::new());
    if let Some(request) = &filter.request_id {
        // who has no name of the client's is found by the record's id: there is no other index of it
        texts.push("((record_id = ? AND request_id = ?) OR (request_id = ? AND request_id <> record_id))");
        values.extend(std::iter::repeat_n(Value::from(request.clone()), 3));
    }
    for (text, value) in conditions {
        if let Some(value) = value {
            texts.push(text);
            values.push(value);
        }
    }
    if texts.is_empty() {
        return (String::new(), values);
    }
    (format!("WHERE {}", texts.join(" AND ")), values)
}

fn count_query(conditions: &str) -> String {
    format!("SELECT COUNT(*) FROM usage_records {conditions}")
}

fn page_query(conditions: &str) -> String {
    format!(
        "SELECT {RECORD_COLUMNS} FROM usage_records {conditions}
         ORDER BY finished_at DESC, record_id DESC LIMIT ? OFFSET ?"
    )
}

fn list(connection: &Connection, filter: &RecordFilter, page: Page) -> Result<Paged<UsageRecord>, Failure> {
    let (conditions, mut values) = wanted(filter);
    let total: i64 = connection
        .prepare_cached(&count_query(&conditions))?
        .query_row(params_from_iter(&values), |row| row.get(0))?;
    values.extend([Value::from(i64::from(page.size)), Value::from(offset(page))]);
    let mut statement = connection.prepare_cached(&page_query(&conditions))?;
    let rows = statement.query_map(params_from_iter(&values), record_columns)?;
    let rows = rows
        .map(|columns| Ok(columns?.read()?))
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}

fn record_columns(row: &Row<'_>) -> rusqlite::Result<RecordColumns> {
    let mut numbers = [0; 11];
    for (index, number) in numbers.iter_mut().enumerate() {
        *number = row.get(8 + index)?;
    }
    Ok(RecordColumns {
        record_id: row.get(0)?,
        request_id: row.get(1)?,
        project_id: row.get(2)?,
        token_id: row.get(3)?,
        endpoint: row.get(4)?,
        model: row.get(5)?,
        provider: row.get(6)?,
        served_model: row.get(7)?,
        numbers,
        first_byte_us: row.get(19)?,
        estimated: row.get(20)?,
        cut: row.get(21)?,
        attempts: row.get(22)?,
        media: row.get(23)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ProjectId, TokenId};
    use crate::store::migrate::SQLITE;

    #[test]
    fn a_list_of_records_never_reads_them_all_for_one_of_its_filters() {
        let connection = Connection::open_in_memory().unwrap();
        for migration in SQLITE {
            connection.execute_batch(migration.sql).unwrap();
        }
        let none = RecordFilter::default;
        let filters = [
            RecordFilter {
                request_id: Some("r".to_owned()),
                ..none()
            },
            RecordFilter {
                token_id: Some(TokenId::random()),
                ..none()
            },
            RecordFilter {
                project_id: Some(ProjectId::random()),
                ..none()
            },
            RecordFilter {
                start: Some(Timestamp::EPOCH),
                end: Some(Timestamp::EPOCH),
                ..none()
            },
            RecordFilter {
                token_id: Some(TokenId::random()),
                start: Some(Timestamp::EPOCH),
                ..none()
            },
        ];
        for filter in filters {
            let (conditions, mut values) = wanted(&filter);
            let plan = |query: String, values: &[Value]| -> String {
                let mut statement = connection
                    .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
                    .unwrap();
                let steps = statement.query_map(params_from_iter(values), |row| row.get::<_, String>(3));
                steps.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("; ")
            };
            let count = plan(count_query(&conditions), &values);
            values.extend([Value::from(20), Value::from(0)]);
            for plan in [count, plan(page_query(&conditions), &values)] {
                assert!(
                    plan.contains("SEARCH") && !plan.contains("SCAN"),
                    "{conditions}: {plan}"
                );
            }
        }
    }
}
