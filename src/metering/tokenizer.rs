//! Counts tokens where a provider does not say how many there were.
//!
//! One vocabulary (`o200k`) for all models: for others it is near, and what it says is marked as estimated. The vocabulary
//! takes some 60 ms and 60 MiB when it is first used, so it is loaded then, and never on a thread that serves requests.

/// How many tokens a text has.
pub fn count(text: &str) -> u64 {
    bpe_openai::o200k_base().count(text) as u64
}

/// Text as it passes, of which only the beginning is kept: enough to know how many tokens the whole has.
#[derive(Debug, Default)]
pub struct TextTally {
    sample: Vec<u8>,
    bytes: u64,
}

/// Bytes that are kept of one text.
pub const SAMPLE_BYTES: usize = 16 * 1024;

impl TextTally {
    /// More of the text. Takes it out of `text`.
    pub fn take(&mut self, text: &mut Vec<u8>) {
        self.bytes += text.len() as u64;
        let room = SAMPLE_BYTES.saturating_sub(self.sample.len());
        self.sample.extend_from_slice(&text[..text.len().min(room)]);
        text.clear();
    }

    /// Whether there was any.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Tokens of the whole: counted as far as it is kept, the rest in proportion. Slow at its first call.
    pub fn tokens(&self) -> u64 {
        if self.bytes == 0 {
            return 0;
        }
        let counted = count(&String::from_utf8_lossy(&self.sample)).max(1);
        let kept = self.sample.len() as u64;
        if kept == self.bytes {
            return counted;
        }
        u64::try_from(u128::from(counted) * u128::from(self.bytes) / u128::from(kept)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_the_vocabulary() {
        for (text, tokens) in [
            ("", 0),
            ("Hello", 1),
            ("Hello world", 2),
            ("Grüße aus München!", 6),
        ] {
            assert_eq!(count(text), tokens, "{text}");
        }
    }

    #[test]
    fn of_a_long_text_the_beginning_speaks_for_the_rest() {
        let mut tally = TextTally::default();
        assert_eq!((tally.tokens(), tally.is_empty()), (0, true));
        let text = "The quick brown fox jumps over the lazy dog. ";
        for _ in 0..10_000 {
            tally.take(&mut text.as_bytes().to_vec());
        }
        let exact = count(&text.repeat(10_000));
        assert!(
            tally.tokens().abs_diff(exact) < exact / 100,
            "{} {exact}",
            tally.tokens()
        );
        assert!(tally.sample.len() <= SAMPLE_BYTES);
    }
}
