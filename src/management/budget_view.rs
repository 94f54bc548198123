//! A budget as the API shows it.

use serde::Serialize;

use crate::domain::{Budget, BudgetPeriod};

/// What may be spent, and in which period.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BudgetView {
    usd: f64,
    period: BudgetPeriod,
}

impl BudgetView {
    /// What is shown of `budget`.
    pub fn of(budget: Budget) -> Self {
        Self {
            usd: budget.cap().as_usd(),
            period: budget.period,
        }
    }
}
