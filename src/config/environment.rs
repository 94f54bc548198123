//! The variables that a configuration may use: those of the process, then those of `.env`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{self, FileFault};

/// Where the process's variables come from.
pub trait EnvSource {
    /// All of them.
    fn variables(&self) -> Vec<(String, String)>;

    /// The file that fills them up and must be there; `None`: `.env`, if there is one.
    fn file(&self) -> Option<&Path> {
        None
    }
}

/// The variables of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl EnvSource for ProcessEnvironment {
    fn variables(&self) -> Vec<(String, String)> {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }
}

impl EnvSource for BTreeMap<String, String> {
    fn variables(&self) -> Vec<(String, String)> {
        self.iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

/// Variables by name; those of the process win over those of `.env`.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}

impl Environment {
    /// The process's variables, filled up with those of the source's file, else of `.env` in `folder`, if there is one.
    /// Answers the file that was read too.
    ///
    /// # Errors
    /// The file as it is shown, and sentences that name a line of it or say why it cannot be read.
    pub fn gather(
        source: &dyn EnvSource,
        folder: &Path,
    ) -> Result<(Self, Option<PathBuf>), (PathBuf, Vec<String>)> {
        const MAX_BYTES: u64 = 1 << 20;
        let shown = source.file().unwrap_or(Path::new(".env"));
        let path = folder.join(shown);
        let optional = source.file().is_none();
        let fault = |messages| (shown.to_owned(), messages);
        let mut variables = BTreeMap::new();
        let read = match file::read_regular(&path, MAX_BYTES) {
            Ok(text) => {
                variables = parse_dotenv(&text).map_err(fault)?;
                Some(path)
            }
            Err(FileFault::NotRegular) if optional => None,
            Err(FileFault::Unreadable(reason)) if optional && reason == "no such file" => None,
            Err(other) => {
                let message = match other {
                    FileFault::NotRegular => "is no regular file".to_owned(),
                    FileFault::Unreadable(reason) => format!("cannot be read: {reason}"),
                    FileFault::TooLarge => "is larger than 1MiB".to_owned(),
                    FileFault::NotUtf8 => "is not UTF-8 text".to_owned(),
                };
                return Err(fault(vec![message]));
            }
        };
        variables.extend(source.variables());
        Ok((Self { variables }, read))
    }

    /// The value of a variable, empty ones included.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The value of a variable unless it is empty.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.trim().is_empty())
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

/// Reads `NAME=value` lines: `export` in front, `#` comments, single and double quotes (the latter with
/// `\n`, `\t`, `\"`, `\\`, `\$`), values over several lines inside quotes. Later lines win.
fn parse_dotenv(text: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut variables = BTreeMap::new();
    let mut faults = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text;
    while !rest.is_empty() {
        let number = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            continue;
        }
        let assignment = trimmed.strip_prefix("export ").unwrap_or(trimmed);
        let name = assignment.split_once('=').map(|(name, _)| name.trim_end());
        let Some(name) = name.filter(|name| !name.is_empty() && !name.contains(char::is_whitespace)) else {
            faults.push(format!("line {number} is not `NAME=value`"));
            rest = after;
            continue;
        };
        let value_start = line.find('=').unwrap_or(0) + 1;
        match read_value(rest[value_start..].trim_start_matches([' ', '\t'])) {
            Some((value, remaining)) => {
                variables.insert(name.to_owned(), value);
                rest = remaining;
            }
            None => {
                faults.push(format!(
                    "line {number}: the quote of `{name}` is not closed, or text follows it"
                ));
                rest = after;
            }
        }
    }
    if faults.is_empty() {
        Ok(variables)
    } else {
        Err(faults)
    }
}

/// The value at the beginning of `text` and what follows its line.
fn read_value(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        let (line, after) = text.split_once('\n').unwrap_or((text, ""));
        let end = line
            .find(" #")
            .or_else(|| line.starts_with('#').then_some(0))
            .unwrap_or(line.len());
        return Some((line[..end].trim().to_owned(), after));
    };
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        match character {
            c if c == quote => {
                let (tail, after) = text[index + 1..]
                    .split_once('\n')
                    .unwrap_or((&text[index + 1..], ""));
                let tail = tail.trim();
                return (tail.is_empty() || tail.starts_with('#')).then_some((value, after));
            }
            '\\' if quote == '"' => match characters.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                c @ ('"' | '\\' | '$') => value.push(c),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(text: &str, name: &str) -> Option<String> {
        parse_dotenv(text).unwrap().get(name).cloned()
    }

    #[test]
    fn dotenv_lines_are_read_as_shells_and_compose_do() {
        for (text, expected) in [
            ("A=1", Some("1")),
            ("export A=1 # one\r\n", Some("1")),
            ("A = x y \n", Some("x y")),
            ("A='a # $b'\n", Some("a # $b")),
            ("A=\"a\\n\\\"b\\\"\" # c\n", Some("a\n\"b\"")),
            ("A='two\nlines'\nB=2", Some("two\nlines")),
            ("A=\n", Some("")),
            ("A=#\n", Some("")),
            ("A=a#b\n", Some("a#b")),
            ("# A=1\n\n", None),
            ("A=1\nA=2", Some("2")),
        ] {
            assert_eq!(value_of(text, "A").as_deref(), expected, "{text:?}");
        }
        assert_eq!(value_of("A='two\nlines'\nB=2", "B").as_deref(), Some("2"));
    }

    #[test]
    fn every_bad_line_is_named_without_its_value() {
        let faults = parse_dotenv("A=1\nnonsense\nB=\"open\n").unwrap_err();
        assert_eq!(faults.len(), 2);
        assert!(
            faults[0].contains("line 2") && faults[1].contains("line 3"),
            "{faults:?}"
        );
        assert!(!faults.concat().contains("open\n") && !faults.concat().contains("nonsense"));
    }

    #[test]
    fn the_process_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), "A=file\nB=file\n").unwrap();
        let process = BTreeMap::from([("A".to_owned(), "process".to_owned())]);
        let (environment, file) = Environment::gather(&process, folder.path()).unwrap();
        assert_eq!(file, Some(folder.path().join(".env")));
        assert_eq!(
            (environment.get("A"), environment.get("B")),
            (Some("process"), Some("file"))
        );
    }
}
