//! Admission: every refusal that needs no provider, in the order of the contract.
//!
//! The order is the contract's (section 2): what is ours to answer, whether we may serve at all, path and
//! method, rates of the address, credential, token and project, origin and headers, the body, the model and
//! the rules of its targets. A cache hit ends the request after this; everything else is reserved next.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::EdgeProxy;
use super::body::{ReadBounds, RequestBody, Understood, Unreadable, read_held, send_continue, too_large};
use super::ctx::RequestCtx;
use super::forward::head::content_length;
use super::path::{CALL_PARAMETER, RequestPath};
use crate::auth::{Principal, credential_hash};
use crate::dialect::paths::{self, Called};
use crate::dialect::websocket::asks_for_websocket;
use crate::domain::{Denial, DenialCode, Dialect, PathClass};
use crate::live::STATE_PARAMETERS;
use crate::upstream::resolve::AllowedModels;
use crate::upstream::{Asked, RequestFacts, Route};

/// What admission decided.
pub(super) enum Admitted {
    /// The request goes on to the cache and a provider.
    Onward,
    /// It has been answered.
    Answered,
}

/// Why admission ended early.
pub(super) enum Stop {
    /// A refusal to be written.
    Denied(Denial),
    /// The client left or broke its own request.
    Broken(Box<pingora_core::Error>),
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Unreadable> for Stop {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Denied(denial) => Self::Denied(denial),
            Unreadable::Gone(error) => Self::Broken(error),
        }
    }
}

impl EdgeProxy {
    /// Runs the whole admission; writes the refusal when there is one.
    pub(super) async fn admit(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
    ) -> pingora_core::Result<bool> {
        let snapshot = std::sync::Arc::clone(&ctx.snapshot);
        ctx.arrival
            .read_head(session, &snapshot.settings.server.trusted_proxies);
        session.set_write_timeout(Some(snapshot.settings.server.stream_idle_timeout));
        // the body's silence is timed where it is read, by `server.body_timeout`
        session.set_read_timeout(None);
        let raw_path = session.req_header().uri.path().to_owned();
        let path = paths::strip_prefix(&raw_path, &snapshot.settings.server.path_prefixes);
        let called = paths::called(path);
        if called.path.starts_with("/v1/messages") {
            ctx.arrival.dialect = Dialect::Anthropic;
        }
        if let Some(answered) = self.answer_own(session, ctx, path).await? {
            return Ok(answered);
        }
        if session.req_header().method == Method::OPTIONS {
            self.preflight(session, ctx).await?;
            return Ok(true);
        }
        match Box::pin(self.admit_request(session, ctx, called)).await {
            Ok(Admitted::Onward) => Ok(false),
            Ok(Admitted::Answered) => Ok(true),
            Err(Stop::Denied(denial)) => {
                self.reject(session, ctx, denial).await?;
                Ok(true)
            }
            Err(Stop::Broken(error)) => Err(error),
        }
    }

    async fn admit_request(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        called: Called<'_>,
    ) -> Result<Admitted, Stop> {
        self.admit_load(ctx)?;
        ctx.path = Some(Self::admit_path(session, ctx, called)?);
        self.limiter.admit_address(ctx.arrival.client).await?;
        let caller = self.admit_caller(session, ctx).await?;
        let Some(mut request_path) = ctx.path.clone() else {
            return Ok(Admitted::Answered);
        };
        caller.check_ip(ctx.arrival.client)?;
        caller.check_endpoint(&request_path.path)?;
        let facts = request_facts(session, &request_path);
        ctx.snapshot.catalogue.admit_origin(request_path.client, &facts)?;
        if request_path.class == PathClass::Realtime {
            admit_handshake(session, &mut request_path)?;
            ctx.path = Some(request_path.clone());
        }
        if request_path.class == PathClass::Models {
            ctx.caller = Some(caller);
            Box::pin(self.answer_models(session, ctx, &request_path))
                .await
                .map_err(Stop::Broken)?;
            return Ok(Admitted::Answered);
        }
        Self::admit_state(session, ctx, &caller, &request_path)?;
        self.admit_body(session, ctx, &caller, &request_path).await?;
        let route = Self::admit_model(session, ctx, &caller, &request_path)?;
        ctx.outcome.public_model = route.public_name().cloned();
        self.admit_price(ctx, &caller, &session.req_header().method, &route)?;
        ctx.caller = Some(caller);
        ctx.destination = Some(route);
        self.plan_cache(session, ctx).await?;
        Ok(Admitted::Onward)
    }

