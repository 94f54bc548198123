//! What a provider lets through: paths, methods, origins, headers, parameters.

use std::borrow::Cow;

use http::HeaderMap;

use crate::config::{ProviderSettings, SharedState};
use crate::domain::{Denial, DenialCode, Dialect, EndpointPattern, Glob, PathClass};

/// What a rule looks at. The path is normalised and without our own prefixes.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The method, in upper case as sent.
    pub method: &'a str,
    /// The path without query.
    pub path: &'a str,
    /// Its class.
    pub class: PathClass,
    /// The API it belongs to.
    pub api: Dialect,
    /// The request's header fields.
    pub headers: &'a HeaderMap,
}

#[cfg(test)]
impl<'a> RequestFacts<'a> {
    /// The facts of a request head.
    pub(super) fn new(method: &'a str, path: &'a str, headers: &'a HeaderMap) -> Self {
        let known = crate::dialect::paths::classify(&crate::dialect::paths::normalise(path).unwrap());
        Self {
            method,
            path,
            class: known.class(),
            api: known.dialect,
            headers,
        }
    }
}

/// The rules of one provider, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    dialect: Dialect,
    shared_state: SharedState,
    endpoints: Vec<EndpointPattern>,
    methods: Vec<String>,
    origins: Vec<String>,
    required_headers: Vec<String>,
    parameters: Vec<(String, Vec<Glob>)>,
}

impl Rules {
    /// Compiles the rules of a provider.
    pub fn new(settings: &ProviderSettings) -> Self {
        Self {
            dialect: settings.dialect,
            shared_state: settings.shared_state,
            endpoints: settings
                .allowed_endpoints
                .iter()
                .map(|pattern| EndpointPattern::new(pattern))
                .collect(),
            methods: settings.allowed_methods.clone(),
            origins: settings.allowed_origins.clone(),
            required_headers: settings.required_headers.clone(),
            parameters: settings.param_whitelist.clone(),
        }
    }

    /// Whether the path is one of this provider's, whoever asks: 404 `endpoint_not_found`.
    pub fn check_path(&self, request: &RequestFacts<'_>) -> Result<(), Denial> {
        let known = if self.endpoints.is_empty() {
            served_by_default(self.dialect, request.class, request.api)
        } else {
            self.endpoints.iter().any(|pattern| pattern.matches(request.path))
        };
        if known {
            Ok(())
        } else {
            Err(endpoint_not_found(request.path))
        }
    }

    /// Whether a stateful path may be called: with the project's own key, or where the operator shares the
    /// provider's. Else 403 `endpoint_not_allowed`.
    pub fn check_state(&self, request: &RequestFacts<'_>, has_own_key: bool) -> Result<(), Denial> {
        if request.class != PathClass::Stateful || has_own_key || self.shared_state == SharedState::Allow {
            return Ok(());
        }
        Err(Denial::new(
            DenialCode::EndpointNotAllowed,
            format!(
                "`{}` reads or writes what the provider keeps per account: it needs a provider key of the \
                 project's own",
                cut(request.path)
            ),
        ))
    }

    /// Whether a body may name something that the provider keeps per account (`previous_response_id`): as
    /// stateful paths, with the project's own key only, or where the operator shares the provider's. Else one
    /// tenant could read another's through the shared key. 403 `endpoint_not_allowed`.
    pub fn check_shared_state(&self, parameter: &str, has_own_key: bool) -> Result<(), Denial> {
        if has_own_key || self.shared_state == SharedState::Allow {
            return Ok(());
        }
        Err(Denial::new(
            DenialCode::EndpointNotAllowed,
            format!(
                "`{parameter}` reads what the provider keeps per account: it needs a provider key of the \
                 project's own"
            ),
        )
        .with_param(parameter))
    }

    /// Whether the list of endpoints is the dialect's own.
    pub fn has_default_endpoints(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Whether the method is one of this path's: 405 `method_not_allowed`.
    pub fn check_method(&self, request: &RequestFacts<'_>) -> Result<(), Denial> {
        if self.methods.is_empty() {
            return check_class_method(request);
        }
        if self.methods.iter().any(|method| method == request.method) {
            return Ok(());
        }
        Err(method_not_allowed(request, &self.methods.join(", ")))
    }

    /// Whether the origin is one of those allowed (403) and the required headers are there (400).
    pub fn check_origin_and_headers(&self, request: &RequestFacts<'_>) -> Result<(), Denial> {
        if !self.origins.is_empty()
            && let Some(origin) = request.headers.get(http::header::ORIGIN)
            && !self
                .origins
                .iter()
                .any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
        {
            return Err(Denial::new(
                DenialCode::OriginNotAllowed,
                "Origin not allowed: it is not one of the provider's `allowed_origins`",
            ));
        }
        for name in &self.required_headers {
            if request.headers.get(name.as_str()).is_some_and(|v| !v.is_empty()) {
                continue;
            }
            return Err(if name == "origin" {
                Denial::new(DenialCode::OriginRequired, "Origin header required")
            } else {
                Denial::new(DenialCode::HeaderRequired, format!("header `{name}` is required"))
                    .with_param(name)
            });
        }
        Ok(())
    }

    /// The top-level body parameters that a rule looks at, so that they can be read from the body.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| name.as_str())
    }

