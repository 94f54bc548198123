//! Puts variables and files into scalar values: `${NAME}`, `${NAME:-default}`, `${file:path}`, `$${`.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::Faults;
use super::file::{self, FileFault};
use super::path::KeyPath;
use super::tree::{Node, Scalar, Source, Value};

/// Largest file that `${file:…}` reads.
pub(super) const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Replaces references in every scalar below `node`; files that were named are added to `files`.
pub(super) fn interpolate(
    node: &mut Node,
    path: &KeyPath,
    context: &Context<'_>,
    files: &mut Vec<PathBuf>,
    faults: &Faults,
) {
    match &mut node.value {
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                interpolate(item, &path.index(index), context, files, faults);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                interpolate(&mut entry.node, &path.key(&entry.key), context, files, faults);
            }
        }
        Value::Scalar(scalar) if scalar.text.contains("${") => {
            if let Err(message) = scalar_in_place(scalar, context, files) {
                scalar.source = Source::Broken;
                faults.at_node(node, path, &message);
            }
        }
        Value::Scalar(_) => {}
    }
}

/// What references are resolved against.
pub(super) struct Context<'a> {
    /// Variables.
    pub environment: &'a Environment,
    /// The folder of the YAML, which relative paths start from.
    pub folder: &'a Path,
}

fn scalar_in_place(
    scalar: &mut Scalar,
    context: &Context<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<(), String> {
    let mut from_file = false;
    let written = scalar.text.to_string();
    let text = resolve(&written, |reference| match reference {
        Reference::Variable { name, default } => match (context.environment.get(name), default) {
            (Some(value), None) => Ok(value.to_owned()),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value.to_owned()),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(unset(name, context.environment)),
        },
        Reference::File(path) => {
            from_file = true;
            let full = context.folder.join(path);
            files.push(full.clone());
            read_secret_file(&full).map_err(|reason| format!("file `{path}`: {reason}"))
        }
    });
    scalar.text = zeroize::Zeroizing::new(text?);
    scalar.source = if from_file {
        Source::File
    } else {
        Source::Interpolated(written)
    };
    Ok(())
}

/// Reads a file that holds one secret, trimmed.
pub(super) fn read_secret_file(path: &Path) -> Result<String, String> {
    match file::read_regular(path, MAX_SECRET_BYTES) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(FileFault::TooLarge) => Err("larger than 64KiB".to_owned()),
        Err(fault) => Err(fault.to_string()),
    }
}

fn unset(name: &str, environment: &Environment) -> String {
    let near = super::nearest::nearest(name, environment.names());
    let hint = near.map_or_else(String::new, |near| format!("; `{near}` is set, was that meant?"));
    format!("variable `{name}` is not set; set it, or write `${{{name}:-default}}`{hint}")
}

/// One `${…}`.
#[derive(Debug, PartialEq, Eq)]
enum Reference<'a> {
    Variable { name: &'a str, default: Option<&'a str> },
    File(&'a str),
}

/// Copies `text`, asking `value_of` for each reference. What it answers is not looked at again.
fn resolve(
    text: &str,
    mut value_of: impl FnMut(Reference<'_>) -> Result<String, String>,
) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            result += before;
            result += "${";
            rest = &after[2..];
            continue;
        }
        result += before;
        let Some(end) = after.find('}') else {
            return Err("`${` without `}`; write `$${` for a literal `${`".to_owned());
        };
        result += &value_of(parse_reference(&after[2..end])?)?;
        rest = &after[end + 1..];
    }
    Ok(result + rest)
}

fn parse_reference(inside: &str) -> Result<Reference<'_>, String> {
    if inside.contains("${") {
        return Err("references cannot be nested".to_owned());
    }
    if let Some(path) = inside.strip_prefix("file:") {
        return if path.is_empty() {
            Err("`${file:}` names no file; write `${file:path}`".to_owned())
        } else {
            Ok(Reference::File(path))
        };
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if is_name(name) {
        return Ok(Reference::Variable { name, default });
    }
    Err("write `${NAME}`, `${NAME:-default}` or `${file:path}`, or `$${` for a literal `${`".to_owned())
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(text: &str) -> Result<String, String> {
        resolve(text, |reference| match reference {
            Reference::Variable { name: "SET", .. } => Ok("${SET}".to_owned()),
            Reference::Variable {
                default: Some(default),
                ..
            } => Ok(default.to_owned()),
            Reference::Variable { name, .. } => Err(format!("no {name}")),
            Reference::File(path) => Ok(format!("<{path}>")),
        })
    }

    #[test]
    fn references_are_replaced_once() {
        for (text, expected) in [
            ("plain $5 {x} $NAME", Ok("plain $5 {x} $NAME")),
            ("a${SET}b", Ok("a${SET}b")),
            ("${A:-x}${B:-}", Ok("x")),
            ("${A:-:-y}", Ok(":-y")),
            ("${file:/run/key}", Ok("</run/key>")),
            ("$${SET}", Ok("${SET}")),
            ("$$${A:-x}", Ok("$${A:-x}")),
            ("${A}", Err("no A")),
        ] {
            assert_eq!(
                with(text),
                expected.map(str::to_owned).map_err(str::to_owned),
                "{text}"
            );
        }
        for text in [
            "${",
            "${A",
            "${}",
            "${1A}",
            "${A-b}",
            "${A:-${SET}}",
            "${file:}",
            "${a b}",
        ] {
            assert!(with(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_references_is_unchanged(text in "[^$]{0,40}") {
            prop_assert_eq!(with(&text), Ok(text));
        }

        #[test]
        fn an_escaped_text_comes_out_as_it_was(text in "[a-z${}:-]{0,40}") {
            prop_assume!(!text.contains("$${"));
            let escaped = text.replace("${", "$${");
            prop_assert_eq!(with(&escaped), Ok(text));
        }

        #[test]
        fn no_text_breaks_it(text in "[$\\{\\}:a-cA-C_ é-]{0,40}") {
            let _ = with(&text);
        }
    }
}
