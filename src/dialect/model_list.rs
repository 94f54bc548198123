//! The answers of `/v1/models` in both dialects, and what a provider's own list says.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::domain::Dialect;

/// Largest list of a provider that is read.
pub const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;
/// Most names kept of a provider's list.
pub const MAX_LISTED: usize = 10_000;
/// Longest name kept.
const MAX_NAME_BYTES: usize = 512;

/// One model as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedModel {
    /// Its public name.
    pub id: String,
    /// When it was made, in seconds since 1970; 0 if unknown.
    pub created: i64,
    /// Who owns it.
    pub owned_by: String,
}

impl ListedModel {
    /// A model of which nothing but the name is known.
    pub fn named(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            created: 0,
            owned_by: "llm-proxy".to_owned(),
        }
    }
}

/// Renders `/v1/models` for a client.
pub fn render_list(client: Dialect, models: &[ListedModel]) -> Bytes {
    let data: Vec<Value> = models.iter().map(|model| entry(client, model)).collect();
    let list = if client == Dialect::Anthropic {
        json!({
            "data": data,
            "has_more": false,
            "first_id": models.first().map(|model| &model.id),
            "last_id": models.last().map(|model| &model.id),
        })
    } else {
        json!({"object": "list", "data": data})
    };
    list.to_string().into()
}

/// Renders `/v1/models/{id}` for a client.
pub fn render_model(client: Dialect, model: &ListedModel) -> Bytes {
    entry(client, model).to_string().into()
}

fn entry(client: Dialect, model: &ListedModel) -> Value {
    if client == Dialect::Anthropic {
        let created = jiff::Timestamp::from_second(model.created).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        json!({"type": "model", "id": model.id, "display_name": model.id, "created_at": created.to_string()})
    } else {
        json!({"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by})
    }
}

/// Reads a provider's list, of either dialect. Entries without a usable id are left out, and so is
/// everything beyond [`MAX_LISTED`]; none if the body is no list at all.
pub fn parse_list(body: &[u8]) -> Option<Vec<ListedModel>> {
    if body.len() > MAX_LIST_BYTES {
        return None;
    }
    let list: Value = serde_json::from_slice(body).ok()?;
    // a few providers answer with the bare array
    let data = list.get("data").unwrap_or(&list).as_array()?;
    Some(data.iter().filter_map(listed).take(MAX_LISTED).collect())
}

fn listed(entry: &Value) -> Option<ListedModel> {
    let id = entry.get("id")?.as_str()?;
    let usable = (1..=MAX_NAME_BYTES).contains(&id.len()) && !id.chars().any(char::is_control);
    let created_at = || entry.get("created_at")?.as_str()?.parse::<jiff::Timestamp>().ok();
    let created = entry
        .get("created")
        .and_then(Value::as_i64)
        .or_else(|| Some(created_at()?.as_second()));
    let owner = entry
        .get("owned_by")
        .and_then(Value::as_str)
        .filter(|owner| owner.len() <= MAX_NAME_BYTES);
    usable.then(|| ListedModel {
        id: id.to_owned(),
        created: created.unwrap_or(0),
        owned_by: owner.unwrap_or("unknown").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> Vec<ListedModel> {
        let dated = ListedModel {
            created: 1_715_367_049,
            owned_by: "system".into(),
            ..ListedModel::named("gpt-4o")
        };
        vec![dated, ListedModel::named("claude")]
    }

    #[test]
    fn lists_are_rendered_in_both_dialects_and_read_back() {
        let openai = render_list(Dialect::OpenAi, &models());
        assert_eq!(
            openai,
            r#"{"object":"list","data":[{"id":"gpt-4o","object":"model","created":1715367049,"owned_by":"system"},{"id":"claude","object":"model","created":0,"owned_by":"llm-proxy"}]}"#
        );
        assert_eq!(parse_list(&openai), Some(models()));
        let anthropic = render_list(Dialect::Anthropic, &models());
        let expected = r#"{"data":[{"type":"model","id":"gpt-4o","display_name":"gpt-4o","created_at":"2024-05-10T18:50:49Z"},{"type":"model","id":"claude","display_name":"claude","created_at":"1970-01-01T00:00:00Z"}],"has_more":false,"first_id":"gpt-4o","last_id":"claude"}"#;
        assert_eq!(anthropic, expected);
        let read = parse_list(&anthropic).expect("a list");
        assert_eq!((read[0].created, read.len()), (1_715_367_049, 2));
        assert_eq!(
            render_list(Dialect::Anthropic, &[]),
            r#"{"data":[],"has_more":false,"first_id":null,"last_id":null}"#
        );
    }

    #[test]
    fn one_model_is_rendered_alone() {
        assert_eq!(
            render_model(Dialect::OpenAi, &ListedModel::named("m")),
            r#"{"id":"m","object":"model","created":0,"owned_by":"llm-proxy"}"#
        );
    }

    #[test]
    fn a_providers_list_is_read_with_suspicion() {
        let body = json!({"data": [
            {"id": "good"}, {"id": 7}, {"name": "x"}, "text", null, {"id": ""}, {"id": "a\nb"},
            {"id": "x".repeat(600)}, {"id": "also", "created": "soon", "owned_by": ["y"]},
        ]});
        let names: Vec<String> = parse_list(body.to_string().as_bytes())
            .expect("a list")
            .into_iter()
            .map(|model| model.id)
            .collect();
        assert_eq!(names, ["good", "also"]);
        for body in ["", "<html>", "{}", r#"{"data":{}}"#, r#"{"error":{}}"#, "7"] {
            assert_eq!(parse_list(body.as_bytes()), None, "{body}");
        }
        assert_eq!(parse_list(&vec![b' '; MAX_LIST_BYTES + 1]), None);
        let many = json!(vec![json!({"id": "m"}); MAX_LISTED + 5]);
        assert_eq!(
            parse_list(many.to_string().as_bytes()).map(|list| list.len()),
            Some(MAX_LISTED)
        );
    }
}
