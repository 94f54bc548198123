//! The other names of paths: OpenAI's at the root, those below `/openai/v1`, Azure's deployments; and Azure upstream.

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Request, chat};
use crate::provider::{Provider, Reply};

fn start(provider: &Provider, over: Value) -> (TestEdge, TokenUser) {
    let edge = TestEdge::plan(provider).with(over).start();
    let user = edge.token(json!({}));
    (edge, user)
}

/// A provider that answers whatever its path.
fn azure() -> Provider {
    let provider = Provider::start();
    provider.always(Reply::json(200, &json!({"object": "list", "data": []})));
    provider
}

#[test]
fn every_alias_is_served_as_the_path_it_means() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider, json!({}));
    for prefix in ["", "/api/litellm"] {
        for (alias, served) in [
            ("/chat/completions", "/v1/chat/completions"),
            ("/completions", "/v1/completions"),
            ("/embeddings", "/v1/embeddings"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/openai/v1/chat/completions", "/v1/chat/completions"),
            ("/openai/v1/responses?a=%41&b", "/v1/responses?a=%41&b"),
            (
                "/openai/deployments/gpt-a/chat/completions",
                "/v1/chat/completions",
            ),
            ("/v1/openai/deployments/gpt-a/embeddings", "/v1/embeddings"),
        ] {
            user.post(&[prefix, alias].concat(), chat("gpt-a")).expect(200);
            assert_eq!(provider.last().target, served, "{prefix}{alias}");
        }
        for alias in ["/models", "/openai/v1/models", "/v1/models"] {
            let list = user.get(&[prefix, alias].concat()).expect(200).json();
            assert_eq!(list["object"], "list", "{prefix}{alias}");
        }
    }
    let answer = user
        .post("/openai/v1/messages", crate::http::message("claude-a"))
        .expect(200);
    assert_eq!(answer.json()["type"], "message");
}

#[test]
fn what_is_no_alias_is_an_unknown_path() {
    let provider = Provider::start();
    let (_edge, user) = start(&provider, json!({}));
    for path in [
        "/moderations",
        "/chat/completions/",
        "/openai/models",
        "/openai/deployments/gpt-a",
        "/openai/deployments/gpt-a/files",
        "/openai/deployments/../v1/chat/completions",
        "/openai/deployments/%2e%2e/chat/completions",
        "/openai/deployments/a%2fb/chat/completions",
        "/openai/openai/v1/chat/completions",
        "/v1/v1/chat/completions",
    ] {
        user.post(path, chat("gpt-a")).refused(404, "endpoint_not_found");
    }
    user.get("/openai/deployments/gpt-a/chat/completions")
        .refused(405, "method_not_allowed");
    assert_eq!(provider.count(), 0);
}

#[test]
fn rules_hold_for_every_name_of_a_path() {
    let provider = Provider::start();
    let edge = TestEdge::start(&provider);
    let user = edge.token(json!({"allowed_endpoints": ["/v1/embeddings"], "allowed_models": ["gpt-a"]}));
    for path in [
        "/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/deployments/gpt-a/chat/completions",
    ] {
        user.post(path, chat("gpt-a"))
            .refused(403, "endpoint_not_allowed");
    }
    user.post("/openai/deployments/gpt-a/embeddings", json!({"input": "x"}))
        .expect(200);
    user.post("/openai/deployments/gpt-b/embeddings", chat("gpt-a"))
        .refused(403, "model_not_allowed");
    assert_eq!(provider.count(), 1);
}

#[test]
fn the_deployment_is_the_model_whatever_the_body_says() {
    let provider = Provider::start();
    let models = json!({"models": {"public": {"targets": [{"provider": "openai", "model": "real"}]}}});
    let (edge, user) = start(&provider, models);
    let azure = |key: &str| edge.anonymous().with("api-key", key);
    let path = "/openai/deployments/public/chat/completions?api-version=2024-10-21";
    for (body, seen) in [
        (
            "{\"model\": \"public\", \"n\":1}",
            "{\"model\": \"real\", \"n\":1}",
        ),
        ("{\"model\": \"other\"}", "{\"model\": \"real\"}"),
        ("{ \"n\":1}", "{\"model\":\"real\", \"n\":1}"),
        ("{}", "{\"model\":\"real\"}"),
    ] {
        let answer = azure(&user.secret)
            .send(Request::new("POST", path).bytes(body))
            .expect(200);
        assert_eq!(String::from_utf8_lossy(&provider.last().body), seen);
        assert_eq!(
            provider.last().target,
            "/v1/chat/completions?api-version=2024-10-21"
        );
        assert_eq!(answer.header("x-llm-proxy-model"), Some("real"));
    }
    let form = "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nx\r\n--b--\r\n";
    let request = Request::new("POST", "/openai/deployments/public/audio/transcriptions")
        .header("Content-Type", "multipart/form-data; boundary=b");
    user.send(request.bytes(form)).expect(200);
    let named = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nreal\r\n";
    assert_eq!(
        String::from_utf8_lossy(&provider.last().body),
        [named, form].concat()
    );
}

#[test]
fn azure_with_a_dated_version_is_called_by_deployment() {
    let provider = azure();
    let over = json!({
        "providers": {"azure": {"base_url": provider.url(), "api_key": "azure-key-of-the-installation", "api_version": "2024-10-21"}},
        "models": {"public": {"targets": [{"provider": "azure", "model": "my deployment"}]}},
    });
    let (_edge, user) = start(&provider, over);
    user.chat("public").expect(200);
    let seen = provider.last();
    assert_eq!(
        seen.target,
        "/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21"
    );
    assert_eq!(seen.header("api-key"), Some("azure-key-of-the-installation"));
    assert_eq!(seen.header("authorization"), None);
    user.post("/v1/responses?x=1", json!({"model": "azure/gpt-a", "input": "x"}))
        .expect(200);
    assert_eq!(
        provider.last().target,
        "/openai/responses?x=1&api-version=2024-10-21"
    );
    assert_eq!(provider.last().model(), "gpt-a");
    user.post(
        "/openai/deployments/public/chat/completions?api-version=2025-01-01",
        json!({}),
    )
    .expect(200);
    assert_eq!(
        provider.last().target,
        "/openai/deployments/my%20deployment/chat/completions?api-version=2025-01-01"
    );
}

#[test]
fn azure_without_a_version_is_called_below_openai_v1() {
    let provider = azure();
    let over = json!({
        "providers": {"west": {"dialect": "azure", "base_url": format!("{}/openai/v1", provider.url()), "api_key": "azure-key-of-the-installation"}},
        "default_provider": "west",
    });
    let (_edge, user) = start(&provider, over);
    user.chat("gpt-a").expect(200);
    assert_eq!(provider.last().target, "/openai/v1/chat/completions");
    assert_eq!(
        provider.last().header("api-key"),
        Some("azure-key-of-the-installation")
    );
    user.get("/v1/models").expect(200);
    assert_eq!(provider.last().target, "/openai/v1/models");
}

#[test]
fn dated_azure_as_default_needs_a_model() {
    let provider = azure();
    let over = json!({
        "providers": {"azure": {"base_url": provider.url(), "api_key": "azure-key-of-the-installation", "api_version": "2024-10-21"}},
        "default_provider": "azure",
    });
    let (_edge, user) = start(&provider, over);
    let answer = user
        .post("/v1/chat/completions", json!({"messages": []}))
        .refused(400, "invalid_json");
    assert_eq!(answer.json()["error"]["param"], "model");
    user.chat("anything").expect(200);
    assert_eq!(provider.count(), 1);
}
