//! The one admission point before a provider: rates, concurrency and quota of token and project.

use super::EdgeProxy;
use super::ctx::RequestCtx;
use crate::domain::{Denial, DenialCode};
use crate::limit::Caller;

impl EdgeProxy {
    /// Takes what this request needs; dropping the context gives back what was not used.
    pub(super) async fn reserve(&self, ctx: &mut RequestCtx) -> Result<(), Denial> {
        let Some(principal) = &ctx.caller else {
            return Err(Denial::new(DenialCode::InternalError, "the request has no caller"));
        };
        let caller = Caller {
            token_id: principal.token_id,
            project_id: principal.project_id,
            token_limits: principal.token_limits,
            project_limits: principal.project_limits,
            max_requests: principal.max_requests,
        };
        ctx.reservation = Some(self.limiter.reserve(&caller).await?);
        Ok(())
    }
}