    /// Draining and overload.
    fn admit_load(&self, ctx: &mut RequestCtx) -> Result<(), Denial> {
        if self.drain.refuses_requests() {
            return Err(Denial::new(
                DenialCode::Draining,
                "this instance is shutting down; try another",
            )
            .with_retry_after(Duration::from_secs(1)));
        }
        let limit = ctx.snapshot.settings.server.max_concurrent_requests;
        let Some(place) = self.rooms.places.take(limit) else {
            return Err(Denial::new(
                DenialCode::Overloaded,
                "too many requests are under way; try again in a moment",
            )
            .with_retry_after(Duration::from_secs(1)));
        };
        ctx.place = Some(place);
        ctx.running = Some(self.metrics.request_began());
        Ok(())
    }

    /// Unknown paths and wrong methods.
    fn admit_path(session: &Session, ctx: &RequestCtx, called: Called<'_>) -> Result<RequestPath, Denial> {
        let normal = paths::normalise(&called.path).map_err(|error| {
            Denial::new(
                DenialCode::EndpointNotFound,
                format!("the path is not in normal form: {error}"),
            )
        })?;
        let known = paths::classify(&normal);
        let query = session.req_header().uri.query();
        let target = match query {
            Some(query) => [&*called.path, "?", query].concat(),
            None => called.path.to_string(),
        };
        let request_path = RequestPath {
            class: known.class(),
            model: called.deployment.map(Into::into),
            path: normal.decoded().to_owned(),
            target,
            facts: known,
            client: ctx.arrival.dialect,
        };
        let facts = request_facts(session, &request_path);
        ctx.snapshot.catalogue.admit_path(request_path.client, &facts)?;
        Ok(request_path)
    }

    async fn admit_caller(
        &self,
        session: &Session,
        ctx: &mut RequestCtx,
    ) -> Result<std::sync::Arc<Principal>, Denial> {
        let authenticated = match credential_hash(&session.req_header().headers) {
            Ok(hash) => self.authenticator.authenticate(hash, ctx.arrival.client).await,
            Err(denial) => Err(denial.into()),
        };
        match authenticated {
            Ok(caller) => Ok(caller),
            Err(refused) => {
                self.audit_denied(session, ctx, &refused);
                ctx.caller = refused.principal;
                Err(refused.denial)
            }
        }
    }

