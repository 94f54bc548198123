//! Reads the JSON objects that clients send: known fields only, each with its type.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::nearest::nearest;
use super::strict_json::Strict;
use crate::domain::Timestamp;
use crate::domain::patch::Change;

const INVALID_BODY: &str = "invalid request body";

/// A JSON object of which every field is known.
#[derive(Debug)]
pub struct JsonFields {
    fields: Map<String, Value>,
}

impl JsonFields {
    /// Reads a body that must be one JSON object with fields of `known` only.
    pub fn parse(body: &[u8], known: &[&str]) -> Result<Self, ApiError> {
        Self::parse_as(body, known, INVALID_BODY)
    }

    /// The same with another fixed text for what is no JSON object.
    pub fn parse_as(body: &[u8], known: &[&str], text: &'static str) -> Result<Self, ApiError> {
        let invalid = |message: String| ApiError::InvalidBody { text, message };
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(invalid("the body is empty; send a JSON object".to_owned()));
        }
        let Strict(value) = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(invalid(format!(
                "the body is {}; send a JSON object",
                kind_of(&value)
            )));
        };
        refuse_unknown(&fields, known, "")?;
        Ok(Self { fields })
    }

    /// Like [`JsonFields::parse`], but an empty body is an object without fields.
    pub fn parse_optional(body: &[u8], known: &[&str]) -> Result<Self, ApiError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self { fields: Map::new() });
        }
        Self::parse(body, known)
    }

    /// Whether no field is there at all.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The names of the fields that were sent.
    pub fn names(&self) -> Vec<Value> {
        self.fields.keys().map(|name| name.as_str().into()).collect()
    }

    /// A field as a member of a merge patch, read by `read`.
    pub fn change<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&'static str, &Value) -> Result<T, ApiError>,
    ) -> Result<Change<T>, ApiError> {
        match self.fields.get(name) {
            None => Ok(Change::Keep),
            Some(Value::Null) => Ok(Change::Remove),
            Some(value) => read(name, value).map(Change::Set),
        }
    }

    /// A field that may be absent or `null`, read by `read`.
    pub fn optional<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&'static str, &Value) -> Result<T, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(name, value).map(Some),
        }
    }

    /// A field that may be absent, but not `null`, read by `read`.
    pub fn not_null<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&'static str, &Value) -> Result<T, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        match self.fields.get(name) {
            Some(Value::Null) => Err(ApiError::Invalid(format!("`{name}` cannot be null"))),
            _ => self.optional(name, read),
        }
    }
}

/// Refuses the first field that is not in `known`; `around` is the dotted name of the object around it.
pub fn refuse_unknown(fields: &Map<String, Value>, known: &[&str], around: &str) -> Result<(), ApiError> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(ApiError::UnknownField {
            field: format!("{around}{}", shortened(unknown)),
            nearest: nearest(unknown, known).map(|name| format!("{around}{name}")),
        }),
    }
}

/// A field has the wrong type: says what it must be and what it is, but never its value.
pub fn wrong_type(name: &str, must_be: &str, found: &Value) -> ApiError {
    ApiError::InvalidBody {
        text: INVALID_BODY,
        message: format!("`{name}` must be {must_be}; found {}", kind_of(found)),
    }
}

/// A text.
pub fn text(name: &'static str, value: &Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong_type(name, "a string", other)),
    }
}

/// `true` or `false`.
pub fn boolean(name: &'static str, value: &Value) -> Result<bool, ApiError> {
    value
        .as_bool()
        .ok_or_else(|| wrong_type(name, "true or false", value))
}

/// A whole number.
pub fn integer(name: &'static str, value: &Value) -> Result<i64, ApiError> {
    value
        .as_i64()
        .ok_or_else(|| wrong_type(name, "an integer", value))
}

/// An RFC 3339 time.
pub fn time(name: &'static str, value: &Value) -> Result<Timestamp, ApiError> {
    let text = text(name, value)?;
    Timestamp::parse_rfc3339(&text).map_err(|why| ApiError::Invalid(format!("`{name}`: {why}")))
}

/// A JSON object.
pub fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>, ApiError> {
    value
        .as_object()
        .ok_or_else(|| wrong_type(name, "an object", value))
}

/// A list of texts, each from 1 to `longest` bytes without control characters, at most 100 of them.
pub fn texts(name: &'static str, value: &Value, longest: usize) -> Result<Vec<String>, ApiError> {
    const MOST: usize = 100;
    let Value::Array(items) = value else {
        return Err(wrong_type(name, "a list of strings", value));
    };
    if items.len() > MOST {
        return Err(ApiError::Invalid(format!(
            "`{name}` has {} entries; at most {MOST} are allowed",
            items.len()
        )));
    }
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let Value::String(text) = item else {
            return Err(wrong_type(name, "a list of strings", item));
        };
        if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) {
            return Err(ApiError::Invalid(format!(
                "`{name}`: `{}` must have 1 to {longest} characters and no control characters",
                shortened(text)
            )));
        }
        texts.push(text.clone());
    }
    Ok(texts)
}

/// A text cut to what fits into a message.
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().count() > LONGEST {
        short.push('…');
    }
    short
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number out of range or out of place",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
