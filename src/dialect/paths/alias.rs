//! The other names of paths: OpenAI's without a version, Azure's, and those below `/openai/v1`.

use std::borrow::Cow;

use super::normal::normalise;

/// What is served below a deployment of Azure's: what OpenAI serves below `/v1`, where the deployment is the model.
const DEPLOYMENT_ROOTS: [&str; 5] = ["chat", "completions", "embeddings", "audio", "images"];

/// OpenAI's paths that are also served at the root.
const ROOT_ALIASES: [&str; 4] = ["/chat/completions", "/completions", "/embeddings", "/models"];

/// A path as it is served, whatever the client called it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called<'a> {
    /// Below `/v1`, as the client encoded it; unchanged when it is no alias.
    pub path: Cow<'a, str>,
    /// The deployment that the path names, decoded: the model that is asked for.
    pub deployment: Option<String>,
}

/// Resolves the aliases of a path, which is without any of `server.path_prefixes`.
pub fn called(path: &str) -> Called<'_> {
    if ROOT_ALIASES.contains(&path) {
        return Called {
            path: Cow::Owned(["/v1", path].concat()),
            deployment: None,
        };
    }
    let below_v1 =
        |rest: &str| rest.starts_with("/v1") && matches!(rest.as_bytes().get(3), None | Some(b'/'));
    if let Some(rest) = path.strip_prefix("/openai").filter(|rest| below_v1(rest)) {
        return Called {
            path: Cow::Borrowed(rest),
            deployment: None,
        };
    }
    deployment(path).unwrap_or(Called {
        path: Cow::Borrowed(path),
        deployment: None,
    })
}

/// `/openai/deployments/{name}/{operation}`, also below `/v1`.
fn deployment(path: &str) -> Option<Called<'_>> {
    let rest = path.strip_prefix("/v1").unwrap_or(path);
    let (name, operation) = rest.strip_prefix("/openai/deployments/")?.split_once('/')?;
    let root = operation.split('/').next().unwrap_or_default();
    // a name that is not in normal form would be refused as a path: the whole stays what it is, and is
    let name = normalise(&["/", name].concat()).ok()?.decoded()[1..].to_owned();
    (!name.is_empty() && DEPLOYMENT_ROOTS.contains(&root)).then(|| Called {
        path: Cow::Owned(["/v1/", operation].concat()),
        deployment: Some(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_of_the_contract_is_known() {
        for (path, served, deployment) in [
            ("/v1/chat/completions", "/v1/chat/completions", None),
            ("/chat/completions", "/v1/chat/completions", None),
            ("/completions", "/v1/completions", None),
            ("/embeddings", "/v1/embeddings", None),
            ("/models", "/v1/models", None),
            ("/openai/v1/responses", "/v1/responses", None),
            ("/openai/v1", "/v1", None),
            ("/openai/v1/messages", "/v1/messages", None),
            (
                "/openai/deployments/gpt-4o/chat/completions",
                "/v1/chat/completions",
                Some("gpt-4o"),
            ),
            (
                "/v1/openai/deployments/my%3Amodel/embeddings",
                "/v1/embeddings",
                Some("my:model"),
            ),
            (
                "/openai/deployments/w/audio/transcriptions",
                "/v1/audio/transcriptions",
                Some("w"),
            ),
        ] {
            let called = called(path);
            assert_eq!(
                (&*called.path, called.deployment.as_deref()),
                (served, deployment),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_alias_stays_what_it_is() {
        for path in [
            "/",
            "/moderations",
            "/models/gpt-4o",
            "/chat/completions/",
            "/openai",
            "/openai/v1x/models",
            "/openai/models",
            "/openai/deployments",
            "/openai/deployments/x",
            "/openai/deployments//chat/completions",
            "/openai/deployments/x/files",
            "/openai/deployments/x/messages",
            "/openai/deployments/..%2fx/chat/completions",
            "/openai/deployments/%2e%2e/chat/completions",
        ] {
            assert_eq!(
                called(path),
                Called {
                    path: Cow::Borrowed(path),
                    deployment: None
                },
                "{path}"
            );
        }
    }
}
