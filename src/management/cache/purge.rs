//! `POST /manage/cache/purge`: by method and URL, key prefix, project, or everything.

use axum::extract::State;
use bytes::Bytes;
use http::Uri;
use serde_json::json;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::json_fields::{JsonFields, boolean, text};
use super::super::ports::{Purge, PurgeOutcome};
use super::super::services::Shared;
use crate::domain::ProjectId;

/// Drops entries of the HTTP cache; answers whether (one URL) or how many.
pub async fn purge(State(services): State<Shared>, body: Bytes) -> Result<Answer, ApiError> {
    if !services.cache.stats().enabled {
        return Err(caching_is_disabled());
    }
    let purge = read(&body)?;
    let one = matches!(purge, Purge::Url { .. });
    let notes = notes_of(&purge);
    let PurgeOutcome::Deleted(count) = services.cache.purge(purge).await else {
        return Err(caching_is_disabled());
    };
    let deleted = if one { json!(count > 0) } else { json!(count) };
    let answer = Answer::ok(&json!({ "deleted": deleted }));
    Ok(notes
        .into_iter()
        .fold(answer, |answer, (name, value)| answer.noting(name, value))
        .noting("deleted", deleted))
}

fn caching_is_disabled() -> ApiError {
    ApiError::Rule("caching is disabled", "turn it on with `cache.enabled: true`")
}

fn read(body: &[u8]) -> Result<Purge, ApiError> {
    let fields = JsonFields::parse_as(
        body,
        &["method", "url", "prefix", "project_id", "all"],
        "invalid JSON",
    )?;
    let not_empty = |value: Option<String>| value.filter(|text| !text.is_empty());
    let method = not_empty(fields.optional("method", text)?);
    let url = not_empty(fields.optional("url", text)?);
    let prefix = not_empty(fields.optional("prefix", text)?);
    let project = fields.optional("project_id", |name, value| {
        text(name, value)?
            .parse::<ProjectId>()
            .map_err(|why| ApiError::Invalid(format!("`{name}` is {why}")))
    })?;
    let all = fields.optional("all", boolean)?.unwrap_or(false);
    let named_otherwise = method.is_some() || url.is_some() || project.is_some();
    match (all, prefix) {
        (true, None) if !named_otherwise => Ok(Purge::All),
        (true, _) => Err(ApiError::Invalid(
            "`all` drops everything and goes with no other field".to_owned(),
        )),
        (false, Some(_)) if project.is_some() => Err(ApiError::Invalid(
            "give either `prefix` or `project_id`; a key prefix may belong to any project".to_owned(),
        )),
        (false, Some(prefix)) => Ok(Purge::Prefix(prefix)),
        (false, None) => match (method, url, project) {
            (None, None, Some(project)) => Ok(Purge::Project(project)),
            (Some(method), Some(url), project) => Ok(Purge::Url {
                method: method.to_ascii_uppercase(),
                path_and_query: path_and_query(&url)?,
                project,
            }),
            _ => Err(ApiError::Rule(
                "method and url are required",
                "give `method` and `url`, or one of `prefix`, `project_id` and `all`",
            )),
        },
    }
}

fn path_and_query(url: &str) -> Result<String, ApiError> {
    let invalid = ApiError::Rule(
        "invalid URL",
        "write a path such as `/v1/models` or an http URL with one",
    );
    let Ok(uri) = url.parse::<Uri>() else {
        return Err(invalid);
    };
    let known_scheme = matches!(uri.scheme_str(), None | Some("http" | "https"));
    match uri.path_and_query() {
        Some(path) if known_scheme && path.as_str().starts_with('/') => Ok(path.as_str().to_owned()),
        _ => Err(invalid),
    }
}

fn notes_of(purge: &Purge) -> Vec<(&'static str, serde_json::Value)> {
    match purge {
        Purge::Url {
            method,
            path_and_query,
            ..
        } => {
            // A query string may hold what is nobody's business.
            let path = path_and_query.split('?').next().unwrap_or_default();
            vec![("method", method.as_str().into()), ("url", path.into())]
        }
        Purge::Prefix(prefix) => vec![("prefix", super::super::json_fields::shortened(prefix).into())],
        Purge::Project(project) => vec![("project_id", project.to_string().into())],
        Purge::All => vec![("all", true.into())],
    }
}
