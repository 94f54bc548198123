//! Usage records in PostgreSQL.

use std::collections::HashMap;

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::database::Database;
use super::failure::Failure;
use super::rows::{text, text_option};
use crate::domain::{MediaUsage, NanoUsd, Timestamp, TokenUsage, UsageRecord};
use crate::store::columns::offset;
use crate::store::ledger::{
    LedgerStore, Part, RecordFilter, Spending, Summary, UsageGroup, UsageQuery, UsageRow, UsageSums,
    day_text, days_looked_at, group_columns, parts,
};
use crate::store::ledger_columns::{RECORD_COLUMNS, RecordColumns};
use crate::store::{Fsync, Page, Paged, StoreError};

// One statement: what was added now, and from that alone the sums and what was spent, each in the order of its key, so
// that two instances never wait for each other in a circle.
const APPEND: &str = "\
WITH added AS (
    INSERT INTO usage_records (record_id, request_id, project_id, token_id, endpoint, model, provider, served_model,
        status, prompt_tokens, completion_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
        reasoning_tokens, cost_nano_usd, received_at, finished_at, duration_us, first_byte_us, estimated, cut, attempts,
        media)
    SELECT * FROM UNNEST($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
        $22, $23, $24)
    ON CONFLICT (record_id) DO NOTHING
    RETURNING *
), hours AS (
    INSERT INTO usage_hours (hour, project_id, token_id, model, provider, requests, prompt_tokens, completion_tokens,
        cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_nano_usd, estimated, cut)
    SELECT finished_at / 3600000000, project_id, token_id, model, provider, COUNT(*), SUM(prompt_tokens)::BIGINT,
        SUM(completion_tokens)::BIGINT, SUM(cache_read_tokens)::BIGINT, SUM(cache_write_tokens)::BIGINT,
        SUM(reasoning_tokens)::BIGINT, SUM(cost_nano_usd)::BIGINT, COUNT(*) FILTER (WHERE estimated),
        COUNT(*) FILTER (WHERE cut)
    FROM added GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (hour, project_id, token_id, model, provider) DO UPDATE SET
        requests = usage_hours.requests + EXCLUDED.requests,
        prompt_tokens = usage_hours.prompt_tokens + EXCLUDED.prompt_tokens,
        completion_tokens = usage_hours.completion_tokens + EXCLUDED.completion_tokens,
        cache_read_tokens = usage_hours.cache_read_tokens + EXCLUDED.cache_read_tokens,
        cache_write_tokens = usage_hours.cache_write_tokens + EXCLUDED.cache_write_tokens,
        reasoning_tokens = usage_hours.reasoning_tokens + EXCLUDED.reasoning_tokens,
        cost_nano_usd = usage_hours.cost_nano_usd + EXCLUDED.cost_nano_usd,
        estimated = usage_hours.estimated + EXCLUDED.estimated,
        cut = usage_hours.cut + EXCLUDED.cut
), days AS (
    INSERT INTO usage_days (day, project_id, model, provider, requests, prompt_tokens, completion_tokens,
        cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_nano_usd, estimated, cut)
    SELECT finished_at / 86400000000, project_id, model, provider, COUNT(*), SUM(prompt_tokens)::BIGINT,
        SUM(completion_tokens)::BIGINT, SUM(cache_read_tokens)::BIGINT, SUM(cache_write_tokens)::BIGINT,
        SUM(reasoning_tokens)::BIGINT, SUM(cost_nano_usd)::BIGINT, COUNT(*) FILTER (WHERE estimated),
        COUNT(*) FILTER (WHERE cut)
    FROM added GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (day, project_id, model, provider) DO UPDATE SET
        requests = usage_days.requests + EXCLUDED.requests,
        prompt_tokens = usage_days.prompt_tokens + EXCLUDED.prompt_tokens,
        completion_tokens = usage_days.completion_tokens + EXCLUDED.completion_tokens,
        cache_read_tokens = usage_days.cache_read_tokens + EXCLUDED.cache_read_tokens,
        cache_write_tokens = usage_days.cache_write_tokens + EXCLUDED.cache_write_tokens,
        reasoning_tokens = usage_days.reasoning_tokens + EXCLUDED.reasoning_tokens,
        cost_nano_usd = usage_days.cost_nano_usd + EXCLUDED.cost_nano_usd,
        estimated = usage_days.estimated + EXCLUDED.estimated,
        cut = usage_days.cut + EXCLUDED.cut
), spent AS (
    SELECT finished_at / 86400000000 AS day, subject, cost_nano_usd
    FROM added CROSS JOIN LATERAL (VALUES (token_id), (project_id), ('installation')) AS subjects (subject)
    WHERE cost_nano_usd <> 0
), by_day AS (
    INSERT INTO spend_days (day, subject, nano_usd)
    SELECT day, subject, SUM(cost_nano_usd)::BIGINT FROM spent GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (day, subject) DO UPDATE SET nano_usd = spend_days.nano_usd + EXCLUDED.nano_usd
)
INSERT INTO spend (subject, nano_usd)
SELECT subject, SUM(cost_nano_usd)::BIGINT FROM spent GROUP BY 1 ORDER BY 1
ON CONFLICT (subject) DO UPDATE SET nano_usd = spend.nano_usd + EXCLUDED.nano_usd";

