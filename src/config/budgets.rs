//! `budgets`: money that may be spent in a period.

use super::schema::Key;
use super::section::Section;
use crate::domain::{Budget, BudgetPeriod, NanoUsd};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "budgets.installation.usd",
        "none",
        "US dollars that the whole installation may spend in its period; 0: nothing. Above: 429 `budget_exceeded`.",
    ),
    Key::new(
        "budgets.installation.period",
        "month",
        "`day`, `week` (ISO), `month`, all UTC, or `total`, which never starts anew.",
    ),
    Key::new(
        "budgets.default_project.usd",
        "none",
        "US dollars that a project without a budget of its own may spend.",
    ),
    Key::new(
        "budgets.default_project.period",
        "month",
        "`day`, `week`, `month`, `total`.",
    ),
    Key::new(
        "budgets.default_token.usd",
        "none",
        "US dollars that a token without a budget of its own may spend.",
    ),
    Key::new(
        "budgets.default_token.period",
        "month",
        "`day`, `week`, `month`, `total`.",
    ),
];

/// `budgets`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BudgetsSettings {
    /// Of everybody together.
    pub installation: Option<Budget>,
    /// Of projects without one of their own.
    pub default_project: Option<Budget>,
    /// Of tokens without one of their own.
    pub default_token: Option<Budget>,
}

impl BudgetsSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let read = |key| read_budget(&section.section(key));
        Self {
            installation: read("installation"),
            default_project: read("default_project"),
            default_token: read("default_token"),
        }
    }
}

fn read_budget(section: &Section<'_>) -> Option<Budget> {
    let period = section.choice(
        "period",
        BudgetPeriod::Month,
        &[
            ("day", BudgetPeriod::Day),
            ("week", BudgetPeriod::Week),
            ("month", BudgetPeriod::Month),
            ("total", BudgetPeriod::Total),
        ],
        &[],
    );
    if !section.has("usd") {
        if section.has("period") && !section.is_present("usd") {
            section.refuse(
                "usd",
                "is missing; write how many dollars may be spent in the period",
            );
        }
        return None;
    }
    let most = NanoUsd::from_nanos(i64::from(Budget::MOST_USD) * 1_000_000_000);
    section.dollars("usd", most).map(|cap| Budget {
        nano_usd: cap.nanos(),
        period,
    })
}
