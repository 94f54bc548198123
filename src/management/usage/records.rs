//! `GET /manage/usage/records`: the records, newest first, always in pages.

use axum::extract::State;
use http::{HeaderName, Uri, header};
use serde_json::Value;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::paging::{asked_page, links};
use super::super::query::Query;
use super::super::services::Shared;
use super::view::RecordView;
use super::{Format, parsed};
use crate::store::{Page, RecordFilter};

const DEFAULT_PAGE_SIZE: u32 = 20;

const COLUMNS: [&str; 24] = [
    "record_id",
    "request_id",
    "received_at",
    "finished_at",
    "project_id",
    "token_id",
    "endpoint",
    "model",
    "provider",
    "served_model",
    "status",
    "prompt_tokens",
    "completion_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd",
    "estimated",
    "cut",
    "duration_ms",
    "time_to_first_byte_ms",
    "images",
    "audio_seconds",
    "characters",
];

/// Lists records.
pub async fn records(State(services): State<Shared>, uri: Uri) -> Result<Answer, ApiError> {
    let query = Query::of(&uri);
    let format = Format::of(&query)?;
    let filter = RecordFilter {
        request_id: query.owned("request_id"),
        token_id: parsed(&query, "token_id", "a token's id")?,
        project_id: parsed(&query, "project_id", "a project's id")?,
        start: query.time("start_time")?,
        end: query.time("end_time")?,
    };
    let page = asked_page(&query)?.unwrap_or(Page {
        number: 1,
        size: DEFAULT_PAGE_SIZE,
    });
    let paged = services.ledger.records(&filter, page).await?;
    let rows: Vec<RecordView<'_>> = paged.rows.iter().map(RecordView::of).collect();
    let answer = match format {
        Format::Json => Answer::ok(&rows),
        Format::Csv => {
            let rows: Vec<Value> = rows
                .iter()
                .map(|row| serde_json::to_value(row).unwrap_or_default())
                .collect();
            super::csv::answer(&COLUMNS, &rows)
        }
    };
    Ok(answer
        .with_header(HeaderName::from_static("x-total-count"), &paged.total.to_string())
        .with_header(header::LINK, &links(uri.path(), &query, page, paged.total)))
}
