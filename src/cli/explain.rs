//! `llm-proxy explain`: what a code means, and what to do about it. `docs/errors.md` is made from this table.

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Global, output};
use crate::domain::DenialCode;

/// Flags of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// A code, such as `token_expired`; without one all are listed.
    code: Option<String>,
}

/// Runs `explain`.
pub fn run(global: &Global, arguments: &ExplainArguments) -> Result<(), Failure> {
    let Some(word) = &arguments.code else {
        if global.json {
            return output::json(&DenialCode::ALL.iter().map(|code| shown(*code)).collect());
        }
        let rows: Vec<Vec<String>> = DenialCode::ALL
            .iter()
            .map(|code| {
                let (meaning, _) = explained(*code);
                vec![
                    code.as_str().to_owned(),
                    code.status().to_string(),
                    meaning.to_owned(),
                ]
            })
            .collect();
        return output::table(&["CODE", "STATUS", "MEANING"], &rows);
    };
    let known = DenialCode::ALL.iter().find(|code| code.as_str() == word);
    let Some(code) = known else {
        return Err(Failure::Usage(format!(
            "`{word}` is no code of this program; `llm-proxy explain` lists them. A code of the provider comes with \
             `X-LLM-Proxy-Origin: upstream`"
        )));
    };
    if global.json {
        return output::json(&shown(*code));
    }
    let (meaning, remedy) = explained(*code);
    output::line(&format!("{} (status {})", code.as_str(), code.status()))?;
    output::line(&format!("{meaning}."))?;
    output::line(&format!("-> {remedy}."))
}

fn shown(code: DenialCode) -> Value {
    let (meaning, remedy) = explained(code);
    json!({
        "code": code.as_str(),
        "status": code.status(),
        "openai_type": code.openai_type(),
        "anthropic_type": code.anthropic_type(),
        "meaning": meaning,
        "remedy": remedy,
    })
}

