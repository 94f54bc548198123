//! Small changes, many at once: bits, bytes, runs, pieces of other inputs, and words that parsers care about.

/// Words of the formats that are read.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\\u006d",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"0x",
    b"\"model\":",
    b"\"stream\":true",
    b"\"max_tokens\":",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\r\r",
    b"data:",
    b"data: [DONE]",
    b"event:",
    b"id:",
    b":",
    b"max-age=",
    b"s-maxage=0",
    b"no-store",
    b"private=\"x\"",
    b"public",
    b"18446744073709551616",
    b"-1",
    b"Vary: *",
    b"Expires: 0",
    b"Age: 9",
    b"---",
    b"- ",
    b"&a ",
    b"*a",
    b"${X}",
    b"${file:/x}",
    b"$${",
    b"!!str ",
    b"|",
    b">",
    b"\t",
    b"  ",
    b"\x88\x82",
    b"\x81\xfe",
    b"\x82\xff",
];

/// Inputs are cut to this.
const MOST_BYTES: usize = 64 * 1024;

/// Makes inputs out of others; the same seed makes the same.
pub struct Mutator(u64);

impl Mutator {
    /// With this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `bound` (xorshift64*).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        number as usize % bound.max(1)
    }

    /// One of the seeds with a few changes.
    pub fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input, seeds);
            input.truncate(MOST_BYTES);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(16)).min(input.len());
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            2 if at < end => drop(input.drain(at..end)),
            3 if at < end => {
                let copied = input[at..end].to_vec();
                let times = 1 + self.below(40);
                input.splice(at..at, copied.repeat(times));
            }
            4 => input.truncate(at),
            5 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            6 => input.insert(at, self.below(256) as u8),
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                let replaced = if self.below(2) == 0 { at } else { end.max(at) };
                input.splice(at..replaced, word.iter().copied());
            }
        }
    }
}
