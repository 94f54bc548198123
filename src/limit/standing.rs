//! How a limited client stands, as the `x-ratelimit-*` headers say it.

use std::fmt::Write as _;
use std::time::Duration;

/// Where a rate stands after a request was let through or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateStanding {
    /// So many a minute, as configured (`x-ratelimit-limit-requests`, `-tokens`).
    pub limit: u64,
    /// Those that would pass now (`x-ratelimit-remaining-requests`, `-tokens`).
    pub remaining: u64,
    /// Until all of them would (`x-ratelimit-reset-requests`, `-tokens`).
    pub reset: Duration,
}

/// Where the rates of a request stand: the tighter of token and project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standings {
    /// Requests a minute.
    pub requests: Option<RateStanding>,
    /// Tokens a minute.
    pub tokens: Option<RateStanding>,
}

impl RateStanding {
    /// The tighter of two: the one with less left; at a tie, the one that takes longer.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let rank = |standing: &Self| (standing.remaining, std::cmp::Reverse(standing.reset));
        if rank(&other) < rank(&self) { other } else { self }
    }

    /// The reset as OpenAI writes it: `12ms`, `1s`, `8.64s`, `6m0s`; rounded up to a millisecond.
    pub fn reset_text(&self) -> String {
        let millis = self.reset.as_nanos().div_ceil(1_000_000);
        let mut text = String::with_capacity(12);
        if (1..1000).contains(&millis) {
            let _ = write!(text, "{millis}ms");
            return text;
        }
        let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
        if hours > 0 {
            let _ = write!(text, "{hours}h");
        }
        if hours > 0 || minutes > 0 {
            let _ = write!(text, "{minutes}m");
        }
        let (seconds, fraction) = (millis % 60_000 / 1000, millis % 1000);
        let _ = write!(text, "{seconds}");
        if fraction > 0 {
            let _ = write!(text, ".{fraction:03}");
            text.truncate(text.trim_end_matches('0').len());
        }
        text.push('s');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_is_written_as_openai_does() {
        let table = [
            (0, "0s"),
            (1, "1ms"),
            (12_000_000, "12ms"),
            (999_000_001, "1s"),
            (1_000_000_000, "1s"),
            (8_640_000_000, "8.64s"),
            (60_000_000_000, "1m0s"),
            (360_000_000_000, "6m0s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (20_000_000_000, "20s"),
        ];
        for (nanos, expected) in table {
            let standing = RateStanding {
                limit: 1,
                remaining: 0,
                reset: Duration::from_nanos(nanos),
            };
            assert_eq!(standing.reset_text(), expected);
        }
    }

    #[test]
    fn the_tighter_is_the_one_with_less_left() {
        let standing = |remaining, seconds| RateStanding {
            limit: 60,
            remaining,
            reset: Duration::from_secs(seconds),
        };
        assert_eq!(standing(3, 1).tighter(standing(2, 1)), standing(2, 1));
        assert_eq!(standing(2, 9).tighter(standing(2, 1)), standing(2, 9));
        assert_eq!(standing(2, 1).tighter(standing(2, 9)), standing(2, 9));
    }
}
