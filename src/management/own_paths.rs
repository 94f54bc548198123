//! The control plane as a value: head, body and client address go in, an answer comes out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use tower::ServiceExt as _;

use super::Listener;
use super::access::{Area, authorize, identify};
use super::answer::{JSON, json_bytes};
use super::audit::event::{Happening, event_of};
use super::error::ApiError;
use super::failed_logins::FailedLogins;
use super::health::Health;
use super::metrics;
use super::request_ids::RequestIds;
use super::router::router;
use super::services::{Services, Shared};
use super::settings::{Bearer, ManagementSettings};
use crate::domain::audit::AuditOutcome;
use crate::domain::spawn::spawn;

/// Bytes of a request body at most.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// How long an answer may take. What was begun is finished all the same.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request for one of our own paths.
#[derive(Debug, Clone)]
pub struct OwnRequest {
    /// Method.
    pub method: Method,
    /// Path and query are used.
    pub uri: Uri,
    /// The head, as the client sent it.
    pub headers: HeaderMap,
    /// The whole body, at most [`MAX_BODY_BYTES`].
    pub body: Bytes,
    /// The client's address.
    pub client: IpAddr,
    /// Where it came in.
    pub via: Listener,
}

/// An answer to it.
#[derive(Debug, Clone)]
pub struct OwnResponse {
    /// Status.
    pub status: StatusCode,
    /// The whole head; `Content-Length` is in it.
    pub headers: HeaderMap,
    /// The whole body; empty for HEAD.
    pub body: Bytes,
}

/// The control plane.
pub struct OwnPaths {
    services: Shared,
    settings: ArcSwap<ManagementSettings>,
    health: Health,
    failed_logins: FailedLogins,
    router: Router,
}

/// The head of a request, before its body is read.
#[derive(Debug)]
pub(super) struct Head {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub client: IpAddr,
    pub via: Listener,
}

/// What came of a head.
pub(super) enum Admission {
    /// It was answered or refused; the body is of no interest.
    Answered(OwnResponse),
    /// It may go on with its body.
    Admitted(Box<Admitted>),
}

/// A request that is allowed, without its body.
pub(super) struct Admitted {
    head: Head,
    ids: RequestIds,
    bearer: Bearer,
}

impl OwnPaths {
    /// Builds the router over `services`.
    pub fn new(services: Services, settings: ManagementSettings) -> Arc<Self> {
        let services = Arc::new(services);
        Arc::new(Self {
            health: Health::new(services.clock.clone(), services.readiness.clone()),
            failed_logins: FailedLogins::new(services.clock.clone()),
            router: router(services.clone()),
            settings: ArcSwap::from_pointee(settings),
            services,
        })
    }

