//! Rules of several providers on one path: before the body is read they refuse only if all that could serve the path refuse;
//! after it, those of the model's targets; a target whose rules refuse is skipped.

use serde_json::{Value, json};

use crate::edge::TestEdge;
use crate::http::{Answer, Request, chat};
use crate::provider::Provider;

/// Two providers of one dialect, with rules; `a` and `b` are models at each of them alone, `both` at both.
fn start(first: &Value, second: &Value) -> (Provider, Provider, TestEdge) {
    let (one, two) = (Provider::start(), Provider::start());
    let target = |provider: &str| json!({"provider": provider, "model": "m"});
    let edge = TestEdge::plan(&one)
        .with(json!({
            "providers": {
                "openai": {"base_url": one.url()},
                "second": {"dialect": "openai", "base_url": two.url(), "api_key": "sk-second-second-second"},
                "anthropic": crate::edge::NULL,
            },
            "models": {
                "a": {"targets": [target("openai")]},
                "b": {"targets": [target("second")]},
                "both": {"strategy": "priority", "targets": [
                    {"provider": "openai", "model": "m", "priority": 0}, {"provider": "second", "model": "m", "priority": 1},
                ]},
            },
            "unknown_models": "reject",
        }))
        .with(json!({"providers": {"openai": first, "second": second}}))
        .start();
    (one, two, edge)
}

/// The request that each rule is about: with its header or parameter wrong.
fn ask(edge: &TestEdge, path: &str, model: &str) -> Answer {
    let mut body = chat(model);
    body["service_tier"] = json!("flex");
    let request = Request::new("POST", path)
        .header("Origin", "https://b.example")
        .json(&body);
    edge.token(json!({})).send(request)
}

#[test]
fn a_rule_of_one_refuses_nobody_who_can_go_to_the_other() {
    for (rules, status, code) in [
        (
            json!({"allowed_origins": ["https://a.example"]}),
            403,
            "origin_not_allowed",
        ),
        (json!({"required_headers": ["x-wanted"]}), 400, "header_required"),
        (
            json!({"allowed_endpoints": ["/v1/embeddings"]}),
            404,
            "endpoint_not_found",
        ),
        (json!({"allowed_methods": ["GET"]}), 405, "method_not_allowed"),
        (
            json!({"param_whitelist": {"service_tier": ["auto"]}}),
            400,
            "param_not_allowed",
        ),
    ] {
        let (one, two, edge) = start(&rules, &json!({}));
        let path = "/v1/chat/completions";
        ask(&edge, path, "a").refused(status, code);
        ask(&edge, path, "b").expect(200);
        let skipped = ask(&edge, path, "both").expect(200);
        assert_eq!(skipped.header("x-llm-proxy-provider"), Some("second"), "{rules}");
        assert_eq!((one.count(), two.count()), (0, 2), "{rules}");

        let (one, two, edge) = start(&rules, &rules);
        for model in ["a", "b", "both"] {
            ask(&edge, path, model).refused(status, code);
        }
        assert_eq!((one.count(), two.count()), (0, 0), "{rules}");
    }
}

#[test]
fn what_all_refuse_is_refused_before_the_body_and_what_one_allows_after_it() {
    let rule = json!({"allowed_origins": ["https://a.example"]});
    for (second, first_line) in [(rule.clone(), "403"), (json!({}), "100")] {
        let (_one, _two, edge) = start(&rule, &second);
        let user = edge.token(json!({}));
        let mut connection = crate::http::Connection::open(edge.proxy);
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nOrigin: https://b.example\r\n\
             Expect: 100-continue\r\nContent-Length: 100\r\n\r\n",
            user.secret
        );
        connection.send_raw(head.as_bytes()).expect("sent");
        let line = connection.read_line().expect("an answer");
        assert!(line.contains(first_line), "{second}: {line}");
    }
}

#[test]
fn a_stateful_path_needs_one_that_shares_or_a_key_of_the_project() {
    let (one, two, edge) = start(&json!({}), &json!({}));
    edge.token(json!({}))
        .get("/v1/files")
        .refused(403, "endpoint_not_allowed");
    let (_, _, sharing) = start(&json!({"shared_state": "allow"}), &json!({}));
    sharing.token(json!({})).get("/v1/files").expect(200);
    // an own key for a provider that the path does not go to opens nothing at the default one
    let project = edge.project(json!({"providers": {"second": "sk-own-at-the-second"}}));
    let answer = edge.token_of(&project, json!({})).get("/v1/files");
    assert_eq!(
        (answer.status, answer.code(), one.count()),
        (403, "endpoint_not_allowed", 0)
    );
    assert_eq!(two.count(), 0);
}