/// The death of the database may lose what it acknowledged within its last moments; with `ledger.fsync` it may not.
const UNSYNCED: &str = "SET LOCAL synchronous_commit = off";

const SPENDING: &str = "\
SELECT -1::BIGINT AS day, nano_usd FROM spend WHERE subject = $1
UNION ALL SELECT day, nano_usd FROM spend_days WHERE day = ANY($2) AND subject = $1 AND day >= 0
ORDER BY day";

const FORGET_DAYS: &str = "DELETE FROM spend_days WHERE day < $1";

const SPENT: &str = "SELECT subject, nano_usd FROM spend WHERE subject = ANY($1)";

// who has no name of the client's is found by the record's id: there is no other index of it
const WHERE: &str = "\
WHERE ($1 IS NULL OR (record_id = $1 AND request_id = $1)
    OR (request_id = $1 AND request_id <> record_id COLLATE \"C\"))
  AND ($2 IS NULL OR token_id = $2) AND ($3 IS NULL OR project_id = $3)
  AND ($4 IS NULL OR finished_at >= $4) AND ($5 IS NULL OR finished_at < $5)";

const PRUNE: &str = "\
DELETE FROM usage_records WHERE record_id IN (
    SELECT record_id FROM usage_records WHERE finished_at < $1 ORDER BY finished_at LIMIT 1000)";

/// Usage records in PostgreSQL.
pub(super) struct PostgresLedger {
    pub(super) database: Database,
    /// Whether a commit waits for the disk.
    pub(super) fsync: Fsync,
}

/// A batch, column by column: one statement takes all of it.
#[derive(Default)]
struct Batch {
    /// `record_id` … `provider`, and `attempts`.
    words: [Vec<String>; 8],
    served_model: Vec<Option<String>>,
    numbers: [Vec<i64>; 11],
    first_byte: Vec<Option<i64>>,
    estimated: Vec<bool>,
    cut: Vec<bool>,
    media: Vec<Option<String>>,
}

impl Batch {
    fn of(records: &[UsageRecord]) -> Self {
        let mut batch = Self::default();
        for record in records {
            let row = RecordColumns::of(record);
            let words = [
                &row.record_id,
                &row.request_id,
                &row.project_id,
                &row.token_id,
                &row.endpoint,
                &row.model,
                &row.provider,
                &row.attempts,
            ];
            for (column, word) in batch.words.iter_mut().zip(words) {
                column.push(text(word));
            }
            batch.served_model.push(text_option(row.served_model.as_ref()));
            for (column, number) in batch.numbers.iter_mut().zip(row.numbers) {
                column.push(number);
            }
            batch.first_byte.push(row.first_byte_us);
            batch.estimated.push(row.estimated);
            batch.cut.push(row.cut);
            batch.media.push(row.media);
        }
        batch
    }

