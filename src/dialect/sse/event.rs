//! Reads the fields of one event.

use std::borrow::Cow;

use memchr::memchr2;

/// The fields of one event that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event<'a> {
    /// The last `event` field.
    pub name: Option<&'a [u8]>,
    /// The `data` fields, joined by line feeds; none if there is no such field.
    pub data: Option<Cow<'a, [u8]>>,
}

impl<'a> Event<'a> {
    /// Reads the bytes of one event; a line without an end is read as if it had one.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut event = Self::default();
        let mut rest = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        while !rest.is_empty() {
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            event.line(&rest[..end]);
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        event
    }

    fn line(&mut self, line: &'a [u8]) {
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => self.name = Some(value),
            b"data" => match &mut self.data {
                None => self.data = Some(Cow::Borrowed(value)),
                Some(data) => {
                    let data = data.to_mut();
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_standard_says() {
        for (bytes, name, data) in [
            ("data: a\n\n", None, Some("a")),
            ("data:a\r\n\r\n", None, Some("a")),
            ("data:  a\r\r", None, Some(" a")),
            ("data\n\n", None, Some("")),
            ("\u{feff}event: x\ndata: {\ndata: }\n\n", Some("x"), Some("{\n}")),
            (": data: a\nid: 7\n\n", None, None),
            ("\n\n", None, None),
            (
                "event: a\nevent:b\ndata: unfinished",
                Some("b"),
                Some("unfinished"),
            ),
        ] {
            let event = Event::parse(bytes.as_bytes());
            assert_eq!(event.name, name.map(str::as_bytes), "{bytes:?}");
            assert_eq!(event.data.as_deref(), data.map(str::as_bytes), "{bytes:?}");
        }
    }
}
