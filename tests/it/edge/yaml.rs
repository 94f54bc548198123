//! Writes a tree of values as the YAML a person would write.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Stands for a null that is written (a null of `merge` removes).
pub const NULL: &str = "\u{0}null";

/// Block style; strings quoted, so that nothing is re-typed.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, depth, text),
        other => text.push_str(&flow(other)),
    }
}

/// A list or a scalar behind its key: JSON is YAML.
fn flow(value: &Value) -> String {
    format!(" {value}\n")
}

fn write_map(map: &Map<String, Value>, depth: usize, text: &mut String) {
    for (key, value) in map {
        let plain = key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let key = if plain {
            key.clone()
        } else {
            Value::from(key.as_str()).to_string()
        };
        let _ = write!(text, "{:1$}{key}:", "", depth * 2);
        match value {
            Value::Object(map) if !map.is_empty() => {
                text.push('\n');
                write_map(map, depth + 1, text);
            }
            Value::String(word) if word == NULL => text.push_str(" null\n"),
            other => text.push_str(&flow(other)),
        }
    }
}

/// Lays `over` on `base`: maps merge, everything else replaces; null removes.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over,
    }
}
