//! Where the body of the current HTTP/1 request ends on the wire.

/// Longest line of a chunk size with its extensions; Pingora's own limit.
const CHUNK_LINE_BYTES: usize = 8 * 1024;

/// Longest trailer section; Pingora's own limit.
const TRAILER_BYTES: usize = 64 * 1024;

/// What of the current request's body has not been seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// Nothing: the request is whole.
    Finished,
    /// So many bytes, told by `Content-Length`.
    Length(u64),
    /// The rest of a chunked body.
    Chunked(ChunkState),
    /// A chunked body that is not well formed: its end cannot be known, every byte is handed on.
    Broken,
    /// None: the connection was upgraded (RFC 9110 §7.8), what comes is another protocol's.
    Upgraded,
}

/// The place inside a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkState {
    /// In the hexadecimal digits.
    Size { digits: u8, size: u64 },
    /// Behind the digits, before the line's CR.
    Extension { size: u64, bytes: usize },
    /// The CR of the size line was seen.
    SizeLineFeed { size: u64 },
    /// In the chunk's bytes.
    Data { left: u64 },
    /// The CR behind the data is due.
    DataCarriageReturn,
    /// The LF behind the data is due.
    DataLineFeed,
    /// At the start of a trailer line, or of the empty line that ends all.
    TrailerStart { bytes: usize },
    /// Inside a trailer line.
    Trailer { bytes: usize },
    /// The CR of a trailer line was seen.
    TrailerLineFeed { bytes: usize },
    /// The CR of the last, empty line was seen.
    EndLineFeed,
}

impl BodyFraming {
    /// The framing of a body announced by `Content-Length: length`.
    pub(super) fn length(length: u64) -> Self {
        if length == 0 {
            Self::Finished
        } else {
            Self::Length(length)
        }
    }

    /// The framing of a chunked body.
    pub(super) fn chunked() -> Self {
        Self::Chunked(ChunkState::Size { digits: 0, size: 0 })
    }

    /// The whole body has passed.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self, Self::Finished)
    }

    /// Takes note of bytes as they come; answers how many of them belong to this request.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Finished => 0,
            Self::Broken | Self::Upgraded => bytes.len(),
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *self = Self::length(*left - taken as u64);
                taken
            }
            Self::Chunked(state) => match state.advance(bytes) {
                Progress::Within => bytes.len(),
                Progress::End(taken) => {
                    *self = Self::Finished;
                    taken
                }
                Progress::Malformed => {
                    *self = Self::Broken;
                    bytes.len()
                }
            },
        }
    }
}

/// What became of the bytes given to [`ChunkState::advance`].
enum Progress {
    /// All belong to the body, more is to come.
    Within,
    /// The body ended behind so many bytes.
    End(usize),
    /// They are not chunked coding.
    Malformed,
}

