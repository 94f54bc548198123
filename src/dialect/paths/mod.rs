//! The one table of the API's paths, their aliases, and the normal form a path must have.

mod alias;
mod normal;

pub use alias::{Called, called};
pub use normal::{NormalPath, NotNormal, normalise, strip_prefix};

use super::sse::StreamKind;
use crate::domain::{Dialect, PathClass};

/// An inference path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inference {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`, and what asks about one without keeping it: `input_tokens`, `compact`.
    Responses,
    /// `/v1/messages`.
    Messages,
    /// `/v1/messages/count_tokens`.
    CountTokens,
    /// `/v1/embeddings`.
    Embeddings,
    /// `/v1/moderations`.
    Moderations,
    /// Below `/v1/audio`: `speech`, `transcriptions`, `translations`.
    Audio,
    /// Below `/v1/images`: `generations`, `edits`, `variations`.
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
    /// `/v1/realtime`: a WebSocket session.
    Realtime,
    /// Not in the table: 404 `endpoint_not_found`, unless a provider's `allowed_endpoints` names it.
    Unknown,
}

/// What the table says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathFacts {
    /// What it is.
    pub family: Family,
    /// What a stream on it looks like.
    pub stream: StreamKind,
    /// The API it belongs to: which providers serve it, and the dialect of clients whose headers say nothing else.
    pub dialect: Dialect,
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

    /// Its class, for rules.
    pub fn class(&self) -> PathClass {
        match self.family {
            Family::Inference(_) => PathClass::Inference,
            Family::ModelList | Family::ModelById => PathClass::Models,
            Family::Stateful => PathClass::Stateful,
            Family::Realtime => PathClass::Realtime,
            Family::Unknown => PathClass::Unknown,
        }
    }
}

/// First segments below `/v1` of what providers keep for an account.
const STATEFUL_ROOTS: &[&str] = &[
    "files",
    "uploads",
    "batches",
    "fine_tuning",
    "fine-tuning",
    "fine-tunes",
    "assistants",
    "threads",
    "vector_stores",
    "containers",
    "conversations",
    "evals",
    "organization",
];

