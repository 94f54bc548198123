//! Reads typed values out of one mapping of the tree, and reports what is wrong with each.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::error::{Faults, shown};
use super::path::KeyPath;
use super::tree::{Node, Place, Scalar, Source, Value};
use super::units::{DURATION_SHAPE, SIZE_SHAPE, format_duration, format_size, parse_duration, parse_size};
use crate::domain::Secret;
use crate::domain::money::NotAnAmount;

/// The shortest useful time-out.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
/// The longest duration that any key takes.
pub(super) const TEN_YEARS: Duration = Duration::from_hours(3650 * 24);

/// A mapping of the configuration, or its absence.
#[derive(Clone)]
pub(super) struct Section<'a> {
    node: Option<&'a Node>,
    path: KeyPath,
    faults: &'a Faults,
}

/// A string of a list, and where it stands.
pub(super) struct Item<'a> {
    pub text: String,
    node: &'a Node,
    path: KeyPath,
}

impl<'a> Section<'a> {
    pub fn root(node: &'a Node, faults: &'a Faults) -> Self {
        Self {
            node: Some(node),
            path: KeyPath::default(),
            faults,
        }
    }

    pub fn section(&self, key: &str) -> Self {
        Self {
            node: self.node.and_then(|node| node.get(key)),
            path: self.path.key(key),
            faults: self.faults,
        }
    }

    /// The mapping's keys in order, each with its mapping; `None` stands for null.
    pub fn named(&self, key: &str) -> Vec<(String, Option<Self>)> {
        let parent = self.section(key);
        let entries = parent.node.map_or(&[][..], Node::entries);
        entries
            .iter()
            .map(|entry| {
                let section = Some(parent.section(&entry.key)).filter(|_| !entry.node.is_null());
                (entry.key.clone(), section)
            })
            .collect()
    }

    /// The mappings of a list of mappings.
    pub fn items(&self, key: &str) -> Vec<Self> {
        let Some(node) = self.value(key) else {
            return Vec::new();
        };
        let path = self.path.key(key);
        let Value::List(items) = &node.value else {
            self.faults
                .at_node(node, &path, "must be a list, lines that begin with `- `");
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            if matches!(item.value, Value::Map(_)) {
                sections.push(Self {
                    node: Some(item),
                    path,
                    faults: self.faults,
                });
            } else {
                self.faults
                    .at_node(item, &path, "must be a mapping, `{key: value, …}`");
            }
        }
        sections
    }

    /// Whether the key is set to anything but null.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Whether the key is there, null included.
    pub fn is_present(&self, key: &str) -> bool {
        self.node.is_some_and(|node| node.get(key).is_some())
    }

    /// Whether the key is set to something: not null, not empty, not `none`.
    pub fn is_set(&self, key: &str) -> bool {
        self.has(key) && !self.is_empty_text(key) && !self.is_text(key, "none")
    }

    /// Whether the value is exactly that word.
    pub fn is_text(&self, key: &str, word: &str) -> bool {
        self.value(key).is_some_and(|node| match &node.value {
            Value::Scalar(scalar) => scalar.text.trim().eq_ignore_ascii_case(word),
            _ => false,
        })
    }

    /// Whether the value is `""`, which some keys take for "off".
    pub fn is_empty_text(&self, key: &str) -> bool {
        let node = self.node.and_then(|node| node.get(key));
        node.is_some_and(|node| match &node.value {
            Value::Scalar(scalar) => {
                scalar.text.is_empty() && (!scalar.plain || matches!(node.place, Place::Variable(_)))
            }
            _ => false,
        })
    }

    /// Whether a reference in the value could not be resolved.
    pub fn is_broken(&self, key: &str) -> bool {
        self.value(key).is_some_and(is_broken)
    }

    /// Whether the value is `[]`.
    pub fn is_empty_list(&self, key: &str) -> bool {
        self.value(key)
            .is_some_and(|node| matches!(&node.value, Value::List(items) if items.is_empty()))
    }

    /// Whether the key is set by the file rather than by a variable.
    pub fn is_in_file(&self, key: &str) -> bool {
        self.node.is_some_and(|node| {
            node.entries()
                .iter()
                .any(|entry| entry.key == key && matches!(entry.place, Place::File { .. }))
        })
    }

    /// A fault at the key's value, or at the section's place when the key is absent.
    pub fn refuse(&self, key: &str, message: &str) {
        let path = self.path.key(key);
        match self.node.and_then(|node| node.get(key)) {
            Some(node) => self.faults.at_node(node, &path, message),
            None => match self.node {
                Some(node) if !self.path.0.is_empty() => {
                    self.faults
                        .at_key(&node.place, &path, &format!("`{path}`: {message}"));
                }
                _ => self.faults.absent(&path, message),
            },
        }
    }

    /// The value as a message may name it: never a secret, never what a variable held.
    pub fn shown(&self, key: &str) -> String {
        match self.value(key).map(|node| &node.value) {
            Some(Value::Scalar(scalar)) => shown(scalar, &self.path.key(key)),
            _ => "[none]".to_owned(),
        }
    }

