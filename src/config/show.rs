//! The effective configuration for people: defaults filled in, secrets masked.

use serde_json::{Map, Value as Json, json};

use super::load::Loaded;
use super::path::{KeyPath, Step};
use super::schema::{self, Key, Pattern, Secrecy};
use super::settings::{ProviderSettings, Settings};
use super::tree::{self, Node, Scalar, Source, Value};
use super::units::{format_duration, format_size};

/// Every active key with its effective value. Secrets are `[redacted]`, values out of files `[file]`.
pub fn show(loaded: &Loaded) -> Json {
    let mut root = Map::new();
    for key in schema::keys().filter(|key| key.active) {
        for path in instances(key, loaded) {
            let keys: Vec<&str> = path.iter().map(String::as_str).collect();
            let value = match loaded.tree.at(&keys).filter(|node| !node.is_null()) {
                Some(node) => masked(node, &KeyPath(path.iter().cloned().map(Step::Key).collect())),
                None => default_of(key, &path, &loaded.settings),
            };
            put(&mut root, &path, value);
        }
    }
    Json::Object(root)
}

/// [`show`] as YAML.
pub fn show_yaml(loaded: &Loaded) -> String {
    serde_yaml::to_string(&show(loaded)).unwrap_or_default()
}

/// The paths at which a key stands: one, or one for each provider, model, header, parameter.
fn instances(key: &Key, loaded: &Loaded) -> Vec<Vec<String>> {
    let mut paths: Vec<Vec<String>> = vec![Vec::new()];
    for step in schema::pattern(key.path) {
        match step {
            Pattern::Word(word) => paths.iter_mut().for_each(|path| path.push(word.to_owned())),
            Pattern::AnyKey => paths = paths.iter().flat_map(|path| named(path, loaded)).collect(),
            // What stands in a list is shown with the list.
            Pattern::AnyIndex => return Vec::new(),
        }
    }
    paths
}

fn named(path: &[String], loaded: &Loaded) -> Vec<Vec<String>> {
    let names: Vec<String> = if path == ["providers"] {
        loaded
            .settings
            .providers
            .iter()
            .map(|provider| provider.name.clone())
            .collect()
    } else {
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        loaded
            .tree
            .at(&keys)
            .map_or(&[][..], Node::entries)
            .iter()
            .map(|entry| entry.key.clone())
            .collect()
    };
    let extend = |name: String| path.iter().cloned().chain([name]).collect();
    names.into_iter().map(extend).collect()
}

fn put(map: &mut Map<String, Json>, path: &[String], value: Json) {
    match path {
        [] => {}
        [key] => {
            map.insert(key.clone(), value);
        }
        [key, below @ ..] => {
            let child = map.entry(key.clone()).or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(child) = child {
                put(child, below, value);
            }
        }
    }
}

fn masked(node: &Node, path: &KeyPath) -> Json {
    match &node.value {
        Value::Scalar(scalar) => masked_scalar(scalar, path),
        Value::List(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| masked(item, &path.index(index)))
            .collect(),
        Value::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|entry| (entry.key.clone(), masked(&entry.node, &path.key(&entry.key))))
                .collect(),
        ),
    }
}

fn masked_scalar(scalar: &Scalar, path: &KeyPath) -> Json {
    if scalar.source == Source::File {
        return json!("[file]");
    }
    match schema::lookup(path).map(|key| key.secrecy) {
        Some(Secrecy::Open) => typed(scalar),
        Some(Secrecy::Url) => json!(mask_url(&scalar.text)),
        Some(Secrecy::Secret) | None => json!("[redacted]"),
    }
}

fn typed(scalar: &Scalar) -> Json {
    let text = scalar.text.as_str();
    match text {
        _ if scalar.is_null() => Json::Null,
        _ if !scalar.is_number_or_bool() => json!(text),
        "true" | "True" | "TRUE" => json!(true),
        "false" | "False" | "FALSE" => json!(false),
        _ => text
            .parse::<i64>()
            .map_or_else(|_| json!(text), |number| json!(number)),
    }
}

/// Host and path of a URL; user, password and every parameter's value but `sslmode`'s are masked.
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "[redacted]".to_owned();
    };
    // WHY: a password may hold an unescaped `/`, `?` or `@`; so the last `@` of all decides.
    let (user, rest) = rest
        .rsplit_once('@')
        .map_or(("", rest), |(_, rest)| ("[redacted]@", rest));
    let (location, query) = rest
        .split_once('?')
        .map_or((rest, None), |(location, query)| (location, Some(query)));
    let parameters = query.map(|query| {
        let masked = query.split('&').map(|parameter| match parameter.split_once('=') {
            Some(("sslmode", value)) => format!("sslmode={value}"),
            Some((name, _)) => format!("{name}=[redacted]"),
            None => "[redacted]".to_owned(),
        });
        format!("?{}", masked.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{user}{location}{}", parameters.unwrap_or_default())
}

fn default_of(key: &Key, path: &[String], settings: &Settings) -> Json {
    if key.computed {
        return computed(key.path, path, settings);
    }
    let parsed = tree::parse(key.default, &mut Vec::new());
    match parsed {
        Ok(node) => plain(&node),
        Err(_) => json!(key.default),
    }
}

fn plain(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) if scalar.text.as_str() == "none" => Json::Null,
        Value::Scalar(scalar) => typed(scalar),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|entry| (entry.key.clone(), plain(&entry.node)))
                .collect(),
        ),
    }
}

fn computed(key: &str, path: &[String], settings: &Settings) -> Json {
    let provider = |read: fn(&ProviderSettings) -> String| {
        path.get(1)
            .and_then(|name| settings.provider(name))
            .map_or(Json::Null, |provider| json!(read(provider)))
    };
    match key {
        "server.state_dir" => json!(settings.server.state_dir.display().to_string()),
        "server.threads" => json!(settings.server.threads),
        "server.memory_budget" => json!(format_size(settings.server.memory_budget_bytes)),
        "server.max_connections" => json!(settings.server.max_connections),
        "database.driver" => json!(settings.database.driver.name()),
        "cache.max_size" => json!(format_size(settings.cache.max_size_bytes)),
        "default_provider" => json!(settings.default_provider),
        "providers.<name>.dialect" => provider(|provider| provider.dialect.name().to_owned()),
        "providers.<name>.base_url" => provider(|provider| provider.base_url.to_string()),
        "providers.<name>.timeouts.response_header" => {
            provider(|provider| format_duration(provider.timeouts.response_header))
        }
        _ => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_host_and_loses_its_secrets() {
        for (url, shown) in [
            ("redis://h:6379/0", "redis://h:6379/0"),
            ("redis://:secret@h:6379/0", "redis://[redacted]@h:6379/0"),
            (
                "postgres://u:se/c?r@et@h/d?sslmode=require&password=x",
                "postgres://[redacted]@h/d?sslmode=require&password=[redacted]",
            ),
            ("secret", "[redacted]"),
        ] {
            assert_eq!(mask_url(url), shown);
        }
    }
}
