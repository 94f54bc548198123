//! The JSON grammar (RFC 8259) as an incremental state machine that keeps no document.
//!
//! [`Grammar::feed`] takes any split of the bytes and tells a [`Sink`] where keys, values and
//! containers begin and end. Its memory is constant: one bit for each open container, at most
//! [`MAX_DEPTH`] of them. The top level must be an object, for every body that is understood is one.
//!
//! A lone surrogate escape (`"\ud83d"`) is grammatical and accepted: clients that cut text inside
//! an emoji send it, and providers decide what it means. The sink hears of it.

use memchr::memchr2;

use super::InspectError;

/// Containers that may be open at once.
pub const MAX_DEPTH: usize = 512;

/// What a string is: the name of a member or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The name of a member.
    Key,
    /// A value.
    Value,
}

/// Hears what the grammar finds. `depth` is the number of containers around the thing told of;
/// offsets count from the first byte of the body.
pub trait Sink {
    /// A string begins at `start` (its opening quote); the answer says whether its content is wanted.
    fn string_begins(&mut self, role: Role, start: usize, depth: usize) -> Result<bool, InspectError>;
    /// A piece of the decoded content of a wanted string.
    fn string_content(&mut self, piece: &[u8]) -> Result<(), InspectError>;
    /// A wanted string holds half of a surrogate pair without the other half.
    fn lone_surrogate(&mut self);
    /// A string ended; `end` is one past its closing quote.
    fn string_ends(&mut self, role: Role, end: usize, depth: usize) -> Result<(), InspectError>;
    /// A number, `true`, `false` or `null` begins; the answer says whether its bytes are wanted.
    fn scalar_begins(&mut self, start: usize, depth: usize) -> Result<bool, InspectError>;
    /// A piece of a wanted scalar, as written.
    fn scalar_content(&mut self, piece: &[u8]) -> Result<(), InspectError>;
    /// A scalar ended.
    fn scalar_ends(&mut self, end: usize, depth: usize) -> Result<(), InspectError>;
    /// An object or array opens at `start`.
    fn container_opens(&mut self, object: bool, start: usize, depth: usize) -> Result<(), InspectError>;
    /// The container that is now at `depth` ended; `end` is one past its closing bracket.
    fn container_closes(&mut self, end: usize, depth: usize) -> Result<(), InspectError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    TopObject,
    Value,
    ValueOrClose,
    Key,
    KeyOrClose,
    Colon,
    CommaOrClose,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    None,
    String(Role),
    Escape(Role),
    Unicode { role: Role, digits: u8, unit: u16 },
    Number(Number),
    Literal(&'static [u8]),
}

/// The state between two chunks.
#[derive(Debug)]
pub struct Grammar {
    expect: Expect,
    token: Token,
    wanted: bool,
    high_surrogate: Option<u16>,
    utf8: Utf8,
    depth: usize,
    objects: [u64; MAX_DEPTH / 64],
    fed: usize,
}

impl Grammar {
    /// A machine before the first byte.
    pub fn new() -> Self {
        Self {
            expect: Expect::TopObject,
            token: Token::None,
            wanted: false,
            high_surrogate: None,
            utf8: Utf8::default(),
            depth: 0,
            objects: [0; MAX_DEPTH / 64],
            fed: 0,
        }
    }

    /// Bytes fed so far.
    pub fn length(&self) -> usize {
        self.fed
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, chunk: &[u8], sink: &mut impl Sink) -> Result<(), InspectError> {
        let mut at = 0;
        while at < chunk.len() {
            at = match self.token {
                Token::None => self.structure(chunk, at, sink)?,
                Token::String(role) => self.string(role, chunk, at, sink)?,
                Token::Escape(role) => self.escape(role, chunk[at], at, sink)?,
                Token::Unicode { .. } => self.unicode(chunk[at], at, sink)?,
                Token::Number(state) => self.number(state, chunk, at, sink)?,
                Token::Literal(rest) => self.literal(rest, chunk, at, sink)?,
            };
        }
        self.fed += chunk.len();
        Ok(())
    }

    /// Says whether what was fed is one whole object.
    pub fn finish(&self) -> Result<(), InspectError> {
        match self.expect {
            Expect::Nothing => Ok(()),
            Expect::TopObject => Err(InspectError::Empty),
            _ => Err(InspectError::Unfinished { offset: self.fed }),
        }
    }

