//! `GET /manage/audit`: newest first, filtered, always in pages.

use axum::extract::State;
use http::Uri;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::shortened;
use super::super::paging::{LARGEST_PAGE, page_count};
use super::super::query::Query;
use super::super::services::Shared;
use super::view::AuditView;
use crate::domain::audit::AuditOutcome;
use crate::store::{AuditFilter, Page};

const DEFAULT_PAGE_SIZE: u32 = 20;

/// A page of events.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditEvents")]
pub struct Listed<'a> {
    events: Vec<AuditView<'a>>,
    pagination: Pagination,
}

/// Where the page stands.
#[derive(Serialize, JsonSchema)]
pub struct Pagination {
    page: u32,
    page_size: u32,
    total_count: u64,
    total_pages: u64,
    has_next: bool,
    has_prev: bool,
}

/// Lists events.
pub async fn list(State(services): State<Shared>, uri: Uri) -> Result<Answer, ApiError> {
    let store = services
        .audit_store
        .as_ref()
        .ok_or(ApiError::NotAvailable("audit events not available"))?;
    let query = Query::of(&uri);
    let filter = filter_of(&query)?;
    let page = Page {
        number: query.count("page")?.unwrap_or(1),
        size: query
            .count("page_size")?
            .unwrap_or(DEFAULT_PAGE_SIZE)
            .min(LARGEST_PAGE),
    };
    services.audit.flush().await;
    let paged = store.list(&filter, page).await?;
    Ok(Answer::ok(&Listed {
        events: paged.rows.iter().map(AuditView::of).collect(),
        pagination: pagination(page, paged.total),
    }))
}

fn pagination(page: Page, total: u64) -> Pagination {
    let total_pages = page_count(total, page.size);
    Pagination {
        page: page.number,
        page_size: page.size,
        total_count: total,
        total_pages,
        has_next: u64::from(page.number) < total_pages,
        has_prev: page.number > 1,
    }
}

fn filter_of(query: &Query) -> Result<AuditFilter, ApiError> {
    Ok(AuditFilter {
        action: query.owned("action"),
        actor: query.owned("actor"),
        outcome: parsed(
            query,
            "outcome",
            "`success`, `failure`, `denied` or `error`",
            |text| AuditOutcome::parse(text).map(|outcome| outcome.as_str().to_owned()),
        )?,
        client_ip: parsed(query, "client_ip", "an address", |text| {
            let address: std::net::IpAddr = text.parse().ok()?;
            Some(address.to_canonical().to_string())
        })?,
        project_id: parsed(query, "project_id", "a project's id", |text| text.parse().ok())?,
        request_id: query.owned("request_id"),
        correlation_id: query.owned("correlation_id"),
        method: query.owned("method"),
        path: query.owned("path"),
        search: query.owned("search"),
        start: query.time("start_time")?,
        end: query.time("end_time")?,
    })
}

fn parsed<T>(
    query: &Query,
    name: &str,
    must_be: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let Some(text) = query.text(&[name]) else {
        return Ok(None);
    };
    parse(text)
        .map(Some)
        .ok_or_else(|| ApiError::Invalid(format!("`{name}` must be {must_be}; found `{}`", shortened(text))))
}
