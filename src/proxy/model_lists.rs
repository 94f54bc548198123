//! `GET /v1/models`: public names the token may use, and the default provider's own list where it is passed through.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::BytesMut;
use http::header::{self, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use sha2::{Digest, Sha256};

use super::EdgeProxy;
use super::ctx::RequestCtx;
use super::path::RequestPath;
use crate::auth::Principal;
use crate::cache::{Bypass, CacheOutcome, Forwarded};
use crate::dialect::model_list::{ListedModel, MAX_LIST_BYTES, parse_list, render_list, render_model};
use crate::domain::{Denial, DenialCode, Dialect, Glob, Secret};
use crate::upstream::Provider;
use crate::upstream::resolve::AllowedModels;
use crate::upstream::target::{ConnectFailure, Reuse};

/// How long a fetched list is taken as it is.
const FRESH: Duration = Duration::from_mins(5);
/// How long it serves while no newer one can be had.
const USABLE: Duration = Duration::from_hours(24);
/// How long a fetch may take.
const FETCH: Duration = Duration::from_secs(5);
/// Lists kept, one per provider key; above it the least used is forgotten.
const LISTS: usize = 1024;

/// The lists of providers, kept per provider key.
#[derive(Debug)]
pub struct ModelLists {
    lists: quick_cache::sync::Cache<[u8; 32], Arc<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    fetching: tokio::sync::Mutex<()>,
    kept: ArcSwapOption<Kept>,
}

#[derive(Debug)]
struct Kept {
    entries: Vec<ListedModel>,
    fetched: Duration,
}

impl Default for ModelLists {
    fn default() -> Self {
        Self {
            lists: quick_cache::sync::Cache::new(LISTS),
        }
    }
}

impl ModelLists {
    /// Forgets every list; answers whether there was one.
    pub fn purge(&self) -> bool {
        let any = !self.lists.is_empty();
        self.lists.clear();
        any
    }
}

impl EdgeProxy {
    /// Answers `/v1/models` and `/v1/models/{id}`.
    pub(super) async fn answer_models(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        path: &RequestPath,
    ) -> pingora_core::Result<()> {
        let Some(caller) = ctx.caller.clone() else {
            return Ok(());
        };
        let allowed = AllowedModels {
            token: &caller.token_allowed_models,
            project: &caller.project_allowed_models,
        };
        let created = ctx.arrival.received_at.as_seconds();
        let mut entries: Vec<ListedModel> = ctx
            .snapshot
            .catalogue
            .public_models(allowed)
            .map(|model| ListedModel {
                id: model.name.to_string(),
                created,
                owned_by: "llm-proxy".to_owned(),
            })
            .collect();
        let (passed, status) = self.provider_list(ctx, &caller).await;
        ctx.cache.outcome = Some(status);
        if let Some(kept) = passed {
            for entry in &kept.entries {
                let permitted = [allowed.token, allowed.project]
                    .iter()
                    .all(|globs| globs.is_empty() || Glob::any(globs, &entry.id));
                if permitted && !entries.iter().any(|known| known.id == entry.id) {
                    entries.push(entry.clone());
                }
            }
        }
        let wanted = path.path.strip_prefix("/v1/models/").filter(|id| !id.is_empty());
        let body = match wanted {
            None => render_list(path.client, &entries),
            Some(wanted) => match entries.iter().find(|entry| entry.id == wanted) {
                Some(entry) => render_model(path.client, entry),
                None => {
                    let denial = Denial::new(
                        DenialCode::ModelNotFound,
                        format!("model `{wanted}` does not exist or is not allowed for this token"),
                    )
                    .with_param("model");
                    return self.reject(session, ctx, denial).await;
                }
            },
        };
        let mut head = ResponseHeader::build_no_case(200, Some(20))?;
        head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
        self.answer(session, ctx, head, body).await
    }

    /// The default provider's own list, if it is passed through and can be had.
    async fn provider_list(&self, ctx: &RequestCtx, caller: &Principal) -> (Option<Arc<Kept>>, CacheOutcome) {
        let catalogue = &ctx.snapshot.catalogue;
        let provider = Arc::clone(catalogue.default_provider());
        let project_key = match caller.provider_keys.get(&*provider.name) {
            Some(Ok(key)) => Some(key),
            Some(Err(_)) => return (None, CacheOutcome::Bypass(Bypass::Off)),
            None => None,
        };
        if !catalogue.passes_through() || provider.connector.is_none() {
            return (None, CacheOutcome::Bypass(Bypass::Off));
        }
        if project_key.is_none() && !provider.has_key() {
            return (None, CacheOutcome::Bypass(Bypass::Off));
        }
        let slot = self.rooms.model_lists.slot(&provider, project_key);
        let now = self.clock.monotonic();
        let age = |kept: &Kept| now.saturating_sub(kept.fetched);
        let kept = slot.kept.load_full();
        if let Some(kept) = &kept
            && age(kept) < FRESH
        {
            return (Some(Arc::clone(kept)), CacheOutcome::Hit);
        }
        let _turn = slot.fetching.lock().await;
        if let Some(newer) = slot.kept.load_full()
            && age(&newer) < FRESH
        {
            return (Some(newer), CacheOutcome::Hit);
        }
        match tokio::time::timeout(FETCH, fetch(&provider, project_key))
            .await
            .ok()
            .flatten()
        {
            Some(entries) => {
                let fresh = Arc::new(Kept {
                    entries,
                    fetched: self.clock.monotonic(),
                });
                slot.kept.store(Some(Arc::clone(&fresh)));
                (
                    Some(fresh),
                    CacheOutcome::Miss {
                        forwarded: Forwarded::UriMiss,
                    },
                )
            }
            None => {
                log::warn!(provider = &*provider.name; "the model list of upstream `{}` could not be fetched", provider.name);
                (
                    kept.filter(|kept| age(kept) < USABLE),
                    CacheOutcome::Miss {
                        forwarded: Forwarded::UriMiss,
                    },
                )
            }
        }
    }
}

impl ModelLists {
    fn slot(&self, provider: &Provider, project_key: Option<&Secret>) -> Arc<Slot> {
        let mut hash = Sha256::new();
        for part in [
            &*provider.name,
            &*provider.address_text,
            project_key.map_or("", Secret::expose),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let key: [u8; 32] = hash.finalize().into();
        if let Some(slot) = self.lists.get(&key) {
            return slot;
        }
        let slot = Arc::new(Slot::default());
        self.lists.insert(key, Arc::clone(&slot));
        slot
    }
}

/// Asks a provider for its list with the installation's key; answers the status. For diagnosis.
///
/// # Errors
/// There is no connection, or no answer in HTTP.
pub async fn probe(provider: &Provider) -> Result<u16, ConnectFailure> {
    let connector = provider.connector.as_ref().ok_or(ConnectFailure::Network)?;
    let mut head = list_request(provider, None).ok_or(ConnectFailure::Network)?;
    let mut connected = connector
        .connect(provider.timeouts.connect, Reuse::Avoided)
        .await?;
    super::forward::address(&mut head, &connected.session, provider);
    let session = &mut connected.session;
    let asked = async {
        session.write_request_header(Box::new(head)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await
    };
    asked.await.map_err(|_| ConnectFailure::Network)?;
    let status = session.response_header().map(|head| head.status.as_u16());
    status.ok_or(ConnectFailure::Network)
}

/// The request for a provider's list; without a key when there is none.
fn list_request(provider: &Provider, project_key: Option<&Secret>) -> Option<RequestHeader> {
    let target = if provider.dialect == Dialect::Anthropic {
        "/v1/models?limit=1000"
    } else {
        "/v1/models"
    };
    let mut head =
        RequestHeader::build_no_case("GET", provider.address(target, None).as_bytes(), Some(8)).ok()?;
    let none = http::HeaderMap::new();
    let pooled = provider.keys.any();
    let dressed = provider.dress(project_key, pooled, &none, |name, value| {
        // a field that cannot be inserted is one that cannot be sent: the provider will say so
        let _ = head.insert_header(name.clone(), value);
    });
    if dressed.is_err() && provider.has_key() {
        return None;
    }
    head.insert_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))
        .ok()?;
    head.insert_header(header::ACCEPT, HeaderValue::from_static("application/json"))
        .ok()?;
    Some(head)
}

/// Asks a provider for its list. `None`: it could not be had, whatever the reason.
async fn fetch(provider: &Provider, project_key: Option<&Secret>) -> Option<Vec<ListedModel>> {
    let connector = provider.connector.as_ref()?;
    let mut head = list_request(provider, project_key)?;
    let mut connected = connector
        .connect(provider.timeouts.connect, Reuse::Allowed)
        .await
        .ok()?;
    super::forward::address(&mut head, &connected.session, provider);
    let session = &mut connected.session;
    session.write_request_header(Box::new(head)).await.ok()?;
    session.finish_request_body().await.ok()?;
    loop {
        session.read_response_header().await.ok()?;
        if !session.response_header()?.status.is_informational() {
            break;
        }
    }
    if session.response_header()?.status != http::StatusCode::OK {
        return None;
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = session.read_response_body().await.ok()? {
        if body.len() + chunk.len() > MAX_LIST_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    let entries = parse_list(&body)?;
    if connected.session.response_done() {
        connector
            .release(connected, provider.timeouts.idle_connection)
            .await;
    }
    Some(entries)
}