    fn malformed(&self, at: usize, expected: &'static str) -> InspectError {
        InspectError::Malformed {
            offset: self.fed + at,
            expected,
        }
    }

    /// Steps over white space and structure up to the first byte of a token or the end of the chunk.
    fn structure(&mut self, chunk: &[u8], start: usize, sink: &mut impl Sink) -> Result<usize, InspectError> {
        let mut at = start;
        while let Some(&byte) = chunk.get(at) {
            if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                at += 1;
                continue;
            }
            match self.expect {
                Expect::CommaOrClose => self.comma_or_close(byte, at, sink)?,
                Expect::Colon if byte == b':' => self.expect = Expect::Value,
                Expect::Key | Expect::KeyOrClose if byte == b'"' => {
                    self.token = Token::String(Role::Key);
                    self.wanted = sink.string_begins(Role::Key, self.fed + at, self.depth)?;
                }
                Expect::KeyOrClose if byte == b'}' => self.close(at, sink)?,
                Expect::ValueOrClose if byte == b']' => self.close(at, sink)?,
                Expect::Value | Expect::ValueOrClose => self.value(chunk, at, sink)?,
                Expect::TopObject if byte == b'{' => self.open(true, at, sink)?,
                _ => return Err(self.misplaced(byte, at)),
            }
            at += 1;
            if self.token != Token::None {
                break;
            }
        }
        Ok(at)
    }

    /// The error for a byte that cannot stand where no token is.
    fn misplaced(&self, byte: u8, at: usize) -> InspectError {
        let expected = match self.expect {
            Expect::TopObject if byte == 0xEF => "a JSON object without byte order mark",
            Expect::TopObject => {
                return InspectError::NotAnObject {
                    offset: self.fed + at,
                };
            }
            Expect::Key => "a member name in double quotes",
            Expect::KeyOrClose => "a member name in double quotes or `}`",
            Expect::Colon => "`:` after a member name",
            Expect::CommaOrClose if self.in_object() => "`,` or `}` after a member",
            Expect::CommaOrClose => "`,` or `]` after an element",
            Expect::Value | Expect::ValueOrClose => "a value",
            Expect::Nothing => "nothing after the object",
        };
        self.malformed(at, expected)
    }

    fn comma_or_close(&mut self, byte: u8, at: usize, sink: &mut impl Sink) -> Result<(), InspectError> {
        match (byte, self.in_object()) {
            (b',', true) => self.expect = Expect::Key,
            (b',', false) => self.expect = Expect::Value,
            (b'}', true) | (b']', false) => self.close(at, sink)?,
            _ => return Err(self.misplaced(byte, at)),
        }
        Ok(())
    }

    fn value(&mut self, chunk: &[u8], at: usize, sink: &mut impl Sink) -> Result<(), InspectError> {
        let token = match chunk[at] {
            b'"' => {
                self.token = Token::String(Role::Value);
                self.wanted = sink.string_begins(Role::Value, self.fed + at, self.depth)?;
                return Ok(());
            }
            b'{' => return self.open(true, at, sink),
            b'[' => return self.open(false, at, sink),
            b'-' => Token::Number(Number::Minus),
            b'0' => Token::Number(Number::Zero),
            b'1'..=b'9' => Token::Number(Number::Integer),
            b't' => Token::Literal(b"rue"),
            b'f' => Token::Literal(b"alse"),
            b'n' => Token::Literal(b"ull"),
            byte => return Err(self.misplaced(byte, at)),
        };
        self.token = token;
        self.wanted = sink.scalar_begins(self.fed + at, self.depth)?;
        self.scalar_piece(&chunk[at..=at], sink)
    }

    fn open(&mut self, object: bool, at: usize, sink: &mut impl Sink) -> Result<(), InspectError> {
        if self.depth == MAX_DEPTH {
            return Err(InspectError::TooDeep { limit: MAX_DEPTH });
        }
        sink.container_opens(object, self.fed + at, self.depth)?;
        let bit = 1_u64 << (self.depth % 64);
        if object {
            self.objects[self.depth / 64] |= bit;
        } else {
            self.objects[self.depth / 64] &= !bit;
        }
        self.depth += 1;
        self.expect = if object {
            Expect::KeyOrClose
        } else {
            Expect::ValueOrClose
        };
        Ok(())
    }

