//! The table of operations: what is served, what it takes, what it answers.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::super::audit::{AuditView, Listed};
use super::super::ports::{CacheStats, ModelEntry, ProviderEntry};
use super::super::projects::ProjectView;
use super::super::tokens::{Created, Rotated, TokenView};
use super::super::usage::{Listed as UsageListed, RecordView};
use super::requests::{CreateProject, CreateToken, PurgeCache, RotateToken, UpdateProject, UpdateToken};
use super::shapes::{Description, EffectiveConfiguration, Purged, Reloaded};
use crate::store::tokens::RevokeCounts;

/// Writes the schema of a type.
pub type Shape = fn(&mut SchemaGenerator) -> Schema;

/// A body that an operation takes.
#[derive(Clone, Copy)]
pub enum Takes {
    /// None.
    Nothing,
    /// One that may be left out.
    Optional(Shape),
    /// One that must be there.
    Body(Shape),
}

/// One operation.
pub struct Operation {
    /// The method, lower case.
    pub method: &'static str,
    /// The path, with `{id}` where an id stands.
    pub path: &'static str,
    /// The word of the audit trail; the id of the operation.
    pub action: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Its body.
    pub takes: Takes,
    /// Its query parameters: name, kind, what they are.
    pub query: &'static [QueryParameter],
    /// The status of success.
    pub status: u16,
    /// The body of success.
    pub answers: Option<Shape>,
    /// How it can fail beside what every operation can.
    pub refusals: &'static [u16],
}

/// One query parameter.
pub struct QueryParameter(pub &'static str, pub Kind, pub &'static str);

/// What a query parameter may be.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number of at least 1.
    Count,
    /// A page's size.
    PageSize,
    /// On or off.
    Switch,
    /// An RFC 3339 time.
    Time,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An address.
    Address,
    /// A project's id.
    Id,
}

fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const NO_QUERY: &[QueryParameter] = &[];

const PAGE: QueryParameter = QueryParameter(
    "page",
    Kind::Count,
    "The page, from 1; without it and `page_size` the whole list.",
);

const PAGE_SIZE: QueryParameter = QueryParameter(
    "page_size",
    Kind::PageSize,
    "Rows of a page; `X-Total-Count` and `Link` are answered with it.",
);

const fn get(path: &'static str, action: &'static str, summary: &'static str, answers: Shape) -> Operation {
    Operation {
        method: "get",
        path,
        action,
        summary,
        takes: Takes::Nothing,
        query: NO_QUERY,
        status: 200,
        answers: Some(answers),
        refusals: &[],
    }
}

