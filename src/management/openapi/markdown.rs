//! `docs/api.md`: the same description for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::document::document;
use super::operations::{OPERATIONS, Operation};

const HEAD: &str = "# Management API

Made from the types of the program; the same as OpenAPI 3.1 is in [openapi.json](openapi.json) and at `GET /openapi.json`.
Rules that a table cannot hold are in [the contract](contract.md#management-api).

The API is on the sidecar, `127.0.0.1:8081` unless `management.listen` says otherwise. Every call needs
`Authorization: Bearer …` with a token of `management.token` or `management.tokens`: `admin` may do everything, `viewer` may
`GET` everything but the audit trail, `metrics` may read the metrics paths alone. Bodies are JSON objects; an unknown field, one
that occurs twice, or one of another type is 400 and named.

```sh
curl -s -H \"Authorization: Bearer $MANAGEMENT_TOKEN\" http://127.0.0.1:8081/manage/projects
curl -s -H \"Authorization: Bearer $MANAGEMENT_TOKEN\" 'http://127.0.0.1:8081/manage/tokens?active_only=true&page=1&page_size=20'
curl -s -H \"Authorization: Bearer $MANAGEMENT_TOKEN\" 'http://127.0.0.1:8081/manage/audit?outcome=denied'
```

Every refusal is `{\"error\": text, \"code\": word, …}`. Any call can be answered 401 (no bearer, or one that nobody has), 403
(`forbidden`), 429 (too many failed logins wait), 503 (`store_unavailable`, with `Retry-After`).
";

/// The whole page.
pub fn page() -> String {
    let document = document();
    let mut text = HEAD.to_owned();
    for operation in OPERATIONS {
        section(&mut text, operation, &document);
    }
    text
}

fn section(text: &mut String, operation: &Operation, document: &Value) {
    let described = &document["paths"][operation.path][operation.method];
    let method = operation.method.to_ascii_uppercase();
    let _ = writeln!(text, "\n## {method} {}\n\n{}", operation.path, operation.summary);
    if let Some(body) = described.pointer("/requestBody/content/application~1json/schema") {
        fields(text, "Body", resolved(body, document), document);
    }
    if !operation.query.is_empty() {
        text.push_str("\n| query | |\n| --- | --- |\n");
        for parameter in operation.query {
            let _ = writeln!(text, "| `{}` | {} |", parameter.0, parameter.2);
        }
    }
    let status = operation.status.to_string();
    let answer = described["responses"][&status].pointer("/content/application~1json/schema");
    match answer.map(|schema| (schema, schema.get("items").unwrap_or(schema))) {
        None => {
            let _ = writeln!(text, "\nAnswers {status} without a body.");
        }
        Some((schema, one)) => {
            let list = if schema.get("items").is_some() {
                ", a list of"
            } else {
                ""
            };
            fields(
                text,
                &format!("Answers {status}{list}"),
                resolved(one, document),
                document,
            );
        }
    }
    if !operation.refusals.is_empty() {
        let refusals: Vec<String> = operation.refusals.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "\nRefusals: {}.", refusals.join(", "));
    }
}

fn resolved<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    let target = schema["$ref"]
        .as_str()
        .and_then(|target| document.pointer(&target[1..]));
    target.unwrap_or(schema)
}

fn fields(text: &mut String, title: &str, schema: &Value, document: &Value) {
    let _ = writeln!(text, "\n| {title} | | |\n| --- | --- | --- |");
    let properties = schema["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        let required = schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|one| one == name));
        let mark = if required && title == "Body" {
            ", required"
        } else {
            ""
        };
        let about = property["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ");
        let _ = writeln!(
            text,
            "| `{name}` | {}{mark} | {about} |",
            kind(property, document)
        );
    }
    if properties.is_none() {
        let about = schema["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ");
        let _ = writeln!(text, "| | | {about} |");
    }
}

/// The type of a property in a word or two.
fn kind(property: &Value, document: &Value) -> String {
    if let Some(any) = property["anyOf"].as_array() {
        let kinds: Vec<String> = any.iter().map(|one| kind(one, document)).collect();
        return kinds.join(" or ");
    }
    if property.get("$ref").is_some() {
        return kind(resolved(property, document), document);
    }
    let word = |value: &Value| match value.as_str() {
        Some("array") => format!("list of {}", kind(&property["items"], document)),
        Some(word) => property["format"]
            .as_str()
            .filter(|_| word == "string")
            .unwrap_or(word)
            .to_owned(),
        None => String::new(),
    };
    match &property["type"] {
        Value::Array(words) => words.iter().map(word).collect::<Vec<_>>().join(" or "),
        Value::String(_) => word(&property["type"]),
        _ if property["enum"].is_array() => "string".to_owned(),
        _ => "any".to_owned(),
    }
}
