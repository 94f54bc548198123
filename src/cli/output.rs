//! What commands print: answers on standard output, errors on standard error.

use std::io::Write as _;

use serde_json::Value;

use super::Failure;

/// One line.
pub fn line(text: &str) -> Result<(), Failure> {
    raw(&format!("{text}\n"))
}

/// Text as it is, at once.
pub fn raw(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // the reader has seen enough (`| head`)
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Reported),
        Err(error) => Err(Failure::Failed(format!("cannot write the answer: {error}"))),
    }
}

/// A JSON answer, indented.
pub fn json(value: &Value) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// An error, for people or as JSON.
pub fn error(message: &str, as_json: bool) {
    let text = if as_json {
        serde_json::json!({"error": message}).to_string()
    } else {
        format!("llm-proxy: {message}")
    };
    // when even standard error is gone there is nobody to tell
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A table with a header line; columns as wide as their widest cell.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: &mut dyn Iterator<Item = &str>| -> String {
        let mut text = String::new();
        for (index, cell) in cells.enumerate() {
            let width = widths.get(index).copied().unwrap_or_default();
            text.push_str(cell);
            if index + 1 < widths.len() {
                text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + 2));
            }
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = render(&mut headers.iter().copied());
    for row in rows {
        text.push_str(&render(&mut row.iter().map(String::as_str)));
    }
    raw(&text)
}
