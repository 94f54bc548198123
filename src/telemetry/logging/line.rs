//! Log lines as JSON objects and as text for people.

use std::fmt::Display;
use std::io::Write;

use crate::domain::Timestamp;

use super::super::fields;

/// Takes the fields of one line. Writing to memory cannot fail, hence no results.
pub(in crate::telemetry) trait LineWriter: Sized {
    /// A field whose value is text.
    fn text(&mut self, name: &str, value: &dyn Display);
    /// A field whose value is a whole number.
    fn number(&mut self, name: &str, value: u64);
    /// A field whose value is a number with a fraction.
    fn float(&mut self, name: &str, value: f64);
    /// A field whose value is a number, true or false as it stands.
    fn literal(&mut self, name: &str, value: &dyn Display);
    /// Ends the line.
    fn end(self);

    /// A field that is left out when it has no value.
    fn optional<T: Display>(&mut self, name: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }
}

/// A JSON object a line.
pub(in crate::telemetry) struct JsonLine<W: Write>(W);

impl<W: Write> JsonLine<W> {
    pub(in crate::telemetry) fn begin(
        mut buffer: W,
        at: Timestamp,
        level: log::Level,
        target: &str,
        message: &dyn Display,
    ) -> Self {
        let level = match level {
            log::Level::Error => "error",
            log::Level::Warn => "warn",
            log::Level::Info => "info",
            log::Level::Debug => "debug",
            log::Level::Trace => "trace",
        };
        // a timestamp and a level need no escapes
        let _ = write!(
            buffer,
            "{{\"{}\":\"{at}\",\"{}\":\"{level}\"",
            fields::TIME,
            fields::LEVEL
        );
        let mut line = Self(buffer);
        line.text(fields::TARGET, &target);
        line.text(fields::MESSAGE, message);
        line
    }

    fn name(&mut self, name: &str) {
        let _ = self.0.write_all(b",");
        let _ = serde_json::to_writer(&mut self.0, name);
        let _ = self.0.write_all(b":");
    }
}

impl<W: Write> LineWriter for JsonLine<W> {
    fn text(&mut self, name: &str, value: &dyn Display) {
        self.name(name);
        let _ = serde_json::to_writer(&mut self.0, &Shown(value));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.literal(name, &value);
    }

    fn float(&mut self, name: &str, value: f64) {
        self.name(name);
        let _ = serde_json::to_writer(&mut self.0, &value);
    }

    fn literal(&mut self, name: &str, value: &dyn Display) {
        self.name(name);
        let _ = write!(self.0, "{value}");
    }

    fn end(mut self) {
        let _ = self.0.write_all(b"}\n");
    }
}

/// Serializes what can be displayed as a string, without making one.
struct Shown<'a>(&'a dyn Display);

impl serde::Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// Time, level, target, message, then `name=value`.
pub(in crate::telemetry) struct TextLine<W: Write>(W);

impl<W: Write> TextLine<W> {
    pub(in crate::telemetry) fn begin(
        mut buffer: W,
        at: Timestamp,
        level: log::Level,
        target: &str,
        message: &dyn Display,
    ) -> Self {
        let _ = write!(buffer, "{at} {level:5} {target} ");
        let mut line = Self(buffer);
        line.printable(message);
        line
    }

    /// Control characters are escaped: no value can begin a line or colour a terminal.
    fn printable(&mut self, value: &dyn Display) {
        let text = value.to_string();
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                None => {
                    let _ = self.0.write_all(part.as_bytes());
                }
                Some(control) => {
                    let plain = &part[..part.len() - control.len_utf8()];
                    let _ = write!(self.0, "{plain}{}", control.escape_default());
                }
            }
        }
    }
}

impl<W: Write> LineWriter for TextLine<W> {
    fn text(&mut self, name: &str, value: &dyn Display) {
        let text = value.to_string();
        let bare = !text.is_empty() && !text.contains([' ', '"', '=']);
        if bare {
            self.literal(name, &text);
        } else {
            let _ = write!(self.0, " {name}={text:?}");
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        let _ = write!(self.0, " {name}={value}");
    }

    fn float(&mut self, name: &str, value: f64) {
        let _ = write!(self.0, " {name}={value}");
    }

    fn literal(&mut self, name: &str, value: &dyn Display) {
        let _ = write!(self.0, " {name}=");
        self.printable(value);
    }

    fn end(mut self) {
        let _ = self.0.write_all(b"\n");
    }
}

/// Writes a record of the `log` crate, its key-values included.
pub(super) fn write_record(mut line: impl LineWriter, record: &log::Record<'_>) {
    let mut pairs = Pairs(&mut line);
    let _ = record.key_values().visit(&mut pairs);
    line.end();
}

struct Pairs<'a, L>(&'a mut L);

impl<'kvs, L: LineWriter> log::kv::VisitSource<'kvs> for Pairs<'_, L> {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        const OURS: [&str; 4] = [fields::TIME, fields::LEVEL, fields::TARGET, fields::MESSAGE];
        let renamed;
        let name = if OURS.contains(&key.as_str()) {
            renamed = format!("{key}_");
            &renamed
        } else {
            key.as_str()
        };
        value.visit(Value { line: self.0, name })
    }
}

struct Value<'a, L> {
    line: &'a mut L,
    name: &'a str,
}

impl<L: LineWriter> log::kv::VisitValue<'_> for Value<'_, L> {
    fn visit_any(&mut self, value: log::kv::Value<'_>) -> Result<(), log::kv::Error> {
        self.line.text(self.name, &value);
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), log::kv::Error> {
        self.line.number(self.name, value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), log::kv::Error> {
        self.line.literal(self.name, &value);
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), log::kv::Error> {
        self.line.float(self.name, value);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), log::kv::Error> {
        self.line.literal(self.name, &value);
        Ok(())
    }
}