/// Every operation, in the order of the document.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        query: &[PAGE, PAGE_SIZE],
        refusals: &[400],
        ..get(
            "/manage/projects",
            "project.list",
            "List projects by name.",
            shape::<Vec<ProjectView>>,
        )
    },
    Operation {
        method: "post",
        takes: Takes::Body(shape::<CreateProject>),
        status: 201,
        refusals: &[400, 408, 409, 413],
        ..get(
            "/manage/projects",
            "project.create",
            "Make a project.",
            shape::<ProjectView>,
        )
    },
    Operation {
        refusals: &[400, 404],
        ..get(
            "/manage/projects/{id}",
            "project.read",
            "Show a project.",
            shape::<ProjectView>,
        )
    },
    Operation {
        method: "patch",
        takes: Takes::Body(shape::<UpdateProject>),
        refusals: &[400, 404, 408, 409, 413],
        ..get(
            "/manage/projects/{id}",
            "project.update",
            "Change a project.",
            shape::<ProjectView>,
        )
    },
    Operation {
        method: "post",
        refusals: &[400, 404],
        ..get(
            "/manage/projects/{id}/tokens/revoke",
            "token.revoke_batch",
            "Revoke every token of a project.",
            shape::<RevokeCounts>,
        )
    },
    Operation {
        query: &[
            PAGE,
            PAGE_SIZE,
            QueryParameter("project_id", Kind::Text, "Of this project alone."),
            QueryParameter("active_only", Kind::Switch, "Without revoked and expired ones."),
        ],
        refusals: &[400],
        ..get(
            "/manage/tokens",
            "token.list",
            "List tokens, newest first.",
            shape::<Vec<TokenView<'_>>>,
        )
    },
    Operation {
        method: "post",
        takes: Takes::Body(shape::<CreateToken>),
        refusals: &[400, 404, 408, 413],
        ..get(
            "/manage/tokens",
            "token.create",
            "Make a token; its secret is shown this once.",
            shape::<Created<'_>>,
        )
    },
    Operation {
        refusals: &[400, 404],
        ..get(
            "/manage/tokens/{id}",
            "token.read",
            "Show a token.",
            shape::<TokenView<'_>>,
        )
    },
    Operation {
        method: "patch",
        takes: Takes::Body(shape::<UpdateToken>),
        refusals: &[400, 404, 408, 413],
        ..get(
            "/manage/tokens/{id}",
            "token.update",
            "Change a token.",
            shape::<TokenView<'_>>,
        )
    },
    Operation {
        method: "delete",
        status: 204,
        answers: None,
        refusals: &[400, 404],
        ..get(
            "/manage/tokens/{id}",
            "token.revoke",
            "Revoke a token.",
            shape::<TokenView<'_>>,
        )
    },
    Operation {
        method: "post",
        takes: Takes::Optional(shape::<RotateToken>),
        refusals: &[400, 404, 408, 413],
        ..get(
            "/manage/tokens/{id}/rotate",
            "token.rotate",
            "Give a token a new secret, shown this once.",
            shape::<Rotated<'_>>,
        )
    },
    Operation {
        query: &[
            QueryParameter("page", Kind::Count, "The page, from 1."),
            QueryParameter(
                "page_size",
                Kind::Count,
                "Events of a page, 20 unless told, 100 at most.",
            ),
            QueryParameter("action", Kind::Text, "Such as `project.create`."),
            QueryParameter("actor", Kind::Text, "Who did it."),
            QueryParameter(
                "outcome",
                Kind::OneOf(&["success", "failure", "denied", "error"]),
                "How it ended.",
            ),
            QueryParameter("project_id", Kind::Id, "About this project."),
            QueryParameter("client_ip", Kind::Address, "From this address."),
            QueryParameter("request_id", Kind::Text, "Of this request."),
            QueryParameter("correlation_id", Kind::Text, "Of these requests."),
            QueryParameter("method", Kind::Text, "The HTTP method."),
            QueryParameter("path", Kind::Text, "The path."),
            QueryParameter("search", Kind::Text, "A text in any of its texts."),
            QueryParameter("start_time", Kind::Time, "Not before."),
            QueryParameter("end_time", Kind::Time, "Not after."),
        ],
        refusals: &[400],
        ..get(
            "/manage/audit",
            "audit.list",
            "List audit events, newest first.",
            shape::<Listed<'_>>,
        )
    },
    Operation {
        refusals: &[400, 404],
        ..get(
            "/manage/audit/{id}",
            "audit.show",
            "Show an audit event.",
            shape::<AuditView<'_>>,
        )
    },
    Operation {
        query: &[
            QueryParameter("start_time", Kind::Time, "Not over before."),
            QueryParameter("end_time", Kind::Time, "Over before."),
            QueryParameter(
                "group_by",
                Kind::Text,
                "Any of `project`, `token`, `model`, `provider`, `day`, with commas between them; without it one sum.",
            ),
            QueryParameter("format", Kind::OneOf(&["json", "csv"]), "How it is written."),
        ],
        refusals: &[400],
        ..get(
            "/manage/usage",
            "usage.list",
            "Add up what was used and what it cost.",
            shape::<UsageListed>,
        )
    },
    Operation {
        query: &[
            QueryParameter("page", Kind::Count, "The page, from 1."),
            QueryParameter("page_size", Kind::PageSize, "Records of a page, 20 unless told."),
            QueryParameter("request_id", Kind::Text, "Of this request."),
            QueryParameter("token_id", Kind::Id, "Of this token."),
            QueryParameter("project_id", Kind::Id, "Of this project."),
            QueryParameter("start_time", Kind::Time, "Not over before."),
            QueryParameter("end_time", Kind::Time, "Over before."),
            QueryParameter("format", Kind::OneOf(&["json", "csv"]), "How it is written."),
        ],
        refusals: &[400],
        ..get(
            "/manage/usage/records",
            "usage.records",
            "List usage records, newest first.",
            shape::<Vec<RecordView<'_>>>,
        )
    },
    get(
        "/manage/cache",
        "cache.read",
        "Show counters and sizes of the cache.",
        shape::<CacheStats>,
    ),
    Operation {
        method: "post",
        takes: Takes::Body(shape::<PurgeCache>),
        refusals: &[400, 408, 413],
        ..get(
            "/manage/cache/purge",
            "cache.purge",
            "Drop answers from the cache.",
            shape::<Purged>,
        )
    },
    get(
        "/manage/config",
        "config.read",
        "Show the configuration in force, secrets masked.",
        shape::<EffectiveConfiguration>,
    ),
    Operation {
        method: "post",
        refusals: &[400],
        ..get(
            "/manage/config/reload",
            "config.reload",
            "Read the configuration anew; a bad one changes nothing.",
            shape::<Reloaded>,
        )
    },
    get(
        "/manage/providers",
        "provider.list",
        "List providers and their health.",
        shape::<Vec<ProviderEntry>>,
    ),
    get(
        "/manage/models",
        "model.list",
        "List public models and their targets.",
        shape::<Vec<ModelEntry>>,
    ),
    get(
        "/openapi.json",
        "openapi.read",
        "Show this description.",
        shape::<Description>,
    ),
];