    /// Swaps the settings in; requests under way keep the old ones.
    pub fn configure(&self, settings: ManagementSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Whether a path is ours (health paths are not: both listeners answer them by
    /// [`OwnPaths::health_answer`]).
    pub fn owns(&self, path: &str) -> bool {
        is_management(path)
            || path == super::openapi::PATH
            || metrics::format_of(&self.settings.load(), path).is_some()
    }

    /// The answer to a health path on `listener`; `None` for any other path.
    pub fn health_answer(&self, path: &str, listener: Listener) -> Option<OwnResponse> {
        self.health.answer(path, listener)
    }

    /// Answers a request. Its work goes on when the caller stops waiting.
    pub async fn handle(self: &Arc<Self>, request: OwnRequest) -> OwnResponse {
        let head = Head {
            method: request.method,
            uri: request.uri,
            headers: request.headers,
            client: request.client,
            via: request.via,
        };
        match self.admit(head).await {
            Admission::Answered(response) => response,
            Admission::Admitted(admitted) => self.run(admitted, request.body).await,
        }
    }

    /// Decides by the head alone.
    pub(super) async fn admit(&self, head: Head) -> Admission {
        let ids = RequestIds::of(&head.headers);
        let settings = self.settings.load_full();
        let path = head.uri.path();
        let answered = |response| Admission::Answered(finish(&head, &ids, response));
        if let Some(response) = self.health.answer(path, head.via) {
            return answered(response);
        }
        let metrics_format = metrics::format_of(&settings, path);
        let area = match metrics_format {
            Some(_) if head.via == Listener::Sidecar && is_loopback(settings.sidecar) => None,
            Some(_) => Some(Area::Metrics),
            None if is_management(path) || path == super::openapi::PATH => {
                Some(Area::of_management_path(path))
            }
            None => return answered(refusal(&ApiError::UnknownPath)),
        };
        let bearer = match area {
            None => None,
            Some(area) => match self.authenticate(&head, &ids, &settings, area).await {
                Ok(bearer) => Some(bearer),
                Err(error) => return answered(refusal(&error)),
            },
        };
        if let Some(format) = metrics_format {
            return answered(metrics::answer(self.services.metrics.as_ref(), &head, format));
        }
        match bearer {
            Some(bearer) => Admission::Admitted(Box::new(Admitted { head, ids, bearer })),
            None => answered(refusal(&ApiError::Internal)),
        }
    }

    async fn authenticate(
        &self,
        head: &Head,
        ids: &RequestIds,
        settings: &ManagementSettings,
        area: Area,
    ) -> Result<Bearer, ApiError> {
        let (actor, error) = match identify(&settings.tokens, &head.headers) {
            Ok(bearer) => match authorize(&bearer, &head.method, area) {
                Ok(()) => return Ok(bearer),
                Err(error) => (bearer.actor, error),
            },
            Err(ApiError::NoCredential { .. }) => {
                let hint = hint_for(head, settings);
                ("anonymous".to_owned(), ApiError::NoCredential { hint })
            }
            Err(error) => ("anonymous".to_owned(), error),
        };
        let happening = Happening {
            action: "management.denied",
            actor: &actor,
            outcome: AuditOutcome::Denied,
        };
        let mut event = event_of(self.services.clock.now(), happening, head, ids);
        event.reason = Some(error.to_string());
        self.services.audit.offer(event);
        if error == ApiError::UnknownCredential && self.failed_logins.hold_back(head.client).await.is_err() {
            return Err(ApiError::TooManyFailedLogins);
        }
        Err(error)
    }

    /// Runs an admitted request in a task of its own: a client that leaves does not stop what it began.
    pub(super) async fn run(&self, admitted: Box<Admitted>, body: Bytes) -> OwnResponse {
        let Admitted { head, ids, bearer } = *admitted;
        if body.len() > MAX_BODY_BYTES {
            let error = ApiError::BodyTooLarge {
                limit_bytes: MAX_BODY_BYTES,
            };
            return finish(&head, &ids, refusal(&error));
        }
        let head = Arc::new(head);
        let work = answer(
            self.router.clone(),
            self.services.clone(),
            head.clone(),
            ids.clone(),
            bearer,
            body,
        );
        let response = match tokio::time::timeout(PATIENCE, spawn("management-request", work)).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => refusal(&ApiError::Internal),
            Err(_) => refusal(&ApiError::Timeout {
                seconds: PATIENCE.as_secs(),
            }),
        };
        finish(&head, &ids, response)
    }
}

impl Admitted {
    /// Refuses a request whose body is not to be had.
    pub(super) fn refuse(&self, error: &ApiError) -> OwnResponse {
        finish(&self.head, &self.ids, refusal(error))
    }
}

async fn answer(
    router: Router,
    services: Shared,
    head: Arc<Head>,
    ids: RequestIds,
    bearer: Bearer,
    body: Bytes,
) -> OwnResponse {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    let response: Response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(impossible) => match impossible {},
    };
    if let Some(event) =
        super::audit::event::event_of_response(services.clock.now(), &head, &ids, &bearer.actor, &response)
    {
        services.audit.offer(event);
    }
    collect(response).await
}

async fn collect(response: Response) -> OwnResponse {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    OwnResponse {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

/// A refusal as bytes.
pub(super) fn refusal(error: &ApiError) -> OwnResponse {
    let (parts, _) = error.response().into_parts();
    OwnResponse {
        status: parts.status,
        headers: parts.headers,
        body: json_bytes(&error.body()),
    }
}

/// What every answer has in common: ids, JSON errors, a true length, no body for HEAD.
fn finish(head: &Head, ids: &RequestIds, mut response: OwnResponse) -> OwnResponse {
    let is_error = response.status.is_client_error() || response.status.is_server_error();
    if is_error && response.headers.get(header::CONTENT_TYPE) != Some(&JSON) {
        let text = String::from_utf8_lossy(&response.body);
        response.body = json_bytes(&serde_json::json!({ "error": text }));
        response.headers.insert(header::CONTENT_TYPE, JSON);
        response.headers.remove(header::CONTENT_LENGTH);
    }
    let headers = &mut response.headers;
    ids.write_to(headers);
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    tidy_allow(headers);
    if response.status != StatusCode::NO_CONTENT {
        headers
            .entry(header::CONTENT_LENGTH)
            .or_insert(HeaderValue::from(response.body.len()));
    }
    if head.method == Method::HEAD {
        response.body = Bytes::new();
    }
    response
}

/// `GET,HEAD,POST` as people write it: `GET, POST`.
fn tidy_allow(headers: &mut HeaderMap) {
    let Some(allow) = headers.get(header::ALLOW).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let methods: Vec<&str> = allow
        .split(',')
        .map(str::trim)
        .filter(|method| *method != "HEAD")
        .collect();
    if let Ok(value) = HeaderValue::from_str(&methods.join(", ")) {
        headers.insert(header::ALLOW, value);
    }
}

fn is_management(path: &str) -> bool {
    path.strip_prefix("/manage")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_loopback(sidecar: Option<SocketAddr>) -> bool {
    sidecar.is_some_and(|address| address.ip().to_canonical().is_loopback())
}

/// On the proxy listener a missing bearer is often a surprise: says where the management API is.
fn hint_for(head: &Head, settings: &ManagementSettings) -> Option<String> {
    if head.via != Listener::Proxy {
        return None;
    }
    let mut hint = "this path needs a management token as bearer on this listener".to_owned();
    if let Some(sidecar) = settings.sidecar
        && head.client.to_canonical().is_loopback()
    {
        hint.extend(["; the management listener is at ", &sidecar.to_string()]);
    }
    Some(hint)
}
