//! The names nearest to one that does not exist.

/// Up to `count` of `names` that are near `asked`, nearest first. Both are looked at in their first 64
/// characters, and at most 1,000 names are.
pub fn nearest<'a>(asked: &str, names: impl Iterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    let asked: Vec<char> = asked.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut near: Vec<(usize, &str)> = names
        .take(1000)
        .map(|name| (distance(&asked, name), name))
        .filter(|(distance, name)| *distance <= asked.len().max(name.len()).div_ceil(2))
        .collect();
    near.sort_unstable();
    near.into_iter().take(count).map(|(_, name)| name).collect()
}

fn distance(asked: &[char], name: &str) -> usize {
    let name: Vec<char> = name.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (i, a) in asked.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in name.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_strangers_not_at_all() {
        let names = ["gpt-4o", "gpt-4o-mini", "claude-sonnet", "o3"];
        assert_eq!(nearest("gpt-4", names.into_iter(), 3), ["gpt-4o", "gpt-4o-mini"]);
        assert_eq!(nearest("GPT-4O-MINI", names.into_iter(), 1), ["gpt-4o-mini"]);
        assert!(nearest("zzzzzzzzzzzz", names.into_iter(), 3).is_empty());
        assert!(nearest("", [].into_iter(), 3).is_empty());
    }
}