    async fn append(&self, client: &mut ClientWrapper, fsync: bool) -> Result<(), Failure> {
        let [
            record,
            request,
            project,
            token,
            endpoint,
            model,
            provider,
            attempts,
        ] = &self.words;
        let words = [record, request, project, token, endpoint, model, provider];
        let mut bound: Vec<(&(dyn ToSql + Sync), Type)> = Vec::with_capacity(24);
        bound.extend(
            words
                .into_iter()
                .map(|column| (column as &(dyn ToSql + Sync), Type::TEXT_ARRAY)),
        );
        bound.push((&self.served_model, Type::TEXT_ARRAY));
        bound.extend(
            self.numbers
                .iter()
                .map(|column| (column as &(dyn ToSql + Sync), Type::INT8_ARRAY)),
        );
        bound.push((&self.first_byte, Type::INT8_ARRAY));
        bound.push((&self.estimated, Type::BOOL_ARRAY));
        bound.push((&self.cut, Type::BOOL_ARRAY));
        bound.push((attempts, Type::TEXT_ARRAY));
        bound.push((&self.media, Type::TEXT_ARRAY));
        let transaction = client.transaction().await?;
        if !fsync {
            transaction.execute_typed(UNSYNCED, &[]).await?;
        }
        transaction.execute_typed(APPEND, &bound).await?;
        transaction.commit().await?;
        Ok(())
    }
}

#[async_trait]
impl LedgerStore for PostgresLedger {
    async fn append(&self, records: &[UsageRecord]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let (batch, fsync) = (Batch::of(records), self.fsync.is_on());
        self.database
            .run(move |client| Box::pin(async move { batch.append(client, fsync).await }))
            .await
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        let query = query.clone();
        self.database
            .run(move |client| {
                Box::pin(async move {
                    // one view of the records, whatever is added meanwhile
                    let transaction = client
                        .build_transaction()
                        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
                        .read_only(true)
                        .start()
                        .await?;
                    let mut summary = Summary::default();
                    for part in parts(&query) {
                        sum_up(&transaction, &query.group_by, part, &mut summary).await?;
                    }
                    transaction.commit().await?;
                    Ok(summary.finish())
                })
            })
            .await
    }

    async fn records(&self, filter: &RecordFilter, page: Page) -> Result<Paged<UsageRecord>, StoreError> {
        let filter = filter.clone();
        self.database
            .run(move |client| Box::pin(list(client, filter, page)))
            .await
    }

    async fn spent(&self, subjects: Vec<String>) -> Result<HashMap<String, NanoUsd>, StoreError> {
        self.database
            .run(move |client| {
                Box::pin(async move {
                    let rows = client
                        .query_typed(SPENT, &[(&subjects, Type::TEXT_ARRAY)])
                        .await?;
                    let mut spent = HashMap::with_capacity(rows.len());
                    for row in rows {
                        spent.insert(row.try_get(0)?, NanoUsd::from_nanos(row.try_get(1)?));
                    }
                    Ok(spent)
                })
            })
            .await
    }

    async fn spending(&self, subject: &str, first_day: i64) -> Result<Spending, StoreError> {
        let (subject, days) = (text(subject), days_looked_at(first_day));
        self.database
            .run(move |client| {
                Box::pin(async move {
                    // one statement, one view
                    let rows = client
                        .query_typed(SPENDING, &[(&subject, Type::TEXT), (&days, Type::INT8_ARRAY)])
                        .await?;
                    let mut spending = Spending::default();
                    for row in rows {
                        let amount = NanoUsd::from_nanos(row.try_get(1)?);
                        match row.try_get(0)? {
                            -1_i64 => spending.total = amount,
                            day => spending.days.push((day, amount)),
                        }
                    }
                    Ok(spending)
                })
            })
            .await
    }

