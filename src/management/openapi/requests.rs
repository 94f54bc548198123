//! Bodies that clients send. The handlers read them field by field, to tell absent from null and to name what is wrong;
//! a test holds these fields against theirs.
#![expect(dead_code, reason = "descriptions: nobody makes one")]

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};

use super::shapes::{Budget, BudgetChange, Id, Limits, Notes, Time};

/// `POST /manage/projects`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CreateProject {
    /// A name nobody has yet, of at most 255 characters.
    #[schemars(length(min = 1, max = 255))]
    name: String,
    /// The key for the default provider; may be left out when the configuration has one.
    api_key: Option<String>,
    /// Keys by provider.
    providers: Option<BTreeMap<String, Option<String>>>,
    /// Models its tokens may ask for, as patterns; none: all.
    allowed_models: Option<Vec<String>>,
    limits: Option<Limits>,
    budget: Option<Budget>,
    metadata: Option<Notes>,
}

/// `PATCH /manage/projects/{id}`: a merge patch (RFC 7396), null removes.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, transform = without_defaults)]
pub struct UpdateProject {
    /// A name nobody has yet, of at most 255 characters.
    #[schemars(default, length(min = 1, max = 255))]
    name: String,
    /// The key for the default provider; an empty one says nothing.
    api_key: Option<String>,
    /// An inactive project's tokens are refused.
    #[schemars(default)]
    is_active: bool,
    /// With `is_active: false`: revoke its tokens too.
    #[schemars(default)]
    revoke_tokens: bool,
    /// Keys by provider; null removes one.
    #[schemars(default)]
    providers: BTreeMap<String, Option<String>>,
    /// Models its tokens may ask for, as patterns.
    allowed_models: Option<Vec<String>>,
    limits: Option<Limits>,
    budget: Option<BudgetChange>,
    metadata: Option<Notes>,
}

/// `POST /manage/tokens`: exactly one of `duration_minutes` and `expires_at`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CreateToken {
    /// The project it acts for, which must be active.
    project_id: Id,
    /// Its life.
    #[schemars(range(min = 1, max = 525_600))]
    duration_minutes: Option<u32>,
    /// Its end, from one second to 365 days ahead.
    expires_at: Option<Time>,
    /// Client requests it may make in all; 0: any.
    #[schemars(range(min = 0))]
    max_requests: Option<i64>,
    /// For people.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// Models it may ask for, as patterns; none: all.
    allowed_models: Option<Vec<String>>,
    /// Paths it may call, whole segments, `*` within one; none: all.
    allowed_endpoints: Option<Vec<String>>,
    /// Addresses and networks it may be used from; none: all.
    allowed_ips: Option<Vec<String>>,
    limits: Option<Limits>,
    budget: Option<Budget>,
    metadata: Option<Notes>,
}

/// `PATCH /manage/tokens/{id}`: a merge patch (RFC 7396), null removes.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, transform = without_defaults)]
pub struct UpdateToken {
    /// Revokes, or takes a revocation back.
    #[schemars(default)]
    is_active: bool,
    /// For people.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// An earlier end; a later one is refused.
    #[schemars(default)]
    expires_at: Time,
    /// Client requests it may make in all; 0: any.
    #[schemars(range(min = 0))]
    max_requests: Option<i64>,
    /// Models it may ask for, as patterns.
    allowed_models: Option<Vec<String>>,
    /// Paths it may call.
    allowed_endpoints: Option<Vec<String>>,
    /// Addresses and networks it may be used from.
    allowed_ips: Option<Vec<String>>,
    limits: Option<Limits>,
    budget: Option<BudgetChange>,
    metadata: Option<Notes>,
}

/// `POST /manage/tokens/{id}/rotate`; no body is an empty one.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RotateToken {
    /// How long the old secret stays valid beside the new one.
    #[schemars(range(min = 0, max = 10_080))]
    overlap_minutes: Option<u32>,
}

/// `POST /manage/cache/purge`: `method` and `url` (of one project with `project_id`), or one of `prefix`, `project_id` and
/// `all`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PurgeCache {
    method: Option<String>,
    /// Path and query, or a URL with them.
    url: Option<String>,
    /// The beginning of the key that `X-PROXY-CACHE-KEY` shows.
    prefix: Option<String>,
    project_id: Option<Id>,
    /// Everything.
    all: Option<bool>,
}

/// A field that may be left out has no default: it says nothing.
fn without_defaults(schema: &mut Schema) {
    let properties = schema
        .get_mut("properties")
        .and_then(serde_json::Value::as_object_mut);
    for property in properties.into_iter().flat_map(serde_json::Map::values_mut) {
        if let Some(property) = property.as_object_mut() {
            property.remove("default");
        }
    }
}
