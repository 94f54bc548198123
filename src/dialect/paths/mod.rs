//! One table of the API's paths, the normal form a path must have, and patterns over paths.

mod normal;
mod pattern;

pub use normal::{NormalPath, NotNormal, normalise, strip_prefix};
pub use pattern::{EndpointPattern, PatternError};

use super::sse::StreamKind;
use crate::domain::Dialect;

/// An inference path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inference {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `POST /v1/responses`.
    Responses,
    /// `/v1/messages`.
    Messages,
    /// `/v1/messages/count_tokens`.
    CountTokens,
    /// `/v1/embeddings`.
    Embeddings,
    /// `/v1/moderations`.
    Moderations,
    /// `/v1/audio/speech`, `transcriptions`, `translations`.
    Audio,
    /// `/v1/images/generations`, `edits`, `variations`.
    Images,
    /// `/v1/rerank`.
    Rerank,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// One question, one answer; the body is understood.
    Inference(Inference),
    /// `/v1/models`.
    ModelList,
    /// `/v1/models/{id}`; see [`model_id`].
    ModelById,
    /// Touches what a provider keeps: needs the project's own key.
    Stateful,
    /// Known, but not served by this version: 404 `endpoint_not_found`.
    NotInThisVersion,
    /// Not in the table: 404 `endpoint_not_found`, unless a provider's `allowed_endpoints` names it.
    Unknown,
}

/// What the table says about a path and method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathFacts {
    /// What it is.
    pub family: Family,
    /// What a stream on it looks like.
    pub stream: StreamKind,
    /// The dialect of clients that call it, if their headers say nothing else.
    pub dialect: Dialect,
    /// The methods it takes, for 405 and `Allow`.
    pub methods: &'static [&'static str],
}

impl PathFacts {
    /// The dialect of the client: Anthropic also with an `anthropic-version` header.
    pub fn client_dialect(&self, has_anthropic_version: bool) -> Dialect {
        if has_anthropic_version {
            Dialect::Anthropic
        } else {
            self.dialect
        }
    }

    /// The path takes this method.
    pub fn takes(&self, method: &str) -> bool {
        self.methods.contains(&method)
    }

    /// The value of `Allow`.
    pub fn allow(&self) -> String {
        self.methods.join(", ")
    }

    /// The path is an inference path.
    pub fn is_inference(&self) -> bool {
        matches!(self.family, Family::Inference(_))
    }
}

const POST: &[&str] = &["POST"];
const READ: &[&str] = &["GET", "HEAD"];
const ANY: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// The endpoints that a provider serves by default, as patterns: inference paths and models. Being
/// prefixes they cover stateful paths below them too, which need an own key whatever allows them.
pub const DEFAULT_ENDPOINTS: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/rerank",
    "/v1/models",
];

/// First segments below `/v1` of what providers keep for an account.
const STATEFUL_ROOTS: &[&str] = &[
    "files",
    "uploads",
    "batches",
    "fine_tuning",
    "fine-tunes",
    "assistants",
    "threads",
    "vector_stores",
    "containers",
    "conversations",
    "evals",
    "organization",
];