    /// A fault of one item of a list.
    pub fn refuse_item(&self, item: &Item<'_>, message: &str) {
        self.faults
            .at_node(item.node, &item.path, &format!("`{}` {message}", item.text));
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.scalar(key, |value| {
            let text = value.text().to_ascii_lowercase();
            let lenient = value.lenient
                || matches!(
                    value.text(),
                    "true" | "True" | "TRUE" | "false" | "False" | "FALSE"
                );
            match text.as_str() {
                "1" | "t" | "true" | "y" | "yes" | "on" if lenient && (value.scalar.plain) => Ok(true),
                "0" | "f" | "false" | "n" | "no" | "off" if lenient && (value.scalar.plain) => Ok(false),
                _ => Err("is no boolean; write `true` or `false`".to_owned()),
            }
        })
        .unwrap_or(default)
    }

    pub fn duration(&self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.scalar(key, |value| value.duration(&range))
            .unwrap_or(default)
    }

    pub fn optional_duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.optional(key, |value| value.duration(&range))
    }

    pub fn size(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.scalar(key, |value| {
            let size = parse_size(value.text()).ok_or_else(|| format!("is no size; write {SIZE_SHAPE}"))?;
            in_range(size, &range, |bytes| format_size(*bytes))
        })
        .unwrap_or(default)
    }

    pub fn number<T>(&self, key: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        self.scalar(key, |value| value.number(&range)).unwrap_or(default)
    }

    /// A number with a point, as its own type reads it.
    pub fn fraction<T: FromStr<Err = String>>(&self, key: &str, default: T) -> T {
        self.scalar(key, |value| value.text().parse()).unwrap_or(default)
    }

    pub fn optional_number<T>(&self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        self.optional(key, |value| value.number(&range))
    }

    /// Dollars, with at most nine decimals, up to `most`.
    pub fn dollars<T>(&self, key: &str, most: T) -> Option<T>
    where
        T: FromStr<Err = NotAnAmount> + PartialOrd + Display,
    {
        self.optional(key, |value| {
            let amount: T = value
                .text()
                .parse()
                .map_err(|error: NotAnAmount| error.to_string())?;
            if amount > most {
                return Err(format!("is more than {most} dollars"));
            }
            Ok(amount)
        })
    }

    /// One of some words; those of `later` are known and not supported in this version.
    pub fn choice<T: Copy>(&self, key: &str, default: T, words: &[(&str, T)], later: &[&str]) -> T {
        self.scalar(key, |value| {
            let text = if value.lenient {
                value.text().to_ascii_lowercase()
            } else {
                value.text().to_owned()
            };
            if let Some((_, found)) = words.iter().find(|(word, _)| *word == text) {
                return Ok(*found);
            }
            let list: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let verdict = if later.contains(&text.as_str()) {
                "is not supported in this version"
            } else {
                "is not known here"
            };
            Err(format!("{verdict}; write {}", list.join(" or ")))
        })
        .unwrap_or(default)
    }

    /// A string that is not empty.
    pub fn text(&self, key: &str) -> Option<String> {
        self.optional(key, |value| value.string().map(str::to_owned))
    }

    /// A secret without spaces, line ends or characters that no header can carry.
    pub fn secret(&self, key: &str) -> Option<Secret> {
        self.optional(key, |value| value.secret())
    }

    /// What a header may carry: visible characters and spaces between them.
    pub fn header_value(&self, key: &str) -> Option<Secret> {
        self.optional(key, |value| {
            let text = value.string()?;
            if text.trim() != text || !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
                return Err("cannot be a header's value".to_owned());
            }
            Ok(Secret::new(text))
        })
    }

    pub fn file_path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A value that parses itself; its complaint follows the value: `is no http or https address`.
    pub fn parsed<T: FromStr<Err = String>>(&self, key: &str) -> Option<T> {
        self.optional(key, |value| value.string()?.parse())
    }

    /// A list of strings; `None` when absent.
    pub fn list(&self, key: &str) -> Option<Vec<Item<'a>>> {
        let node = self.value(key)?;
        let path = self.path.key(key);
        let Value::List(items) = &node.value else {
            if self.is_text(key, "none") || self.is_empty_text(key) {
                return Some(Vec::new());
            }
            if !is_broken(node) {
                self.faults.at_node(
                    node,
                    &path,
                    "must be a list, `[a, b]` or lines that begin with `- `",
                );
            }
            return None;
        };
        let mut list = Vec::new();
        for (index, node) in items.iter().enumerate() {
            let path = path.index(index);
            let text = self.read(node, &path, |value| value.string().map(str::to_owned));
            list.extend(text.map(|text| Item { text, node, path }));
        }
        Some(list)
    }

    /// A list whose items pass `check`; its complaint follows the item. `default` when absent.
    pub fn checked_list<T>(
        &self,
        key: &str,
        default: Vec<T>,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(items) = self.list(key) else {
            return default;
        };
        let mut list = Vec::new();
        for item in &items {
            match check(&item.text) {
                Ok(value) => list.push(value),
                Err(message) => self.refuse_item(item, &message),
            }
        }
        list
    }

    /// One string or a list of them: a list in either case.
    pub fn one_or_list(&self, key: &str) -> Option<Vec<Item<'a>>> {
        let node = self.value(key)?;
        if matches!(node.value, Value::List(_)) {
            return self.list(key);
        }
        let path = self.path.key(key);
        let text = self.read(node, &path, |value| value.string().map(str::to_owned))?;
        Some(vec![Item { text, node, path }])
    }

    /// The secrets of a list whose items are secrets or mappings with a `key`.
    /// A list of secrets, each by itself or as `key` of a section that says more of it.
    pub fn secrets(&self, key: &str) -> Vec<(Option<Self>, Secret)> {
        let Some(node) = self.value(key) else {
            return Vec::new();
        };
        let path = self.path.key(key);
        let Value::List(items) = &node.value else {
            self.faults.at_node(node, &path, "must be a list of keys");
            return Vec::new();
        };
        let item = |(index, item): (usize, &'a Node)| match &item.value {
            Value::Map(_) => {
                let section = Self {
                    node: Some(item),
                    path: path.index(index),
                    faults: self.faults,
                };
                if !section.has("key") {
                    section.refuse("key", "is missing");
                }
                let secret = section.secret("key")?;
                Some((Some(section), secret))
            }
            _ => self
                .read(item, &path.index(index), |value| value.secret())
                .map(|secret| (None, secret)),
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    /// The value unless it is absent or null.
    fn value(&self, key: &str) -> Option<&'a Node> {
        self.node?.get(key).filter(|node| !node.is_null())
    }

    fn scalar<T>(&self, key: &str, parse: impl FnOnce(Reading<'_>) -> Result<T, String>) -> Option<T> {
        let node = self.node?.get(key)?;
        let path = self.path.key(key);
        if node.is_null() && !is_broken(node) {
            self.faults.at_node(
                node,
                &path,
                "has no value; write one, or remove the key for its default",
            );
            return None;
        }
        self.read(node, &path, parse)
    }

    fn optional<T>(&self, key: &str, parse: impl FnOnce(Reading<'_>) -> Result<T, String>) -> Option<T> {
        let node = self.value(key)?;
        if matches!(&node.value, Value::Scalar(scalar) if scalar.text.is_empty() || scalar.text.as_str() == "none")
        {
            return None;
        }
        self.read(node, &self.path.key(key), parse)
    }

    fn read<T>(
        &self,
        node: &Node,
        path: &KeyPath,
        parse: impl FnOnce(Reading<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let Value::Scalar(scalar) = &node.value else {
            self.faults
                .at_node(node, path, "must be one value, not a list or a mapping");
            return None;
        };
        if scalar.source == Source::Broken {
            return None;
        }
        let lenient = matches!(node.place, Place::Variable(_));
        match parse(Reading { scalar, lenient }) {
            Ok(value) => Some(value),
            Err(message) => {
                self.faults
                    .at_node(node, path, &format!("{} {message}", shown(scalar, path)));
                None
            }
        }
    }
}

fn is_broken(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(scalar) if scalar.source == Source::Broken)
}

fn in_range<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    write: impl Fn(&T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "is out of range; write {} to {}",
        write(range.start()),
        write(range.end())
    ))
}

