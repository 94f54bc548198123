//! When a provider says that it may be asked again: `Retry-After` (RFC 9110 §10.2.3) as seconds or as a date, and
//! `retry-after-ms` of OpenAI and Azure, which is finer and wins.

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, RETRY_AFTER};

use crate::domain::Timestamp;

static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// A longer time is none that anybody means.
const LONGEST_SECONDS: f64 = 365.0 * 86_400.0;

/// How long the provider wants to be left alone. `None`: it does not say, or says nothing that lies ahead.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &HeaderName| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    if let Some(millis) = text(&RETRY_AFTER_MS).and_then(|text| text.parse::<f64>().ok()) {
        return ahead(millis / 1000.0);
    }
    let text = text(&RETRY_AFTER)?;
    if let Ok(seconds) = text.parse::<f64>() {
        return ahead(seconds);
    }
    let at = Timestamp::parse_http(text)?;
    let left = at.as_micros().saturating_sub(now.as_micros());
    let left = Duration::from_micros(u64::try_from(left).ok()?);
    Some(left).filter(|left| !left.is_zero())
}

fn ahead(seconds: f64) -> Option<Duration> {
    // not a number, and nothing behind us
    if !seconds.is_finite() || seconds <= 0.0 {
        return None;
    }
    Duration::try_from_secs_f64(seconds.min(LONGEST_SECONDS)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&'static str, &str)]) -> Option<Duration> {
        let headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        // Sat, 31 Jan 2026 12:00:00 GMT
        retry_after(&headers, Timestamp::from_micros(1_769_860_800_000_000))
    }

    #[test]
    fn every_form_is_read_and_what_lies_behind_us_says_nothing() {
        let seconds = Duration::from_secs;
        for (name, value, expected) in [
            ("retry-after", "2", Some(seconds(2))),
            ("retry-after", " 3600 ", Some(seconds(3600))),
            ("retry-after", "1.5", Some(Duration::from_millis(1500))),
            ("retry-after", "0", None),
            ("retry-after", "-5", None),
            ("retry-after", "soon", None),
            ("retry-after", "NaN", None),
            ("retry-after", "inf", None),
            ("retry-after", "1e300", Some(seconds(365 * 86_400))),
            ("retry-after", "Sat, 31 Jan 2026 12:00:30 GMT", Some(seconds(30))),
            ("retry-after", "Sat, 31 Jan 2026 11:59:30 GMT", None),
            ("retry-after", "Sat, 99 Foo 2026", None),
            ("retry-after-ms", "250", Some(Duration::from_millis(250))),
            ("retry-after-ms", "-1", None),
        ] {
            assert_eq!(read(&[(name, value)]), expected, "{name}: {value}");
        }
        assert_eq!(
            read(&[("retry-after", "9"), ("retry-after-ms", "250")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(read(&[]), None);
    }
}
