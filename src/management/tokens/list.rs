//! `GET /manage/tokens`: newest first, of one project or all.

use axum::extract::State;
use http::Uri;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::paging::answer_list;
use super::super::query::Query;
use super::super::services::Shared;
use super::view::TokenView;
use crate::domain::ProjectId;
use crate::store::{Page, Paged, TokenFilter};

/// Lists tokens. A project that is none has none.
pub async fn list(State(services): State<Shared>, uri: Uri) -> Result<Answer, ApiError> {
    let query = Query::of(&uri);
    let active = query.switch(&["active_only", "activeOnly"])?;
    let project = query
        .text(&["project_id", "projectId"])
        .map(str::parse::<ProjectId>);
    services.flush_counters().await;
    let unknown_project = matches!(project, Some(Err(_)));
    let filter = TokenFilter {
        project_id: project.and_then(Result::ok),
        active_at: active.then(|| services.clock.now()),
    };
    let read = async |page: Page| {
        if unknown_project {
            return Ok(Paged {
                rows: Vec::new(),
                total: 0,
            });
        }
        let paged = services.tokens.list(filter, page).await?;
        services.with_spent(paged, |token| token.id.to_string()).await
    };
    answer_list(
        uri.path(),
        &query,
        read,
        |(token, _)| token.id,
        |(token, spent)| serde_json::value::to_raw_value(&TokenView::of(token, *spent)).unwrap_or_default(),
    )
    .await
}
