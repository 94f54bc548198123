//! Puts the document together.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::super::paging::LARGEST_PAGE;
use super::operations::{Kind, OPERATIONS, Operation, Takes};
use super::shapes::ErrorBody;

/// What any operation under `/manage` may answer.
const ALWAYS: [u16; 5] = [401, 403, 429, 500, 503];

/// The whole OpenAPI 3.1 document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<ErrorBody>();
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let at = paths
            .entry(operation.path)
            .or_insert_with(|| parameters_of_path(operation.path));
        at[operation.method] = described(operation, &mut generator, &error.clone().to_value());
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "llm-proxy management API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Projects, tokens, cache, audit and configuration of one llm-proxy. Roles: `admin` everything; `viewer` every GET but the audit trail; `metrics` the metrics paths (`observability.metrics.path`).",
        },
        "servers": [{"url": "/"}],
        "security": [{"managementToken": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "managementToken": {"type": "http", "scheme": "bearer", "description": "A token of `management.tokens`."}
            },
            "schemas": generator.take_definitions(true),
        },
    })
}

fn parameters_of_path(path: &str) -> Value {
    if !path.contains("{id}") {
        return json!({});
    }
    json!({"parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string", "format": "uuid"}}]})
}

fn described(operation: &Operation, generator: &mut SchemaGenerator, error: &Value) -> Value {
    let mut responses = Map::new();
    let mut success = match operation.answers {
        Some(shape) => json!({
            "description": "Done.",
            "content": {"application/json": {"schema": shape(generator)}},
        }),
        None => json!({"description": "Done."}),
    };
    if operation.query.iter().any(|parameter| parameter.0 == "format") {
        success["content"]["text/csv"] = json!({"schema": {"type": "string"}});
    }
    responses.insert(operation.status.to_string(), success);
    for status in operation.refusals.iter().chain(&ALWAYS) {
        responses.insert(
            status.to_string(),
            json!({
                "description": reason(*status),
                "content": {"application/json": {"schema": error}},
            }),
        );
    }
    let mut described = json!({
        "operationId": operation.action,
        "summary": operation.summary,
        "tags": [operation.path.split('/').find(|part| !matches!(*part, "" | "manage")).unwrap_or("manage")],
        "responses": responses,
    });
    if !operation.query.is_empty() {
        described["parameters"] = operation
            .query
            .iter()
            .map(|parameter| {
                json!({
                    "name": parameter.0,
                    "in": "query",
                    "description": parameter.2,
                    "schema": kind(parameter.1),
                })
            })
            .collect();
    }
    let body = match operation.takes {
        Takes::Nothing => return described,
        Takes::Optional(shape) | Takes::Body(shape) => shape(generator),
    };
    described["requestBody"] = json!({
        "required": matches!(operation.takes, Takes::Body(_)),
        "content": {"application/json": {"schema": body}},
    });
    described
}

/// What a parameter may be; an empty one says nothing, as if it were not there.
fn kind(kind: Kind) -> Value {
    let otherwise = match kind {
        Kind::Text => return json!({"type": "string"}),
        Kind::Count => json!({"type": "integer", "minimum": 1, "maximum": u32::MAX}),
        Kind::PageSize => json!({"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE}),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::OneOf(words) => json!({"type": "string", "enum": words}),
        Kind::Address => json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
        Kind::Id => json!({"type": "string", "format": "uuid"}),
    };
    json!({"anyOf": [otherwise, {"const": ""}]})
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Something in it is wrong; `error` says what.",
        401 => "No bearer, or one that nobody has.",
        403 => "The bearer's role may not do this, or the project is inactive.",
        404 => "There is no such thing.",
        408 => "The body did not come in time.",
        409 => "The name is taken.",
        413 => "The body is above 1 MiB.",
        429 => "Too many failed logins are waiting.",
        503 => "The store is away, or something is not to be had here.",
        _ => "A fault of this program.",
    }
}
