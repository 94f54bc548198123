//! Turns YAML into a tree in which every value knows where it stands.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use zeroize::Zeroizing;

/// Deepest nesting accepted.
const MAX_DEPTH: usize = 32;
/// Most values accepted, those that aliases repeat counted each time.
const MAX_NODES: usize = 100_000;

/// Where something stands; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file.
    File {
        /// Line.
        line: usize,
        /// First column.
        column: usize,
        /// Column after the last one, when it ends on the same line.
        end_column: Option<usize>,
    },
    /// In an environment variable of that name.
    Variable(String),
}

/// A value and where it stands.
#[derive(Clone, PartialEq)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
}

/// What a value is.
#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

/// A scalar before it has a type.
#[derive(Clone, PartialEq)]
pub(super) struct Scalar {
    pub text: Zeroizing<String>,
    /// Whether it was written without quotes, so that `null`, `true` and `5` are not strings.
    pub plain: bool,
    pub source: Source,
}

/// Where the text of a scalar comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// It is what is written.
    Literal,
    /// Variables were put in; this was written.
    Interpolated(String),
    /// A file was put in; never shown.
    File,
    /// A reference could not be resolved; the fault is reported already.
    Broken,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // WHY: any scalar may be a secret, or its beginning.
        write!(f, "Node({:?})", self.place)
    }
}

impl Scalar {
    pub fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Whether YAML reads it as a number or a boolean.
    pub fn is_number_or_bool(&self) -> bool {
        let text = self.text.as_str();
        self.plain
            && (matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
                || text.parse::<i128>().is_ok()
                || (text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
                    && text.parse::<f64>().is_ok()))
    }
}

impl Node {
    pub fn variable(name: &str, text: String) -> Self {
        let scalar = Scalar {
            text: Zeroizing::new(text),
            plain: true,
            source: Source::Literal,
        };
        Self {
            value: Value::Scalar(scalar),
            place: Place::Variable(name.to_owned()),
        }
    }

    pub fn empty_map() -> Self {
        Self {
            value: Value::Map(Vec::new()),
            place: Place::File {
                line: 1,
                column: 1,
                end_column: None,
            },
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Puts `node` at `path`, making the mappings above it; whatever stood in the way is replaced.
    pub fn set(&mut self, path: &[&str], node: Self) {
        let Some((key, below)) = path.split_first() else {
            *self = node;
            return;
        };
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else {
            return;
        };
        let index = entries
            .iter()
            .position(|entry| entry.key == *key)
            .unwrap_or_else(|| {
                let mut empty = Self::empty_map();
                empty.place = node.place.clone();
                entries.push(Entry {
                    key: (*key).to_owned(),
                    place: node.place.clone(),
                    node: empty,
                });
                entries.len() - 1
            });
        entries[index].node.set(below, node);
    }

    /// Takes away what stands at `path`.
    pub fn remove(&mut self, path: &[&str]) {
        let Value::Map(entries) = &mut self.value else {
            return;
        };
        match path {
            [] => {}
            [key] => entries.retain(|entry| entry.key != *key),
            [key, below @ ..] => {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.key == *key) {
                    entry.node.remove(below);
                }
            }
        }
    }

    /// Whether both say the same, wherever they stand.
    pub fn same(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Scalar(a), Value::Scalar(b)) => {
                a.text == b.text && (a.plain == b.plain || !(a.is_null() || b.is_null()))
            }
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b)
                        .all(|(a, b)| a.key == b.key && a.node.same(&b.node))
            }
            _ => false,
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.count()).sum(),
        }
    }
}

/// A fault of the text itself.
#[derive(Debug)]
pub(super) struct TextFault {
    pub place: Place,
    pub message: String,
}

/// Reads one YAML document. A fault of syntax ends the reading; duplicate keys are collected.
pub(super) fn parse(text: &str, duplicates: &mut Vec<TextFault>) -> Result<Node, TextFault> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        duplicates,
    };
    let mut document = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) if document.is_some() => {
                return Err(fault(span, "a second document begins here; write one document"));
            }
            Event::DocumentStart(_) => {
                let (event, span) = builder.next()?;
                document = Some(builder.node(event, span, 0)?);
            }
            _ => {}
        }
    }
    Ok(document.unwrap_or_else(Node::empty_map))
}

