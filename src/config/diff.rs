//! What differs between two configurations, and what of it needs a new process.

use std::collections::BTreeMap;

use super::load::Loaded;
use super::path::{KeyPath, Step};
use super::schema::{self, Change};
use super::tree::{Node, Value};

/// The keys that differ, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Diff {
    /// All of them.
    pub changed: Vec<String>,
    /// Those whose change needs a new process; until then the running value holds.
    pub process_only: Vec<String>,
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }
}

/// Compares what two configurations say; the same value written in another way counts as a change.
pub fn diff(old: &Loaded, new: &Loaded) -> Diff {
    let mut diff = Diff::default();
    for path in changed_paths(&old.tree, &new.tree) {
        let needs_process = needs_process(&path, &old.tree, &new.tree);
        let path = KeyPath(path.into_iter().map(Step::Key).collect()).to_string();
        if needs_process {
            diff.process_only.push(path.clone());
        }
        diff.changed.push(path);
    }
    // WHY: a default that is now written out, or `10m` for `600s`, needs no new process.
    if !diff.process_only.is_empty()
        && new
            .pinned_to(old)
            .is_ok_and(|pinned| pinned.settings == new.settings)
    {
        diff.process_only.clear();
    }
    diff
}

/// The paths that differ and that only a new process can change.
pub(super) fn process_paths(new: &Node, old: &Node) -> Vec<Vec<String>> {
    changed_paths(old, new)
        .into_iter()
        .filter(|path| needs_process(path, old, new))
        .collect()
}

fn needs_process(path: &[String], old: &Node, new: &Node) -> bool {
    if let [section, name, ..] = path
        && section == "providers"
        && !(exists(name, old) && exists(name, new))
    {
        // A provider that comes or goes brings or takes its connections.
        return false;
    }
    let path = KeyPath(path.iter().cloned().map(Step::Key).collect());
    schema::lookup(&path).is_some_and(|key| key.change == Change::Process)
}

/// Whether a configuration has that provider.
fn exists(name: &str, tree: &Node) -> bool {
    match tree.at(&["providers", name]) {
        Some(node) => !node.is_null(),
        None => matches!(name, "openai" | "anthropic"),
    }
}

fn changed_paths(old: &Node, new: &Node) -> Vec<Vec<String>> {
    let (mut old_leaves, mut new_leaves) = (BTreeMap::new(), BTreeMap::new());
    leaves(old, &mut Vec::new(), &mut old_leaves);
    leaves(new, &mut Vec::new(), &mut new_leaves);
    let mut changed: Vec<Vec<String>> = Vec::new();
    for (path, node) in &new_leaves {
        if !old_leaves.get(path).is_some_and(|old| old.same(node)) {
            changed.push(path.clone());
        }
    }
    changed.extend(
        old_leaves
            .into_keys()
            .filter(|path| !new_leaves.contains_key(path)),
    );
    changed.sort();
    changed
}

/// Every value that is no mapping (or an empty one), by path; null outside of lists says nothing, except that it
/// removes a provider.
fn leaves<'a>(node: &'a Node, path: &mut Vec<String>, found: &mut BTreeMap<Vec<String>, &'a Node>) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                path.push(entry.key.clone());
                leaves(&entry.node, path, found);
                path.pop();
            }
        }
        _ if node.is_null() && !(path.len() == 2 && path[0] == "providers") => {}
        Value::Map(_) if path.len() < 2 => {}
        _ => {
            found.insert(path.clone(), node);
        }
    }
}
