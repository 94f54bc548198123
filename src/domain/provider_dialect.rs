//! The wire formats that a provider or a client may speak.

use std::fmt;

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// OpenAI's API and its many imitations.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
    /// Azure OpenAI.
    Azure,
    /// The built-in demonstration provider, which answers both dialects without any network.
    Demo,
}

impl Dialect {
    /// Its name in configuration and API.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Azure => "azure",
            Self::Demo => "demo",
        }
    }

    /// Whether a provider of this dialect can answer a client of dialect `client` without translation.
    pub fn serves(self, client: Self) -> bool {
        self == client || self == Self::Demo || self == Self::Azure && client == Self::OpenAi
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