impl ChunkState {
    fn advance(&mut self, bytes: &[u8]) -> Progress {
        let mut position = 0;
        while let Some(&byte) = bytes.get(position) {
            if let Self::Data { left } = self {
                let taken = (bytes.len() - position).min(usize::try_from(*left).unwrap_or(usize::MAX));
                position += taken;
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::DataCarriageReturn;
                }
                continue;
            }
            position += 1;
            if *self == Self::EndLineFeed {
                return if byte == b'\n' {
                    Progress::End(position)
                } else {
                    Progress::Malformed
                };
            }
            match self.after(byte) {
                Some(next) => *self = next,
                None => return Progress::Malformed,
            }
        }
        Progress::Within
    }

    /// The state behind one byte that is not chunk data; `None` when it may not stand there.
    fn after(self, byte: u8) -> Option<Self> {
        match self {
            Self::Size { digits, size } => Self::after_size_byte(digits, size, byte),
            Self::Extension { size, bytes } => match byte {
                b'\r' => Some(Self::SizeLineFeed { size }),
                b'\n' => None,
                _ if bytes >= CHUNK_LINE_BYTES => None,
                _ => Some(Self::Extension {
                    size,
                    bytes: bytes + 1,
                }),
            },
            Self::SizeLineFeed { size: 0 } if byte == b'\n' => Some(Self::TrailerStart { bytes: 0 }),
            Self::SizeLineFeed { size } if byte == b'\n' => Some(Self::Data { left: size }),
            Self::DataCarriageReturn if byte == b'\r' => Some(Self::DataLineFeed),
            Self::DataLineFeed if byte == b'\n' => Some(Self::Size { digits: 0, size: 0 }),
            Self::TrailerStart { .. } if byte == b'\r' => Some(Self::EndLineFeed),
            Self::TrailerStart { bytes } | Self::Trailer { bytes } => match byte {
                b'\r' => Some(Self::TrailerLineFeed { bytes: bytes + 1 }),
                b'\n' => None,
                _ if bytes >= TRAILER_BYTES => None,
                _ => Some(Self::Trailer { bytes: bytes + 1 }),
            },
            Self::TrailerLineFeed { bytes } if byte == b'\n' => Some(Self::TrailerStart { bytes: bytes + 1 }),
            Self::SizeLineFeed { .. }
            | Self::DataCarriageReturn
            | Self::DataLineFeed
            | Self::TrailerLineFeed { .. }
            | Self::Data { .. }
            | Self::EndLineFeed => None,
        }
    }

    fn after_size_byte(digits: u8, size: u64, byte: u8) -> Option<Self> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            // fifteen digits, as Pingora's parser: far above any body
            return (digits < 15).then_some(Self::Size {
                digits: digits + 1,
                size: size << 4 | u64::from(digit),
            });
        }
        match byte {
            _ if digits == 0 => None,
            b'\r' => Some(Self::SizeLineFeed { size }),
            b';' | b' ' | b'\t' => Some(Self::Extension { size, bytes: 0 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of `wire` belongs to a chunked body, given in pieces of `piece` bytes.
    fn chunked_length(wire: &[u8], piece: usize) -> (usize, BodyFraming) {
        let mut framing = BodyFraming::chunked();
        let mut taken = 0;
        for part in wire.chunks(piece) {
            let belongs = framing.advance(part);
            taken += belongs;
            if belongs < part.len() || framing.is_finished() {
                break;
            }
        }
        (taken, framing)
    }

    #[test]
    fn a_length_counts_down_and_leaves_the_surplus() {
        let mut framing = BodyFraming::length(5);
        assert_eq!(framing.advance(b"abc"), 3);
        assert_eq!(framing, BodyFraming::Length(2));
        assert_eq!(framing.advance(b"deGET"), 2);
        assert!(framing.is_finished());
        assert_eq!(framing.advance(b"GET"), 0);
    }

    #[test]
    fn an_empty_body_is_finished_at_once() {
        assert!(BodyFraming::length(0).is_finished());
    }

    #[test]
    fn the_end_of_a_chunked_body_is_found_however_it_is_cut() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "a;name=value\r\n0123456789\r\n00\r\nTrailer: one\r\nOther: two\r\n\r\n",
            "1 \r\nx\r\n3\r\n\r\n\n\r\n0\r\n\r\n",
        ] {
            let wire = format!("{body}GET / HTTP/1.1\r\n\r\n");
            for piece in 1..wire.len() {
                let (taken, framing) = chunked_length(wire.as_bytes(), piece);
                assert_eq!(taken, body.len(), "{body:?} in pieces of {piece}");
                assert!(framing.is_finished());
            }
        }
    }

    #[test]
    fn malformed_chunks_are_handed_on_whole() {
        for wire in [
            "x\r\n",
            "\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloX0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "0\r\nTrailer: x\n\r\n",
            "-1\r\n",
            "0\r\n\rX",
        ] {
            let mut framing = BodyFraming::chunked();
            assert_eq!(framing.advance(wire.as_bytes()), wire.len(), "{wire:?}");
            assert_eq!(framing, BodyFraming::Broken, "{wire:?}");
        }
    }
}
