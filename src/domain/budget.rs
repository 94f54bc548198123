//! Money that may be spent in a period.

use super::{NanoUsd, ProjectId, Timestamp, TokenId};
use crate::domain::denial::LimitScope;

/// Microseconds of a day.
const DAY_MICROS: i64 = 24 * 3_600_000_000;

/// The period of a budget, UTC; weeks are ISO weeks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetPeriod {
    /// Midnight to midnight.
    Day,
    /// Monday to Monday.
    Week,
    /// First to first.
    Month,
    /// Never resets.
    Total,
}

impl BudgetPeriod {
    /// Its word in API, configuration and store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// For people: `today`, `in all`.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Day => "today",
            Self::Week => "this week",
            Self::Month => "this month",
            Self::Total => "in all",
        }
    }
}

/// Money that may be spent in a period, in billionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The cap in billionths of a US dollar.
    pub nano_usd: i64,
    /// When it starts anew.
    pub period: BudgetPeriod,
}

impl Budget {
    /// The cap.
    pub fn cap(self) -> NanoUsd {
        NanoUsd::from_nanos(self.nano_usd)
    }

    /// The most dollars a budget may have: more is a slip of the pen, and sums would saturate.
    pub const MOST_USD: u32 = 1_000_000_000;

    /// The cap of so many dollars, rounded to whole billionths; `None` when it is negative, too large or no number.
    #[expect(clippy::cast_possible_truncation, reason = "it is in the range")]
    pub fn nanos_of_usd(usd: f64) -> Option<i64> {
        (0.0..=f64::from(Self::MOST_USD))
            .contains(&usd)
            .then(|| (usd * 1e9).round() as i64)
    }
}

/// Where a day lies in the periods that hold it; days are counted since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The day itself.
    pub day: i64,
    /// The Monday of its week.
    pub week: i64,
    /// The first of its month.
    pub month: i64,
}

impl Windows {
    /// Of a moment.
    pub fn at(now: Timestamp) -> Self {
        let day = Self::day_of(now);
        Self {
            day,
            // 1970-01-01 was a Thursday
            week: day - (day + 3).rem_euclid(7),
            month: day - i64::from(date_of(day).day()) + 1,
        }
    }

    /// The day of a moment, since 1970.
    pub fn day_of(now: Timestamp) -> i64 {
        now.as_micros().div_euclid(DAY_MICROS)
    }

    /// The earliest day that any period but `total` looks at.
    pub fn first(self) -> i64 {
        self.week.min(self.month)
    }

    /// When a period that holds this day is over; `None`: never.
    pub fn end_of(self, period: BudgetPeriod) -> Option<Timestamp> {
        let next = match period {
            BudgetPeriod::Day => self.day + 1,
            BudgetPeriod::Week => self.week + 7,
            BudgetPeriod::Month => self.month + i64::from(date_of(self.month).days_in_month()),
            BudgetPeriod::Total => return None,
        };
        Some(Timestamp::from_micros(next * DAY_MICROS))
    }

    /// Whether a day belongs to the period that holds this one.
    pub fn holds(self, period: BudgetPeriod, day: i64) -> bool {
        match period {
            BudgetPeriod::Day => day >= self.day,
            BudgetPeriod::Week => day >= self.week,
            BudgetPeriod::Month => day >= self.month,
            BudgetPeriod::Total => true,
        }
    }
}

fn date_of(day: i64) -> jiff::civil::Date {
    jiff::civil::date(1970, 1, 1).saturating_add(jiff::SignedDuration::from_hours(day.saturating_mul(24)))
}

/// A budget is nearly or wholly spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetWarning {
    /// Whose.
    pub scope: LimitScope,
    /// The token's id.
    pub token_id: Option<TokenId>,
    /// The project's id.
    pub project_id: Option<ProjectId>,
    /// The budget.
    pub budget: Budget,
    /// What is spent of it.
    pub spent: NanoUsd,
    /// What was passed: 80 or 100.
    pub percent: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn periods_end_where_the_calendar_says() {
        let end = |now: &str, period| {
            Windows::at(at(now))
                .end_of(period)
                .map(|end| end.to_string()[..10].to_owned())
        };
        for (now, day, week, month) in [
            ("2026-11-27T12:00:00Z", "2026-11-28", "2026-11-30", "2026-12-01"),
            ("2026-11-30T00:00:00Z", "2026-12-01", "2026-12-07", "2026-12-01"),
            (
                "2026-11-29T23:59:59.999999Z",
                "2026-11-30",
                "2026-11-30",
                "2026-12-01",
            ),
            ("2026-12-31T23:59:59Z", "2027-01-01", "2027-01-04", "2027-01-01"),
            ("2028-02-29T01:00:00Z", "2028-03-01", "2028-03-06", "2028-03-01"),
            ("1970-01-01T00:00:00Z", "1970-01-02", "1970-01-05", "1970-02-01"),
        ] {
            assert_eq!(end(now, BudgetPeriod::Day).as_deref(), Some(day), "{now}");
            assert_eq!(end(now, BudgetPeriod::Week).as_deref(), Some(week), "{now}");
            assert_eq!(end(now, BudgetPeriod::Month).as_deref(), Some(month), "{now}");
            assert_eq!(end(now, BudgetPeriod::Total), None);
        }
    }

    #[test]
    fn a_day_belongs_to_its_periods() {
        let monday = Windows::at(at("2026-11-30T09:00:00Z"));
        let sunday = monday.day - 1;
        assert!(!monday.holds(BudgetPeriod::Day, sunday));
        assert!(!monday.holds(BudgetPeriod::Week, sunday));
        assert!(monday.holds(BudgetPeriod::Month, sunday));
        assert!(monday.holds(BudgetPeriod::Total, 0));
        assert_eq!(monday.first(), monday.month);
        let early = Windows::at(at("2026-12-02T09:00:00Z"));
        assert_eq!(early.first(), early.week, "the week began before the month");
    }

    #[test]
    fn dollars_are_rounded_to_billionths() {
        assert_eq!(Budget::nanos_of_usd(0.1), Some(100_000_000));
        assert_eq!(Budget::nanos_of_usd(0.0), Some(0));
        assert_eq!(Budget::nanos_of_usd(1e9), Some(1_000_000_000_000_000_000));
        for wrong in [-0.1, 1.1e9, f64::NAN, f64::INFINITY] {
            assert_eq!(Budget::nanos_of_usd(wrong), None, "{wrong}");
        }
    }
}
