//! Every active setting is changed by a test that looks from outside: a test's text must name all the words of the key's
//! path. A key that nobody changes fails here, with the words that were looked for.

use std::collections::BTreeSet;

use llm_proxy::config::schema::keys;

/// Keys without an effect that could be seen, and why.
const UNSEEN: &[(&str, &str)] = &[
    (
        "providers.<name>.timeouts.flush_interval",
        "accepted for old files, without effect",
    ),
    ("cache.backend", "one value in this version"),
];

/// Keys whose words stand in a helper of the named file, which its tests use.
const BY_HELPER: &[(&str, &str)] = &[
    ("management.token", "edge/mod.rs"),
    ("server.state_dir", "edge/mod.rs"),
    ("database.path", "edge/mod.rs"),
    ("database.driver", "edge/mod.rs"),
    ("database.url", "edge/mod.rs"),
];

/// The words of a path: names that the operator chooses are none.
fn words(path: &str) -> Vec<&str> {
    path.split('.')
        .map(|word| word.trim_end_matches("[]"))
        .filter(|word| !word.starts_with('<'))
        .collect()
}

fn holds_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        edge(text[..at].chars().next_back()) && edge(text[at + word.len()..].chars().next())
    })
}

/// The text of each function in the files of this folder.
fn functions() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let mut functions = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("keys.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        functions.extend(
            text.split("\nfn ")
                .flat_map(|part| part.split("\n    fn "))
                .skip(1)
                .map(str::to_owned),
        );
    }
    functions
}

#[test]
fn every_active_key_is_changed_by_a_test_that_looks_from_outside() {
    let functions = functions();
    let mut wanting = BTreeSet::new();
    for key in keys().filter(|key| key.active) {
        if UNSEEN.iter().chain(BY_HELPER).any(|(path, _)| *path == key.path) {
            continue;
        }
        let words = words(key.path);
        if !functions
            .iter()
            .any(|text| words.iter().all(|word| holds_word(text, word)))
        {
            wanting.insert(key.path);
        }
    }
    assert!(wanting.is_empty(), "no test changes: {wanting:#?}");
}

#[test]
fn exceptions_are_keys_and_hold() {
    for (path, _) in UNSEEN.iter().chain(BY_HELPER) {
        assert!(
            keys().any(|key| key.path == *path && key.active),
            "{path} is no active key"
        );
    }
    for (path, file) in BY_HELPER {
        let text = std::fs::read_to_string(format!("{}/tests/it/{file}", env!("CARGO_MANIFEST_DIR")))
            .expect("a source");
        assert!(
            words(path).iter().all(|word| holds_word(&text, word)),
            "{file} does not set {path}"
        );
    }
}