struct Builder<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    duplicates: &'a mut Vec<TextFault>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), TextFault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(TextFault {
                place: Place::File {
                    line: error.marker().line(),
                    column: error.marker().col() + 1,
                    end_column: None,
                },
                message: format!("this is not YAML: {}", error.info()),
            }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, TextFault> {
        self.grow(1, span)?;
        if depth > MAX_DEPTH {
            return Err(fault(span, "this is nested too deeply"));
        }
        let (value, anchor, tagged) = match event {
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(fault(span, "an alias cannot stand inside the value it repeats"));
                };
                self.grow(node.count(), span)?;
                return Ok(Node {
                    value: node.value,
                    place: place(span),
                });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Scalar {
                    text: Zeroizing::new(text.into_owned()),
                    plain: style == ScalarStyle::Plain,
                    source: Source::Literal,
                };
                (Value::Scalar(scalar), anchor, tag.is_some())
            }
            Event::SequenceStart(anchor, tag) => (self.list(depth)?, anchor, tag.is_some()),
            Event::MappingStart(anchor, tag) => (self.map(depth)?, anchor, tag.is_some()),
            _ => return Err(fault(span, "a value is missing here")),
        };
        if tagged {
            return Err(fault(
                span,
                "tags such as `!!str` are not supported; write the value without it",
            ));
        }
        let node = Node {
            value,
            place: place(span),
        };
        if anchor > 0 {
            self.grow(node.count(), span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, TextFault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, TextFault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, _, 0, None) => text.into_owned(),
                _ => return Err(fault(span, "a key must be a plain word or a quoted string")),
            };
            if key == "<<" {
                return Err(fault(span, "merge keys are not supported; repeat the keys here"));
            }
            let (event, value_span) = self.next()?;
            let node = self.node(event, value_span, depth + 1)?;
            if let Some(line) = lines.insert(key.clone(), span.start.line()) {
                let message = format!("key `{key}` stands here a second time; it is on line {line} already");
                self.duplicates.push(TextFault {
                    place: place(span),
                    message,
                });
                lines.insert(key, line);
            } else {
                entries.push(Entry {
                    key,
                    place: place(span),
                    node,
                });
            }
        }
    }

    fn grow(&mut self, by: usize, span: Span) -> Result<(), TextFault> {
        self.nodes = self.nodes.saturating_add(by);
        if self.nodes > MAX_NODES {
            Err(fault(span, "there are too many values"))
        } else {
            Ok(())
        }
    }
}

fn place(span: Span) -> Place {
    let same_line = span.end.line() == span.start.line() && span.end.col() > span.start.col();
    Place::File {
        line: span.start.line(),
        column: span.start.col() + 1,
        end_column: same_line.then(|| span.end.col() + 1),
    }
}

fn fault(span: Span, message: &str) -> TextFault {
    TextFault {
        place: place(span),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(Node, Vec<TextFault>), TextFault> {
        let mut duplicates = Vec::new();
        parse(text, &mut duplicates).map(|node| (node, duplicates))
    }

    fn text_at(node: &Node, path: &[&str]) -> String {
        match &node.at(path).unwrap().value {
            Value::Scalar(scalar) => scalar.text.to_string(),
            _ => panic!("no scalar at {path:?}"),
        }
    }

    #[test]
    fn every_value_knows_its_place() {
        let (node, _) = read("server:\n  listen: ':80'\n  list: [a, 5]\n").unwrap();
        assert_eq!(text_at(&node, &["server", "listen"]), ":80");
        let place = &node.at(&["server", "listen"]).unwrap().place;
        assert_eq!(
            *place,
            Place::File {
                line: 2,
                column: 11,
                end_column: Some(16)
            }
        );
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        for text in ["", "\n", "# nothing\n", "---\n"] {
            let (node, _) = read(text).unwrap();
            assert!(node.entries().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_duplicate_key_is_named_and_the_first_one_stays() {
        let (node, duplicates) = read("a: 1\nb: 2\na: 3\na: 4\n").unwrap();
        assert_eq!(text_at(&node, &["a"]), "1");
        assert_eq!(duplicates.len(), 2);
        assert_eq!(
            duplicates[1].message,
            "key `a` stands here a second time; it is on line 1 already"
        );
    }

    #[test]
    fn aliases_repeat_their_value() {
        let (node, _) = read("a: &x {b: 1}\nc: *x\n").unwrap();
        assert_eq!(text_at(&node, &["c", "b"]), "1");
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            text.extend(["a", &i.to_string(), ": &a", &i.to_string(), " [", &list, "]\n"]);
        }
        assert_eq!(read(&text).unwrap_err().message, "there are too many values");
    }

    #[test]
    fn what_is_not_supported_says_so() {
        for (text, part) in [
            ("a: !!str 5", "tags"),
            ("<<: {a: 1}", "merge keys"),
            ("? [a]\n: b", "key must be"),
            ("a: 1\n---\nb: 2", "second document"),
            ("a: [1, 2", "not YAML"),
            ("a: &x [*x]", "inside the value"),
            (
                &format!("a: {}", "[".repeat(60) + &"]".repeat(60)),
                "nested too deeply",
            ),
        ] {
            assert!(read(text).unwrap_err().message.contains(part), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[ \\n\\ta-c:\\[\\]{},&*!|>'\"#%@`?<~0-9-]{0,60}") {
            let _ = read(&text);
        }
    }
}
