//! Steps over the members of a JSON text that is wholly in memory, without building a document.
//!
//! For provider answers: it never panics and never recurses, finds what is there in well-formed JSON,
//! and stops at the first thing it does not understand. It does not validate what it steps over.

use memchr::memchr2;

/// A value as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string: what stands between its quotes, escapes not decoded.
    String(&'a [u8]),
    /// A number, `true`, `false` or `null` as written.
    Scalar(&'a [u8]),
    /// An object, brackets included.
    Object(&'a [u8]),
    /// An array, brackets included.
    Array(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The value at the front of `text`, after white space.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        Reader::new(text).value()
    }

    /// It is `null`.
    pub fn is_null(self) -> bool {
        self == Self::Scalar(b"null")
    }

    /// The content of a string without escapes.
    pub fn as_plain_text(self) -> Option<&'a str> {
        match self {
            Self::String(text) if !text.contains(&b'\\') => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// A plain non-negative integer.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Self::Scalar(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// The members of an object, names with escapes not decoded; nothing for other values.
    pub fn members(self) -> Members<'a> {
        let text = if let Self::Object(text) = self { text } else { b"" };
        Members(Reader {
            text,
            at: usize::from(!text.is_empty()),
        })
    }

    /// The first member of this name.
    pub fn member(self, name: &[u8]) -> Option<Self> {
        self.members()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

/// See [`Value::members`].
#[derive(Debug)]
pub struct Members<'a>(Reader<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.0.next_member()?;
        Some((name, self.0.value()?))
    }
}

/// Walks through a text once, entering the containers that matter and stepping over the others.
///
/// After [`Reader::next_member`] gave a name, or [`Reader::next_element`] true, one value must be
/// taken: by [`Reader::value`], or by entering it and going on to its end.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the front of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Enters the object that stands next; false, and nothing is taken, if none does.
    pub fn enter_object(&mut self) -> bool {
        self.enter(b'{')
    }

    /// Enters the array that stands next; false, and nothing is taken, if none does.
    pub fn enter_array(&mut self) -> bool {
        self.enter(b'[')
    }

    fn enter(&mut self, bracket: u8) -> bool {
        self.skip_separators();
        let found = self.text.get(self.at) == Some(&bracket);
        self.at += usize::from(found);
        found
    }

    /// The name of the next member of the object entered last; none at its end, which is taken.
    pub fn next_member(&mut self) -> Option<&'a [u8]> {
        self.skip_separators();
        match self.text.get(self.at)? {
            b'"' => match self.value()? {
                Value::String(name) => Some(name),
                _ => None,
            },
            b'}' => {
                self.at += 1;
                None
            }
            _ => None,
        }
    }

    /// Whether the array entered last has one more element; its end is taken.
    pub fn next_element(&mut self) -> bool {
        self.skip_separators();
        match self.text.get(self.at) {
            None => false,
            Some(b']') => {
                self.at += 1;
                false
            }
            Some(_) => true,
        }
    }

    /// Takes the value that stands next.
    pub fn value(&mut self) -> Option<Value<'a>> {
        self.skip_separators();
        let start = self.at;
        match *self.text.get(start)? {
            b'"' => {
                self.at = string_end(self.text, start + 1)?;
                Some(Value::String(&self.text[start + 1..self.at - 1]))
            }
            b'{' => self
                .container()
                .map(|()| Value::Object(&self.text[start..self.at])),
            b'[' => self
                .container()
                .map(|()| Value::Array(&self.text[start..self.at])),
            b't' | b'f' | b'n' | b'-' | b'0'..=b'9' => {
                self.skip_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'));
                Some(Value::Scalar(&self.text[start..self.at]))
            }
            _ => None,
        }
    }

    fn skip_separators(&mut self) {
        self.skip_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':'));
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.text.get(self.at).is_some_and(|&byte| wanted(byte)) {
            self.at += 1;
        }
    }

    /// Steps over a container. One that the text cuts off reaches to its end, so that what stands
    /// before the cut can still be read.
    fn container(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        while let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => self.at = string_end(self.text, self.at).unwrap_or(self.text.len()),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        break;
                    }
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// One past the closing quote of a string whose content starts at `at`.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elements(value: Value<'_>) -> Vec<Value<'_>> {
        let Value::Array(text) = value else {
            return Vec::new();
        };
        let (mut reader, mut elements) = (Reader::new(text), Vec::new());
        assert!(reader.enter_array());
        while reader.next_element()
            && let Some(element) = reader.value()
        {
            elements.push(element);
        }
        elements
    }

    #[test]
    fn members_are_stepped_over() {
        let text = br#" {"a": [1, {"b":"}]"}], "c\"" :"x\"y" , "d":null,"e":-1.5e+3} tail"#;
        let value = Value::parse(text).expect("a value");
        let members: Vec<_> = value.members().collect();
        assert_eq!(members.len(), 4);
        assert_eq!(elements(members[0].1).len(), 2);
        assert_eq!(members[1], (&br#"c\""#[..], Value::String(br#"x\"y"#)));
        assert!(value.member(b"d").is_some_and(Value::is_null));
        assert_eq!(value.member(b"e"), Some(Value::Scalar(b"-1.5e+3")));
        assert_eq!(value.member(b"b"), None);
    }

    #[test]
    fn what_stands_before_a_cut_is_read() {
        let text = br#"{"type":"response.completed","sequence_number":7,"response":{"output":["unfin"#;
        let value = Value::parse(text).expect("a value");
        assert_eq!(
            value.member(b"type").and_then(Value::as_plain_text),
            Some("response.completed")
        );
        assert_eq!(value.member(b"sequence_number").and_then(Value::as_u64), Some(7));
    }

    fn document() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<String>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<bool>().prop_map(serde_json::Value::from),
            Just(serde_json::Value::Null),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[a-z\"{}]{0,4}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    fn rebuild(value: Value<'_>) -> serde_json::Value {
        let string = |raw: &[u8]| {
            let quoted = [b"\"", raw, b"\""].concat();
            serde_json::from_slice::<String>(&quoted).expect("a string")
        };
        match value {
            Value::String(raw) => string(raw).into(),
            Value::Scalar(raw) => serde_json::from_slice(raw).expect("a scalar"),
            Value::Array(_) => elements(value)
                .into_iter()
                .map(rebuild)
                .collect::<Vec<_>>()
                .into(),
            Value::Object(_) => {
                let members = value
                    .members()
                    .map(|(name, value)| (string(name), rebuild(value)));
                members.collect::<serde_json::Map<_, _>>().into()
            }
        }
    }

    proptest! {
        #[test]
        fn a_document_is_read_as_a_full_parser_reads_it(document in document(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
            let text = text.expect("text");
            prop_assert_eq!(rebuild(Value::parse(text.as_bytes()).expect("a value")), document);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\a1 ]{0,40}") {
            if let Some(value) = Value::parse(text.as_bytes()) {
                let _ = value.members().count() + elements(value).len();
            }
        }
    }
}
