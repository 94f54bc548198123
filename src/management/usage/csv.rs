//! Tables as CSV (RFC 4180), made from what JSON shows.

use bytes::Bytes;
use http::header;
use serde_json::Value;

use super::super::answer::Answer;

/// A table with these columns, one row for each object.
pub(super) fn answer(columns: &[&str], rows: &[Value]) -> Answer {
    let mut text = columns.join(",");
    text.push_str("\r\n");
    for row in rows {
        let cells: Vec<String> = columns.iter().map(|column| cell(&row[*column])).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    Answer::ready(Bytes::from(text)).with_header(header::CONTENT_TYPE, "text/csv; charset=utf-8")
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // WHY: a spreadsheet takes a text that begins so for a formula, and models are named by clients
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !value.is_number() {
        format!("'{text}")
    } else {
        text
    };
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_quoted_and_no_formulas() {
        for (value, expected) in [
            (json!(null), ""),
            (json!(-1.5), "-1.5"),
            (json!("a,b"), "\"a,b\""),
            (json!("say \"x\""), "\"say \"\"x\"\"\""),
            (json!("=1+1"), "'=1+1"),
            (json!(true), "true"),
        ] {
            assert_eq!(cell(&value), expected);
        }
    }
}
