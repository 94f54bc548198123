//! One upstream account: its address, its credential, its rules, its connections.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::keys::{KeyPool, KeyRegistry, PooledKey};
use super::pace::PaceLimits;
use super::places::Places;
use super::rules::Rules;
use super::target::ProviderConnector;
use crate::config::{IncludeUsage, ProviderSettings, ProviderTimeouts};
use crate::domain::{Denial, DenialCode, Dialect, Secret};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static API_KEY: HeaderName = HeaderName::from_static("api-key");
static ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// A provider as one snapshot of the configuration sees it.
#[derive(Debug)]
pub struct Provider {
    /// Its configured name.
    pub name: Arc<str>,
    /// The wire format it speaks.
    pub dialect: Dialect,
    /// Where it is, as text: part of the identity of its breakers.
    pub address_text: Arc<str>,
    /// What goes into `Host`.
    pub authority: HeaderValue,
    /// What may be sent to it.
    pub rules: Rules,
    /// Time-outs of one attempt.
    pub timeouts: ProviderTimeouts,
    /// Its connections; `None` for the built-in demonstration, which opens none.
    pub connector: Option<Arc<ProviderConnector>>,
    include_usage: IncludeUsage,
    /// It refused a request because its usage was asked for.
    refuses_usage: AtomicBool,
    form: AddressForm,
    is_tls: bool,
    /// The installation's keys.
    pub keys: KeyPool,
    /// Its places and who waits for one.
    pub places: Arc<Places>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// How the path that a provider is called with is made.
#[derive(Debug)]
enum AddressForm {
    /// The path of `base_url`, then the client's; without the latter's `/v1` if the former ends in it.
    Joined { base: String, drops_version: bool },
    /// Azure with dated versions: the model is a deployment of the path, `api-version` stands in the query.
    AzureDated { base: String, version: String },
}

/// Operations that Azure serves below a deployment; all others have no deployment in their path.
const DEPLOYMENT_OPERATIONS: [&str; 8] = [
    "/completions",
    "/chat/completions",
    "/embeddings",
    "/audio/transcriptions",
    "/audio/translations",
    "/audio/speech",
    "/images/generations",
    "/images/edits",
];

const HEX: &[u8; 16] = b"0123456789ABCDEF";

impl AddressForm {
    fn of(settings: &ProviderSettings) -> Self {
        let path = settings.base_url.path.as_str();
        if settings.dialect != Dialect::Azure {
            return Self::Joined {
                drops_version: path.ends_with("/v1"),
                base: path.to_owned(),
            };
        }
        // an operator may write the address with or without what Azure puts behind the resource
        let resource = path.strip_suffix("/v1").unwrap_or(path);
        let resource = resource.strip_suffix("/openai").unwrap_or(resource);
        match &settings.api_version {
            Some(version) => Self::AzureDated {
                base: [resource, "/openai"].concat(),
                version: version.clone(),
            },
            None => Self::Joined {
                base: [resource, "/openai/v1"].concat(),
                drops_version: true,
            },
        }
    }
}

/// Whose credential an attempt carries. Under a shared key some header fields do not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOwner {
    /// The project's own key.
    Project,
    /// The key of the configuration, shared by all projects.
    Installation,
    /// None is needed.
    Nobody,
}

/// A header field of the configuration that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("provider `{provider}`: {what} cannot be sent as a header")]
pub struct UnsendableHeader {
    /// The provider's name.
    pub provider: String,
    /// Which field.
    pub what: String,
}