/// Says what a path is. `path` is without any of `server.path_prefixes`.
pub fn classify(method: &str, path: &NormalPath<'_>) -> PathFacts {
    let mut segments = path.segments();
    let first = segments.next().unwrap_or_default();
    let rest: [Option<&str>; 3] = std::array::from_fn(|_| segments.next());
    if first != "v1" {
        return outside_v1(first, rest[0]);
    }
    match rest {
        [Some("chat"), Some("completions"), None] => inference(Inference::Chat, StreamKind::Chat),
        [Some("chat"), Some("completions"), Some(_)] => stateful(),
        [Some("completions"), None, _] => inference(Inference::Completions, StreamKind::Completions),
        [Some("responses"), None, _] if method == "POST" => {
            inference(Inference::Responses, StreamKind::Responses)
        }
        [Some("responses"), _, _] => PathFacts {
            stream: StreamKind::Responses,
            ..stateful()
        },
        [Some("messages"), None, _] => messages(Inference::Messages, StreamKind::Messages),
        [Some("messages"), Some("count_tokens"), None] => messages(Inference::CountTokens, StreamKind::Other),
        [Some("messages"), Some("batches"), _] => PathFacts {
            dialect: Dialect::Anthropic,
            ..stateful()
        },
        [Some("messages"), _, _] => PathFacts {
            dialect: Dialect::Anthropic,
            ..unknown()
        },
        [Some("embeddings"), None, _] => inference(Inference::Embeddings, StreamKind::Other),
        [Some("moderations"), None, _] => inference(Inference::Moderations, StreamKind::Other),
        [Some("rerank"), None, _] => inference(Inference::Rerank, StreamKind::Other),
        [
            Some("audio"),
            Some("speech" | "transcriptions" | "translations"),
            None,
        ] => inference(Inference::Audio, StreamKind::Other),
        [Some("images"), Some("generations" | "edits" | "variations"), None] => {
            inference(Inference::Images, StreamKind::Other)
        }
        [Some("models"), None, _] => PathFacts {
            family: Family::ModelList,
            methods: READ,
            ..unknown()
        },
        [Some("models"), Some(id), _] if !id.is_empty() => PathFacts {
            family: Family::ModelById,
            methods: READ,
            ..unknown()
        },
        [Some("realtime"), _, _] | [Some("openai"), Some("deployments"), _] => not_in_this_version(),
        [Some(root), _, _] if STATEFUL_ROOTS.contains(&root) => stateful(),
        _ => unknown(),
    }
}

/// The id in `/v1/models/{id}`, which may hold slashes.
pub fn model_id<'a>(path: &'a NormalPath<'_>) -> Option<&'a str> {
    path.decoded()
        .strip_prefix("/v1/models/")
        .filter(|id| !id.is_empty())
}

fn outside_v1(first: &str, second: Option<&str>) -> PathFacts {
    match (first, second) {
        ("openai", Some(_))
        | ("chat", Some("completions"))
        | ("completions" | "embeddings" | "models", None) => not_in_this_version(),
        _ => unknown(),
    }
}

fn unknown() -> PathFacts {
    PathFacts {
        family: Family::Unknown,
        stream: StreamKind::Other,
        dialect: Dialect::OpenAi,
        methods: ANY,
    }
}

fn not_in_this_version() -> PathFacts {
    PathFacts {
        family: Family::NotInThisVersion,
        ..unknown()
    }
}

fn stateful() -> PathFacts {
    PathFacts {
        family: Family::Stateful,
        ..unknown()
    }
}

fn inference(kind: Inference, stream: StreamKind) -> PathFacts {
    PathFacts {
        family: Family::Inference(kind),
        stream,
        dialect: Dialect::OpenAi,
        methods: POST,
    }
}

