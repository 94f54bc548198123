//! The one table of keys: which exist, their defaults, whether they change live, whether they are active.

use std::sync::LazyLock;

use super::error::Faults;
use super::nearest::nearest;
use super::path::{KeyPath, Step};
use super::tree::{Node, Scalar, Value};
use super::units::{parse_duration, parse_size};

/// One key of the configuration, described once.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `server.listen`, `providers.<name>.base_url`, `management.tokens[].role`.
    pub path: &'static str,
    /// The default as YAML, or as words when it is computed.
    pub default: &'static str,
    /// Whether the default depends on the machine or on other keys.
    pub computed: bool,
    /// What a change needs.
    pub change: Change,
    /// Whether this version does anything with it.
    pub active: bool,
    /// What may be shown of it.
    pub secrecy: Secrecy,
    /// What it does, its unit, what happens at the limit.
    pub about: &'static str,
}

/// What a change of a key needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A reload.
    Live,
    /// A new process.
    Process,
}

/// What may be shown of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Everything.
    Open,
    /// Nothing.
    Secret,
    /// All but user and password of the URL.
    Url,
}

impl Key {
    /// A live, active, open key.
    pub(super) const fn new(path: &'static str, default: &'static str, about: &'static str) -> Self {
        Self {
            path,
            default,
            computed: false,
            change: Change::Live,
            active: true,
            secrecy: Secrecy::Open,
            about,
        }
    }

    pub(super) const fn computed(self) -> Self {
        Self {
            computed: true,
            ..self
        }
    }

    pub(super) const fn process(self) -> Self {
        Self {
            change: Change::Process,
            ..self
        }
    }

    pub(super) const fn inactive(self) -> Self {
        Self {
            active: false,
            ..self
        }
    }

    pub(super) const fn secret(self) -> Self {
        Self {
            secrecy: Secrecy::Secret,
            ..self
        }
    }

    pub(super) const fn url(self) -> Self {
        Self {
            secrecy: Secrecy::Url,
            ..self
        }
    }
}

/// Every key, in the order of the reference.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    [
        super::server::KEYS,
        super::management::KEYS,
        super::auth::KEYS,
        super::stores::KEYS,
        super::providers::KEYS,
        super::routing::KEYS,
        super::limits::KEYS,
        super::budgets::KEYS,
        super::cache::KEYS,
        super::prices::KEYS,
        super::observing::KEYS,
        super::later::KEYS,
        super::ledger::KEYS,
    ]
    .into_iter()
    .flatten()
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Word(&'static str),
    AnyKey,
    AnyIndex,
}

static TABLE: LazyLock<Vec<(Vec<Pattern>, &'static Key)>> =
    LazyLock::new(|| keys().map(|key| (pattern(key.path), key)).collect());

/// The steps of a key's path.
pub(super) fn pattern(path: &'static str) -> Vec<Pattern> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let word = part.trim_end_matches("[]");
        steps.push(if word.starts_with('<') {
            Pattern::AnyKey
        } else {
            Pattern::Word(word)
        });
        if word.len() < part.len() {
            steps.push(Pattern::AnyIndex);
        }
    }
    steps
}

fn fits(pattern: &Pattern, step: &Step) -> bool {
    match (pattern, step) {
        (Pattern::Word(word), Step::Key(key)) => word == key,
        (Pattern::AnyKey, Step::Key(_)) | (Pattern::AnyIndex, Step::Index(_)) => true,
        _ => false,
    }
}

/// The keys whose path begins as `path`, with the steps that follow.
fn below(path: &[Step]) -> impl Iterator<Item = (&'static [Pattern], &'static Key)> {
    TABLE.iter().filter_map(move |(pattern, key)| {
        let begins = pattern.len() >= path.len() && pattern.iter().zip(path).all(|(p, s)| fits(p, s));
        begins.then(|| (&pattern[path.len()..], *key))
    })
}

/// The key that stands at `path`; an item of a list of plain values counts as the list.
pub(super) fn lookup(path: &KeyPath) -> Option<&'static Key> {
    let exact = |steps: &[Step]| below(steps).find(|(rest, _)| rest.is_empty()).map(|(_, key)| key);
    exact(&path.0).or_else(|| match path.0.split_last() {
        Some((Step::Index(_), list)) => exact(list),
        _ => None,
    })
}

