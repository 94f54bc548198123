//! What this program answers itself on the proxy listener: the root, health, and the sidecar's own paths.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::EdgeProxy;
use super::body::send_continue;
use super::ctx::RequestCtx;
use super::own_gate::OwnPathRule;
use super::own_paths::{OwnRequest, OwnResponse};

/// Largest body of a management request.
const OWN_BODY_BYTES: usize = 1024 * 1024;

impl EdgeProxy {
    /// Answers what is ours. `None`: it is not ours; `Some(true)`: answered.
    pub(super) async fn answer_own(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        path: &str,
    ) -> pingora_core::Result<Option<bool>> {
        let method = &session.req_header().method;
        if path == "/" && (method == Method::GET || method == Method::HEAD) {
            let mut head = ResponseHeader::build_no_case(200, Some(16))?;
            head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
            self.answer(session, ctx, head, Bytes::from_static(b"{\"status\":\"ok\"}\n"))
                .await?;
            return Ok(Some(true));
        }
        if let Some(response) = self.own_paths.health(path) {
            ctx.arrival.is_quiet = true;
            ctx.arrival.is_own = true;
            self.write_own(session, ctx, response).await?;
            return Ok(Some(true));
        }
        if !self.own_paths.owns(path) {
            return Ok(None);
        }
        let settings = &ctx.snapshot.settings;
        let rule = OwnPathRule {
            mode: ctx.snapshot.on_proxy_listener,
            proxy_protocol: false,
            trusts_proxies: !settings.server.trusted_proxies.is_empty(),
        };
        let head = session.req_header();
        if let Err(why) = rule.permits(ctx.arrival.peer, head.version, &head.headers) {
            self.rooms.own_refusals.note(self.clock.monotonic(), why);
            return Ok(None);
        }
        ctx.arrival.is_own = true;
        self.hand_over(session, ctx).await?;
        Ok(Some(true))
    }

    async fn hand_over(&self, session: &mut Session, ctx: &mut RequestCtx) -> pingora_core::Result<()> {
        let body = match self.own_body(session, ctx).await? {
            Ok(body) => body,
            Err(status) => {
                let response = plain_error(status);
                return self.write_own(session, ctx, response).await;
            }
        };
        let head = session.req_header();
        let request = OwnRequest {
            method: head.method.clone(),
            target: head
                .uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
            headers: head.headers.clone(),
            body,
            client: ctx.arrival.client,
            peer_is_loopback: ctx.arrival.peer.is_some_and(|ip| ip.to_canonical().is_loopback()),
        };
        let response = self.own_paths.handle(request).await;
        self.write_own(session, ctx, response).await
    }

    async fn own_body(
        &self,
        session: &mut Session,
        ctx: &RequestCtx,
    ) -> pingora_core::Result<Result<Bytes, StatusCode>> {
        if session.downstream_session.is_body_done() {
            return Ok(Ok(Bytes::new()));
        }
        if send_continue(session).await.is_err() {
            return Ok(Err(StatusCode::BAD_REQUEST));
        }
        let silence = ctx.snapshot.settings.server.body_timeout;
        let mut body = BytesMut::new();
        loop {
            let Ok(read) =
                tokio::time::timeout(silence, session.downstream_session.read_request_body()).await
            else {
                return Ok(Err(StatusCode::REQUEST_TIMEOUT));
            };
            let Some(chunk) = read? else {
                return Ok(Ok(body.freeze()));
            };
            if body.len() + chunk.len() > OWN_BODY_BYTES {
                return Ok(Err(StatusCode::PAYLOAD_TOO_LARGE));
            }
            body.extend_from_slice(&chunk);
        }
    }

    async fn write_own(
        &self,
        session: &mut Session,
        ctx: &mut RequestCtx,
        response: OwnResponse,
    ) -> pingora_core::Result<()> {
        let mut head = ResponseHeader::build_no_case(response.status, Some(response.headers.len() + 12))?;
        for (name, value) in &response.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        self.answer(session, ctx, head, response.body).await
    }
}

fn plain_error(status: StatusCode) -> OwnResponse {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let text = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "{\"error\":\"the request body is larger than 1 MiB\"}\n",
        StatusCode::REQUEST_TIMEOUT => "{\"error\":\"the request body did not come in time\"}\n",
        _ => "{\"error\":\"the request body could not be read\"}\n",
    };
    OwnResponse {
        status,
        headers,
        body: Bytes::from_static(text.as_bytes()),
    }
}

/// Says at most once a minute why an own path was not answered here.
#[derive(Debug, Default)]
pub struct OwnRefusals {
    last: parking_lot::Mutex<Option<Duration>>,
}

impl OwnRefusals {
    fn note(&self, now: Duration, why: &'static str) {
        let mut last = self.last.lock();
        if last.is_none_or(|before| now.saturating_sub(before) >= Duration::from_mins(1)) {
            *last = Some(now);
            log::warn!("a management path was refused on the proxy listener: {why}");
        }
    }
}
