//! The control plane from outside: requests in, answers out.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::Listener;
use super::fakes::{ADMIN, Bench, SCRAPER, VIEWER, request, settings};
use super::ports::{Purge, ReadyState};
use crate::domain::audit::AuditOutcome;
use crate::fleet::Changed;
use crate::store::StoreError;

mod project_rules;
mod token_rules;

#[tokio::test]
async fn health_tells_details_on_the_sidecar_alone() {
    let bench = Bench::new();
    let mut ask = request("GET", "/health", None, "");
    let seen = bench.send(ask.clone()).await;
    assert_eq!((seen.status, &seen.json["status"]), (200, &json!("ok")));
    assert_eq!(seen.json["timestamp"], "2026-01-31T12:00:00Z");
    assert!(seen.json["version"].is_string());
    assert_eq!(seen.header("x-request-id").len(), 36);
    ask.via = Listener::Proxy;
    assert!(bench.send(ask).await.json.get("version").is_none());
    for path in ["/live", "/health/liveliness", "/health/liveness"] {
        let seen = bench.send(request("GET", path, None, "")).await;
        assert_eq!(
            (seen.status, seen.json),
            (200, json!({"status": "alive"})),
            "{path}"
        );
    }
}

#[tokio::test]
async fn ready_tells_the_truth() {
    let bench = Bench::new();
    let table = [
        (
            ReadyState::Ready,
            200,
            json!({"status": "ready"}),
            json!({"status": "ready"}),
        ),
        (
            ReadyState::Starting,
            503,
            json!({"status": "not_ready", "reason": "starting"}),
            json!({"status": "not_ready", "reason": "starting"}),
        ),
        (
            ReadyState::Draining,
            503,
            json!({"status": "not_ready", "reason": "draining"}),
            json!({"status": "not_ready", "reason": "draining"}),
        ),
        (
            ReadyState::StoreNeverReached("unavailable"),
            503,
            json!({"status": "not_ready", "reason": "store_unavailable", "detail": "unavailable"}),
            json!({"status": "not_ready", "reason": "store_unavailable"}),
        ),
        (
            ReadyState::Degraded(vec!["store_unavailable"]),
            200,
            json!({"status": "degraded", "reasons": ["store_unavailable"]}),
            json!({"status": "degraded"}),
        ),
    ];
    for (state, status, sidecar, proxy) in table {
        *bench.world.ready.lock() = Some(state);
        for path in ["/ready", "/health/readiness"] {
            let mut ask = request("GET", path, None, "");
            let seen = bench.send(ask.clone()).await;
            assert_eq!((seen.status, seen.json), (status, sidecar.clone()));
            ask.via = Listener::Proxy;
            assert_eq!(bench.send(ask).await.json, proxy);
        }
    }
}

#[tokio::test]
async fn ids_of_the_client_come_back_when_they_are_sane() {
    let bench = Bench::new();
    let mut ask = request("GET", "/manage/models", Some(ADMIN), "");
    ask.headers.insert("x-request-id", "mine-1".parse().unwrap());
    ask.headers.insert("x-correlation-id", "no good".parse().unwrap());
    let seen = bench.send(ask).await;
    assert_eq!(seen.header("x-request-id"), "mine-1");
    assert_eq!(seen.header("x-correlation-id").len(), 36);
    let event = bench.last_event();
    assert_eq!(event.request_id.as_deref(), Some("mine-1"));
    assert_eq!(
        event.correlation_id.as_deref(),
        Some(seen.header("x-correlation-id"))
    );
}

#[tokio::test]
async fn without_a_bearer_nothing_is_shown_and_the_denial_is_audited() {
    let bench = Bench::new();
    for path in ["/manage", "/manage/projects", "/manage/unknown", "/manage/audit"] {
        let seen = bench.send(request("GET", path, None, "")).await;
        assert_eq!(seen.status, 401, "{path}");
        assert_eq!(
            seen.json,
            json!({"error": "missing or invalid Authorization header"})
        );
        assert_eq!(seen.header("content-type"), "application/json");
        assert_eq!(seen.header("www-authenticate"), "Bearer");
        let event = bench.last_event();
        assert_eq!(event.action, "management.denied");
        assert_eq!(event.outcome, AuditOutcome::Denied);
        assert_eq!(event.path.as_deref(), Some(path));
    }
}

