//! Every endpoint at every log level, and then a look for the secrets everywhere.

use serde_json::json;

use crate::edge::{ANTHROPIC_KEY, MANAGEMENT_TOKEN, OPENAI_KEY, Store, TestEdge, text};
use crate::for_both_stores;
use crate::http::{Request, chat};
use crate::provider::{Provider, Reply, chat_chunks};

const ENCRYPTION_KEY: &str = "c2VjcmV0LWVuY3J5cHRpb24ta2V5LW9mLWJlbmNoIT8=";
const OWN_KEY: &str = "sk-own-key-of-the-project-secret-9c1e";
const PROMPT: &str = "prompt-that-nobody-may-log-5511";

for_both_stores! {
    fn no_secret_appears_anywhere(store) {
        for level in ["error", "warn", "info", "debug", "trace"] {
            use_everything(store, level);
        }
    }
}

#[expect(clippy::too_many_lines, reason = "every endpoint")]
fn use_everything(store: &Store, level: &str) {
    let provider = Provider::start();
    let over = json!({
        "logging": {"level": level},
        "encryption": {"key": ENCRYPTION_KEY},
        "providers": {"openai": {"headers": {"X-Extra-Secret": "header-secret-in-the-configuration"}}},
        "router": {"retries": 0},
    });
    let mut edge = TestEdge::plan(&provider)
        .on(store)
        .with(over)
        .env("RUST_LOG", level)
        .start();
    let mut answers = String::new();
    let user = edge.token_of(
        &edge.project(json!({"api_key": OWN_KEY})),
        json!({"max_requests": 40}),
    );
    let mut note =
        |answer: crate::http::Answer| answers.extend([format!("{:?}\n", answer.headers), answer.text()]);

    let mut body = chat("gpt-a");
    body["messages"][0]["content"] = json!(PROMPT);
    note(user.post("/v1/chat/completions", body.clone()));
    note(user.as_anthropic().message("claude-a"));
    user.chat_stream("gpt-a").finish();
    note(user.get("/v1/models"));
    note(user.get("/v1/files"));
    note(
        user.with("Cache-Control", "public, max-age=60")
            .post("/v1/chat/completions", body),
    );
    for reply in [
        Reply::openai_error(401, "invalid_request_error", "invalid_api_key"),
        Reply::json(
            401,
            &json!({"error": {"message": format!("bad key {OWN_KEY}"), "code": "invalid_api_key"}}),
        ),
        Reply::close(),
        Reply::raw("garbage"),
        Reply::events(&chat_chunks("m")).cut_after(2),
    ] {
        provider.next(reply);
        note(user.post("/v1/chat/completions", crate::http::chat_streamed("gpt-a")));
    }
    note(user.send(Request::new("POST", "/v1/chat/completions").bytes(format!("{{\"{PROMPT}"))));
    note(
        user.send(
            Request::new("GET", "/v1/realtime?model=gpt-a")
                .header("Connection", "Upgrade")
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header(
                    "Sec-WebSocket-Protocol",
                    "realtime, openai-insecure-api-key.subprotocol-key-that-is-secret",
                ),
        ),
    );
    note(
        user.with("x-api-key", "another-credential-that-is-secret")
            .chat("gpt-a"),
    );
    note(
        edge.anonymous()
            .with("Authorization", "Bearer unknown-credential-that-is-secret")
            .chat("gpt-a"),
    );
    note(
        edge.anonymous()
            .get("/v1/models?api_key=credential-in-the-url-secret"),
    );

    let admin = edge.admin();
    note(
        edge.sidecar()
            .with("Authorization", "Bearer wrong-management-bearer-secret")
            .get("/manage/projects"),
    );
    let project = format!("/manage/projects/{}", user.project_id);
    let token = format!("/manage/tokens/{}", user.id);
    for path in [
        "/manage/projects",
        &project,
        "/manage/tokens",
        &token,
        "/manage/config",
        "/manage/providers",
        "/manage/models",
        "/manage/audit",
        "/manage/cache",
        "/metrics",
        "/metrics/prometheus",
        "/health",
        "/ready",
        "/live",
        "/manage/usage",
        "/manage/usage/records",
        "/openapi.json",
        "/manage/no-such-thing",
    ] {
        note(admin.get(path));
    }
    note(admin.patch(&project, json!({"api_key": OWN_KEY})));
    note(admin.patch(
        &project,
        json!({"providers": {"anthropic": "sk-ant-second-own-key-secret"}}),
    ));
    note(admin.patch(&token, json!({"name": "renamed"})));
    note(admin.post("/manage/projects", json!({"name": "x", "api_key": [OWN_KEY]})));
    note(admin.post("/manage/config/reload", json!({})));
    note(admin.post("/manage/cache/purge", json!({"all": true})));
    let rotated = admin
        .post(&format!("{token}/rotate"), json!({"overlap_minutes": 1}))
        .expect(200)
        .json();
    let second = text(&rotated, "token");
    note(admin.delete(&token));
    let config = edge.config_path();
    let config = config.to_str().expect("a path").to_owned();
    for arguments in [
        &["config", "show", "-c", &config][..],
        &["config", "check", "-c", &config],
        &["migrate", "status", "-c", &config],
        &["doctor", "-c", &config],
    ] {
        let output = edge.run(arguments);
        answers.push_str(&String::from_utf8_lossy(&output.stdout));
        answers.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    edge.stop();

    let audit = std::fs::read_to_string(edge.folder().join("audit.log")).unwrap_or_default();
    let logs = edge.logs();
    assert!(!logs.is_empty() || level == "error");
    let secrets = [
        MANAGEMENT_TOKEN,
        OPENAI_KEY,
        ANTHROPIC_KEY,
        ENCRYPTION_KEY,
        OWN_KEY,
        user.secret.as_str(),
        second.as_str(),
        PROMPT,
        "sk-ant-second-own-key-secret",
        "header-secret-in-the-configuration",
        "another-credential-that-is-secret",
        "unknown-credential-that-is-secret",
        "wrong-management-bearer-secret",
        "credential-in-the-url-secret",
        "subprotocol-key-that-is-secret",
    ];
    for secret in secrets {
        for (place, content) in [
            ("the logs", &logs),
            ("the audit file", &audit),
            ("an answer", &answers),
        ] {
            if let Some(at) = content.find(secret) {
                let from = (0..=at.saturating_sub(200))
                    .rev()
                    .find(|n| content.is_char_boundary(*n))
                    .unwrap_or(0);
                panic!(
                    "`{secret}` appears in {place}: …{}",
                    &content[from..at + secret.len()]
                );
            }
        }
    }
}
