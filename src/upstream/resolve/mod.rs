//! From the model a client asks for to the targets that may serve it, one attempt after another.

use std::sync::Arc;

pub use self::attempts::{Attempt, AttemptKey, Attempts, OwnKeys};
use super::catalogue::{Catalogue, Model, Target};
use super::names;
use super::provider::Provider;
use super::rules::{cut, endpoint_not_found};
use crate::config::{RouterSettings, UnknownModels};
use crate::domain::{Denial, DenialCode, Dialect, Glob, PathClass};

mod attempts;

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The model it names; `None` where it names none.
    pub model: Option<&'a str>,
    /// The dialect it speaks: Anthropic for `/v1/messages…` and with `anthropic-version`, else OpenAI.
    pub client: Dialect,
    /// The path, in its form below `/v1`.
    pub path: &'a str,
    /// Its class.
    pub class: PathClass,
}

/// Models that the token and its project may ask for; an empty list allows all.
#[derive(Debug, Clone, Copy)]
pub struct AllowedModels<'a> {
    /// The token's list.
    pub token: &'a [Glob],
    /// The project's list.
    pub project: &'a [Glob],
}

impl AllowedModels<'_> {
    fn allows(&self, name: &str) -> bool {
        [self.token, self.project]
            .into_iter()
            .all(|list| list.is_empty() || Glob::any(list, name))
    }

    fn are_limited(&self) -> bool {
        !self.token.is_empty() || !self.project.is_empty()
    }
}

/// Where a request may go.
#[derive(Debug, Clone)]
pub struct Route {
    kind: RouteKind,
    /// Per target: why it may not serve this request.
    refused: Vec<Option<Denial>>,
    router: Arc<RouterSettings>,
}

#[derive(Debug, Clone)]
enum RouteKind {
    Public(Arc<Model>),
    Direct(Box<Target>),
}

impl Catalogue {
    /// Whether token and project may ask for this model: 403 `model_not_allowed`; without a model, where a list
    /// limits: 400 `invalid_json`. One match on the name suffices, or for `provider/model` on either form.
    pub fn check_allowed_models(
        &self,
        asked: Option<&str>,
        allowed: AllowedModels<'_>,
    ) -> Result<(), Denial> {
        if !allowed.are_limited() {
            return Ok(());
        }
        let Some(asked) = asked else {
            return Err(Denial::new(
                DenialCode::InvalidJson,
                "`model` is missing: this token may ask for certain models only, so the request must name one",
            )
            .with_param("model"));
        };
        let short = self.split_provider(asked).map(|(_, model)| model);
        for (list, owner) in [(allowed.token, "token"), (allowed.project, "project")] {
            let matches = |name: &str| Glob::any(list, name);
            if list.is_empty() || matches(asked) || short.is_some_and(matches) {
                continue;
            }
            let patterns: Vec<String> = list.iter().take(10).map(|glob| format!("`{glob}`")).collect();
            return Err(Denial::new(
                DenialCode::ModelNotAllowed,
                format!(
                    "model `{}` is not allowed for this {owner}; allowed: {}",
                    cut(asked),
                    patterns.join(", ")
                ),
            )
            .with_param("model"));
        }
        Ok(())
    }

    /// The public names that token and project may use, in the order of the file.
    pub fn public_models<'a>(&'a self, allowed: AllowedModels<'a>) -> impl Iterator<Item = &'a Arc<Model>> {
        self.models()
            .iter()
            .filter(move |model| allowed.allows(&model.name))
    }

    /// Finds where a request may go. Targets of another dialect are left out; when nothing is left: 400
    /// `unsupported_value`, naming the path to use.
    pub fn resolve(&self, asked: &Asked<'_>, allowed: AllowedModels<'_>) -> Result<Route, Denial> {
        let Some(name) = asked.model else {
            let provider = self.provider_without_model(asked)?;
            if asked.class == PathClass::Inference && provider.needs_deployment(asked.path) {
                return Err(Denial::new(
                    DenialCode::InvalidJson,
                    format!(
                        "`model` is missing: provider `{}` serves `{}` by the name of a deployment",
                        provider.name,
                        cut(asked.path)
                    ),
                )
                .with_param("model"));
            }
            return Ok(self.direct(provider, None));
        };
        if let Some(model) = self.by_name.get(name) {
            return self.public(model, asked.client);
        }
        if let Some((provider, model)) = self.split_provider(name) {
            return if provider.dialect.serves(asked.client) {
                Ok(self.direct(provider, Some(model)))
            } else {
                Err(other_dialect(name, provider.dialect))
            };
        }
        match self.unknown_models {
            UnknownModels::PassThrough => match self.first_of(asked.client) {
                Some(provider) => Ok(self.direct(provider, Some(name))),
                None => Err(other_dialect(name, self.default_provider.dialect)),
            },
            UnknownModels::Reject => Err(self.model_not_found(name, allowed)),
        }
    }

    fn provider_without_model(&self, asked: &Asked<'_>) -> Result<&Arc<Provider>, Denial> {
        if asked.client != Dialect::Anthropic {
            return Ok(&self.default_provider);
        }
        self.first_of(Dialect::Anthropic)
            .ok_or_else(|| endpoint_not_found(asked.path))
    }

