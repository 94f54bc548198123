//! Follows the frames of one direction, and writes the one frame of our own.

/// The longest frame head: two bytes, eight of length, four of mask.
const LONGEST_HEAD: usize = 14;

/// The opcode of a closing frame.
const CLOSE: u8 = 0x8;

/// The opcodes of a frame that continues a message, and of one that begins a text.
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;

/// A piece of a message, as frames pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A text begins.
    TextBegins,
    /// More of the text under way.
    Text(&'a [u8]),
    /// The text under way is whole.
    TextEnds,
}

/// The most bytes of reason that a control frame holds beside its code.
const REASON_BYTES: usize = 123;

/// Where one direction of a session stands between its frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameFollower {
    head: [u8; LONGEST_HEAD],
    /// Bytes of the head under way that are there.
    have: usize,
    /// Bytes of the payload under way that are still to come.
    payload_left: u64,
    closed: bool,
    /// The frame under way belongs to a text, and nothing hides it (no mask, no extension).
    is_text: bool,
    /// A text is under way, with other frames between its own.
    in_text: bool,
    /// The frame under way is the last of its message.
    is_last: bool,
}

impl FrameFollower {
    /// Takes note of bytes that have passed.
    pub fn advance(&mut self, bytes: &[u8]) {
        self.follow(bytes, |_| ());
    }

    /// Takes note of bytes that have passed, and tells what texts they hold.
    pub fn follow(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            let was_in_payload = self.payload_left > 0;
            let in_text = self.in_text;
            let taken = self.step(bytes);
            if self.is_text && was_in_payload {
                tell(Piece::Text(&bytes[..taken]));
            } else if self.is_text && !in_text && self.in_text {
                tell(Piece::TextBegins);
            }
            if self.is_text && self.is_last && self.is_between_frames() {
                self.in_text = false;
                tell(Piece::TextEnds);
            }
            if self.is_between_frames() {
                self.is_text = false;
            }
            bytes = &bytes[taken..];
        }
    }

    /// Nothing of a frame is under way.
    pub fn is_between_frames(&self) -> bool {
        self.have == 0 && self.payload_left == 0
    }

    /// How many of the bytes that come next belong to the frame under way; none between two frames.
    pub fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        let mut ahead = *self;
        let mut passed = 0;
        while passed < bytes.len() && !ahead.is_between_frames() {
            passed += ahead.step(&bytes[passed..]);
        }
        passed
    }

    /// A closing frame has passed.
    pub fn has_closed(&self) -> bool {
        self.closed
    }

    /// Takes some of the bytes: of a payload all there are, else one byte of a head.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.payload_left > 0 {
            let taken = bytes
                .len()
                .min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
            self.payload_left -= taken as u64;
            return taken;
        }
        self.head[self.have] = bytes[0];
        self.have += 1;
        if let Some(payload) = whole_head(&self.head[..self.have]) {
            let (first, is_masked) = (self.head[0], self.head[1] & 0x80 != 0);
            self.closed |= first & 0x0f == CLOSE;
            self.is_last = first & 0x80 != 0;
            let is_plain = first & 0x70 == 0 && !is_masked;
            self.is_text = match first & 0x0f {
                TEXT => is_plain,
                CONTINUATION => is_plain && self.in_text,
                _ => false,
            };
            self.in_text |= self.is_text;
            self.have = 0;
            self.payload_left = payload;
        }
        1
    }
}

/// The length of the payload behind a frame head; `None` while the head is not whole.
fn whole_head(head: &[u8]) -> Option<u64> {
    let &[_, second, ref rest @ ..] = head else {
        return None;
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (length_bytes, short) = match second & 0x7f {
        126 => (2, None),
        127 => (8, None),
        short => (0, Some(u64::from(short))),
    };
    if rest.len() < length_bytes + mask {
        return None;
    }
    Some(short.unwrap_or_else(|| {
        rest[..length_bytes]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte))
    }))
}