/// What a code means, and what to do.
#[expect(clippy::too_many_lines, reason = "one table, a row a code")]
fn explained(code: DenialCode) -> (&'static str, &'static str) {
    use DenialCode as Code;
    match code {
        Code::MalformedRequest => (
            "The request is no HTTP/1 that can be read in one way only, and the connection is closed",
            "Send it with a client library, or see the message for the line that is wrong",
        ),
        Code::InvalidJson => (
            "The body is no JSON object, has a key twice that is read here, or lacks `model` where it is needed",
            "Correct the body at the byte that the message names, or add `model`",
        ),
        Code::ParamNotAllowed => (
            "A parameter has a value outside the provider's `param_whitelist`",
            "Use one of the values in the message, or ask the operator for another",
        ),
        Code::OriginRequired => (
            "The provider's rules want an `Origin` header, and the request has none",
            "Call it from a browser page of an allowed origin, or take `origin` out of `required_headers`",
        ),
        Code::HeaderRequired => (
            "A header of the provider's `required_headers` is missing",
            "Send the header that `param` names",
        ),
        Code::PriceUnknown => (
            "The model or the path has no price, and the operator refuses such requests, or what the token may spend is limited",
            "Give the model a price in `prices.overrides`; `prices.unknown: zero` lets it through as free",
        ),
        Code::UnsupportedValue => (
            "The model is served in the other dialect only, or the body is encoded",
            "Call the path in the message, or send the body without `Content-Encoding`",
        ),
        Code::UpgradeRequired => (
            "The path is a WebSocket, and the request was no handshake of one",
            "Open it with a WebSocket client over HTTP/1.1; a proxy in front must pass `Connection` and `Upgrade`",
        ),
        Code::InvalidToken => (
            "No credential was sent, two different ones were, or it cannot be a token",
            "Send one token as `Authorization: Bearer`, `x-api-key` or `api-key`",
        ),
        Code::TokenNotFound => (
            "No token of this installation has this secret",
            "See that it was copied whole, and that this is the installation which made it",
        ),
        Code::TokenInactive => (
            "The token was revoked",
            "Ask for a new one: `llm-proxy manage token generate`",
        ),
        Code::TokenExpired => (
            "The token has expired, or its secret was replaced and the overlap is over",
            "Ask for a new one: `llm-proxy manage token generate`",
        ),
        Code::ProjectInactive => (
            "The token's project is switched off",
            "Switch it on: `llm-proxy manage project update ID --active true`",
        ),
        Code::IpNotAllowed => (
            "The client's address is not in the token's `allowed_ips`",
            "Call from such an address; behind a reverse proxy name that one in `server.trusted_proxies`",
        ),
        Code::OriginNotAllowed => (
            "The page's origin is not in the provider's `allowed_origins`",
            "Add the origin there, exactly as the browser sends it",
        ),
        Code::ModelNotAllowed => (
            "Token or project may not ask for this model",
            "Use a model of `GET /v1/models`, or change `allowed_models`",
        ),
        Code::EndpointNotAllowed => (
            "The token's `allowed_endpoints` leave this path out, or it touches what the provider keeps per account",
            "Change the token, or give the project a provider key of its own; `shared_state: allow` shares the operator's",
        ),
        Code::EndpointNotFound => (
            "No provider serves this path, or it is not in normal form",
            "See the path for typing errors; other paths need `allowed_endpoints` of a provider",
        ),
        Code::ModelNotFound => (
            "No model has this name, and unknown ones are rejected",
            "Use one of the names in the message, or of `GET /v1/models`",
        ),
        Code::MethodNotAllowed => (
            "The path does not take this method",
            "Use a method of the `Allow` header",
        ),
        Code::HeaderTimeout => (
            "The request head was not complete within `server.header_timeout`",
            "See the client's network; raise the time-out for very slow ones",
        ),
        Code::BodyTimeout => (
            "No byte of the body came within `server.body_timeout`",
            "See why the client stops sending; raise the time-out for very slow ones",
        ),
        Code::RequestTooLarge => (
            "The body is larger than the limit in the message",
            "Send less, or raise `server.max_request_size` or `server.max_inspected_size`",
        ),
        Code::RateLimitExceeded => (
            "A rate (requests or tokens a minute) or the number of requests at once is reached, or running requests have reserved what is left of a budget: of the installation, address, project or token",
            "Wait for `Retry-After`, or ask for a higher limit",
        ),
        Code::TokenQuotaExceeded => (
            "The token has made all its `max_requests`",
            "Ask for a new token or a higher `max_requests`; trying again does not help",
        ),
        Code::BudgetExceeded => (
            "The budget of the token, its project or the installation is spent, or what is left of it is less than the request may cost",
            "Wait for `resets_at`, ask for a higher budget, or ask for fewer tokens (`max_tokens`); trying again does not help",
        ),
        Code::HeaderTooLarge => (
            "The request head is larger than `server.max_header_size` or has too many lines",
            "Send fewer or shorter headers: often it is cookies",
        ),
        Code::InternalError => (
            "Something broke inside the proxy",
            "Report it with the request id and the log line of that id",
        ),
        Code::UpstreamUnreachable => (
            "No connection to the provider: its name has no address, nobody listens, or TLS fails",
            "`llm-proxy doctor` tells which; see `base_url`, DNS and firewall",
        ),
        Code::UpstreamProtocolError => (
            "What the provider sent is no answer in HTTP, or its connection broke before one",
            "See that `base_url` leads to the API and not to a page; try again",
        ),
        Code::UpstreamAuthError => (
            "The provider refused our key, or there is none, or it cannot be decrypted",
            "Set a valid key for the project or the provider; `llm-proxy migrate encrypt --status` shows keys that cannot be read",
        ),
        Code::Draining => (
            "This instance is shutting down",
            "Try again: another one answers, or this one after its start",
        ),
        Code::Overloaded => (
            "More connections, requests or held bytes than `server` allows",
            "Try again after `Retry-After`; raise the limit if the machine has room",
        ),
        Code::StoreUnavailable => (
            "The database does not answer, and this token is not known yet or has to be counted",
            "Try again; the operator sees the reason at `/ready` and in the log",
        ),
        Code::CircuitOpen => (
            "Every target of the model failed repeatedly and is left alone for `router.cooldown`",
            "Wait for `Retry-After`; `GET /manage/providers` shows which and why",
        ),
        Code::Starting => (
            "The proxy has not reached its database yet",
            "Try again in a moment",
        ),
        Code::NotCached => (
            "The request wanted a cached answer only, and there is none",
            "Leave `Cache-Control: only-if-cached` out",
        ),
        Code::ConnectTimeout => (
            "No connection to the provider within its `timeouts.connect`",
            "See the network to it; try again",
        ),
        Code::FirstByteTimeout => (
            "The provider did not begin its answer within `timeouts.response_header`",
            "Ask for a stream, which begins earlier, or raise the time-out",
        ),
        Code::IdleTimeout => (
            "The provider fell silent for longer than `server.stream_idle_timeout`",
            "Try again; raise the time-out for models that think long in silence",
        ),
        Code::RequestTimeout => (
            "No answer within `server.request_timeout` over all attempts, or the whole one not within `timeouts.request`",
            "Raise the time-out, or ask for a stream; trying again at once seldom helps",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_document_is_made_from_the_table() {
        let mut text = String::from(
            "# Errors\n\nEvery refusal of the proxy itself has `X-LLM-Proxy-Origin: proxy` and one of these codes, in the error \
             object and in\n`X-LLM-Proxy-Error-Code`. Answers with `X-LLM-Proxy-Origin: upstream` are the provider's own. \
             `llm-proxy explain CODE`\nsays the same.\n\n\
             | code | status | it means | what to do |\n| --- | --- | --- | --- |\n",
        );
        for code in DenialCode::ALL {
            let (meaning, remedy) = explained(*code);
            let _ = writeln!(
                text,
                "| `{}` | {} | {meaning} | {remedy} |",
                code.as_str(),
                code.status()
            );
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written, text, "run with UPDATE_GOLDEN=1 to write it anew");
    }
}