    async fn forget_spend_before(&self, day: i64) -> Result<(), StoreError> {
        self.database
            .run(move |client| {
                Box::pin(async move {
                    client.execute_typed(FORGET_DAYS, &[(&day, Type::INT8)]).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.database
            .run(move |client| {
                Box::pin(async move {
                    Ok(client
                        .execute_typed(PRUNE, &[(&before.as_micros(), Type::INT8)])
                        .await?)
                })
            })
            .await
    }
}

async fn sum_up(
    transaction: &deadpool_postgres::Transaction<'_>,
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
    let flag = |column: &str| match part {
        Part::Days(..) | Part::Hours(..) => format!("SUM({column})"),
        Part::Micros(..) => format!("COUNT(*) FILTER (WHERE {column})"),
    };
    let columns = group_columns(groups, day);
    let mut list = columns.join(", ");
    if !list.is_empty() {
        list.push_str(", ");
    }
    let by = if columns.is_empty() {
        String::new()
    } else {
        let numbers: Vec<String> = (1..=columns.len()).map(|number| number.to_string()).collect();
        format!("GROUP BY {}", numbers.join(", "))
    };
    // the sums are `numeric`: clipped to what a number holds
    let clipped = |sum: &str| format!("LEAST(COALESCE({sum}, 0), 9223372036854775807)::BIGINT");
    let sums: Vec<String> = [
        "prompt_tokens",
        "completion_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "cost_nano_usd",
    ]
    .iter()
    .map(|column| clipped(&format!("SUM({column})")))
    .collect();
    let sql = format!(
        "SELECT {list}{}, {}, {}, {} FROM {table} WHERE {when} >= $1 AND {when} < $2 {by}",
        clipped(requests),
        sums.join(", "),
        clipped(&flag("estimated")),
        clipped(&flag("cut")),
    );
    let rows = transaction
        .query_typed(&sql, &[(&range.0, Type::INT8), (&range.1, Type::INT8)])
        .await?;
    for row in &rows {
        let mut names = Vec::with_capacity(groups.len());
        for (index, group) in groups.iter().enumerate() {
            names.push(if *group == UsageGroup::Day {
                day_text(row.try_get(index)?)
            } else {
                row.try_get(index)?
            });
        }
        summary.add(names, row_sums(row, groups.len())?);
    }
    Ok(())
}

fn row_sums(row: &Row, first: usize) -> Result<UsageSums, tokio_postgres::Error> {
    let count = |index: usize| -> Result<u64, tokio_postgres::Error> {
        Ok(u64::try_from(row.try_get::<_, i64>(first + index)?).unwrap_or(0))
    };
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
        cost: NanoUsd::from_nanos(row.try_get(first + 6)?),
        estimated: count(7)?,
        cut: count(8)?,
    })
}

async fn list(
    client: &mut ClientWrapper,
    filter: RecordFilter,
    page: Page,
) -> Result<Paged<UsageRecord>, Failure> {
    let request = text_option(filter.request_id.as_ref());
    let token = filter.token_id.map(|id| id.to_string());
    let project = filter.project_id.map(|id| id.to_string());
    let start = filter.start.map(Timestamp::as_micros);
    let end = filter.end.map(Timestamp::as_micros);
    let (limit, offset) = (i64::from(page.size), offset(page));
    let bound: [(&(dyn ToSql + Sync), Type); 7] = [
        (&request, Type::TEXT),
        (&token, Type::TEXT),
        (&project, Type::TEXT),
        (&start, Type::INT8),
        (&end, Type::INT8),
        (&limit, Type::INT8),
        (&offset, Type::INT8),
    ];
    let count = format!("SELECT COUNT(*) FROM usage_records {WHERE}");
    let total: i64 = client.query_typed_one(&count, &bound[..5]).await?.try_get(0)?;
    let sql = format!(
        "SELECT {RECORD_COLUMNS} FROM usage_records {WHERE}
         ORDER BY finished_at DESC, record_id DESC LIMIT $6 OFFSET $7"
    );
    let rows = client.query_typed(&sql, &bound).await?;
    let rows = rows
        .iter()
        .map(|row| Ok(record_columns(row)?.read()?))
        .collect::<Result<_, Failure>>()?;
    Ok(Paged {
        rows,
        total: u64::try_from(total).unwrap_or(0),
    })
}

fn record_columns(row: &Row) -> Result<RecordColumns, tokio_postgres::Error> {
    let mut numbers = [0; 11];
    for (index, number) in numbers.iter_mut().enumerate() {
        *number = row.try_get(8 + index)?;
    }
    Ok(RecordColumns {
        record_id: row.try_get(0)?,
        request_id: row.try_get(1)?,
        project_id: row.try_get(2)?,
        token_id: row.try_get(3)?,
        endpoint: row.try_get(4)?,
        model: row.try_get(5)?,
        provider: row.try_get(6)?,
        served_model: row.try_get(7)?,
        numbers,
        first_byte_us: row.try_get(19)?,
        estimated: row.try_get(20)?,
        cut: row.try_get(21)?,
        attempts: row.try_get(22)?,
        media: row.try_get(23)?,
    })
}