impl Provider {
    /// Compiles a provider.
    pub fn new(
        settings: &ProviderSettings,
        connector: Option<Arc<ProviderConnector>>,
        registry: &KeyRegistry,
        places: Arc<Places>,
    ) -> Result<Self, UnsendableHeader> {
        let unsendable = |what: String| UnsendableHeader {
            provider: settings.name.clone(),
            what,
        };
        let name: Arc<str> = settings.name.as_str().into();
        let address_text: Arc<str> = settings.base_url.to_string().into();
        let mut keys = Vec::with_capacity(settings.api_keys.len());
        for one in settings.api_keys.iter().filter(|one| !one.key.is_empty()) {
            let value = credential(settings.dialect, &one.key)
                .ok_or_else(|| unsendable(format!("the key `{}`", one.id)))?;
            let limits = PaceLimits {
                rpm: one.rpm,
                tpm: one.tpm,
            };
            let limits = Some(limits).filter(|limits| limits.rpm.is_some() || limits.tpm.is_some());
            let (health, pace) = registry.pooled(&name, &address_text, &one.key, limits);
            keys.push(Arc::new(PooledKey {
                id: one.id.as_str().into(),
                value,
                health,
                pace,
            }));
        }
        let mut headers = Vec::with_capacity(settings.headers.len());
        for (name, value) in &settings.headers {
            let wrong = || unsendable(format!("`headers.{name}`"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.push((header, value));
        }
        let authority = settings.base_url.authority();
        Ok(Self {
            name,
            dialect: settings.dialect,
            address_text,
            authority: HeaderValue::from_str(&authority).map_err(|_| unsendable("`base_url`".to_owned()))?,
            rules: Rules::new(settings),
            timeouts: settings.timeouts,
            connector,
            include_usage: settings.include_usage,
            refuses_usage: AtomicBool::new(false),
            form: AddressForm::of(settings),
            is_tls: settings.base_url.is_tls(),
            keys: KeyPool::new(keys),
            places,
            headers,
        })
    }

    /// Whether streams are asked for their usage.
    pub fn is_asked_for_usage(&self) -> bool {
        match self.include_usage {
            IncludeUsage::Always => true,
            IncludeUsage::Never => false,
            IncludeUsage::Auto => !self.refuses_usage.load(Ordering::Relaxed),
        }
    }

    /// It refused a request with this answer; whether that was because its usage was asked for. It is not asked again then.
    pub fn learn_from_refusal(&self, answer: &[u8]) -> bool {
        let names_it = |name: &[u8]| memchr::memmem::find(answer, name).is_some();
        if self.include_usage != IncludeUsage::Auto
            || !(names_it(b"stream_options") || names_it(b"include_usage"))
        {
            return false;
        }
        if !self.refuses_usage.swap(true, Ordering::Relaxed) {
            log::warn!(provider = &*self.name; "upstream `{}` does not tell the usage of streams: it is counted here", self.name);
        }
        true
    }

    /// The path and query that the provider is called with, from the client's below `/v1` and the provider's name
    /// for the model. The query stays as it is; Azure's `api-version` is added where it is missing.
    pub fn address<'a>(&self, path_and_query: &'a str, model: Option<&str>) -> Cow<'a, str> {
        let below_version = || {
            path_and_query
                .strip_prefix("/v1")
                .filter(|after| after.is_empty() || after.starts_with(['/', '?']))
        };
        match &self.form {
            AddressForm::Joined { base, .. } if base.is_empty() => Cow::Borrowed(path_and_query),
            AddressForm::Joined { base, drops_version } => {
                let rest = below_version()
                    .filter(|_| *drops_version)
                    .unwrap_or(path_and_query);
                Cow::Owned([base, rest].concat())
            }
            AddressForm::AzureDated { base, version } => {
                let rest = below_version().unwrap_or(path_and_query);
                let (path, query) = match rest.split_once('?') {
                    Some((path, query)) => (path, Some(query)),
                    None => (rest, None),
                };
                let mut address = base.clone();
                if let Some(model) = model.filter(|_| DEPLOYMENT_OPERATIONS.contains(&path)) {
                    address.push_str("/deployments/");
                    push_segment(&mut address, model);
                }
                address.push_str(path);
                let has_version = query.is_some_and(|query| {
                    query
                        .split('&')
                        .any(|pair| pair.split('=').next() == Some("api-version"))
                });
                match query {
                    Some(query) => {
                        address.push('?');
                        address.push_str(query);
                        if !has_version {
                            address.push_str("&api-version=");
                            address.push_str(version);
                        }
                    }
                    None => {
                        address.push_str("?api-version=");
                        address.push_str(version);
                    }
                }
                Cow::Owned(address)
            }
        }
    }