/// A scalar about to be read.
struct Reading<'a> {
    scalar: &'a Scalar,
    /// Environment variables know no quotes and no case.
    lenient: bool,
}

impl<'a> Reading<'a> {
    fn text(&self) -> &'a str {
        if self.lenient {
            self.scalar.text.trim()
        } else {
            self.scalar.text.as_str()
        }
    }

    fn string(&self) -> Result<&'a str, String> {
        if self.text().is_empty() {
            return Err("is empty; write something or remove the key".to_owned());
        }
        if !self.lenient && self.scalar.source == Source::Literal && self.scalar.is_number_or_bool() {
            return Err("is a number or a boolean; put it into quotes".to_owned());
        }
        if self.text().chars().any(char::is_control) {
            return Err("has a control character in it".to_owned());
        }
        Ok(self.text())
    }

    fn secret(&self) -> Result<Secret, String> {
        let text = self.string()?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a space or a character in it that no header can carry".to_owned());
        }
        Ok(Secret::new(text))
    }

    fn duration(&self, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
        let duration =
            parse_duration(self.text()).ok_or_else(|| format!("is no duration; write {DURATION_SHAPE}"))?;
        in_range(duration, range, |duration| format_duration(*duration))
    }

    fn number<T>(&self, range: &RangeInclusive<T>) -> Result<T, String>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        if !self.scalar.plain {
            return Err("is a string; write the number without quotes".to_owned());
        }
        let number = self
            .text()
            .parse()
            .map_err(|_| format!("is no whole number from {} to {}", range.start(), range.end()))?;
        in_range(number, range, T::to_string)
    }
}

/// The largest number of a kind as the end of a range of `NonZero` values.
pub(super) const ANY_RATE: RangeInclusive<NonZeroU32> = NonZeroU32::MIN..=NonZeroU32::MAX;
