//! Finds the name that somebody probably meant.

/// The candidate closest to `written`, unless all are too far away to be meant.
pub fn nearest<'a>(written: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return None;
    }
    let allowed = (written.chars().count() / 2).max(2);
    candidates
        .iter()
        .map(|candidate| (distance(written, candidate), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be added, dropped or replaced.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(!from.eq_ignore_ascii_case(to));
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        let known = ["name", "api_key", "is_active", "max_requests", "duration_minutes"];
        let table = [
            ("nmae", Some("name")),
            ("apikey", Some("api_key")),
            ("isActive", Some("is_active")),
            ("maxRequests", Some("max_requests")),
            ("duration_hours", Some("duration_minutes")),
            ("zzzzzzz", None),
        ];
        for (written, expected) in table {
            assert_eq!(nearest(written, &known), expected, "{written}");
        }
    }
}