/// Says what a path is: in its form below `/v1` (see [`called`]). A slash at its end means nothing.
pub fn classify(path: &NormalPath<'_>) -> PathFacts {
    let mut segments = path.segments();
    if segments.next() != Some("v1") {
        return unknown();
    }
    let mut next = || segments.next().filter(|segment| !segment.is_empty());
    let below: [Option<&str>; 3] = std::array::from_fn(|_| next());
    match below {
        [Some("chat"), Some("completions"), None] => inference(Inference::Chat, StreamKind::Chat),
        [Some("chat"), Some("completions"), Some(_)] => stateful(),
        [Some("completions"), None, _] => inference(Inference::Completions, StreamKind::Completions),
        [Some("responses"), None, _] => inference(Inference::Responses, StreamKind::Responses),
        [Some("responses"), Some("input_tokens" | "compact"), None] => {
            inference(Inference::Responses, StreamKind::Other)
        }
        [Some("responses"), Some(_), _] => PathFacts {
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
        [Some("audio"), Some(_), _] => inference(Inference::Audio, StreamKind::Other),
        [Some("images"), Some(_), _] => inference(Inference::Images, StreamKind::Other),
        [Some("models"), None, _] => of(Family::ModelList),
        [Some("models"), Some(_), _] => of(Family::ModelById),
        [Some("realtime"), None, _] => of(Family::Realtime),
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

fn of(family: Family) -> PathFacts {
    PathFacts {
        family,
        stream: StreamKind::Other,
        dialect: Dialect::OpenAi,
    }
}

fn unknown() -> PathFacts {
    of(Family::Unknown)
}

fn stateful() -> PathFacts {
    of(Family::Stateful)
}

fn inference(kind: Inference, stream: StreamKind) -> PathFacts {
    PathFacts {
        stream,
        ..of(Family::Inference(kind))
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

    fn facts(path: &str) -> PathFacts {
        classify(&normalise(path).expect(path))
    }

    #[test]
    fn every_path_of_the_contract_has_its_class() {
        use PathClass::{Inference, Models, Realtime, Stateful, Unknown};
        for (path, class) in [
            ("/v1/chat/completions", Inference),
            ("/v1/chat/completions/", Inference),
            ("/v1/chat/completions/chatcmpl-1", Stateful),
            ("/v1/completions", Inference),
            ("/v1/responses", Inference),
            ("/v1/responses/input_tokens", Inference),
            ("/v1/responses/compact", Inference),
            ("/v1/responses/resp_1", Stateful),
            ("/v1/responses/resp_1/cancel", Stateful),
            ("/v1/messages", Inference),
            ("/v1/messages/count_tokens", Inference),
            ("/v1/messages/batches", Stateful),
            ("/v1/messages/batches/b/results", Stateful),
            ("/v1/messages/x", Unknown),
            ("/v1/embeddings", Inference),
            ("/v1/embeddings/x", Unknown),
            ("/v1/moderations", Inference),
            ("/v1/audio/speech", Inference),
            ("/v1/audio/transcriptions", Inference),
            ("/v1/audio", Unknown),
            ("/v1/images/generations", Inference),
            ("/v1/images", Unknown),
            ("/v1/rerank", Inference),
            ("/v1/models", Models),
            ("/v1/models/", Models),
            ("/v1/models/gpt-4o", Models),
            ("/v1/models/meta/llama", Models),
            ("/v1/files", Stateful),
            ("/v1/files/", Stateful),
            ("/v1/files/file-1/content", Stateful),
            ("/v1/uploads", Stateful),
            ("/v1/batches/b/cancel", Stateful),
            ("/v1/fine_tuning/jobs", Stateful),
            ("/v1/fine-tunes", Stateful),
            ("/v1/assistants", Stateful),
            ("/v1/threads/t/runs", Stateful),
            ("/v1/vector_stores", Stateful),
            ("/v1/containers", Stateful),
            ("/v1/conversations/c", Stateful),
            ("/v1/evals", Stateful),
            ("/v1/organization/usage", Stateful),
            ("/v1/realtime", Realtime),
            ("/v1/realtime/sessions", Unknown),
            ("/v1/nonsense", Unknown),
            ("/v1/chat", Unknown),
            ("/v1/chatX/completions", Unknown),
            ("/v1/Files", Unknown),
            ("/v1/filesx", Unknown),
            ("/v2/models", Unknown),
            ("/v1", Unknown),
            ("/", Unknown),
            ("/chat/completions", Unknown),
        ] {
            assert_eq!(facts(path).class(), class, "{path}");
        }
    }

    #[test]
    fn streams_are_told_apart_by_their_path() {
        for (path, stream) in [
            ("/v1/chat/completions", StreamKind::Chat),
            ("/v1/completions", StreamKind::Completions),
            ("/v1/responses", StreamKind::Responses),
            ("/v1/responses/resp_1", StreamKind::Responses),
            ("/v1/messages", StreamKind::Messages),
            ("/v1/images/generations", StreamKind::Other),
        ] {
            assert_eq!(facts(path).stream, stream, "{path}");
        }
    }

    #[test]
    fn the_ids_of_models_may_hold_slashes() {
        for (path, id) in [
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/v1/models/meta/llama-3", "meta/llama-3"),
            ("/v1/models/meta%2Fllama%3A3", "meta/llama:3"),
        ] {
            let normal = normalise(path).expect(path);
            assert_eq!(classify(&normal).family, Family::ModelById);
            assert_eq!(model_id(&normal), Some(id));
        }
    }

    #[test]
    fn the_dialect_of_the_client_follows_path_and_header() {
        assert_eq!(facts("/v1/messages").client_dialect(false), Dialect::Anthropic);
        assert_eq!(
            facts("/v1/messages/nonsense").client_dialect(false),
            Dialect::Anthropic
        );
        assert_eq!(facts("/v1/models").client_dialect(true), Dialect::Anthropic);
        assert_eq!(facts("/v1/models").client_dialect(false), Dialect::OpenAi);
    }
}
