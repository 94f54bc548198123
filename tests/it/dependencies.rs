//! What the program is built from: licences, banned crates and sources, read from the lock file's own metadata. The same
//! rules as `deny.toml`, without a network and without a tool.

use std::process::Command;

use serde_json::Value;

/// Packages in the tree of a build, each with licence and source.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata");
    metadata["packages"].as_array().expect("packages").clone()
}

/// A line for each crate that `cargo tree` shows.
fn tree(more: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The strings of a list in `deny.toml`.
fn listed(key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).expect("deny.toml");
    let list = text
        .split(&format!("\n{key} = [\n"))
        .nth(1)
        .and_then(|rest| rest.split("\n]").next());
    let lines = list.unwrap_or_else(|| panic!("no `{key}` in deny.toml")).lines();
    lines
        .filter_map(|line| line.split('"').nth(1).map(str::to_owned))
        .collect()
}

/// Whether a licence expression can be satisfied with what is allowed: every part of an `AND`, one of an `OR`.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression.split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|one| allowed.iter().any(|good| good == one.trim()))
    })
}

#[test]
fn licences_are_permissive() {
    let allowed = listed("allow");
    assert!(allowed.len() > 5);
    let wrong: Vec<String> = packages()
        .iter()
        .filter(|package| package["name"] != "llm-proxy")
        .filter(|package| {
            !package["license"]
                .as_str()
                .is_some_and(|license| is_allowed(license, &allowed))
        })
        .map(|package| {
            format!(
                "{} {}: {}",
                package["name"], package["version"], package["license"]
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_banned_is_not_in_the_tree_and_everything_is_from_the_registry() {
    let banned = listed("deny");
    assert!(banned.contains(&"openssl-sys".to_owned()));
    let tree = tree(&["--edges", "normal,build"]);
    assert!(tree.lines().count() > 100, "{tree}");
    let found: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| banned.iter().any(|ban| ban == name))
        .collect();
    assert!(found.is_empty(), "{found:?}");
    for package in packages() {
        let source = &package["source"];
        let known = source.is_null() && package["name"] == "llm-proxy"
            || source
                .as_str()
                .is_some_and(|source| source.starts_with("registry+"));
        assert!(known, "{} is from {source}", package["name"]);
    }
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, good) in [
        ("MIT", true),
        ("Apache-2.0 OR MIT", true),
        ("Apache-2.0/MIT", true),
        ("Apache-2.0", false),
        ("MIT AND ISC", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND ISC", true),
    ] {
        assert_eq!(is_allowed(expression, &allowed), good, "{expression}");
    }
}

/// Crates that are in the tree in several versions, because those who use them have not met yet. A new one is to be avoided, or
/// to be added here.
const SEVERAL: &[&str] = &[
    "block-buffer",
    "const-oid",
    "cpufeatures",
    "crypto-common",
    "digest",
    "fallible-iterator",
    "foldhash",
    "getrandom",
    "hashbrown",
    "hashlink",
    "heck",
    "indexmap",
    "libc",
    "lock_api",
    "once_cell",
    "openssl-probe",
    "parking_lot",
    "parking_lot_core",
    "rand",
    "rand_chacha",
    "rand_core",
    "rustls-native-certs",
    "socket2",
    "syn",
    "synstructure",
    "thiserror",
    "thiserror-impl",
];

#[test]
fn no_further_crate_is_there_twice() {
    let tree = tree(&["--edges", "normal", "--duplicates", "--depth", "0"]);
    let twice: std::collections::BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .collect();
    let new: Vec<&&str> = twice.iter().filter(|name| !SEVERAL.contains(name)).collect();
    assert!(new.is_empty(), "in several versions: {new:?}");
    let gone: Vec<&&str> = SEVERAL.iter().filter(|name| !twice.contains(*name)).collect();
    assert!(gone.is_empty(), "no longer in several versions: {gone:?}");
}