    /// Whether `path`, in its form below `/v1`, cannot be called without the name of a deployment.
    pub fn needs_deployment(&self, path: &str) -> bool {
        matches!(self.form, AddressForm::AzureDated { .. })
            && path
                .strip_prefix("/v1")
                .is_some_and(|operation| DEPLOYMENT_OPERATIONS.contains(&operation))
    }

    /// Whether it is reached through TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether it can be called without a key of the project.
    pub fn has_key(&self) -> bool {
        self.dialect == Dialect::Demo
            || !self.keys.keys().is_empty()
            || self.headers.iter().any(is_credential)
    }

    /// Puts the configured headers, the credential and what the dialect demands into the head of one attempt.
    /// `project_key` is the project's own key for this provider, unsealed; it wins over `pooled`, the installation's whose
    /// turn it is. Without any key: 502
    /// `upstream_auth_error`, and nothing may be sent.
    pub fn dress(
        &self,
        project_key: Option<&Secret>,
        pooled: Option<&PooledKey>,
        client: &HeaderMap,
        mut insert: impl FnMut(&HeaderName, HeaderValue),
    ) -> Result<KeyOwner, Denial> {
        let own = match project_key.filter(|key| !key.is_empty()) {
            Some(key) => Some(credential(self.dialect, key).ok_or_else(|| {
                self.auth_error("the project's key for it has characters that no header can carry")
            })?),
            None => None,
        };
        for (name, value) in &self.headers {
            // a project's own key is not mixed with the installation's
            if own.is_none() || !is_credential_name(name) {
                insert(name, value.clone());
            }
        }
        if self.dialect == Dialect::Anthropic
            && !client.contains_key(&ANTHROPIC_VERSION)
            && !self.headers.iter().any(|(name, _)| *name == ANTHROPIC_VERSION)
        {
            insert(&ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"));
        }
        let name = credential_name(self.dialect);
        if let Some(value) = own {
            insert(name, value);
            return Ok(KeyOwner::Project);
        }
        if let Some(key) = pooled {
            insert(name, key.value.clone());
            return Ok(KeyOwner::Installation);
        }
        if self.dialect == Dialect::Demo {
            return Ok(KeyOwner::Nobody);
        }
        if self.headers.iter().any(is_credential) {
            return Ok(KeyOwner::Installation);
        }
        Err(self.auth_error("neither the project nor the configuration has a key for it"))
    }

    /// A 502 about the key, in words that name this provider.
    pub fn auth_error(&self, why: &str) -> Denial {
        Denial::new(
            DenialCode::UpstreamAuthError,
            format!("Upstream authentication error: provider `{}`: {why}", self.name),
        )
    }
}

/// Appends a path segment, with everything percent-encoded that could be read as something else.
fn push_segment(address: &mut String, segment: &str) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            address.push(char::from(byte));
        } else {
            address.push('%');
            address.push(char::from(HEX[usize::from(byte >> 4)]));
            address.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

fn credential_name(dialect: Dialect) -> &'static HeaderName {
    match dialect {
        Dialect::Anthropic => &X_API_KEY,
        Dialect::Azure => &API_KEY,
        Dialect::OpenAi | Dialect::Demo => &AUTHORIZATION,
    }
}

