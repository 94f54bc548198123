//! What the SDKs of OpenAI and Anthropic tell of their own patience, in the header fields of their generator.

use std::time::Duration;

use http::HeaderMap;

/// How long a client waits, and how often it has asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientPatience {
    /// It gives up then: an answer must have begun before, a little earlier so that it arrives.
    pub answers_within: Option<Duration>,
    /// Times it has tried this request before.
    pub retries: u32,
}

impl ClientPatience {
    /// `x-stainless-read-timeout` (seconds until the next byte), `x-stainless-timeout` (of newer versions) and
    /// `x-stainless-retry-count`. What is no number says nothing.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let seconds = |name: &str| {
            let seconds: f64 = text(name)?.trim().parse().ok()?;
            (seconds.is_finite() && seconds > 0.0 && seconds < 1e9).then_some(seconds)
        };
        let timeout = [
            seconds("x-stainless-read-timeout"),
            seconds("x-stainless-timeout"),
        ];
        let shortest = timeout.into_iter().flatten().reduce(f64::min);
        Self {
            answers_within: shortest.and_then(|seconds| Duration::try_from_secs_f64(seconds * 0.95).ok()),
            retries: text("x-stainless-retry-count")
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_sdks_are_read() {
        let read = |fields: &[(&'static str, &str)]| {
            let headers = fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            let patience = ClientPatience::of(&headers);
            (
                patience.answers_within.map(|within| within.as_millis()),
                patience.retries,
            )
        };
        assert_eq!(read(&[]), (None, 0));
        assert_eq!(
            read(&[
                ("x-stainless-read-timeout", "600"),
                ("x-stainless-retry-count", "2")
            ]),
            (Some(570_000), 2)
        );
        assert_eq!(
            read(&[
                ("x-stainless-timeout", "2"),
                ("x-stainless-read-timeout", "NOT_GIVEN")
            ]),
            (Some(1900), 0)
        );
        assert_eq!(
            read(&[("x-stainless-timeout", "-1"), ("x-stainless-retry-count", "-1")]),
            (None, 0)
        );
    }
}