#[tokio::test]
async fn a_wrong_bearer_waits_and_a_right_one_does_not() {
    let bench = Bench::new();
    let started = tokio::time::Instant::now();
    let seen = bench.by("wrong", "GET", "/manage/projects", Value::Null).await;
    assert_eq!((seen.status, seen.error()), (401, "invalid management token"));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(250), "{waited:?}");
    let started = tokio::time::Instant::now();
    assert_eq!(
        bench.admin("GET", "/manage/projects", Value::Null).await.status,
        200
    );
    assert!(started.elapsed() < Duration::from_millis(200));
}

#[tokio::test]
async fn on_the_proxy_listener_the_401_says_where_the_sidecar_is_to_local_peers_alone() {
    let bench = Bench::new();
    let mut ask = request("GET", "/metrics", None, "");
    ask.via = Listener::Proxy;
    let seen = bench.send(ask.clone()).await;
    assert_eq!(seen.status, 401);
    assert!(seen.json["message"].as_str().unwrap().contains("127.0.0.1:8081"));
    ask.client = "192.0.2.7".parse().unwrap();
    let seen = bench.send(ask).await;
    assert!(!seen.json["message"].as_str().unwrap().contains("127.0.0.1"));
}

#[tokio::test]
async fn roles_are_kept_apart() {
    let bench = Bench::new();
    let table = [
        (VIEWER, "GET", "/manage/projects", 200),
        (VIEWER, "GET", "/manage/config", 200),
        (VIEWER, "GET", "/manage/audit", 403),
        (VIEWER, "POST", "/manage/projects", 403),
        (SCRAPER, "GET", "/manage/projects", 403),
        (SCRAPER, "GET", "/metrics", 200),
    ];
    for (bearer, method, path, status) in table {
        let seen = bench.by(bearer, method, path, Value::Null).await;
        assert_eq!(seen.status, status, "{bearer} {method} {path}");
        if status == 403 {
            assert_eq!(
                (seen.error(), &seen.json["code"]),
                ("forbidden", &json!("forbidden"))
            );
            assert_eq!(bench.last_event().outcome, AuditOutcome::Denied);
        }
    }
    bench.by(VIEWER, "GET", "/manage/projects", Value::Null).await;
    assert_eq!(bench.last_event().actor, "dashboards");
}

#[tokio::test]
async fn tokens_can_be_swapped_while_running() {
    let bench = Bench::new();
    let mut changed = settings("127.0.0.1:8081");
    changed.tokens = super::ManagementTokens::main(&crate::domain::Secret::new("another-token"));
    bench.own.configure(changed);
    assert_eq!(
        bench
            .by("another-token", "GET", "/manage/models", Value::Null)
            .await
            .status,
        200
    );
    assert_eq!(
        bench.admin("GET", "/manage/models", Value::Null).await.status,
        401
    );
}

