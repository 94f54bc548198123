//! The one admission point before a provider: rates, concurrency, quota and budgets.

use super::EdgeProxy;
use super::ctx::RequestCtx;
use super::spend::{payer, tokens_thought};
use crate::domain::{Denial, DenialCode};
use crate::limit::Subject;

impl EdgeProxy {
    /// Takes what this request needs; dropping the context gives back what was not used.
    pub(super) async fn reserve(&self, ctx: &mut RequestCtx) -> Result<(), Denial> {
        let Some(principal) = &ctx.caller else {
            return Err(Denial::new(
                DenialCode::InternalError,
                "the request has no caller",
            ));
        };
        if self.ledger.is_stuck() {
            return Err(Denial::new(
                DenialCode::StoreUnavailable,
                "what requests use cannot be recorded now, neither in the store nor on disk; try again",
            )
            .with_retry_after(std::time::Duration::from_secs(1)));
        }
        let subject = Subject {
            token_id: principal.token_id,
            project_id: principal.project_id,
            token_limits: principal.token_limits,
            project_limits: principal.project_limits,
            max_requests: principal.max_requests,
            client: ctx.arrival.client,
            tokens: tokens_thought(ctx),
        };
        let claim = self.claim(ctx, payer(principal)).await;
        match self.limiter.reserve(subject, claim).await {
            Ok(reservation) => {
                ctx.outcome.rates = reservation.standings();
                ctx.reservation = Some(reservation);
                self.keep_reserved(ctx).await
            }
            Err(refused) => {
                ctx.outcome.rates = refused.standings;
                Err(refused.denial)
            }
        }
    }
}
