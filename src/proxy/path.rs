//! What a request's path stands for, once our own prefixes are taken off.

use crate::dialect::paths::PathFacts;
use crate::domain::Dialect;
use crate::upstream::PathClass;

/// A path that may be served.
#[derive(Debug, Clone)]
pub struct RequestPath {
    /// The path in normal form, without query: what rules match.
    pub path: String,
    /// Path and query for the provider, byte for byte as the client sent them.
    pub target: String,
    /// Its class.
    pub class: PathClass,
    /// What the table of paths says.
    pub facts: PathFacts,
    /// The dialect the client speaks.
    pub client: Dialect,
}
