//! JSON bodies in one form, so that the same question has one key: members sorted, white space gone.
//!
//! Strings and numbers stay as they are written, and a name that occurs twice stays twice: two bodies that a
//! provider could read differently never get the same form.

/// Deeper nesting is copied as it stands.
const MAX_DEPTH: u32 = 64;

/// The canonical form of a JSON text; a text that is none is answered as it is. Bodies above 1 MiB belong on
/// the blocking pool.
pub fn canonical_json(body: &[u8]) -> Vec<u8> {
    let mut writer = Writer {
        input: body,
        at: 0,
        out: Vec::with_capacity(body.len()),
    };
    let whole = writer.value(0).is_some() && {
        writer.skip_space();
        writer.at == body.len()
    };
    if whole { writer.out } else { body.to_vec() }
}

struct Writer<'a> {
    input: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn skip_space(&mut self) {
        while self
            .input
            .get(self.at)
            .is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
        {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.input.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| {
            self.at += 1;
            self.out.push(byte);
        })
    }

    fn value(&mut self, depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            _ => self.scalar(),
        }
    }

    fn array(&mut self, depth: u32) -> Option<()> {
        self.take(b'[')?;
        if self.peek()? == b']' {
            return self.take(b']');
        }
        loop {
            self.value(depth + 1)?;
            match self.peek()? {
                b',' => self.take(b',')?,
                _ => return self.take(b']'),
            }
        }
    }

    fn object(&mut self, depth: u32) -> Option<()> {
        self.take(b'{')?;
        let start = self.out.len();
        if self.peek()? == b'}' {
            return self.take(b'}');
        }
        // (start of the member, end of its name, end of the member), all within `out`
        let mut members: Vec<(usize, usize, usize)> = Vec::new();
        loop {
            let from = self.out.len();
            if self.peek()? != b'"' {
                return None;
            }
            self.string()?;
            let name_end = self.out.len();
            self.take(b':')?;
            self.value(depth + 1)?;
            members.push((from, name_end, self.out.len()));
            if self.peek()? != b',' {
                break;
            }
            self.at += 1;
        }
        let written = self.out.split_off(start);
        let slice = |from: usize, to: usize| &written[from - start..to - start];
        members.sort_by(|a, b| slice(a.0, a.1).cmp(slice(b.0, b.1)));
        for (index, (from, _, to)) in members.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(slice(from, to));
        }
        self.take(b'}')
    }

    fn string(&mut self) -> Option<()> {
        let from = self.at;
        let mut at = from + 1;
        loop {
            let next = memchr::memchr2(b'"', b'\\', self.input.get(at..)?)?;
            at += next;
            if self.input[at] == b'"' {
                break;
            }
            at += 2;
        }
        self.at = at + 1;
        self.out.extend_from_slice(&self.input[from..self.at]);
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        let rest = &self.input[self.at..];
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'))
            .unwrap_or(rest.len());
        let text = &rest[..end];
        let fine = text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        (fine && !text.is_empty()).then(|| {
            self.at += end;
            self.out.extend_from_slice(text);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn form(text: &str) -> String {
        String::from_utf8(canonical_json(text.as_bytes())).unwrap()
    }

    #[test]
    fn order_and_white_space_do_not_matter_and_everything_else_does() {
        assert_eq!(
            form(" { \"b\" : [ 1 , {\"y\":0, \"x\":1.0} ] , \"a\" : \"q,}\\\"\" } "),
            r#"{"a":"q,}\"","b":[1,{"x":1.0,"y":0}]}"#
        );
        assert_ne!(form(r#"{"a":1.0}"#), form(r#"{"a":1}"#));
        assert_ne!(form(r#"{"a":1,"a":2}"#), form(r#"{"a":2,"a":1}"#));
        assert_ne!(form("[1,2]"), form("[2,1]"));
        assert_ne!(
            form(r#"{"n":18446744073709551616}"#),
            form(r#"{"n":18446744073709551617}"#)
        );
    }

    #[test]
    fn what_is_no_json_stays_as_it_is() {
        let deep = "[".repeat(500) + &"]".repeat(500);
        for text in [
            "",
            "{",
            "{\"a\"}",
            "[1,]x",
            "{\"b\":1} {}",
            "{b:1}",
            "\"\\",
            &deep,
        ] {
            assert_eq!(form(text), text);
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,3}", inner), 0..4)
                    .prop_map(|members| { Value::Object(members.into_iter().collect()) }),
            ]
        })
    }

    fn reversed(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                Value::Object(map.iter().rev().map(|(k, v)| (k.clone(), reversed(v))).collect())
            }
            Value::Array(items) => items.iter().map(reversed).collect(),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn the_form_means_the_same_and_is_the_same_for_any_order(value in json()) {
            let compact = serde_json::to_string(&value).unwrap();
            let other = serde_json::to_string_pretty(&reversed(&value)).unwrap();
            prop_assert_eq!(form(&compact), form(&other));
            prop_assert_eq!(serde_json::from_str::<Value>(&form(&compact)).unwrap(), value);
            prop_assert_eq!(form(&form(&compact)), form(&compact));
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            canonical_json(&bytes);
        }

        #[test]
        fn no_almost_json_panics(text in "[\\[\\]{}\",:\\\\a1 .]{0,40}") {
            canonical_json(text.as_bytes());
        }
    }
}