    fn close(&mut self, at: usize, sink: &mut impl Sink) -> Result<(), InspectError> {
        self.depth -= 1;
        self.expect = if self.depth == 0 {
            Expect::Nothing
        } else {
            Expect::CommaOrClose
        };
        sink.container_closes(self.fed + at + 1, self.depth)
    }

    fn in_object(&self) -> bool {
        let top = self.depth - 1;
        self.objects[top / 64] >> (top % 64) & 1 == 1
    }

    fn string(
        &mut self,
        role: Role,
        chunk: &[u8],
        start: usize,
        sink: &mut impl Sink,
    ) -> Result<usize, InspectError> {
        let end = memchr2(b'"', b'\\', &chunk[start..]).map_or(chunk.len(), |found| start + found);
        let run = &chunk[start..end];
        if run.iter().fold(u8::MAX, |least, &byte| least.min(byte)) < 0x20 {
            let control = run.iter().position(|&byte| byte < 0x20).unwrap_or(0);
            self.validate_utf8(&run[..control], start, true)?;
            return Err(self.malformed(start + control, "an escape instead of a raw control character"));
        }
        self.validate_utf8(run, start, end < chunk.len())?;
        self.content(run, sink)?;
        match chunk.get(end) {
            None => return Ok(end),
            Some(b'"') => self.end_string(role, end, sink)?,
            Some(_) => self.token = Token::Escape(role),
        }
        Ok(end + 1)
    }

    /// Checks a run of a string; unless it is the end of the string or an escape follows
    /// (`is_closed`), its last character may be continued by the next chunk.
    fn validate_utf8(&mut self, run: &[u8], start: usize, is_closed: bool) -> Result<(), InspectError> {
        let mut at = 0;
        while self.utf8.is_inside() && at < run.len() {
            if !self.utf8.step(run[at]) {
                return Err(self.malformed(start + at, "valid UTF-8"));
            }
            at += 1;
        }
        if let Err(error) = std::str::from_utf8(&run[at..]) {
            at += error.valid_up_to();
            // cut inside a character it is a valid beginning as far as it goes
            while at < run.len() {
                if !self.utf8.step(run[at]) {
                    return Err(self.malformed(start + at, "valid UTF-8"));
                }
                at += 1;
            }
        }
        if is_closed && self.utf8.is_inside() {
            return Err(self.malformed(start + run.len(), "valid UTF-8"));
        }
        Ok(())
    }

