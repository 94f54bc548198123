//! Time as an argument: wall time for people and stores, monotonic time for limits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in wall time, in microseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since the Unix epoch; values outside the years 0–9999 are clamped into them.
    pub fn from_micros(micros: i64) -> Self {
        const FIRST: i64 = -62_167_219_200_000_000;
        const LAST: i64 = 253_402_207_200_000_000;
        Self(micros.clamp(FIRST, LAST))
    }

    /// Microseconds since the Unix epoch.
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time moved into the future.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// This time moved into the past.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }

    /// How long after `earlier` this is; zero when it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC, ending in `Z`.
    pub fn to_rfc3339(self) -> String {
        jiff::Timestamp::from_microsecond(self.0)
            .map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |t| t.to_string())
    }

    /// Reads a date of HTTP (RFC 9110 §5.6.7) in its usual form.
    pub fn parse_http(text: &str) -> Option<Self> {
        jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(text.as_bytes())
            .ok()
            .map(|time| Self(time.as_microsecond()))
    }

    /// Reads RFC 3339 with any offset.
    ///
    /// # Errors
    /// A sentence that says what was found and what would be right.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        text.trim()
            .parse::<jiff::Timestamp>()
            .map(|t| Self::from_micros(t.as_microsecond()))
            .map_err(|_| format!("`{text}` is not a time; write RFC 3339 such as `2026-01-31T12:00:00Z`"))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// Where time comes from. The binary has one clock, tests have a manual one.
pub trait Clock: Send + Sync + 'static {
    /// Wall time, for expiry and records.
    fn now(&self) -> Timestamp;
    /// Time since some fixed point, never backwards: for rates, time-outs and durations.
    fn monotonic(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now, shared.
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self {
            start: Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    fn now(&self) -> Timestamp {
        let micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_micros());
        Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told, for tests of plain structs.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_micros: AtomicI64,
    monotonic_micros: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `wall`.
    pub fn at(wall: Timestamp) -> Arc<Self> {
        let clock = Self::default();
        clock.wall_micros.store(wall.as_micros(), Ordering::Relaxed);
        Arc::new(clock)
    }

    /// Moves wall and monotonic time forward.
    pub fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.wall_micros.fetch_add(micros, Ordering::Relaxed);
        self.monotonic_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Moves wall time alone, forwards or backwards, as a clock jump does.
    pub fn jump_wall(&self, to: Timestamp) {
        self.wall_micros.store(to.as_micros(), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.wall_micros.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.monotonic_micros.load(Ordering::Relaxed)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_goes_there_and_back() {
        let time = Timestamp::parse_rfc3339("2026-01-31T13:00:00.25+01:00").unwrap();
        assert_eq!(time.to_rfc3339(), "2026-01-31T12:00:00.25Z");
        assert_eq!(Timestamp::parse_rfc3339(&time.to_rfc3339()).unwrap(), time);
        assert!(
            Timestamp::parse_rfc3339("yesterday")
                .unwrap_err()
                .contains("RFC 3339")
        );
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for micros in [i64::MIN, -1, 0, i64::MAX] {
            let time = Timestamp::from_micros(micros);
            assert!(time.to_rfc3339().ends_with('Z'));
            let _ = time.plus(Duration::MAX).minus(Duration::MAX);
        }
    }
}
