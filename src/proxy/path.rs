//! What a request's path stands for, once our own prefixes are taken off.

use std::borrow::Cow;
use std::sync::Arc;

use crate::dialect::paths::PathFacts;
use crate::dialect::query::{parameter, with_value};
use crate::domain::{Denial, DenialCode, Dialect, PathClass};

/// A path that may be served.
#[derive(Debug, Clone)]
pub struct RequestPath {
    /// The path in normal form below `/v1`, whichever alias the client used, without query: what rules match.
    pub path: String,
    /// Path and query for the provider, byte for byte as the client sent them but for an alias.
    pub target: String,
    /// The model that the path (a deployment of Azure's) or the query (realtime) names, whatever a body says.
    pub model: Option<Arc<str>>,
    /// Its class.
    pub class: PathClass,
    /// What the table of paths says.
    pub facts: PathFacts,
    /// The dialect the client speaks.
    pub client: Dialect,
}

/// The parameter by which a realtime session joins a call that the provider keeps.
pub const CALL_PARAMETER: &str = "call_id";

impl RequestPath {
    fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Reads the model that the query of a realtime path names.
    pub fn read_query(&mut self) -> Result<(), Denial> {
        for name in ["model", CALL_PARAMETER] {
            let found = parameter(self.query(), name).map_err(|error| {
                Denial::new(
                    DenialCode::InvalidJson,
                    format!("`{name}` of the query cannot be read: {error}"),
                )
                .with_param(name)
            })?;
            if name == "model" {
                self.model = found.map(|model| model.value.into());
            }
        }
        Ok(())
    }

    /// Whether the query names something that the provider keeps per account.
    pub fn names_call(&self) -> bool {
        !matches!(parameter(self.query(), CALL_PARAMETER), Ok(None))
    }

    /// Path and query for a provider that knows the model as `model`: only the name in a realtime query changes.
    pub fn target_for(&self, model: Option<&str>) -> Cow<'_, str> {
        if self.class == PathClass::Realtime
            && let Some(model) = model
            && self.model.as_deref() != Some(model)
            && let Some((path, query)) = self.target.split_once('?')
            && let Ok(Some(asked)) = parameter(query, "model")
        {
            return Cow::Owned([path, "?", &with_value(query, &asked, model)].concat());
        }
        Cow::Borrowed(&self.target)
    }
}