/// A closing frame with `code` (RFC 6455 §7.4) and a reason, cut to what such a frame can hold. A client's frames
/// must be masked, a server's must not.
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES)];
    let length = u8::try_from(reason.len() + 2).unwrap_or(2);
    let mut frame = vec![0x80 | CLOSE, length | if mask.is_some() { 0x80 } else { 0 }];
    frame.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let payload = code.to_be_bytes().into_iter().chain(reason.bytes());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.enumerate().map(|(at, byte)| byte ^ mask[at % mask.len()]));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let mask = if masked { 0x80 } else { 0 };
        match u16::try_from(payload) {
            Ok(short @ ..126) => frame.push(mask | u8::try_from(short).unwrap()),
            Ok(medium) => {
                frame.push(mask | 0x7e);
                frame.extend_from_slice(&medium.to_be_bytes());
            }
            Err(_) => {
                frame.push(mask | 0x7f);
                frame.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend_from_slice(&[1, 2, 3, 4]);
        }
        frame.resize(frame.len() + payload, b'x');
        frame
    }

    proptest! {
        #[test]
        fn ends_of_frames_are_found_however_the_bytes_come(
            frames in prop::collection::vec((0_u8..16, any::<bool>(), prop_oneof![0_usize..200, 65_000_usize..66_000]), 1..6),
            piece in 1_usize..5000,
        ) {
            let mut follower = FrameFollower::default();
            let mut closed = false;
            for (opcode, masked, payload) in frames {
                let bytes = frame(opcode, masked, payload);
                closed |= opcode == CLOSE;
                let mut with_more = bytes.clone();
                with_more.extend_from_slice(b"more");
                let mut passed = 0;
                for part in bytes.chunks(piece) {
                    if passed > 0 {
                        prop_assert_eq!(follower.rest_of_frame(&with_more[passed..]), bytes.len() - passed);
                    }
                    follower.advance(part);
                    passed += part.len();
                    prop_assert_eq!(follower.is_between_frames(), passed == bytes.len());
                }
                prop_assert_eq!(follower.has_closed(), closed);
            }
            prop_assert_eq!(follower.rest_of_frame(b"anything"), 0);
        }

        #[test]
        fn nothing_stops_it(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut follower = FrameFollower::default();
            follower.advance(&bytes);
            prop_assert!(follower.rest_of_frame(&bytes) <= bytes.len());
        }
    }

    #[test]
    fn texts_are_told_whole_and_nothing_else_is() {
        let message = |first: u8, payload: &[u8]| {
            let mut frame = vec![first, u8::try_from(payload.len()).unwrap()];
            frame.extend_from_slice(payload);
            frame
        };
        let mut bytes = message(0x81, b"one");
        // in two frames, with a ping between them
        bytes.extend(message(0x01, b"two a"));
        bytes.extend(message(0x89, b"ping"));
        bytes.extend(message(0x80, b"nd three"));
        bytes.extend(message(0x82, b"binary"));
        bytes.extend(message(0xc1, b"compressed"));
        bytes.extend(message(0x81, b""));
        bytes.extend([0x81, 0x81, 1, 2, 3, 4, b'x']);
        for piece in 1..bytes.len() {
            let mut follower = FrameFollower::default();
            let (mut texts, mut open) = (Vec::new(), None);
            for part in bytes.chunks(piece) {
                follower.follow(part, |piece| match piece {
                    Piece::TextBegins => open = Some(Vec::new()),
                    Piece::Text(more) => open.as_mut().unwrap().extend_from_slice(more),
                    Piece::TextEnds => texts.push(String::from_utf8(open.take().unwrap()).unwrap()),
                });
            }
            assert_eq!(texts, ["one", "two and three", ""], "in pieces of {piece}");
            assert!(follower.is_between_frames());
        }
    }

    #[test]
    fn a_closing_frame_is_one_frame_with_code_and_reason() {
        assert_eq!(
            close_frame(1008, "token_expired", None),
            [b"\x88\x0f\x03\xf0".as_slice(), b"token_expired"].concat()
        );
        let masked = close_frame(1001, "x", Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x83, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2, b'x' ^ 3]);
        let mut follower = FrameFollower::default();
        follower.advance(&close_frame(1008, &"ä".repeat(200), Some([9; 4])));
        assert!(follower.is_between_frames() && follower.has_closed());
    }
}
