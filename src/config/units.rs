//! Durations and sizes as people write them: `1m30s`, `64KiB`.

use std::fmt::Write as _;
use std::time::Duration;

const NANOS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const BYTES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// What a duration looks like, for messages.
pub(super) const DURATION_SHAPE: &str = "a number with a unit such as `250ms`, `30s`, `5m`, `24h` or `30d`";
/// What a size looks like, for messages.
pub(super) const SIZE_SHAPE: &str =
    "bytes or a number with a unit such as `64KiB`, `10MiB`, `100MB` or `1GiB`";

/// Reads one or more numbers with units, fractions allowed; a lone `0` is zero. `None` is no duration.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let scale = NANOS.iter().find(|(name, _)| *name == unit)?.1;
        nanos = nanos.checked_add(scaled(number, scale)?)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_nanos(nanos))
}

/// `number × scale` for a decimal number with at most nine places; digits below a nanosecond are cut.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut total = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if !fraction.is_empty() {
        let tenths = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale) / u128::from(tenths);
        total = total.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(total)
}

/// Writes a duration so that [`parse_duration`] reads it back.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    for (unit, scale) in NANOS
        .iter()
        .rev()
        .filter(|(unit, _)| *unit != "µs" && *unit != "us")
    {
        // WHY: 600 seconds read better as `600s` than as `10m`; only what divides evenly is shortened.
        if rest.is_multiple_of(*scale) && (*unit != "m" || rest / scale >= 60) {
            return format!("{}{unit}", rest / scale);
        }
    }
    let mut text = String::new();
    for (unit, scale) in NANOS.iter().rev().filter(|(unit, _)| *unit != "µs") {
        if rest >= *scale {
            let _ = write!(text, "{}{unit}", rest / scale);
            rest %= scale;
        }
    }
    text
}

/// Reads bytes with or without a unit. `None` is no size.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = BYTES.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// Writes a size in the largest unit that divides it.
pub fn format_size(bytes: u64) -> String {
    let best = BYTES
        .iter()
        .filter(|(_, scale)| *scale > 1 && bytes > 0 && bytes.is_multiple_of(*scale));
    match best.max_by_key(|(_, scale)| *scale) {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        for (text, millis) in [
            ("250ms", Some(250)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("24h", Some(86_400_000)),
            ("30d", Some(2_592_000_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1_500)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("30 s", None),
            ("1.s", None),
            (".5s", None),
            ("1..5s", None),
            ("30S", None),
            ("30sec", None),
            ("999999999999d", None),
        ] {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "`{text}`"
            );
        }
    }

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("10485760", Some(10_485_760)),
            ("64KiB", Some(65_536)),
            ("100MB", Some(100_000_000)),
            ("1GiB", Some(1 << 30)),
            ("", None),
            ("MB", None),
            ("1 MB", None),
            ("1mb", None),
            ("-1", None),
            ("1.5MB", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "`{text}`");
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(nanos in prop_oneof![any::<u64>(), (0_u64..10_000_000).prop_map(|ms| ms * 1_000_000)]) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn a_written_size_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_breaks_the_readers(text in "\\PC{0,24}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