#[tokio::test]
async fn metrics_are_open_on_a_loopback_sidecar_and_closed_elsewhere() {
    let bench = Bench::new();
    let open = bench.send(request("GET", "/metrics", None, "")).await;
    assert_eq!((open.status, open.json), (200, json!({"request_count": 1})));
    let text = bench.send(request("GET", "/metrics/prometheus", None, "")).await;
    assert_eq!(
        text.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert_eq!(&text.body[..], b"llm_proxy_requests_total 1\n");
    let mut scrape = request("GET", "/metrics", None, "");
    scrape
        .headers
        .insert("accept", "text/plain;version=0.0.4".parse().unwrap());
    assert_eq!(bench.send(scrape).await.body, text.body);
    let post = bench.send(request("POST", "/metrics", None, "")).await;
    assert_eq!((post.status, post.header("allow")), (405, "GET"));

    bench.own.configure(settings("0.0.0.0:8081"));
    assert_eq!(bench.send(request("GET", "/metrics", None, "")).await.status, 401);
    assert_eq!(
        bench.by(SCRAPER, "GET", "/metrics", Value::Null).await.status,
        200
    );

    let mut off = settings("127.0.0.1:8081");
    off.metrics_enabled = false;
    bench.own.configure(off);
    assert_eq!(bench.send(request("GET", "/metrics", None, "")).await.status, 404);
    assert!(!bench.own.owns("/metrics") && bench.own.owns("/manage/projects"));
}

#[tokio::test]
async fn own_paths_are_told_from_others() {
    let bench = Bench::new();
    for path in [
        "/manage",
        "/manage/",
        "/manage/x",
        "/metrics",
        "/metrics/prometheus",
        "/openapi.json",
    ] {
        assert!(bench.own.owns(path), "{path}");
    }
    for path in [
        "/",
        "/managed",
        "/v1/models",
        "/metricsx",
        "/metrics/x",
        "/health",
    ] {
        assert!(!bench.own.owns(path), "{path}");
    }
    for path in ["/v1/models", "/"] {
        let seen = bench.send(request("GET", path, None, "")).await;
        assert_eq!((seen.status, seen.error()), (404, "not found"), "{path}");
    }
    assert_eq!(
        bench.admin("GET", "/manage/nonsense", Value::Null).await.status,
        404
    );
}

#[tokio::test]
async fn other_methods_are_405_with_what_is_allowed() {
    let bench = Bench::new();
    let id = bench.project("p").await;
    let table = [
        ("PUT", "/manage/projects".to_owned(), "GET, POST"),
        ("PUT", format!("/manage/projects/{id}"), "GET, PATCH"),
        ("POST", format!("/manage/projects/{id}"), "GET, PATCH"),
        ("GET", format!("/manage/projects/{id}/tokens/revoke"), "POST"),
        ("POST", "/manage/projects/".to_owned(), "GET, PATCH"),
        ("PATCH", "/manage/tokens".to_owned(), "GET, POST"),
        ("PUT", "/manage/tokens/x".to_owned(), "GET, PATCH, DELETE"),
        ("GET", "/manage/tokens/x/rotate".to_owned(), "POST"),
        ("POST", "/manage/audit".to_owned(), "GET"),
        ("GET", "/manage/cache/purge".to_owned(), "POST"),
        ("GET", "/manage/config/reload".to_owned(), "POST"),
    ];
    for (method, path, allow) in table {
        let seen = bench.admin(method, &path, Value::Null).await;
        assert_eq!(
            (seen.status, seen.error()),
            (405, "method not allowed"),
            "{method} {path}"
        );
        assert_eq!(seen.header("allow"), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let bench = Bench::new();
    let get = bench.admin("GET", "/manage/models", Value::Null).await;
    for path in ["/manage/models", "/health", "/metrics"] {
        let head = bench.admin("HEAD", path, Value::Null).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    let head = bench.admin("HEAD", "/manage/models", Value::Null).await;
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

#[tokio::test]
async fn a_body_above_the_limit_is_413() {
    let bench = Bench::new();
    let seen = bench
        .send(request(
            "POST",
            "/manage/projects",
            Some(ADMIN),
            vec![b' '; (1 << 20) + 1],
        ))
        .await;
    assert_eq!(
        (seen.status, &seen.json["code"]),
        (413, &json!("request_too_large"))
    );
}

#[tokio::test]
async fn trouble_with_the_store_is_a_named_503_everywhere() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let token = bench.token(&project).await;
    *bench.world.trouble.lock() = Some(StoreError::ReadOnly("/data".to_owned()));
    let minutes = json!({"project_id": project, "duration_minutes": 5});
    let table = [
        ("GET", "/manage/projects".to_owned(), Value::Null),
        (
            "POST",
            "/manage/projects".to_owned(),
            json!({"name": "q", "api_key": "sk-abcdefgh12345"}),
        ),
        ("GET", format!("/manage/projects/{project}"), Value::Null),
        (
            "PATCH",
            format!("/manage/projects/{project}"),
            json!({"name": "x"}),
        ),
        (
            "POST",
            format!("/manage/projects/{project}/tokens/revoke"),
            Value::Null,
        ),
        ("GET", "/manage/tokens".to_owned(), Value::Null),
        ("POST", "/manage/tokens".to_owned(), minutes),
        ("GET", format!("/manage/tokens/{token}"), Value::Null),
        (
            "PATCH",
            format!("/manage/tokens/{token}"),
            json!({"is_active": false}),
        ),
        ("DELETE", format!("/manage/tokens/{token}"), Value::Null),
        ("POST", format!("/manage/tokens/{token}/rotate"), Value::Null),
        ("GET", "/manage/audit".to_owned(), Value::Null),
    ];
    for (method, path, body) in table {
        let seen = bench.admin(method, &path, body).await;
        assert_eq!(seen.status, 503, "{method} {path}");
        assert_eq!(seen.json["code"], "store_unavailable", "{method} {path}");
        assert_eq!(seen.json["reason"], "read_only");
        assert_eq!(seen.header("retry-after"), "1");
        assert_eq!(bench.last_event().outcome, AuditOutcome::Error, "{method} {path}");
    }
}

#[tokio::test]
async fn providers_models_and_configuration_are_shown() {
    let bench = Bench::new();
    let providers = bench.admin("GET", "/manage/providers", Value::Null).await.json;
    assert_eq!(providers[0]["name"], "openai");
    assert_eq!(providers[1]["key"], "no key");
    assert_eq!(providers[1]["health"], "healthy");
    let models = bench.admin("GET", "/manage/models", Value::Null).await.json;
    assert_eq!(models[0]["targets"][0]["model"], "gpt-4o-mini");
    assert_eq!(
        bench.admin("GET", "/manage/config", Value::Null).await.json["generation"],
        1
    );
    let reloaded = bench.admin("POST", "/manage/config/reload", Value::Null).await;
    assert_eq!((reloaded.status, &reloaded.json["generation"]), (200, &json!(2)));
    assert_eq!(bench.last_event().action, "config.reload");
    bench.world.refuse_reload.store(true, Ordering::Relaxed);
    let refused = bench.admin("POST", "/manage/config/reload", Value::Null).await;
    assert_eq!(
        (refused.status, &refused.json["code"]),
        (400, &json!("configuration_refused"))
    );
    assert!(refused.json["errors"][0].as_str().unwrap().contains(":3:5"));
}

#[tokio::test]
async fn purging_takes_url_prefix_project_or_all() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let project_id = project.parse().unwrap();
    let url = |project| Purge::Url {
        method: "GET".to_owned(),
        path_and_query: "/v1/models?a=1".to_owned(),
        project,
    };
    let table = [
        (
            json!({"method": "get", "url": "/v1/models?a=1"}),
            url(None),
            json!(true),
        ),
        (
            json!({"method": "GET", "url": "http://localhost:8080/v1/models?a=1", "project_id": project}),
            url(Some(project_id)),
            json!(true),
        ),
        (
            json!({"method": "GET", "url": "/x", "prefix": "abc"}),
            Purge::Prefix("abc".to_owned()),
            json!(3),
        ),
        (
            json!({"project_id": project}),
            Purge::Project(project_id),
            json!(3),
        ),
        (json!({"all": true}), Purge::All, json!(3)),
    ];
    for (body, purge, deleted) in table {
        let seen = bench.admin("POST", "/manage/cache/purge", body).await;
        assert_eq!((seen.status, seen.json), (200, json!({"deleted": deleted})));
        assert_eq!(bench.world.purges.lock().last(), Some(&purge));
    }
    let refused = [
        (json!({}), "method and url are required"),
        (json!({"method": "GET"}), "method and url are required"),
        (json!({"method": "GET", "url": "not a url"}), "invalid URL"),
        (json!({"method": "GET", "url": "ftp://x/y"}), "invalid URL"),
    ];
    for (body, text) in refused {
        let seen = bench.admin("POST", "/manage/cache/purge", body).await;
        assert_eq!((seen.status, seen.error()), (400, text));
    }
    let broken = bench
        .send(request("POST", "/manage/cache/purge", Some(ADMIN), "{"))
        .await;
    assert_eq!((broken.status, broken.error()), (400, "invalid JSON"));
    assert_eq!(
        bench.admin("GET", "/manage/cache", Value::Null).await.json["backend"],
        "memory"
    );
    bench.world.cache_off.store(true, Ordering::Relaxed);
    let off = bench
        .admin("POST", "/manage/cache/purge", json!({"all": true}))
        .await;
    assert_eq!((off.status, off.error()), (400, "caching is disabled"));
}

#[tokio::test]
async fn audit_events_are_listed_filtered_and_read() {
    let bench = Bench::new();
    let empty = bench
        .admin("GET", "/manage/audit?action=nothing", Value::Null)
        .await;
    assert_eq!(empty.json["events"], json!([]));
    assert_eq!(empty.json["pagination"]["total_pages"], 0);
    let project = bench.project("p").await;
    let listed = bench
        .admin(
            "GET",
            "/manage/audit?action=project.create&page_size=500",
            Value::Null,
        )
        .await;
    let event = &listed.json["events"][0];
    assert_eq!(event["project_id"], json!(project));
    assert_eq!(
        (&event["outcome"], &event["actor"]),
        (&json!("success"), &json!("management_api"))
    );
    assert_eq!(
        (&event["method"], &event["path"]),
        (&json!("POST"), &json!("/manage/projects"))
    );
    assert_eq!(event["metadata"], json!("{\"name\":\"p\"}"));
    assert_eq!(
        listed.json["pagination"],
        json!({"page": 1, "page_size": 100, "total_count": 1, "total_pages": 1, "has_next": false, "has_prev": false})
    );
    let id = event["id"].as_str().unwrap();
    let shown = bench
        .admin("GET", &format!("/manage/audit/{id}"), Value::Null)
        .await;
    assert_eq!(&shown.json, event);
    assert_eq!(bench.last_event().action, "audit.show");
    let missing = bench.admin("GET", "/manage/audit/nonsense", Value::Null).await;
    assert_eq!((missing.status, missing.error()), (404, "audit event not found"));
    let no_id = bench.admin("GET", "/manage/audit/", Value::Null).await;
    assert_eq!((no_id.status, no_id.error()), (400, "audit event ID is required"));
    for bad in [
        "page=0",
        "page_size=x",
        "page_size=-1",
        "outcome=fine",
        "start_time=yesterday",
        "client_ip=x",
    ] {
        let seen = bench
            .admin("GET", &format!("/manage/audit?{bad}"), Value::Null)
            .await;
        assert_eq!(seen.status, 400, "{bad}");
        assert!(
            seen.error().contains(bad.split('=').next().unwrap()),
            "{}",
            seen.error()
        );
    }
}

#[tokio::test]
async fn every_write_is_told_before_it_is_answered() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let token = bench.token(&project).await;
    let of_project = Changed::Project(project.parse().unwrap());
    let of_token = Changed::Token(token.parse().unwrap());
    let table = [
        (
            "PATCH",
            format!("/manage/projects/{project}"),
            json!({"name": "q"}),
            of_project,
        ),
        (
            "POST",
            format!("/manage/projects/{project}/tokens/revoke"),
            Value::Null,
            of_project,
        ),
        (
            "PATCH",
            format!("/manage/tokens/{token}"),
            json!({"is_active": true}),
            of_token,
        ),
        (
            "POST",
            format!("/manage/tokens/{token}/rotate"),
            Value::Null,
            of_token,
        ),
        ("DELETE", format!("/manage/tokens/{token}"), Value::Null, of_token),
    ];
    for (method, path, body, change) in table {
        bench.world.changes.lock().clear();
        let seen = bench.admin(method, &path, body).await;
        assert!(seen.status < 300, "{method} {path}: {:?}", seen.json);
        assert!(bench.world.changes.lock().contains(&change), "{method} {path}");
    }
}