    /// Whether the body's parameters have allowed values: 400 `param_not_allowed`. `value_of` answers the
    /// value that goes to this provider as text: strings without quotes, everything else as JSON; `None`
    /// when the parameter is absent, which is allowed.
    pub fn check_parameters<'b>(
        &self,
        mut value_of: impl FnMut(&str) -> Option<Cow<'b, str>>,
    ) -> Result<(), Denial> {
        for (name, patterns) in &self.parameters {
            let Some(value) = value_of(name) else {
                continue;
            };
            if Glob::any(patterns, &value) {
                continue;
            }
            let allowed: Vec<&str> = patterns.iter().map(Glob::as_str).collect();
            return Err(Denial::new(
                DenialCode::ParamNotAllowed,
                format!(
                    "Parameter '{name}' value '{}' is not allowed. Allowed patterns: [{}]",
                    cut(&value),
                    allowed.join(" ")
                ),
            )
            .with_param(name));
        }
        Ok(())
    }

    /// Path, stateful path, method, origin, headers: in the order of refusals.
    pub fn check_head(&self, request: &RequestFacts<'_>, has_own_key: bool) -> Result<(), Denial> {
        self.check_path(request)?;
        self.check_state(request, has_own_key)?;
        self.check_method(request)?;
        self.check_origin_and_headers(request)
    }
}

/// Whether a provider of dialect `provider` answers paths of class `class` of the API `api`, unless its configuration
/// lists endpoints of its own.
fn served_by_default(provider: Dialect, class: PathClass, api: Dialect) -> bool {
    match class {
        PathClass::Models | PathClass::Stateful => true,
        PathClass::Unknown => false,
        PathClass::Inference | PathClass::Realtime => provider.serves(api),
    }
}

/// Whether the method is one that calls of this class need: 405 `method_not_allowed`.
pub fn check_class_method(request: &RequestFacts<'_>) -> Result<(), Denial> {
    let methods = request.class.methods();
    if methods.contains(&request.method) {
        return Ok(());
    }
    Err(method_not_allowed(request, &methods.join(", ")))
}

fn method_not_allowed(request: &RequestFacts<'_>, allowed: &str) -> Denial {
    Denial::new(
        DenialCode::MethodNotAllowed,
        format!(
            "Method not allowed: `{}` for `{}`; allowed: {allowed}",
            cut(request.method),
            cut(request.path)
        ),
    )
    .with_allow(allowed)
}

/// The refusal of a path that nobody serves.
pub fn endpoint_not_found(path: &str) -> Denial {
    Denial::new(
        DenialCode::EndpointNotFound,
        format!("Endpoint not found: no provider serves `{}`", cut(path)),
    )
}