    /// The default provider if it answers this dialect, else the first that does.
    fn first_of(&self, client: Dialect) -> Option<&Arc<Provider>> {
        std::iter::once(&self.default_provider)
            .chain(&self.providers)
            .find(|provider| provider.dialect.serves(client))
    }

    fn split_provider<'a>(&self, name: &'a str) -> Option<(&Arc<Provider>, &'a str)> {
        let (provider, model) = name.split_once('/')?;
        let provider = self.provider(provider)?;
        (!model.is_empty()).then_some((provider, model))
    }

    fn public(&self, model: &Arc<Model>, client: Dialect) -> Result<Route, Denial> {
        let refused: Vec<Option<Denial>> = model
            .all
            .iter()
            .map(|target| {
                let dialect = target.provider.dialect;
                (!dialect.serves(client)).then(|| other_dialect(&model.name, dialect))
            })
            .collect();
        let route = Route {
            kind: RouteKind::Public(Arc::clone(model)),
            refused,
            router: Arc::clone(&self.router),
        };
        route.or_refused()
    }

    fn direct(&self, provider: &Arc<Provider>, model: Option<&str>) -> Route {
        let breaker = self.upstreams.health.passed_through(
            &provider.name,
            &provider.address_text,
            model.unwrap_or_default(),
        );
        Route {
            kind: RouteKind::Direct(Box::new(Target {
                provider: Arc::clone(provider),
                model: model.map(Arc::from),
                public: None,
                context_window: None,
                weight: 1,
                priority: 0,
                breaker,
            })),
            refused: vec![None],
            router: Arc::clone(&self.router),
        }
    }

    fn model_not_found(&self, asked: &str, allowed: AllowedModels<'_>) -> Denial {
        let nearest = names::nearest(asked, self.public_models(allowed).map(|model| &*model.name), 3);
        let mut message = format!("model `{}` does not exist", cut(asked));
        if !nearest.is_empty() {
            let quoted: Vec<String> = nearest.iter().map(|name| format!("`{name}`")).collect();
            message = format!("{message}; the nearest: {}", quoted.join(", "));
        }
        Denial::new(DenialCode::ModelNotFound, message).with_param("model")
    }
}

fn other_dialect(model: &str, dialect: Dialect) -> Denial {
    let path = match dialect {
        Dialect::Anthropic => "/v1/messages",
        Dialect::OpenAi | Dialect::Azure | Dialect::Demo => "/v1/chat/completions",
    };
    Denial::new(
        DenialCode::UnsupportedValue,
        format!(
            "model `{}` is served in the {dialect} dialect: use {path}",
            cut(model)
        ),
    )
    .with_param("model")
}

impl Route {
    /// Every target, usable or not.
    pub fn targets(&self) -> &[Target] {
        match &self.kind {
            RouteKind::Public(model) => &model.all,
            RouteKind::Direct(target) => std::slice::from_ref(&**target),
        }
    }

    /// The public name, where the operator configured one.
    pub fn public_name(&self) -> Option<&Arc<str>> {
        match &self.kind {
            RouteKind::Public(model) => Some(&model.name),
            RouteKind::Direct(_) => None,
        }
    }

    /// The targets that nothing has refused so far.
    pub fn usable(&self) -> impl Iterator<Item = &Target> {
        self.targets()
            .iter()
            .zip(&self.refused)
            .filter_map(|(target, refused)| refused.is_none().then_some(target))
    }

    /// Longest wait for the first words of a stream while another target could answer instead.
    pub fn first_token(&self) -> Option<std::time::Duration> {
        match &self.kind {
            RouteKind::Public(model) => model.first_token,
            RouteKind::Direct(_) => None,
        }
    }

    /// Leaves out the targets that `rule` refuses. When none is left: what the first said.
    pub fn keep(mut self, mut rule: impl FnMut(&Target) -> Result<(), Denial>) -> Result<Self, Denial> {
        let targets = match &self.kind {
            RouteKind::Public(model) => &model.all[..],
            RouteKind::Direct(target) => std::slice::from_ref(&**target),
        };
        let mut first = None;
        for (target, refused) in targets.iter().zip(&mut self.refused) {
            if refused.is_some() {
                continue;
            }
            match rule(target) {
                Ok(()) => {}
                Err(denial) => {
                    first.get_or_insert_with(|| denial.clone());
                    *refused = Some(denial);
                }
            }
        }
        match first {
            Some(denial) if self.refused.iter().all(Option::is_some) => Err(denial),
            _ => Ok(self),
        }
    }

    fn or_refused(self) -> Result<Self, Denial> {
        if self.refused.iter().any(Option::is_none) {
            return Ok(self);
        }
        let first = self.refused.into_iter().flatten().next();
        Err(first.unwrap_or_else(|| Denial::new(DenialCode::ModelNotFound, "model has no target")))
    }

    /// The provider and model it resolves to, for the cache key: of all usable targets.
    pub fn cache_identity(&self) -> Vec<(&str, &str)> {
        self.usable()
            .map(|target| {
                (
                    &*target.provider.name,
                    target.model.as_deref().unwrap_or_default(),
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
