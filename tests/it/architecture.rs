//! The written rules about the tree, checked: arrows, homes of foreign crates, lengths, names, pairs, the top level.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SERVICES: [&str; 5] = ["auth", "limit", "cache", "upstream", "metering"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, with its path from there.
fn rust_files(below: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path
                    .strip_prefix(root().join(below))
                    .expect("below")
                    .to_string_lossy()
                    .into_owned();
                files.push((name, std::fs::read_to_string(&path).expect("readable source")));
            }
        }
    }
    files.sort();
    files
}

/// The code without comment lines and what follows ` // `.
fn code_of(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines
        .map(|line| line.split(" // ").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The first names behind each `crate::`, groups included.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(group_heads(group));
        } else {
            names.insert(word(rest));
        }
    }
    names.remove("");
    names
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The heads of `a, b::c, d::{e, f}}`.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut fresh) = (1, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if c.is_whitespace() => {}
            _ if fresh => {
                heads.push(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn arrows() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut arrows = BTreeMap::from([
        ("domain", vec![]),
        ("telemetry", vec!["domain"]),
        ("config", vec!["domain"]),
        ("dialect", vec!["domain"]),
        ("store", vec!["domain", "config", "telemetry"]),
        ("fleet", vec!["domain", "config", "telemetry"]),
        ("listen", vec!["domain", "config", "telemetry"]),
        ("cli", vec!["app", "config", "store", "domain"]),
        (
            "live",
            [&["domain", "config", "telemetry"][..], &SERVICES].concat(),
        ),
        (
            "proxy",
            [&["domain", "dialect", "telemetry", "live"][..], &SERVICES].concat(),
        ),
        (
            "management",
            [
                &["domain", "config", "telemetry", "live", "store", "fleet"][..],
                &SERVICES,
            ]
            .concat(),
        ),
    ]);
    for service in SERVICES {
        arrows.insert(
            service,
            vec!["domain", "config", "telemetry", "store", "fleet", "dialect"],
        );
    }
    arrows
}

#[test]
fn modules_use_only_what_the_arrows_allow() {
    let arrows = arrows();
    let mut wrong = Vec::new();
    for (file, text) in rust_files("src") {
        let Some((module, _)) = file.split_once('/') else {
            continue;
        };
        if module == "app" {
            continue;
        }
        let allowed = arrows
            .get(module)
            .unwrap_or_else(|| panic!("module `{module}` has no row in the table of arrows"));
        for used in crate_paths(&code_of(&text)) {
            if used != module && arrows.contains_key(used.as_str()) && !allowed.contains(&used.as_str())
                || used == "app" && module != "cli"
            {
                wrong.push(format!("{file} uses crate::{used}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that do not exist:\n{}",
        wrong.join("\n")
    );
}

/// A foreign crate's name and where it may be used.
type Home = (&'static str, fn(&str) -> bool);

const HOMES: [Home; 12] = [
    ("pingora", at_pingora),
    ("pingora_core", at_pingora),
    ("pingora_http", at_pingora),
    ("pingora_proxy", at_pingora),
    ("pingora_cache", at_pingora),
    ("axum", |file| file.starts_with("management/")),
    ("rusqlite", |file| file.starts_with("store/")),
    ("tokio_postgres", |file| {
        file.starts_with("store/") || file == "fleet/postgres.rs"
    }),
    ("fred", |file| {
        file.ends_with("/redis.rs") || file.contains("/redis/")
    }),
    ("serde_yaml", |file| file.starts_with("config/")),
    ("saphyr_parser", |file| file.starts_with("config/")),
    ("rustls", |file| {
        file == "listen/tls.rs"
            || ["upstream/", "store/postgres", "fleet/"]
                .iter()
                .any(|home| file.starts_with(home))
    }),
];

fn at_pingora(file: &str) -> bool {
    ["listen/", "proxy/", "cache/"]
        .iter()
        .any(|home| file.starts_with(home))
        || file.starts_with("upstream/target")
}

#[test]
fn foreign_crates_stay_at_home() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files("src") {
        let code = code_of(&text);
        for (name, may_live_in) in HOMES {
            let path = format!("{name}::");
            let used = code.match_indices(&path).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '"')
            });
            if used && !may_live_in(&file) {
                wrong.push(format!("{file} uses {name}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "foreign crates away from home:\n{}",
        wrong.join("\n")
    );
}

fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

#[test]
fn no_file_is_longer_than_six_hundred_lines() {
    let mut long = Vec::new();
    for (file, text) in rust_files("src") {
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > 600 && !is_test_file(&file) {
            long.push(format!("src/{file}: {lines} lines"));
        }
    }
    assert!(
        long.is_empty(),
        "files above 600 non-test lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn files_are_named_for_a_thing_and_open_with_their_job() {
    let banned = [
        "utils", "util", "helpers", "helper", "common", "misc", "manager", "types", "models",
    ];
    let mut wrong = Vec::new();
    for below in ["src", "tests", "benches"] {
        for (file, text) in rust_files(below) {
            let path = PathBuf::from(&file);
            let parts = path
                .iter()
                .map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned());
            // The command and the API resource are called so in the contract.
            let kept = ["cli/", "management/", "it/"]
                .iter()
                .any(|home| file.starts_with(home));
            if parts
                .into_iter()
                .any(|part| banned.contains(&part.as_str()) && !(part == "models" && kept))
            {
                wrong.push(format!("{below}/{file}: a name that says nothing"));
            }
            if !text.starts_with("//! ") && !is_test_file(&file) {
                wrong.push(format!("{below}/{file}: does not open with its job"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_unfinished_is_left() {
    // Put together here, so that this file does not find itself.
    let words = [
        ["to", "do!("].concat(),
        ["unimpl", "emented!("].concat(),
        ["#[ig", "nore"].concat(),
        ["FIX", "ME"].concat(),
    ];
    let mut wrong = Vec::new();
    for below in ["src", "tests", "benches"] {
        for (file, text) in rust_files(below) {
            wrong.extend(
                words
                    .iter()
                    .filter(|w| text.contains(w.as_str()))
                    .map(|w| format!("{below}/{file}: {w}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut named = 0;
    for document in ["docs/security.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(root().join(document)).expect(document);
        for word in text.split('`').skip(1).step_by(2) {
            let Some((file, test)) = word.split_once("::").filter(|(_, test)| !test.contains("::")) else {
                continue;
            };
            let Ok(source) = std::fs::read_to_string(root().join(format!("tests/it/{file}.rs"))) else {
                continue;
            };
            named += 1;
            let found = test == "*" || source.contains(&format!("fn {test}("));
            assert!(found, "{document} names `{word}`, which does not exist");
        }
    }
    assert!(named > 60, "only {named} names were found");
}

#[test]
fn both_stores_have_the_same_migrations() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(root().join("migrations").join(folder))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| Path::new(name).extension().is_some_and(|e| e == "sql"))
            .collect()
    };
    let (sqlite, postgres) = (names("sqlite"), names("postgres"));
    assert_eq!(sqlite, postgres, "migrations come in pairs");
    let numbers: Vec<usize> = sqlite
        .iter()
        .map(|name| name[..4].parse().expect("NNNN_verb_noun.sql"))
        .collect();
    assert_eq!(
        numbers,
        (1..=numbers.len()).collect::<Vec<_>>(),
        "numbered without gaps"
    );
}

#[test]
fn top_level_holds_what_a_reader_expects_and_nothing_else() {
    let known = [
        ".ci",
        ".dockerignore",
        ".git",
        ".gitignore",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "Dockerfile",
        "LICENSE",
        "Makefile",
        "README.md",
        "benches",
        "clippy.toml",
        "conf",
        "data",
        "deny.toml",
        "docs",
        "migrations",
        "rustfmt.toml",
        "src",
        "systemd",
        "target",
        "tests",
    ];
    let entries = std::fs::read_dir(root()).expect("the repository").flatten();
    let surprising: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !known.contains(&name.as_str()))
        .collect();
    assert!(surprising.is_empty(), "not part of the top level: {surprising:?}");
}

#[test]
fn request_context_stays_small() {
    let mut files = rust_files("src").into_iter();
    let (file, text) = files
        .find(|(_, text)| text.contains("pub struct RequestCtx"))
        .expect("the request's context");
    let body = text
        .split("pub struct RequestCtx")
        .nth(1)
        .and_then(|rest| rest.split("\n}").next())
        .expect("its fields");
    let is_field = |line: &&str| {
        let line = line
            .trim()
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ")
            .trim_start_matches("pub ");
        !line.starts_with("//")
            && !line.starts_with('#')
            && line.split_once(':').is_some_and(|(name, _)| word(name) == name)
    };
    let fields = body.lines().filter(is_field).count();
    assert!(fields <= 12, "{file}: RequestCtx has {fields} fields: group them");
}

#[test]
fn checks_of_the_arrows_see_every_spelling() {
    let code =
        "use crate::{auth::A, live::{B, C}, store};\nlet x = crate::proxy::run();\nmy_crate::not_me();";
    let found: Vec<String> = crate_paths(code).into_iter().collect();
    assert_eq!(found, ["auth", "live", "proxy", "store"]);
    assert!(
        code_of("/// [`crate::app`]\nlet a = 1; // crate::cli")
            .find("crate::")
            .is_none()
    );
}
