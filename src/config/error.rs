//! Faults of a configuration: where, what, and what to write instead.
//!
//! Nothing shown here may hold a secret. A line of the file is shown only as far as the value that stands at
//! fault, and that value only when its key is known and holds no secret; the rest becomes `…`.

use std::cell::RefCell;
use std::fmt;

use super::path::KeyPath;
use super::schema;
use super::show::mask_url;
use super::tree::{Node, Place, Scalar, Source, Value};

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fault {
    /// The file, or `environment`.
    pub file: String,
    /// Line, counted from 1; absent for the environment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<usize>,
    /// Column, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<usize>,
    /// The key's path, when a key is at fault.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// What was found and what would be right.
    pub message: String,
    /// The line of the file and a mark under the place.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snippet: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.snippet {
            Some(snippet) => write!(f, "\n{snippet}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration; at least one fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors {
    /// In the order of the file; those of the environment last.
    pub faults: Vec<Fault>,
    /// Files that were read, or should have been: a change of one of them may mend it.
    pub watched_files: Vec<std::path::PathBuf>,
}

impl ConfigErrors {
    /// Names the files whose change may mend it.
    #[must_use]
    pub(super) fn watching(mut self, files: &[std::path::PathBuf]) -> Self {
        self.watched_files = files.to_vec();
        self
    }
}

/// Collects faults while a configuration is read.
pub(super) struct Faults {
    file: String,
    lines: Vec<String>,
    list: RefCell<Vec<Fault>>,
}

/// What a snippet may show at the place of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Place,
    Masked,
}

