//! What budgets need of their neighbours: the ledger's backlog, and who is told when one is nearly spent.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, json};

use crate::domain::audit::{AuditEvent, AuditOutcome, AuditSink};
use crate::domain::{BudgetWarning, Clock};
use crate::limit::{Backlog, BudgetWatch};
use crate::metering::Ledger;
use crate::store::StoreError;

/// The ledger, as budgets see it.
pub(super) struct LedgerBacklog(pub Arc<Ledger>);

#[async_trait]
impl Backlog for LedgerBacklog {
    async fn all_in_store(&self) -> Result<(), StoreError> {
        self.0.all_in_store().await;
        Ok(())
    }
}

/// Warnings go into the log and into the audit trail; metrics count them where they arise.
pub(super) struct BudgetWarnings {
    pub audit: Arc<dyn AuditSink>,
    pub clock: Arc<dyn Clock>,
}

impl BudgetWatch for BudgetWarnings {
    fn budget_warning(&self, warning: BudgetWarning) {
        let BudgetWarning {
            scope,
            token_id,
            project_id,
            budget,
            spent,
            percent,
        } = warning;
        let (cap, scope, period) = (budget.cap(), scope.as_str(), budget.period);
        let id = |id: Option<String>| id.unwrap_or_default();
        log::warn!(
            scope, percent,
            token_id = id(token_id.map(|id| id.to_string())),
            project_id = id(project_id.map(|id| id.to_string()));
            "{percent} % of a budget are spent: `{spent}` of `{cap}` US dollars {}", period.in_words()
        );
        let mut event = AuditEvent::new(
            self.clock.now(),
            "budget.warning",
            "system",
            AuditOutcome::Success,
        );
        event.token_id = token_id;
        event.project_id = project_id;
        event.reason = Some(format!("{percent} % of the budget are spent"));
        event.metadata = Map::from_iter([
            ("scope".to_owned(), json!(scope)),
            ("percent".to_owned(), json!(percent)),
            ("spent_usd".to_owned(), json!(spent.as_usd())),
            ("budget_usd".to_owned(), json!(cap.as_usd())),
            ("period".to_owned(), json!(period)),
        ]);
        self.audit.offer(event);
    }
}
