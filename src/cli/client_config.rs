//! `llm-proxy client-config`: ready-made settings for clients.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Failure, Global, output};

/// Flags of `client-config`.
#[derive(Debug, Args)]
pub struct ClientConfigArguments {
    /// Which client.
    client: ClientKind,
    /// The proxy's address.
    #[arg(
        long,
        env = "PROXY_URL",
        default_value = "http://localhost:8080",
        value_name = "URL"
    )]
    proxy: String,
    /// A token of the proxy; without it the settings read it from the environment or hold a place for it.
    #[arg(long, env = "PROXY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// The model.
    #[arg(long, default_value = "gpt-4o-mini")]
    model: String,
}

/// A client that is known here.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClientKind {
    /// OpenAI's packages and whatever reads their variables.
    Openai,
    /// Anthropic's packages.
    Anthropic,
    /// Claude Code.
    ClaudeCode,
    /// OpenAI's Codex CLI (`~/.codex/config.toml`).
    Codex,
    /// Continue (`config.yaml`).
    Continue,
    /// Open WebUI (environment of its container).
    OpenWebui,
    /// Azure's OpenAI packages.
    Azure,
    /// One request by curl.
    Curl,
}

/// Runs `client-config`.
pub fn run(global: &Global, arguments: &ClientConfigArguments) -> Result<(), Failure> {
    let base = arguments.proxy.trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base);
    let token = arguments.token.as_deref().unwrap_or("sk-YOUR-TOKEN");
    let model = &arguments.model;
    let text = match arguments.client {
        ClientKind::Openai => format!("export OPENAI_BASE_URL={base}/v1\nexport OPENAI_API_KEY={token}\n"),
        ClientKind::Anthropic => {
            format!("export ANTHROPIC_BASE_URL={base}\nexport ANTHROPIC_API_KEY={token}\n")
        }
        ClientKind::ClaudeCode => {
            format!("export ANTHROPIC_BASE_URL={base}\nexport ANTHROPIC_AUTH_TOKEN={token}\n")
        }
        ClientKind::Codex => format!(
            "# ~/.codex/config.toml; and: export LLM_PROXY_TOKEN={token}\n\
             model = \"{model}\"\nmodel_provider = \"llm-proxy\"\n\n\
             [model_providers.llm-proxy]\nname = \"llm-proxy\"\nbase_url = \"{base}/v1\"\n\
             env_key = \"LLM_PROXY_TOKEN\"\nwire_api = \"responses\"\n"
        ),
        ClientKind::Continue => format!(
            "name: llm-proxy\nversion: 1.0.0\nschema: v1\nmodels:\n  - name: {model}\n    provider: openai\n    \
             model: {model}\n    apiBase: {base}/v1\n    apiKey: {token}\n    roles: [chat, edit, apply]\n"
        ),
        ClientKind::OpenWebui => {
            format!("OPENAI_API_BASE_URL={base}/v1\nOPENAI_API_KEY={token}\nENABLE_OLLAMA_API=false\n")
        }
        ClientKind::Azure => format!(
            "export AZURE_OPENAI_ENDPOINT={base}\nexport AZURE_OPENAI_API_KEY={token}\n\
             export OPENAI_API_VERSION=2024-10-21\n"
        ),
        ClientKind::Curl => format!(
            "curl -N {base}/v1/chat/completions -H 'Authorization: Bearer {token}' \\\n  \
             -H 'Content-Type: application/json' \\\n  \
             -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n"
        ),
    };
    if global.json {
        return output::json(&json!({"base_url": format!("{base}/v1"), "settings": text}));
    }
    output::raw(&text)
}