fn credential(dialect: Dialect, key: &Secret) -> Option<HeaderValue> {
    let mut value = match dialect {
        Dialect::Anthropic | Dialect::Azure => HeaderValue::from_str(key.expose()),
        Dialect::OpenAi | Dialect::Demo => HeaderValue::try_from(format!("Bearer {}", key.expose())),
    }
    .ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_credential_name(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || *name == X_API_KEY || *name == API_KEY
}

fn is_credential((name, _): &(HeaderName, HeaderValue)) -> bool {
    is_credential_name(name)
}

#[cfg(test)]
mod tests {
    use super::super::places::PlaceLimits;
    use super::*;
    use crate::config::KeySettings;

    fn settings(dialect: Dialect, url: &str) -> ProviderSettings {
        ProviderSettings::new("p", dialect, url.parse().unwrap())
    }

    fn provider(settings: &ProviderSettings) -> Result<Provider, UnsendableHeader> {
        let limits = PlaceLimits {
            most: None,
            queue: 100,
        };
        Provider::new(settings, None, &KeyRegistry::default(), Places::new(limits))
    }

    fn dressed(
        settings: &ProviderSettings,
        project_key: Option<&str>,
        client: &HeaderMap,
    ) -> Result<(KeyOwner, HeaderMap), Denial> {
        let provider = provider(settings).unwrap();
        let mut head = HeaderMap::new();
        let key = project_key.map(Secret::new);
        let pooled = provider.keys.keys().first();
        let owner = provider.dress(key.as_ref(), pooled.map(|key| &**key), client, |name, value| {
            head.insert(name.clone(), value);
        })?;
        Ok((owner, head))
    }

    #[test]
    fn azure_is_called_by_deployment_or_by_its_v1_paths() {
        let dated = Some("2024-10-21");
        for (base, version, path, model, expected) in [
            (
                "",
                dated,
                "/v1/chat/completions",
                Some("gpt-4o"),
                "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            ),
            (
                "/openai",
                dated,
                "/v1/embeddings?a=b",
                Some("e/1 x"),
                "/openai/deployments/e%2F1%20x/embeddings?a=b&api-version=2024-10-21",
            ),
            (
                "/gw",
                dated,
                "/v1/chat/completions?api-version=2025-01-01",
                Some("m"),
                "/gw/openai/deployments/m/chat/completions?api-version=2025-01-01",
            ),
            (
                "",
                dated,
                "/v1/responses",
                Some("m"),
                "/openai/responses?api-version=2024-10-21",
            ),
            (
                "",
                dated,
                "/v1/files/f?my-api-version=1",
                None,
                "/openai/files/f?my-api-version=1&api-version=2024-10-21",
            ),
            (
                "",
                None,
                "/v1/chat/completions?x=1",
                Some("m"),
                "/openai/v1/chat/completions?x=1",
            ),
            ("/openai/v1", None, "/v1/models", None, "/openai/v1/models"),
        ] {
            let mut settings = settings(Dialect::Azure, &format!("https://r.openai.azure.com{base}"));
            settings.api_version = version.map(str::to_owned);
            let provider = provider(&settings).unwrap();
            assert_eq!(provider.address(path, model), expected, "{base} + {path}");
            assert_eq!(
                provider.needs_deployment(path.split('?').next().unwrap()),
                version.is_some() && model.is_some() && !path.contains("responses"),
                "{path}"
            );
        }
    }

    #[test]
    fn the_path_of_base_url_comes_first_and_v1_only_once() {
        let table = [
            ("https://h", "/v1/models?a=%20b&a", "/v1/models?a=%20b&a"),
            ("https://h/v1", "/v1/models", "/v1/models"),
            ("https://h/openai/v1", "/v1/models?x", "/openai/v1/models?x"),
            ("https://h/openai/v1", "/v1", "/openai/v1"),
            (
                "https://h/openai/v1",
                "/v1beta/models",
                "/openai/v1/v1beta/models",
            ),
            ("https://h/api", "/v1/models", "/api/v1/models"),
        ];
        for (base, path, expected) in table {
            let provider = provider(&settings(Dialect::OpenAi, base)).unwrap();
            assert_eq!(provider.address(path, None), expected, "{base} + {path}");
        }
    }

    #[test]
    fn each_dialect_sends_its_credential_in_its_own_way() {
        let client = HeaderMap::new();
        let mut openai = settings(Dialect::OpenAi, "https://h");
        openai.api_keys = vec![KeySettings::single(Secret::new("sk-installation"))];
        let (owner, head) = dressed(&openai, None, &client).unwrap();
        assert_eq!((owner, head.len()), (KeyOwner::Installation, 1));
        assert_eq!(head["authorization"], "Bearer sk-installation");
        assert!(head["authorization"].is_sensitive());
        let (owner, head) = dressed(&openai, Some("sk-own"), &client).unwrap();
        assert_eq!(owner, KeyOwner::Project);
        assert_eq!(head["authorization"], "Bearer sk-own");
        let mut anthropic = settings(Dialect::Anthropic, "https://h");
        anthropic.api_keys = vec![KeySettings::single(Secret::new("sk-ant"))];
        let (_, head) = dressed(&anthropic, None, &client).unwrap();
        assert_eq!(head["x-api-key"], "sk-ant");
        assert_eq!(head["anthropic-version"], "2023-06-01");
        assert!(head.get("authorization").is_none());
        let demo = settings(Dialect::Demo, "http://demo.invalid");
        assert_eq!(
            dressed(&demo, None, &client).unwrap(),
            (KeyOwner::Nobody, HeaderMap::new())
        );
    }

    #[test]
    fn the_version_that_the_client_sent_stays() {
        let mut client = HeaderMap::new();
        client.insert("anthropic-version", HeaderValue::from_static("2024-01-01"));
        let mut anthropic = settings(Dialect::Anthropic, "https://h");
        anthropic.api_keys = vec![KeySettings::single(Secret::new("k"))];
        let (_, head) = dressed(&anthropic, None, &client).unwrap();
        assert!(head.get("anthropic-version").is_none());
    }

    #[test]
    fn without_any_key_nothing_is_sent() {
        let openai = settings(Dialect::OpenAi, "https://h");
        assert!(!provider(&openai).unwrap().has_key());
        let denial = dressed(&openai, None, &HeaderMap::new()).unwrap_err();
        assert_eq!(denial.code, DenialCode::UpstreamAuthError);
        assert!(denial.message.contains("`p`"));
        let denial = dressed(&openai, Some("with\nnewline"), &HeaderMap::new()).unwrap_err();
        assert!(!denial.message.contains("newline"));
    }

    #[test]
    fn a_configured_credential_header_is_a_key_that_a_project_key_replaces() {
        let mut openai = settings(Dialect::OpenAi, "https://h");
        openai.headers = vec![
            ("X-Api-Key".into(), Secret::new("gateway")),
            ("X-Team".into(), Secret::new("red")),
        ];
        let (owner, head) = dressed(&openai, None, &HeaderMap::new()).unwrap();
        assert_eq!(owner, KeyOwner::Installation);
        assert_eq!(
            (&head["x-api-key"], &head["x-team"]),
            (
                &HeaderValue::from_static("gateway"),
                &HeaderValue::from_static("red")
            )
        );
        let (_, head) = dressed(&openai, Some("own"), &HeaderMap::new()).unwrap();
        assert!(head.get("x-api-key").is_none());
        assert_eq!(head["x-team"], "red");
    }

    #[test]
    fn no_secret_shows_in_debug() {
        let mut openai = settings(Dialect::OpenAi, "https://h");
        openai.api_keys = vec![KeySettings::single(Secret::new("sk-very-secret"))];
        openai.headers = vec![("x-api-key".into(), Secret::new("sk-very-secret"))];
        let provider = provider(&openai).unwrap();
        assert!(!format!("{provider:?}").contains("very-secret"));
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_named_without_its_value() {
        let mut openai = settings(Dialect::OpenAi, "https://h");
        openai.headers = vec![("x-bad".into(), Secret::new("a\nb-secret"))];
        let error = provider(&openai).unwrap_err().to_string();
        assert_eq!(error, "provider `p`: `headers.x-bad` cannot be sent as a header");
    }
}
