//! Watches over a WebSocket session that is under way: would it still be admitted?

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use pingora_http::RequestHeader;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::EdgeProxy;
use super::ctx::RequestCtx;
use super::path::{CALL_PARAMETER, RequestPath};
use super::spend::payer;
use crate::auth::credential_hash;
use crate::domain::{Denial, DenialCode, TokenHash};
use crate::upstream::catalogue::Target;
use crate::upstream::resolve::AllowedModels;
use crate::upstream::{Asked, RequestFacts};

/// How often a session is looked at when nothing is known to have changed: what ends by itself (an expiry) or was
/// changed without a word (a lost announcement) is seen then.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often a session asks whether the process ends.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What a session gets before its process is cut, to say goodbye in.
const GOODBYE: Duration = Duration::from_secs(2);

/// The end of a session that we end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionEnd {
    /// The code of the closing frame (RFC 6455 §7.4.1).
    pub code: u16,
    /// Its reason: the word of the refusal.
    pub reason: &'static str,
}

impl SessionEnd {
    /// Neither side said anything for `server.stream_idle_timeout`.
    pub(super) fn idle() -> Self {
        Self::going_away(DenialCode::IdleTimeout)
    }

    /// A budget that pays for it is spent.
    pub(super) fn out_of_money() -> Self {
        Self {
            code: 1008,
            reason: DenialCode::BudgetExceeded.as_str(),
        }
    }

    fn going_away(code: DenialCode) -> Self {
        Self {
            code: 1001,
            reason: code.as_str(),
        }
    }

    fn forbidden(denial: &Denial) -> Self {
        Self {
            code: 1008,
            reason: denial.code.as_str(),
        }
    }
}

/// What is needed to ask again what admission asked.
pub(super) struct SessionWatch<'a> {
    proxy: &'a EdgeProxy,
    credential: TokenHash,
    client: IpAddr,
    path: RequestPath,
    headers: HeaderMap,
    provider: Arc<str>,
    model: Option<Arc<str>>,
    drain_timeout: Duration,
}

impl EdgeProxy {
    /// The watch of a session at `target`.
    pub(super) fn watch_session(
        &self,
        ctx: &RequestCtx,
        head: &RequestHeader,
        target: &Target,
    ) -> Option<SessionWatch<'_>> {
        Some(SessionWatch {
            proxy: self,
            credential: credential_hash(&head.headers).ok()?,
            client: ctx.arrival.client,
            path: ctx.path.clone()?,
            headers: head.headers.clone(),
            provider: Arc::clone(&target.provider.name),
            model: target.model.clone(),
            drain_timeout: ctx.snapshot.settings.server.drain_timeout,
        })
    }
}

impl SessionWatch<'_> {
    /// Ready when the session must end. Asked at every change of tokens, projects and configuration, and every five
    /// seconds.
    pub(super) async fn ended(&self) -> SessionEnd {
        let mut tokens = self.proxy.authenticator.changes();
        let mut configuration = self.proxy.live.swaps();
        let mut look = interval(LOOK_EVERY);
        let mut ask = interval(ASK_EVERY);
        for timer in [&mut look, &mut ask] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut cut_at = None;
        loop {
            let is_due = tokio::select! {
                _ = look.tick() => true,
                changed = tokens.changed() => changed.is_ok(),
                changed = configuration.changed() => changed.is_ok(),
                _ = ask.tick() => false,
            };
            if is_due && let Err(denial) = self.admit_again().await {
                return SessionEnd::forbidden(&denial);
            }
            if self.proxy.drain.refuses_requests() {
                let goodbye = self.drain_timeout.saturating_sub(GOODBYE);
                if Instant::now() >= *cut_at.get_or_insert(Instant::now() + goodbye) {
                    return SessionEnd::going_away(DenialCode::Draining);
                }
            }
        }
    }

    /// What admission asked, on what holds now. A store that is away changes nothing.
    async fn admit_again(&self) -> Result<(), Denial> {
        let proxy = self.proxy;
        let caller = match proxy
            .authenticator
            .authenticate(self.credential, self.client)
            .await
        {
            Ok(caller) => caller,
            Err(refused) if refused.denial.code == DenialCode::StoreUnavailable => return Ok(()),
            Err(refused) => return Err(refused.denial),
        };
        caller.check_ip(self.client)?;
        caller.check_endpoint(&self.path.path)?;
        if proxy.limiter.is_spent(&payer(&caller)) {
            return Err(Denial::new(
                DenialCode::BudgetExceeded,
                "a budget that pays for it is spent",
            ));
        }
        let snapshot = proxy.live.snapshot();
        let allowed = AllowedModels {
            token: &caller.token_allowed_models,
            project: &caller.project_allowed_models,
        };
        let model = self.path.model.as_deref();
        snapshot.catalogue.check_allowed_models(model, allowed)?;
        let asked = Asked {
            model,
            client: self.path.client,
            path: &self.path.path,
            class: self.path.class,
        };
        let facts = RequestFacts {
            method: "GET",
            path: &self.path.path,
            class: self.path.class,
            api: self.path.facts.dialect,
            headers: &self.headers,
        };
        let route = snapshot.catalogue.resolve(&asked, allowed)?;
        let is_ours = |target: &Target| target.provider.name == self.provider && target.model == self.model;
        let Some(target) = route.usable().find(|target| is_ours(target)) else {
            return Err(Denial::new(
                DenialCode::ModelNotFound,
                format!("the model is no longer served at `{}`", self.provider),
            ));
        };
        let has_own_key = caller.provider_keys.contains_key(&*self.provider);
        if self.path.names_call() {
            target
                .provider
                .rules
                .check_shared_state(CALL_PARAMETER, has_own_key)?;
        }
        target.provider.rules.check_head(&facts, has_own_key)
    }
}
