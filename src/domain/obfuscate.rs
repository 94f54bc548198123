//! How secrets are shown: enough to recognise one, never enough to use it.

/// Shows a token secret: `sk-`, the first four characters, asterisks, the last four; same length. A text
/// without the prefix, or too short for that, is shown as any key is.
pub fn token(secret: &str) -> String {
    match secret.strip_prefix("sk-") {
        Some(rest) if rest.is_ascii() && rest.len() > 8 => {
            let stars = "*".repeat(rest.len() - 8);
            format!("sk-{}{stars}{}", &rest[..4], &rest[rest.len() - 4..])
        }
        _ => key(secret),
    }
}

/// Shows any other key: up to 4 characters all asterisks; 5–12 the first two, then asterisks; longer ones
/// the first eight, `...` and the last four.
pub fn key(secret: &str) -> String {
    let characters: Vec<char> = secret.chars().collect();
    match characters.len() {
        0..=4 => "*".repeat(characters.len()),
        5..=12 => characters.iter().take(2).collect::<String>() + &"*".repeat(characters.len() - 2),
        count => {
            let first: String = characters.iter().take(8).collect();
            let last: String = characters.iter().skip(count - 4).collect();
            format!("{first}...{last}")
        }
    }
}

/// Whether `text` looks like something this file produced, so that it is not stored as a key.
pub fn looks_obfuscated(text: &str) -> bool {
    text.contains("...") || text.contains("****")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_as_the_old_program_did() {
        assert_eq!(token("sk-AaIEbbbbbbbbbbbbbbo9Ww"), "sk-AaIE**************o9Ww");
        assert_eq!(key("abc"), "***");
        assert_eq!(key("abcdefgh"), "ab******");
        assert_eq!(key("sk-1234567890abcdef"), "sk-12345...cdef");
        assert_eq!(token("schlüssel-mit-ümlaut"), "schlüsse...laut");
        assert!(looks_obfuscated(&key("sk-1234567890abcdef")));
    }
}
