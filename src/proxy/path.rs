//! What a request's path stands for, once our own prefixes are taken off.

use std::sync::Arc;

use crate::dialect::paths::PathFacts;
use crate::domain::{Dialect, PathClass};

/// A path that may be served.
#[derive(Debug, Clone)]
pub struct RequestPath {
    /// The path in normal form below `/v1`, whichever alias the client used, without query: what rules match.
    pub path: String,
    /// Path and query for the provider, byte for byte as the client sent them but for an alias.
    pub target: String,
    /// The deployment that an Azure path names: the model that is asked for, whatever the body says.
    pub deployment: Option<Arc<str>>,
    /// Its class.
    pub class: PathClass,
    /// What the table of paths says.
    pub facts: PathFacts,
    /// The dialect the client speaks.
    pub client: Dialect,
}
