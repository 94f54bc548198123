//! Writes `conf/reference.yaml` and the tables of `docs/configuration.md` out of the key table.

use std::fmt::Write as _;

use super::overrides::{FOREIGN, NO_EFFECT, PROXIES, REFUSED, VARIABLES};
use super::schema::{Change, Key, keys};

/// A name to stand for `<name>` in the reference.
const EXAMPLES: &[(&str, &str)] = &[
    ("providers.<name>", "openai"),
    ("models.<name>", "gpt-4o"),
    ("prices.overrides.<name>", "my-model"),
    ("providers.<name>.headers.<header>", "X-Example"),
    ("providers.<name>.param_whitelist.<parameter>", "model"),
];

/// Values that show more than the default would, at keys that have none.
const SAMPLES: &[(&str, &str)] = &[
    ("management.token", "${MANAGEMENT_TOKEN}"),
    (
        "models.<name>.targets",
        "[{provider: openai, model: gpt-4o, weight: 1, priority: 0}]",
    ),
];

/// `conf/reference.yaml`: every key at its default, with what it does.
pub fn reference_yaml() -> String {
    let mut text = String::from(
        "# Every key with its default. Computed defaults and keys that need a value of yours are commented out.\n\
         # [process]: a change needs a new process; everything else changes with a reload.\n\
         # [not active]: known, and accepted at this value only, in this version.\n",
    );
    let mut open: Vec<String> = Vec::new();
    for key in keys().filter(|key| !key.path.contains("[]")) {
        let path = example_path(key.path);
        let (name, sections) = path
            .split_last()
            .map_or((String::new(), &path[..0]), |(name, rest)| (name.clone(), rest));
        let same = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
        open.truncate(same);
        if same == 0 && (sections.is_empty() || !sections.is_empty()) && path.len() != open.len() {
            text.push('\n');
        }
        for section in &sections[same..] {
            let _ = writeln!(text, "{}{section}:", "  ".repeat(open.len()));
            open.push(section.clone());
        }
        write_key(&mut text, key, &name, open.len());
    }
    text
}

fn write_key(text: &mut String, key: &Key, name: &str, depth: usize) {
    let indent = "  ".repeat(depth);
    let mut notes = String::new();
    if key.change == Change::Process {
        notes += " [process]";
    }
    if !key.active {
        notes += " [not active]";
    }
    let _ = writeln!(text, "{indent}# {}{notes}", key.about);
    let items: Vec<&Key> = keys()
        .filter(|item| item.path.starts_with(&format!("{}[].", key.path)))
        .collect();
    for item in items {
        let field = item.path.rsplit('.').next().unwrap_or_default();
        let _ = writeln!(text, "{indent}#   - {field}: {}", item.about);
    }
    let sample = SAMPLES
        .iter()
        .find(|(path, _)| *path == key.path)
        .map(|(_, value)| *value);
    let _ = match (sample, key.default) {
        (Some(sample), _) => writeln!(text, "{indent}{name}: {sample}"),
        (None, default) if key.computed => writeln!(text, "{indent}# {name}: {default}"),
        (None, "none") if key.path.ends_with('>') => writeln!(text, "{indent}# {name}: …"),
        (None, "none") => writeln!(text, "{indent}{name}: null"),
        (None, "built in") => writeln!(text, "{indent}{name}: built in"),
        (None, default) => writeln!(text, "{indent}{name}: {default}"),
    };
}

fn example_path(path: &str) -> Vec<String> {
    let mut done: Vec<&str> = Vec::new();
    path.split('.')
        .map(|part| {
            done.push(part);
            let so_far = done.join(".");
            EXAMPLES
                .iter()
                .find(|(path, _)| *path == so_far)
                .map_or(part, |(_, example)| example)
                .to_owned()
        })
        .collect()
}

/// The tables of `docs/configuration.md`.
pub fn configuration_md() -> String {
    let mut text = String::from(include_str!("intro.md"));
    text += "\n## Keys\n\n\"live\": changed by a reload; \"process\": needs a new process, a reload names it. \
             A `*` behind the name: not active in this version, accepted at its default and at `0`, `off`, `never`, `none`, `false`, null, empty.\n";
    let mut section = "";
    for key in keys() {
        let top = key.path.split('.').next().unwrap_or_default();
        if top != section {
            section = top;
            let _ = write!(
                text,
                "\n### `{top}`\n\n| key | default | change | meaning |\n| --- | --- | --- | --- |\n"
            );
        }
        let change = if key.change == Change::Process {
            "process"
        } else {
            "live"
        };
        let star = if key.active { "" } else { " *" };
        let default = if key.computed || key.default == "none" || key.default == "built in" {
            key.default.to_owned()
        } else {
            format!("`{}`", key.default)
        };
        let _ = writeln!(
            text,
            "| `{}`{star} | {default} | {change} | {} |",
            key.path, key.about
        );
    }
    text += "\n## Environment variables\n\nEach overrides its key; a bad value is refused, naming the variable. An empty variable counts as unset, but for \
             `MANAGEMENT_LISTEN_ADDR`, where it turns the listener off. Of two for one key the upper one wins. Booleans: `1 t true y yes on` and their opposites, in any case. \
             \"file\": `<NAME>_FILE` may name a file that holds the value; both set is refused.\n\n| variable | key | |\n| --- | --- | --- |\n";
    for variable in VARIABLES {
        let file = if variable.from_file { "file" } else { "" };
        let _ = writeln!(text, "| `{}` | `{}` | {file} |", variable.name, variable.key);
    }
    text += include_str!("variables.md");
    let list = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let _ = writeln!(
        text,
        "\n**Accepted, no effect, warned about once**: {}.",
        list(NO_EFFECT)
    );
    text += "\n**Refused, with what to do instead**:\n\n";
    for (name, remedy) in REFUSED {
        let _ = writeln!(text, "- `{name}`: {remedy}");
    }
    text += "- `LLM_PROXY_ENFORCE_PROJECT_ACTIVE=false`: inactive projects are always refused\n";
    let _ = writeln!(
        text,
        "\n**Warned about at each start, not supported in this version**: {}.",
        list(&PROXIES[..3])
    );
    text += "\n**Of other programs, warned about once**:\n\n";
    for (name, ours) in FOREIGN {
        let _ = writeln!(
            text,
            "- `{name}{}`: {ours}",
            if name.ends_with('_') { "*" } else { "" }
        );
    }
    text += "\n**Not read**: bare `ENV`, `CONFIG`, `MODEL`, `PROJECT`, `DURATION`, `DEBUG`, `INTERACTIVE`, `DAEMON`, `PID_FILE`.\n";
    text
}

#[cfg(test)]
mod tests;
