//! Every route of the control plane, with the word that audit events use for it.

use axum::Router;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, patch, post};

use super::audit::event::Action;
use super::error::ApiError;
use super::services::Shared;
use super::{audit, cache, configuration, model_list, openapi, projects, provider_list, tokens, usage};

/// The routes. Health, metrics, authentication and what all answers share are `own_paths.rs`.
pub fn router(services: Shared) -> Router {
    Router::new()
        .merge(project_routes())
        .merge(token_routes())
        .route("/manage/audit", named("audit.list", get(audit::list)))
        .route("/manage/audit/", get(audit::missing_id))
        .route("/manage/audit/{id}", named("audit.show", get(audit::show)))
        .route("/manage/cache", named("cache.read", get(cache::show)))
        .route("/manage/cache/purge", named("cache.purge", post(cache::purge)))
        .route("/manage/config", named("config.read", get(configuration::show)))
        .route(
            "/manage/config/reload",
            named("config.reload", post(configuration::reload)),
        )
        .route(
            "/manage/providers",
            named("provider.list", get(provider_list::list)),
        )
        .route("/manage/models", named("model.list", get(model_list::list)))
        .route("/manage/usage", named("usage.list", get(usage::sums)))
        .route(
            "/manage/usage/records",
            named("usage.records", get(usage::records)),
        )
        .route("/openapi.json", named("openapi.read", get(openapi::show)))
        .fallback(async || ApiError::UnknownPath)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(services)
}

fn project_routes() -> Router<Shared> {
    Router::new()
        .route("/manage/projects", named("project.list", get(projects::list)))
        .route(
            "/manage/projects",
            named("project.create", post(projects::create)),
        )
        .route(
            "/manage/projects/",
            get(projects::invalid_id).patch(projects::invalid_id),
        )
        .route(
            "/manage/projects/{id}",
            named("project.read", get(projects::show)),
        )
        .route(
            "/manage/projects/{id}",
            named("project.update", patch(projects::update)),
        )
        .route(
            "/manage/projects/{id}",
            MethodRouter::new().fallback(projects::refuse_other_method),
        )
        .route(
            "/manage/projects/{id}/tokens/revoke",
            named("token.revoke_batch", post(projects::revoke_tokens)),
        )
        .route(
            "/manage/projects/{id}/{*rest}",
            get(projects::invalid_id).patch(projects::invalid_id),
        )
}

fn token_routes() -> Router<Shared> {
    Router::new()
        .route("/manage/tokens", named("token.list", get(tokens::list)))
        .route("/manage/tokens", named("token.create", post(tokens::create)))
        .route(
            "/manage/tokens/",
            get(tokens::missing_id)
                .patch(tokens::missing_id)
                .delete(tokens::missing_id),
        )
        .route("/manage/tokens/{id}", named("token.read", get(tokens::show)))
        .route(
            "/manage/tokens/{id}",
            named("token.update", patch(tokens::update)),
        )
        .route(
            "/manage/tokens/{id}",
            named("token.revoke", delete(tokens::revoke)),
        )
        .route(
            "/manage/tokens/{id}/rotate",
            named("token.rotate", post(tokens::rotate)),
        )
}

/// Routes whose answers carry the word of their action.
fn named(action: &'static str, routes: MethodRouter<Shared>) -> MethodRouter<Shared> {
    routes.route_layer(map_response(move |mut response: Response| {
        response.extensions_mut().insert(Action(action));
        std::future::ready(response)
    }))
}