    fn content(&mut self, piece: &[u8], sink: &mut impl Sink) -> Result<(), InspectError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.surrogate_stays_alone(sink);
        if self.wanted {
            sink.string_content(piece)
        } else {
            Ok(())
        }
    }

    fn surrogate_stays_alone(&mut self, sink: &mut impl Sink) {
        if self.high_surrogate.take().is_some() && self.wanted {
            sink.lone_surrogate();
        }
    }

    fn end_string(&mut self, role: Role, at: usize, sink: &mut impl Sink) -> Result<(), InspectError> {
        self.surrogate_stays_alone(sink);
        self.token = Token::None;
        self.expect = match role {
            Role::Key => Expect::Colon,
            Role::Value => Expect::CommaOrClose,
        };
        sink.string_ends(role, self.fed + at + 1, self.depth)
    }

    fn escape(
        &mut self,
        role: Role,
        byte: u8,
        at: usize,
        sink: &mut impl Sink,
    ) -> Result<usize, InspectError> {
        let decoded = match byte {
            b'u' => {
                self.token = Token::Unicode {
                    role,
                    digits: 0,
                    unit: 0,
                };
                return Ok(at + 1);
            }
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => return Err(self.malformed(at, "one of the escapes of JSON after `\\`")),
        };
        self.token = Token::String(role);
        self.content(&[decoded], sink)?;
        Ok(at + 1)
    }

    fn unicode(&mut self, byte: u8, at: usize, sink: &mut impl Sink) -> Result<usize, InspectError> {
        let Token::Unicode { role, digits, unit } = self.token else {
            return Ok(at);
        };
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Err(self.malformed(at, "four hexadecimal digits after `\\u`"));
        };
        let unit = unit << 4 | digit as u16;
        if digits < 3 {
            self.token = Token::Unicode {
                role,
                digits: digits + 1,
                unit,
            };
            return Ok(at + 1);
        }
        self.token = Token::String(role);
        match (unit, self.high_surrogate) {
            (0xD800..=0xDBFF, _) => {
                self.surrogate_stays_alone(sink);
                self.high_surrogate = Some(unit);
            }
            (0xDC00..=0xDFFF, Some(high)) => {
                self.high_surrogate = None;
                let code = 0x1_0000 + ((u32::from(high) - 0xD800) << 10) + (u32::from(unit) - 0xDC00);
                self.character(code, sink)?;
            }
            (0xDC00..=0xDFFF, None) => {
                if self.wanted {
                    sink.lone_surrogate();
                }
            }
            _ => self.character(u32::from(unit), sink)?,
        }
        Ok(at + 1)
    }

    fn character(&mut self, code: u32, sink: &mut impl Sink) -> Result<(), InspectError> {
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.content(character.encode_utf8(&mut [0; 4]).as_bytes(), sink)
    }

    fn number(
        &mut self,
        mut state: Number,
        chunk: &[u8],
        start: usize,
        sink: &mut impl Sink,
    ) -> Result<usize, InspectError> {
        let mut at = start;
        while let Some(&byte) = chunk.get(at) {
            state = match (state, byte) {
                (Number::Minus, b'0') => Number::Zero,
                (Number::Minus, b'1'..=b'9') | (Number::Integer, b'0'..=b'9') => Number::Integer,
                (Number::Zero | Number::Integer, b'.') => Number::Point,
                (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
                (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::Exponent,
                (Number::Exponent, b'+' | b'-') => Number::ExponentSign,
                (Number::Exponent | Number::ExponentSign | Number::ExponentDigits, b'0'..=b'9') => {
                    Number::ExponentDigits
                }
                (Number::Zero | Number::Integer | Number::Fraction | Number::ExponentDigits, _) => {
                    self.scalar_piece(&chunk[start..at], sink)?;
                    self.end_scalar(at, sink)?;
                    return Ok(at);
                }
                _ => return Err(self.malformed(at, "a digit")),
            };
            at += 1;
        }
        self.token = Token::Number(state);
        self.scalar_piece(&chunk[start..at], sink)?;
        Ok(at)
    }

    fn literal(
        &mut self,
        rest: &'static [u8],
        chunk: &[u8],
        at: usize,
        sink: &mut impl Sink,
    ) -> Result<usize, InspectError> {
        let [next, rest @ ..] = rest else { return Ok(at) };
        if chunk[at] != *next {
            return Err(self.malformed(at, "`true`, `false` or `null`"));
        }
        self.scalar_piece(&chunk[at..=at], sink)?;
        if rest.is_empty() {
            self.end_scalar(at + 1, sink)?;
        } else {
            self.token = Token::Literal(rest);
        }
        Ok(at + 1)
    }

    fn scalar_piece(&mut self, piece: &[u8], sink: &mut impl Sink) -> Result<(), InspectError> {
        if self.wanted && !piece.is_empty() {
            sink.scalar_content(piece)
        } else {
            Ok(())
        }
    }

    fn end_scalar(&mut self, end: usize, sink: &mut impl Sink) -> Result<(), InspectError> {
        self.token = Token::None;
        self.expect = Expect::CommaOrClose;
        sink.scalar_ends(self.fed + end, self.depth)
    }
}

/// Where inside a multi-byte character the last byte left off.
#[derive(Debug, Default)]
struct Utf8 {
    missing: u8,
    low: u8,
    high: u8,
}

impl Utf8 {
    fn is_inside(&self) -> bool {
        self.missing > 0
    }

    /// Takes one byte; false if it cannot stand here.
    fn step(&mut self, byte: u8) -> bool {
        if self.missing > 0 {
            if byte < self.low || byte > self.high {
                return false;
            }
            self.missing -= 1;
            (self.low, self.high) = (0x80, 0xBF);
            return true;
        }
        (self.missing, self.low, self.high) = match byte {
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return false,
        };
        true
    }
}
