use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;
use crate::config::{FileChoice, LoadRequest, Settings, load};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file of the repository with what it should be, or writes it under `UPDATE_GOLDEN=1`.
fn golden(path: &str, expected: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "`{path}` is stale: run `UPDATE_GOLDEN=1 cargo test --lib config::`"
    );
}

fn load_file(path: &str, variables: &[(&str, &str)]) -> crate::config::Loaded {
    let env: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = FileChoice::Path(root().join("conf").join(path));
    let request = LoadRequest {
        file,
        env: &env,
        cwd: folder.path().to_owned(),
        needs_management_token: true,
    };
    load(&request).unwrap_or_else(|errors| panic!("{errors}"))
}

const TOKEN: (&str, &str) = ("MANAGEMENT_TOKEN", "a-management-token-for-tests");
const KEY: (&str, &str) = ("ENCRYPTION_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");

#[test]
fn the_reference_and_the_table_are_fresh() {
    golden("conf/reference.yaml", &reference_yaml());
    golden("docs/configuration.md", &configuration_md());
}

#[test]
fn the_reference_says_the_defaults() {
    let mut found = load_file("reference.yaml", &[TOKEN]).settings;
    assert_eq!(found.models.len(), 1);
    found.models.clear();
    found.providers[0].source = crate::config::ProviderSource::BuiltIn;
    let mut expected = Settings::default();
    expected.management.token = found.management.token.clone();
    assert_eq!(found, expected);
}

#[test]
fn every_example_loads() {
    let minimal = load_file("minimal.yaml", &[TOKEN, ("OPENAI_API_KEY", "sk-x")]);
    assert!(minimal.inactive_keys.is_empty());
    let production = load_file("production.yaml", &[TOKEN, KEY, ("OPENAI_API_KEY", "sk-x")]).settings;
    assert_eq!(
        production.management.on_proxy_listener,
        crate::config::OnProxyListener::Off
    );
    assert_eq!(production.server.drain_timeout.as_secs(), 600);
    let fleet = load_file(
        "fleet.yaml",
        &[
            TOKEN,
            KEY,
            ("OPENAI_API_KEY", "x"),
            ("ANTHROPIC_API_KEY", "y"),
            ("DATABASE_URL", "postgres://h/d"),
            ("REDIS_URL", "redis://h"),
        ],
    )
    .settings;
    assert_eq!(
        fleet.management.on_proxy_listener,
        crate::config::OnProxyListener::Off
    );
    assert!(fleet.limits.distributed.enabled);
    assert_eq!(fleet.database.driver, crate::config::DatabaseDriver::Postgres);
}

#[test]
fn every_key_stands_once_and_every_variable_has_one() {
    let paths: Vec<&str> = keys().map(|key| key.path).collect();
    let unique: BTreeSet<&str> = paths.iter().copied().collect();
    assert_eq!(paths.len(), unique.len());
    for variable in VARIABLES {
        let key = variable
            .key
            .replace("providers.openai.", "providers.<name>.")
            .replace("providers.anthropic.", "providers.<name>.");
        assert!(
            unique.contains(key.as_str()),
            "{} → {}",
            variable.name,
            variable.key
        );
    }
}

#[test]
fn every_invalid_file_says_what_its_expectation_says() {
    let folder = root().join("tests/data/config/invalid");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let text = refusal_of(&path);
        let name =
            Path::new("tests/data/config/invalid").join(path.with_extension("txt").file_name().unwrap());
        golden(name.to_str().unwrap(), &(text + "\n"));
    }
    assert!(count >= 20, "{count}");
}

fn refusal_of(path: &Path) -> String {
    let env = BTreeMap::from([
        (TOKEN.0.to_owned(), TOKEN.1.to_owned()),
        ("SECRET".to_owned(), "sk-secret-of-a-variable".to_owned()),
    ]);
    let file = FileChoice::Path(path.file_name().unwrap().into());
    let cwd = path.parent().unwrap().to_owned();
    let errors = load(&LoadRequest {
        file,
        env: &env,
        cwd,
        needs_management_token: true,
    })
    .expect_err(&path.display().to_string());
    let text = errors.to_string();
    assert!(!text.contains("sk-"), "{text}");
    text
}