/// Whether a value at `path` may be shown: its key is known and not secret.
pub(super) fn may_show(path: &KeyPath) -> bool {
    lookup(path).is_some_and(|key| key.secrecy == Secrecy::Open)
}

/// Finds unknown keys, mappings that are none, and values of keys that are not active in this version.
/// Those that are set to what they do anyway are named in `inactive`.
pub(super) fn check(root: &Node, faults: &Faults, inactive: &mut Vec<String>) {
    walk(root, &KeyPath::default(), faults, inactive);
}

fn walk(node: &Node, path: &KeyPath, faults: &Faults, inactive: &mut Vec<String>) {
    let key = lookup(path);
    if let Some(key) = key.filter(|key| !key.active) {
        inactive.push(path.to_string());
        if !is_off(node, key.default) {
            let hint = if key.default.contains(' ') {
                "remove it".to_owned()
            } else {
                format!("remove it or write `{}`", key.default)
            };
            faults.at_node(node, path, &format!("is not supported in this version; {hint}"));
        }
        return;
    }
    match &node.value {
        Value::Map(entries) if below(&path.0).any(|(rest, _)| !rest.is_empty()) => {
            for entry in entries {
                let child = path.key(&entry.key);
                if below(&child.0).next().is_some() {
                    walk(&entry.node, &child, faults, inactive);
                } else {
                    faults.at_key(&entry.place, &child, &unknown(&entry.key, path));
                }
            }
        }
        Value::List(items) if below(&path.0).any(|(rest, _)| rest.first() == Some(&Pattern::AnyIndex)) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &path.index(index), faults, inactive);
            }
        }
        // a section that is `none` is as one that is not there
        Value::Scalar(scalar) if scalar.is_null() || key.is_some() || scalar.text.as_str() == "none" => {}
        _ if key.is_some() => {}
        _ => faults.at_node(node, path, "must be a mapping, `key: value` lines below it"),
    }
}

fn unknown(name: &str, parent: &KeyPath) -> String {
    let known: Vec<&str> = below(&parent.0)
        .filter_map(|(rest, _)| match rest.first() {
            Some(Pattern::Word(word)) => Some(*word),
            _ => None,
        })
        .collect();
    let place = if parent.0.is_empty() {
        String::new()
    } else {
        format!(" in `{parent}`")
    };
    let name: String = name.chars().take(64).collect();
    if let Some(near) = nearest(&name, known.iter().copied()) {
        return format!("unknown key `{name}`{place}; did you mean `{near}`?");
    }
    // A key of another section, such as `listen` at the top.
    let elsewhere = keys()
        .find(|key| key.active && !key.path.contains(['<', '[']) && key.path.ends_with(&format!(".{name}")));
    if let Some(key) = elsewhere.filter(|_| !name.is_empty()) {
        return format!("unknown key `{name}`{place}; did you mean `{}`?", key.path);
    }
    let mut list: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
    list.dedup();
    format!(
        "unknown key `{name}`{place}; the keys here are {}",
        list.join(", ")
    )
}

/// Whether a value is what an inactive key does anyway, or says that it is off.
fn is_off(node: &Node, default: &str) -> bool {
    match &node.value {
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        Value::Scalar(scalar) => {
            let text = scalar.text.as_str();
            let word = text.to_ascii_lowercase();
            is_null_or_off(scalar, &word) || text == default.trim_matches('"') || same_quantity(text, default)
        }
    }
}

fn is_null_or_off(scalar: &Scalar, word: &str) -> bool {
    scalar.is_null() || matches!(word, "" | "0" | "off" | "never" | "none" | "false" | "null")
}

fn same_quantity(text: &str, default: &str) -> bool {
    let durations = (parse_duration(text), parse_duration(default));
    let sizes = (parse_size(text), parse_size(default));
    matches!(durations, (Some(a), Some(b)) if a == b)
        || matches!(sizes, (Some(a), Some(b)) if a == b)
        || matches!((text.parse::<f64>(), default.parse::<f64>()), (Ok(a), Ok(b)) if a.total_cmp(&b).is_eq())
        // WHY: environment variables may write a boolean in many ways.
        || (default == "true" && matches!(text.to_ascii_lowercase().as_str(), "1" | "t" | "y" | "yes" | "on" | "true"))
}
