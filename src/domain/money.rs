//! Money, exactly: whole billionths of a US dollar, and prices per million tokens.

use std::fmt;
use std::str::FromStr;

/// Billionths of a US dollar. Sums saturate: a balance that large is wrong anyway, and must not wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NanoUsd(i64);

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From billionths.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Billionths.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// For people and JSON: dollars, exact up to nine million of them.
    #[expect(clippy::cast_precision_loss, reason = "shown, never calculated with")]
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, never below what an `i64` holds.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::plus)
    }
}

/// Dollars with as many of nine decimals as are needed: `0.0125`.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0 < 0, self.0.unsigned_abs())
    }
}

/// Billionths of a US dollar for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PerMillion(u64);

impl PerMillion {
    /// The most a million tokens may cost: a million dollars. More is a slip of the pen.
    pub const MOST: Self = Self(1_000_000 * 1_000_000_000);

    /// From billionths of a dollar.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// What a million of a thing cost of which one costs this.
    #[must_use]
    pub const fn of_each(self) -> Self {
        Self(self.0.saturating_mul(1_000_000))
    }

    /// What so many tokens cost, in millionths of a billionth of a dollar: to be summed, and rounded once.
    pub const fn times(self, tokens: u64) -> u128 {
        self.0 as u128 * tokens as u128
    }

    /// This price in the proportion of two others: `self × numerator ÷ denominator`.
    #[must_use]
    pub fn scaled(self, numerator: Self, denominator: Self) -> Self {
        if denominator.0 == 0 {
            return self;
        }
        let scaled = (u128::from(self.0) * u128::from(numerator.0)).div_ceil(u128::from(denominator.0));
        Self(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

/// Rounds a sum of [`PerMillion::times`] up to whole billionths.
pub fn round_up(sum: u128) -> NanoUsd {
    NanoUsd(i64::try_from(sum.div_ceil(1_000_000)).unwrap_or(i64::MAX))
}

/// The text is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no amount of dollars; write digits with at most nine decimals, such as `0.15`")]
pub struct NotAnAmount;

impl FromStr for PerMillion {
    type Err = NotAnAmount;

    fn from_str(text: &str) -> Result<Self, NotAnAmount> {
        nanos(text).map(Self).ok_or(NotAnAmount)
    }
}

impl FromStr for NanoUsd {
    type Err = NotAnAmount;

    fn from_str(text: &str) -> Result<Self, NotAnAmount> {
        let nanos = nanos(text).ok_or(NotAnAmount)?;
        i64::try_from(nanos).map(Self).map_err(|_| NotAnAmount)
    }
}

impl fmt::Display for PerMillion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, false, self.0)
    }
}

fn write_decimal(f: &mut fmt::Formatter<'_>, negative: bool, nanos: u64) -> fmt::Result {
    let sign = if negative { "-" } else { "" };
    let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if rest == 0 {
        return write!(f, "{sign}{whole}");
    }
    let decimals = format!("{rest:09}");
    write!(f, "{sign}{whole}.{}", decimals.trim_end_matches('0'))
}

/// `12.34` in billionths; no sign, no exponent, at most nine decimals that are not zero.
fn nanos(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let decimals = decimals.trim_end_matches('0');
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || whole.is_empty() || decimals.len() > 9 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let padded = format!("{decimals:0<9}");
    whole
        .checked_mul(1_000_000_000)?
        .checked_add(padded.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written_exactly() {
        for (text, nanos) in [
            ("0", 0),
            ("0.15", 150_000_000),
            ("12", 12_000_000_000),
            ("0.000000001", 1),
            ("3.750", 3_750_000_000),
            ("0.1000000000", 100_000_000),
        ] {
            let amount: NanoUsd = text.parse().unwrap();
            assert_eq!(amount.nanos(), nanos, "{text}");
            assert_eq!(amount.to_string().parse::<NanoUsd>().unwrap(), amount);
        }
        assert_eq!("3.750".parse::<PerMillion>().unwrap().to_string(), "3.75");
        assert_eq!(NanoUsd::from_nanos(-1_500_000_000).to_string(), "-1.5");
        for wrong in [
            "",
            ".5",
            "-1",
            "1e3",
            "0.0000000001",
            "1,5",
            "$1",
            "99999999999999999999",
        ] {
            assert!(wrong.parse::<PerMillion>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sum_is_rounded_up_once() {
        let price: PerMillion = "0.15".parse().unwrap();
        assert_eq!(round_up(price.times(1)), NanoUsd::from_nanos(150));
        let odd = PerMillion::from_nanos(1);
        assert_eq!(round_up(odd.times(1) + odd.times(1)), NanoUsd::from_nanos(1));
        assert_eq!(round_up(odd.times(1_000_001)), NanoUsd::from_nanos(2));
        assert_eq!(round_up(0), NanoUsd::ZERO);
        assert_eq!(round_up(PerMillion::MOST.times(u64::MAX)).nanos(), i64::MAX);
    }

    #[test]
    fn sums_saturate() {
        let most = NanoUsd::from_nanos(i64::MAX);
        assert_eq!(most.plus(NanoUsd::from_nanos(1)), most);
        assert_eq!([most, most].into_iter().sum::<NanoUsd>(), most);
        assert_eq!(NanoUsd::from_nanos(3).minus(NanoUsd::from_nanos(5)).nanos(), -2);
    }
}