fn messages(kind: Inference, stream: StreamKind) -> PathFacts {
    PathFacts {
        dialect: Dialect::Anthropic,
        ..inference(kind, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(method: &str, path: &str) -> Family {
        classify(method, &normalise(path).expect(path)).family
    }

    #[test]
    fn every_path_of_the_contract_is_in_the_table() {
        use Inference::{
            Audio, Chat, Completions, CountTokens, Embeddings, Images, Messages, Moderations, Rerank,
            Responses,
        };
        for (path, kind) in [
            ("/v1/chat/completions", Chat),
            ("/v1/completions", Completions),
            ("/v1/responses", Responses),
            ("/v1/messages", Messages),
            ("/v1/messages/count_tokens", CountTokens),
            ("/v1/embeddings", Embeddings),
            ("/v1/moderations", Moderations),
            ("/v1/audio/speech", Audio),
            ("/v1/audio/transcriptions", Audio),
            ("/v1/audio/translations", Audio),
            ("/v1/images/generations", Images),
            ("/v1/images/edits", Images),
            ("/v1/images/variations", Images),
            ("/v1/rerank", Rerank),
        ] {
            let facts = classify("POST", &normalise(path).expect(path));
            assert_eq!(facts.family, Family::Inference(kind), "{path}");
            assert!(facts.takes("POST") && !facts.takes("GET"), "{path}");
            assert_eq!(facts.allow(), "POST");
            let allowed = DEFAULT_ENDPOINTS.iter().any(|pattern| {
                EndpointPattern::parse(pattern)
                    .expect("a pattern")
                    .matches(&normalise(path).expect(path))
            });
            assert!(allowed, "{path} is allowed by default");
        }
    }

    #[test]
    fn what_a_provider_keeps_is_stateful() {
        for (method, path) in [
            ("GET", "/v1/files"),
            ("POST", "/v1/files/x/content"),
            ("GET", "/v1/files/"),
            ("POST", "/v1/uploads"),
            ("POST", "/v1/batches/b/cancel"),
            ("GET", "/v1/fine_tuning/jobs"),
            ("GET", "/v1/fine-tunes"),
            ("GET", "/v1/assistants"),
            ("POST", "/v1/threads/t/runs"),
            ("GET", "/v1/vector_stores"),
            ("GET", "/v1/containers"),
            ("GET", "/v1/conversations/c"),
            ("GET", "/v1/evals"),
            ("GET", "/v1/organization/usage"),
            ("GET", "/v1/responses"),
            ("GET", "/v1/responses/r"),
            ("POST", "/v1/responses/r/cancel"),
            ("GET", "/v1/chat/completions/c"),
            ("POST", "/v1/messages/batches"),
            ("GET", "/v1/messages/batches/b/results"),
        ] {
            assert_eq!(family(method, path), Family::Stateful, "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_served_is_told_apart() {
        for path in [
            "/v1/realtime",
            "/openai/v1/chat/completions",
            "/openai/deployments/x/chat/completions",
            "/v1/openai/deployments/x",
            "/chat/completions",
            "/completions",
            "/embeddings",
            "/models",
        ] {
            assert_eq!(family("GET", path), Family::NotInThisVersion, "{path}");
        }
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v2/models",
            "/v1/modelsx",
            "/v1/models/",
            "/v1/filesx",
            "/v1/Files",
            "/v1/chat",
            "/v1/chat/completions/",
            "/v1/messages/x",
            "/v1/audio",
            "/v1/audio/x",
            "/v1/embeddings/x",
            "/v1/completions/x",
        ] {
            assert!(
                matches!(family("POST", path), Family::Unknown | Family::Stateful),
                "{path}"
            );
            assert!(
                path == "/v1/chat/completions/" || family("POST", path) == Family::Unknown,
                "{path}"
            );
        }
    }

    #[test]
    fn models_are_read_only_and_their_ids_may_hold_slashes() {
        assert_eq!(family("GET", "/v1/models"), Family::ModelList);
        for (path, id) in [
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/v1/models/meta/llama-3", "meta/llama-3"),
            ("/v1/models/meta%2Fllama%3A3", "meta/llama:3"),
        ] {
            let normal = normalise(path).expect(path);
            let facts = classify("DELETE", &normal);
            assert_eq!((facts.family, facts.takes("DELETE")), (Family::ModelById, false));
            assert_eq!(model_id(&normal), Some(id));
        }
    }

    #[test]
    fn the_dialect_of_the_client_follows_path_and_header() {
        let facts = |path: &str| classify("POST", &normalise(path).expect(path));
        assert_eq!(facts("/v1/messages").client_dialect(false), Dialect::Anthropic);
        assert_eq!(
            facts("/v1/messages/nonsense").client_dialect(false),
            Dialect::Anthropic
        );
        assert_eq!(facts("/v1/models").client_dialect(true), Dialect::Anthropic);
        assert_eq!(facts("/v1/models").client_dialect(false), Dialect::OpenAi);
    }
}