    /// Stateful paths need the project's own key, or a provider that shares its own.
    fn admit_state(
        session: &Session,
        ctx: &RequestCtx,
        caller: &Principal,
        path: &RequestPath,
    ) -> Result<(), Denial> {
        if path.class != PathClass::Stateful {
            return Ok(());
        }
        let facts = request_facts(session, path);
        let mut refused = None;
        for provider in ctx.snapshot.catalogue.providers() {
            if !provider.dialect.serves(path.client) || provider.rules.check_path(&facts).is_err() {
                continue;
            }
            match provider
                .rules
                .check_state(&facts, caller.provider_keys.contains_key(&*provider.name))
            {
                Ok(()) => return Ok(()),
                Err(denial) => refused = refused.or(Some(denial)),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Declared length, memory, and the body itself where it must be understood.
    async fn admit_body(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        caller: &Principal,
        path: &RequestPath,
    ) -> Result<(), Stop> {
        let server = &ctx.snapshot.settings.server;
        if let Some(length) = content_length(&session.req_header().headers)
            && length > server.max_request_bytes
        {
            return Err(too_large(server.max_request_bytes).into());
        }
        let understood = path.class == PathClass::Inference && session.req_header().method == Method::POST;
        if !understood {
            ctx.body = if session.downstream_session.is_body_done() {
                RequestBody::Unread
            } else {
                send_continue(session).await?;
                RequestBody::Streamed
            };
            return Ok(());
        }
        if let Some(encoding) = session.req_header().headers.get(http::header::CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err(Denial::new(
                DenialCode::UnsupportedValue,
                "the request body is encoded; send it without `Content-Encoding`",
            )
            .with_param("content-encoding")
            .into());
        }
        let bounds = ReadBounds {
            max_bytes: server.max_inspected_bytes.min(server.max_request_bytes),
            silence: server.body_timeout,
            memory_bytes: server.memory_budget_bytes,
            watched: std::sync::Arc::clone(&ctx.snapshot.watched),
        };
        let held = read_held(session, self.rooms.memory.open(caller.token_id), &bounds).await?;
        ctx.outcome.bytes_in = held.bytes.len() as u64;
        ctx.body = RequestBody::Held(Box::new(held));
        Ok(())
    }

    /// Allowed models, where the model is served, and the rules of those providers.
    fn admit_model(
        session: &Session,
        ctx: &RequestCtx,
        caller: &Principal,
        path: &RequestPath,
    ) -> Result<Route, Denial> {
        let catalogue = &ctx.snapshot.catalogue;
        let named = match &ctx.body {
            RequestBody::Held(held) => held.model(),
            RequestBody::Unread | RequestBody::Streamed => None,
        };
        let model = path.model.as_deref().or(named);
        let allowed = AllowedModels {
            token: &caller.token_allowed_models,
            project: &caller.project_allowed_models,
        };
        if matches!(path.class, PathClass::Inference | PathClass::Realtime) {
            catalogue.check_allowed_models(model, allowed)?;
        }
        let asked = Asked {
            model,
            client: path.client,
            path: &path.path,
            class: path.class,
        };
        let facts = request_facts(session, path);
        catalogue.resolve(&asked, allowed)?.keep(|target| {
            let provider = &target.provider;
            provider
                .rules
                .check_head(&facts, caller.provider_keys.contains_key(&*provider.name))?;
            if path.class == PathClass::Realtime && path.names_call() {
                let has_own_key = caller.provider_keys.contains_key(&*provider.name);
                provider.rules.check_shared_state(CALL_PARAMETER, has_own_key)?;
            }
            let RequestBody::Held(held) = &ctx.body else {
                return Ok(());
            };
            if let Some(name) = state_parameter(held) {
                provider
                    .rules
                    .check_shared_state(name, caller.provider_keys.contains_key(&*provider.name))?;
            }
            provider
                .rules
                .check_parameters(|name| parameter(held, model, target.model.as_deref(), name))
        })
    }

    /// Answers a preflight.
    async fn preflight(&self, session: &mut Session, ctx: &mut RequestCtx) -> pingora_core::Result<()> {
        let mut head = ResponseHeader::build_no_case(204, Some(12))?;
        let mut fields = Vec::with_capacity(6);
        ctx.snapshot
            .cors
            .preflight(&session.req_header().headers, |name, value| {
                fields.push((name, value));
            });
        for (name, value) in fields {
            head.insert_header(name, value)?;
        }
        self.answer(session, ctx, head, Bytes::new()).await
    }
}

/// The parameter by which a body asks for what the provider keeps per account, if it has one.
pub(super) fn state_parameter(held: &super::body::HeldBody) -> Option<&'static str> {
    let Understood::Json(facts) = &held.facts else {
        return None;
    };
    STATE_PARAMETERS.into_iter().find(|name| {
        facts
            .parameter(name)
            .is_some_and(|value| value.as_text() != Some("null"))
    })
}

/// The value of a whitelisted parameter as it goes to the target.
fn parameter<'b>(
    held: &'b super::body::HeldBody,
    asked: Option<&'b str>,
    renamed: Option<&'b str>,
    name: &str,
) -> Option<Cow<'b, str>> {
    if name == "model" && asked.is_some() {
        return renamed.or(asked).map(Cow::Borrowed);
    }
    let Understood::Json(facts) = &held.facts else {
        return None;
    };
    if name == "stream" {
        return facts
            .stream
            .map(|stream| Cow::Borrowed(if stream { "true" } else { "false" }));
    }
    // an object or array never matches a pattern: it is shown as what it is
    facts
        .parameter(name)
        .map(|value| Cow::Borrowed(value.as_text().unwrap_or("[object]")))
}

/// A realtime request must ask for a WebSocket, without a body, and name its model so that there is one reading.
fn admit_handshake(session: &mut Session, path: &mut RequestPath) -> Result<(), Denial> {
    let head = session.req_header();
    if let Err(missing) = asks_for_websocket(&head.method, head.version, &head.headers) {
        let message = format!("`{}` is a WebSocket: {missing}", path.path);
        return Err(Denial::new(DenialCode::UpgradeRequired, message));
    }
    path.read_query()?;
    if session.downstream_session.is_body_done() {
        return Ok(());
    }
    Err(Denial::new(
        DenialCode::MalformedRequest,
        "a WebSocket handshake has no body",
    ))
}

fn request_facts<'a>(session: &'a Session, path: &'a RequestPath) -> RequestFacts<'a> {
    let head = session.req_header();
    RequestFacts {
        method: head.method.as_str(),
        path: &path.path,
        class: path.class,
        api: path.facts.dialect,
        headers: &head.headers,
    }
}
