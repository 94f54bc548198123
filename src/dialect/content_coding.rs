//! Answers that came encoded though nobody asked for it: read beside their way, for what they used and whether they are
//! whole. What the client gets is what the provider sent.

use std::io::{self, Write};

use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// So many times longer than what came may the text be,
const MOST_TIMES: usize = 100;

/// and so long in all. Beyond, the answer is not read any further.
const MOST_BYTES: usize = 64 << 20;

/// The window of zstd, as a power of two: what RFC 9659 allows for HTTP.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Whether the answer is encoded.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Decodes one answer, piece by piece.
pub struct Decoder {
    coding: Coding,
    taken: usize,
    given: usize,
}

enum Coding {
    Gzip(Box<flate2::write::MultiGzDecoder<Text>>),
    Deflate(Box<flate2::write::ZlibDecoder<Text>>),
    Brotli(Box<brotli::DecompressorWriter<Text>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Text>>),
}

/// What was decoded of a piece, bounded.
struct Text {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::Error::other("the text is too long for what came"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    /// For an answer with this head, if it has one coding that is known.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let (Some(coding), None) = (codings.next(), codings.next()) else {
            return None;
        };
        let text = Text {
            bytes: Vec::new(),
            most: 0,
        };
        let coding = match coding.to_str().ok()?.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Coding::Gzip(Box::new(flate2::write::MultiGzDecoder::new(text))),
            "deflate" => Coding::Deflate(Box::new(flate2::write::ZlibDecoder::new(text))),
            "br" => Coding::Brotli(Box::new(brotli::DecompressorWriter::new(text, 4096))),
            "zstd" => {
                let mut decoder = zstd::stream::write::Decoder::new(text).ok()?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
                Coding::Zstd(Box::new(decoder))
            }
            _ => return None,
        };
        Some(Self {
            coding,
            taken: 0,
            given: 0,
        })
    }

    /// The text of the next bytes, which may be none yet; `None`: it cannot be read from here on.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.taken = self.taken.saturating_add(bytes.len());
        let most = self.taken.saturating_mul(MOST_TIMES).min(MOST_BYTES);
        self.text().most = most.saturating_sub(self.given);
        let written = match &mut self.coding {
            Coding::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Coding::Deflate(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Coding::Brotli(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Coding::Zstd(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
        };
        written.ok()?;
        let text = std::mem::take(&mut self.text().bytes);
        self.given += text.len();
        Some(text)
    }

    fn text(&mut self) -> &mut Text {
        match &mut self.coding {
            Coding::Gzip(decoder) => decoder.get_mut(),
            Coding::Deflate(decoder) => decoder.get_mut(),
            Coding::Brotli(decoder) => decoder.get_mut(),
            Coding::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("taken", &self.taken)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http::HeaderValue;

    use super::*;

    fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(text).unwrap();
                writer.finish().unwrap()
            }
            "deflate" => {
                let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(text).unwrap();
                writer.finish().unwrap()
            }
            "br" => {
                let mut bytes = Vec::new();
                brotli::CompressorWriter::new(&mut bytes, 4096, 5, 20)
                    .write_all(text)
                    .unwrap();
                bytes
            }
            _ => zstd::encode_all(text, 3).unwrap(),
        }
    }

    fn decoder(coding: &str) -> Option<Decoder> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_str(coding).unwrap());
        assert_eq!(is_encoded(&headers), coding != "identity");
        Decoder::of(&headers)
    }

    fn text() -> Vec<u8> {
        (0..3000u32)
            .flat_map(|n| format!("{{\"n\":{}}}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .collect()
    }

    #[test]
    fn every_coding_reads_back_however_it_is_cut() {
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let bytes = encoded(coding, &text());
            for size in [1, 7, 1000, bytes.len()] {
                let mut decoder = decoder(coding).unwrap();
                let read: Vec<u8> = bytes
                    .chunks(size)
                    .flat_map(|piece| decoder.push(piece).unwrap())
                    .collect();
                assert!(read == text(), "{coding} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_was_flushed_is_there_at_once() {
        let mut decoder = decoder("gzip").unwrap();
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        for event in ["data: one\n\n", "data: two\n\n"] {
            writer.write_all(event.as_bytes()).unwrap();
            writer.flush().unwrap();
            let piece = std::mem::take(writer.get_mut());
            assert_eq!(decoder.push(&piece).unwrap(), event.as_bytes());
        }
    }

    #[test]
    fn bombs_junk_and_unknown_codings_are_not_read() {
        let zeros = vec![0; 8 << 20];
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let bomb = encoded(coding, &zeros);
            assert!(bomb.len() < zeros.len() / 100, "{coding} is a bomb");
            let mut decoder = decoder(coding).unwrap();
            let read: Vec<Option<Vec<u8>>> = bomb.chunks(500).map(|piece| decoder.push(piece)).collect();
            assert!(read.iter().any(Option::is_none), "{coding}");
        }
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let mut decoder = decoder(coding).unwrap();
            assert!(
                decoder
                    .push(b"{\"this is\": \"no such thing\"} and goes on")
                    .is_none(),
                "{coding}"
            );
        }
        for coding in ["identity", "gzip, br", "rot13", "aes128gcm"] {
            assert!(decoder(coding).is_none(), "{coding}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_junk_breaks_it(
            coding in proptest::sample::select(vec!["gzip", "deflate", "br", "zstd"]),
            at in proptest::collection::vec((0usize..2000, proptest::num::u8::ANY), 0..20),
            size in 1usize..300,
        ) {
            let mut bytes = encoded(coding, &text()[..4000]);
            for (at, byte) in at {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let mut decoder = decoder(coding).unwrap();
            for piece in bytes.chunks(size) {
                if decoder.push(piece).is_none() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_not_read_on() {
        // compresses by half, so that only the length in all is reached
        let mut piece = Vec::new();
        while piece.len() < 4 << 20 {
            piece.extend_from_slice(
                format!("{:x}", piece.len().wrapping_mul(0x9E37_79B9_7F4A_7C15)).as_bytes(),
            );
        }
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut decoder = decoder("gzip").unwrap();
        let mut read = 0;
        for _ in 0..20 {
            writer.write_all(&piece).unwrap();
            writer.flush().unwrap();
            match decoder.push(&std::mem::take(writer.get_mut())) {
                Some(text) => read += text.len(),
                None => break,
            }
        }
        assert!((48 << 20..=64 << 20).contains(&read), "{read}");
    }
}
