//! `GET /manage/projects`: by name.

use axum::extract::State;
use http::Uri;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::paging::answer_list;
use super::super::query::Query;
use super::super::services::Shared;
use super::view::ProjectView;

/// Lists all projects, or a page of them.
pub async fn list(State(services): State<Shared>, uri: Uri) -> Result<Answer, ApiError> {
    let default_provider = services.providers.default_provider();
    answer_list(
        uri.path(),
        &Query::of(&uri),
        async |page| {
            let paged = services.projects.list(page).await?;
            services.with_spent(paged, |project| project.id.to_string()).await
        },
        |(project, _)| project.id,
        |(project, spent)| ProjectView::of(project, &default_provider, *spent),
    )
    .await
}
