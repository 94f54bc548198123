//! The description against what is served.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::document;
use super::operations::OPERATIONS;
use crate::management::fakes::{ADMIN, Bench, VIEWER, request};
use crate::management::{projects, tokens};

/// Routes of the router's source: (method, path, action).
fn served() -> BTreeSet<(String, String, String)> {
    let source = include_str!("../router.rs").replace(['\n', ' '], "");
    let mut served = BTreeSet::new();
    for route in source.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap_or_default();
        let Some(named) = route.split("named(\"").nth(1).filter(|_| !path.ends_with('/')) else {
            continue;
        };
        let mut parts = named.split(['"', '(', ',']).filter(|part| !part.is_empty());
        let action = parts.next().unwrap_or_default();
        let method = parts.next().unwrap_or_default();
        served.insert((method.to_owned(), path.to_owned(), action.to_owned()));
    }
    served
}

#[test]
fn every_route_is_described_and_every_description_is_served() {
    let described: BTreeSet<_> = OPERATIONS
        .iter()
        .map(|operation| {
            (
                operation.method.to_owned(),
                operation.path.to_owned(),
                operation.action.to_owned(),
            )
        })
        .collect();
    assert_eq!(described, served());
}

#[test]
fn bodies_have_the_fields_that_handlers_read() {
    let document = document();
    for (name, read) in [
        ("CreateProject", projects::CREATE_FIELDS),
        ("UpdateProject", projects::UPDATE_FIELDS),
        ("CreateToken", tokens::CREATE_FIELDS),
        ("UpdateToken", tokens::UPDATE_FIELDS),
        ("RotateToken", &["overlap_minutes"]),
        ("PurgeCache", &["method", "url", "prefix", "project_id", "all"]),
    ] {
        let schema = &document["components"]["schemas"][name];
        let fields: BTreeSet<&str> = schema["properties"]
            .as_object()
            .expect(name)
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(fields, read.iter().copied().collect(), "{name}");
        assert_eq!(schema["additionalProperties"], false, "{name}");
    }
}

#[test]
fn references_lead_somewhere_and_operations_have_names() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 30);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect(reference);
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let ids: BTreeSet<_> = OPERATIONS.iter().map(|operation| operation.action).collect();
    assert_eq!(ids.len(), OPERATIONS.len());
}

#[test]
fn the_document_in_docs_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let text = serde_json::to_string_pretty(&document()).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("a written document");
    }
    let kept = std::fs::read_to_string(path).expect("docs/openapi.json");
    assert!(kept == text, "docs/openapi.json is old: run with UPDATE_GOLDEN=1");
}

#[test]
fn the_page_in_docs_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");
    let text = super::markdown::page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("a written page");
    }
    let kept = std::fs::read_to_string(path).expect("docs/api.md");
    assert!(kept == text, "docs/api.md is old: run with UPDATE_GOLDEN=1");
}

#[tokio::test]
async fn the_description_needs_a_bearer_who_may_read() {
    let bench = Bench::new();
    assert_eq!(
        bench.send(request("GET", "/openapi.json", None, "")).await.status,
        401
    );
    for bearer in [ADMIN, VIEWER] {
        let seen = bench
            .send(request("GET", "/openapi.json", Some(bearer), ""))
            .await;
        assert_eq!((seen.status, &seen.json["openapi"]), (200, &"3.1.0".into()));
    }
    let refused = bench
        .send(request("POST", "/openapi.json", Some(ADMIN), ""))
        .await;
    assert_eq!(refused.status, 405);
}