impl Faults {
    /// For the text of a file; `file` is how it is named.
    pub fn new(file: &str, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            lines: text.lines().map(str::to_owned).collect(),
            list: RefCell::new(Vec::new()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    pub fn into_errors(self) -> ConfigErrors {
        let mut faults = self.list.into_inner();
        faults.sort_by_key(|fault| (fault.line.is_none(), fault.line, fault.column));
        faults.dedup();
        ConfigErrors {
            faults,
            watched_files: Vec::new(),
        }
    }

    /// A fault of a value; the message begins with what is wrong, such as ``is no duration; write …``.
    pub fn at_node(&self, node: &Node, path: &KeyPath, message: &str) {
        let show = if schema::may_show(path) && is_harmless(node) {
            Show::Place
        } else {
            Show::Masked
        };
        self.add(&node.place, Some(path), &format!("`{path}`: {message}"), show);
    }

    /// A fault of a key, such as an unknown one; its value is not shown.
    pub fn at_key(&self, place: &Place, path: &KeyPath, message: &str) {
        self.add(place, Some(path), message, Show::Place);
    }

    /// A fault that no line of the file shows, such as a missing key.
    pub fn absent(&self, path: &KeyPath, message: &str) {
        let message = format!("`{path}`: {message}");
        let file = self.file.clone();
        self.push(Fault {
            file,
            line: None,
            column: None,
            key: Some(path.to_string()),
            message,
            snippet: None,
        });
    }

    /// A fault of the file or the environment as a whole.
    pub fn general(&self, source: &str, message: String) {
        let file = if source.is_empty() {
            self.file.clone()
        } else {
            source.to_owned()
        };
        self.push(Fault {
            file,
            line: None,
            column: None,
            key: None,
            message,
            snippet: None,
        });
    }

    /// A fault of syntax: the line is shown as far as its key.
    pub fn syntax(&self, place: &Place, message: &str) {
        let Place::File { line, column, .. } = place else {
            return;
        };
        let text = line
            .checked_sub(1)
            .and_then(|index| self.lines.get(index))
            .map_or("", String::as_str);
        // WHY: braces end a plain value inside `{…}` and `[…]`, which surprises people who write `${NAME}` there.
        let is_reference = text.contains("${") && text.contains(['{', '[']) && message.contains("flow");
        let hint = if is_reference {
            "; inside `{}` and `[]` put `${NAME}` into quotes"
        } else {
            ""
        };
        let lead: String = match text.find(':') {
            Some(end) if is_plain_lead(&text[..=end]) => format!("{} ", &text[..=end]),
            _ => text.chars().take_while(|c| matches!(c, ' ' | '-')).collect(),
        };
        let mark = lead.chars().count().min(column - 1);
        let margin = " ".repeat(line.to_string().len());
        let snippet = format!("  {line} | {lead}…\n  {margin} | {}^", " ".repeat(mark));
        self.push(Fault {
            file: self.file.clone(),
            line: Some(*line),
            column: Some(*column),
            key: None,
            message: format!("{message}{hint}"),
            snippet: (!text.is_empty()).then_some(snippet),
        });
    }

    fn add(&self, place: &Place, path: Option<&KeyPath>, message: &str, show: Show) {
        let key = path.map(ToString::to_string);
        self.push(match place {
            Place::Variable(name) => {
                let (file, message) = ("environment".to_owned(), format!("variable `{name}`: {message}"));
                Fault {
                    file,
                    line: None,
                    column: None,
                    key,
                    message,
                    snippet: None,
                }
            }
            Place::File {
                line,
                column,
                end_column,
            } => Fault {
                file: self.file.clone(),
                line: Some(*line),
                column: Some(*column),
                key,
                message: message.to_owned(),
                snippet: self.snippet(*line, *column, *end_column, show),
            },
        });
    }

    fn push(&self, fault: Fault) {
        self.list.borrow_mut().push(fault);
    }

    fn snippet(&self, line: usize, column: usize, end_column: Option<usize>, show: Show) -> Option<String> {
        let text: Vec<char> = self.lines.get(line.checked_sub(1)?)?.chars().collect();
        let start = (column - 1).min(text.len());
        let before: String = text[..start].iter().collect();
        let before = if is_plain_lead(&before) {
            before
        } else {
            "… ".to_owned()
        };
        let end = end_column.map_or(start, |end| (end - 1).clamp(start, text.len()));
        let shown = match show {
            Show::Place if end > start => text[start..end].iter().collect(),
            _ if start == text.len() => String::new(),
            _ => "…".to_owned(),
        };
        let more = if show == Show::Place && end > start && end < text.len() {
            " …"
        } else {
            ""
        };
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let lead: String = before
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        Some(format!(
            "  {number} | {before}{shown}{more}\n  {margin} | {lead}^"
        ))
    }
}

/// Nothing but indentation, list dashes and one key: no value that could be a secret.
fn is_plain_lead(text: &str) -> bool {
    let rest = text.trim_start_matches([' ', '\t', '-']);
    let Some(key) = rest.trim_end().strip_suffix(':') else {
        return rest.trim().is_empty();
    };
    let key = key.trim_matches(['"', '\'']);
    key.len() <= 64
        && !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
}

fn is_harmless(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(scalar) if scalar.source != Source::File && !has_password(&scalar.text))
}

/// Whether a value looks like a URL with a user in it, at whatever key.
fn has_password(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

/// How a value is named in a message: never a secret, never what a file or a variable held.
pub(super) fn shown(scalar: &Scalar, path: &KeyPath) -> String {
    const LONGEST: usize = 80;
    if scalar.source == Source::File {
        return "[file]".to_owned();
    }
    if !schema::may_show(path) {
        return "[redacted]".to_owned();
    }
    let text = match &scalar.source {
        Source::Interpolated(written) => written.as_str(),
        _ => scalar.text.as_str(),
    };
    if has_password(text) {
        return format!("`{}`", mask_url(text));
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_shows_the_key_and_no_neighbour() {
        let faults = Faults::new("f.yaml", "a:\n  - {token: sk-secret, rol: admin}\n");
        let place = Place::File {
            line: 2,
            column: 24,
            end_column: Some(27),
        };
        faults.at_key(&place, &KeyPath::of("management.tokens"), "unknown key `rol`");
        let text = faults.into_errors().to_string();
        assert_eq!(text, "f.yaml:2:24: unknown key `rol`\n  2 | … rol …\n    |   ^");
    }

    #[test]
    fn a_secret_value_is_never_shown() {
        let faults = Faults::new("f.yaml", "management:\n  token: short secret\n");
        let node = Node {
            value: Node::variable("x", "short secret".to_owned()).value,
            place: Place::File {
                line: 2,
                column: 10,
                end_column: Some(22),
            },
        };
        faults.at_node(&node, &KeyPath::of("management.token"), "has a space in it");
        let text = faults.into_errors().to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(
            text.starts_with("f.yaml:2:10: `management.token`: has a space in it\n  2 |   token: …"),
            "{text}"
        );
    }
}