/// At most 200 bytes of what a client sent, so that it can be named in an answer.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(200)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BaseUrl;

    fn provider() -> ProviderSettings {
        ProviderSettings::new("openai", Dialect::OpenAi, BaseUrl::https("api.openai.com"))
    }

    fn refusal(rules: &Rules, method: &str, path: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        match rules.check_head(&RequestFacts::new(method, path, &map), false) {
            Ok(()) => "ok".to_owned(),
            Err(denial) => denial.code.as_str().to_owned(),
        }
    }

    #[test]
    fn by_default_a_provider_serves_the_inference_paths_of_its_dialect() {
        let rules = Rules::new(&provider());
        let table = [
            ("POST", "/v1/chat/completions", "ok"),
            ("GET", "/v1/chat/completions", "method_not_allowed"),
            ("GET", "/v1/models", "ok"),
            ("POST", "/v1/messages", "endpoint_not_found"),
            ("GET", "/v1/files", "endpoint_not_allowed"),
            ("GET", "/v1/nonsense", "endpoint_not_found"),
        ];
        for (method, path, expected) in table {
            assert_eq!(refusal(&rules, method, path, &[]), expected, "{method} {path}");
        }
    }

    #[test]
    fn an_anthropic_provider_serves_messages_and_an_openai_one_the_rest() {
        let serves = |dialect, path| {
            let headers = HeaderMap::new();
            let request = RequestFacts::new("POST", path, &headers);
            served_by_default(dialect, request.class, request.api)
        };
        assert!(serves(Dialect::Anthropic, "/v1/messages"));
        assert!(!serves(Dialect::Anthropic, "/v1/chat/completions"));
        assert!(serves(Dialect::OpenAi, "/v1/chat/completions"));
        assert!(serves(Dialect::Azure, "/v1/chat/completions"));
        assert!(!serves(Dialect::OpenAi, "/v1/messages/count_tokens"));
        assert!(!serves(Dialect::Azure, "/v1/messages"));
        assert!(serves(Dialect::Demo, "/v1/messages"));
        assert!(serves(Dialect::OpenAi, "/v1/realtime"));
        assert!(!serves(Dialect::OpenAi, "/v1/realtime/client_secrets"));
        assert!(!serves(Dialect::Anthropic, "/v1/realtime"));
    }

    #[test]
    fn a_list_of_endpoints_replaces_the_default_and_stateful_ones_still_need_a_key() {
        let mut settings = provider();
        settings.allowed_endpoints = vec!["/v1/files".into(), "/v1/custom".into()];
        let rules = Rules::new(&settings);
        assert_eq!(refusal(&rules, "POST", "/v1/custom/x", &[]), "ok");
        assert_eq!(
            refusal(&rules, "POST", "/v1/chat/completions", &[]),
            "endpoint_not_found"
        );
        assert_eq!(refusal(&rules, "GET", "/v1/files/f", &[]), "endpoint_not_allowed");
        let headers = HeaderMap::new();
        let request = RequestFacts::new("GET", "/v1/files/f", &headers);
        assert!(rules.check_head(&request, true).is_ok());
        settings.shared_state = SharedState::Allow;
        assert_eq!(refusal(&Rules::new(&settings), "GET", "/v1/files/f", &[]), "ok");
    }

    #[test]
    fn a_refused_method_names_those_allowed() {
        let mut settings = provider();
        settings.allowed_methods = vec!["GET".into(), "POST".into()];
        let rules = Rules::new(&settings);
        let headers = HeaderMap::new();
        let denial = rules
            .check_method(&RequestFacts::new("DELETE", "/v1/models/x", &headers))
            .unwrap_err();
        assert_eq!(denial.allow.as_deref(), Some("GET, POST"));
        let denial = Rules::new(&provider())
            .check_method(&RequestFacts::new("GET", "/v1/embeddings", &headers))
            .unwrap_err();
        assert_eq!(denial.allow.as_deref(), Some("POST"));
    }

    #[test]
    fn origins_match_exactly_and_their_absence_passes_unless_required() {
        let mut settings = provider();
        settings.allowed_origins = vec!["https://a.example".into()];
        let path = "/v1/chat/completions";
        let rules = Rules::new(&settings);
        assert_eq!(refusal(&rules, "POST", path, &[]), "ok");
        assert_eq!(
            refusal(&rules, "POST", path, &[("origin", "https://a.example")]),
            "ok"
        );
        assert_eq!(
            refusal(&rules, "POST", path, &[("origin", "https://a.example.evil")]),
            "origin_not_allowed"
        );
        settings.required_headers = vec!["origin".into(), "x-team".into()];
        let rules = Rules::new(&settings);
        assert_eq!(refusal(&rules, "POST", path, &[]), "origin_required");
        let origin = ("origin", "https://a.example");
        assert_eq!(refusal(&rules, "POST", path, &[origin]), "header_required");
        assert_eq!(
            refusal(&rules, "POST", path, &[origin, ("x-team", "")]),
            "header_required"
        );
        assert_eq!(refusal(&rules, "POST", path, &[origin, ("x-team", "red")]), "ok");
    }

    #[test]
    fn a_refused_parameter_is_named_as_the_old_program_did() {
        let mut settings = provider();
        settings.param_whitelist = vec![
            ("model".into(), vec![Glob::new("gpt-4o"), Glob::new("gpt-4o-*")]),
            ("n".into(), vec![Glob::new("1")]),
        ];
        let rules = Rules::new(&settings);
        let check = |model: Option<&'static str>, n: Option<&'static str>| {
            rules.check_parameters(|name| match name {
                "model" => model.map(Cow::Borrowed),
                _ => n.map(Cow::Borrowed),
            })
        };
        assert!(check(Some("gpt-4o-mini"), Some("1")).is_ok());
        assert!(check(None, None).is_ok());
        assert!(check(Some("gpt-4o/evil"), None).is_err());
        let denial = check(Some("gpt-3.5"), None).unwrap_err();
        assert_eq!(
            denial.message,
            "Parameter 'model' value 'gpt-3.5' is not allowed. Allowed patterns: [gpt-4o gpt-4o-*]"
        );
        assert_eq!(denial.param.as_deref(), Some("model"));
        assert_eq!(
            check(Some("gpt-4o"), Some("2")).unwrap_err().param.as_deref(),
            Some("n")
        );
        assert_eq!(rules.parameter_names().collect::<Vec<_>>(), ["model", "n"]);
    }
}
