//! Tokens: statuses, texts, shapes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::domain::TokenHash;
use crate::management::fakes::Bench;

#[tokio::test]
async fn a_token_is_shown_once_and_kept_as_a_hash() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let body = json!({"project_id": project, "duration_minutes": 60, "max_requests": 5, "name": "ci"});
    let created = bench.admin("POST", "/manage/tokens", body).await;
    assert_eq!(created.status, 200);
    assert_eq!(created.json["expires_at"], "2026-01-31T13:00:00Z");
    assert_eq!(created.json["max_requests"], 5);
    let secret = created.json["token"].as_str().unwrap();
    assert!(secret.starts_with("sk-") && secret.len() == 46, "{secret}");
    assert_eq!(bench.world.tokens.lock()[0].1, TokenHash::of(secret));
    let id = created.json["id"].as_str().unwrap();
    let shown = bench
        .admin("GET", &format!("/manage/tokens/{id}"), Value::Null)
        .await;
    assert!(bench.world.flushed.load(Ordering::Relaxed));
    let obfuscated = format!("{}{}{}", &secret[..7], "*".repeat(35), &secret[42..]);
    assert_eq!(
        shown.json,
        json!({
            "id": id, "name": "ci", "token": obfuscated, "project_id": project,
            "expires_at": "2026-01-31T13:00:00Z", "is_active": true, "deactivated_at": null,
            "request_count": 0, "max_requests": 5, "created_at": "2026-01-31T12:00:00Z",
            "last_used_at": null, "cache_hit_count": 0, "budget": null, "spend_usd": 0.0, "allowed_models": [],
            "allowed_endpoints": [], "allowed_ips": [], "limits": {}, "metadata": {}
        })
    );
    for event in bench.world.events.lock().iter() {
        assert!(!format!("{event:?}").contains(secret));
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of bodies and texts")]
async fn creation_is_refused_with_the_known_texts() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let unknown = "3f2b8c1e-8f0a-4a53-9a57-0a4a2b8f3f10";
    let required = "project_id and duration_minutes are required";
    let table = [
        (json!({}), 400, required),
        (json!({"project_id": project}), 400, required),
        (
            json!({"project_id": project, "duration_minutes": 0}),
            400,
            required,
        ),
        (
            json!({"project_id": project, "duration_minutes": -5}),
            400,
            required,
        ),
        (
            json!({"project_id": project, "duration_minutes": 525_601}),
            400,
            "duration_minutes exceeds maximum allowed",
        ),
        (json!({"duration_minutes": 5}), 400, "project_id is required"),
        (
            json!({"project_id": "", "duration_minutes": 5}),
            400,
            "project_id is required",
        ),
        (
            json!({"project_id": project, "duration_minutes": 5, "max_requests": -1}),
            400,
            "max_requests must be >= 0",
        ),
        (
            json!({"project_id": project, "duration_minutes": "5"}),
            400,
            "invalid request body",
        ),
        (
            json!({"project_id": project, "duration_minutes": 5.5}),
            400,
            "invalid request body",
        ),
        (
            json!({"project_id": "nonsense", "duration_minutes": 5}),
            404,
            "project not found",
        ),
        (
            json!({"project_id": unknown, "duration_minutes": 5}),
            404,
            "project not found",
        ),
        (
            json!({"project_id": project, "duration_minutes": 5, "expires_at": "2026-02-01T00:00:00Z"}),
            400,
            "give exactly one of duration_minutes and expires_at",
        ),
        (
            json!({"project_id": project, "expires_at": "2026-01-31T12:00:00.5Z"}),
            400,
            "expires_at must be at least 1 s ahead",
        ),
        (
            json!({"project_id": project, "expires_at": "2027-02-01T12:00:00Z"}),
            400,
            "expires_at exceeds maximum allowed",
        ),
        (
            json!({"project_id": project, "duration_hours": 5}),
            400,
            "unknown field `duration_hours`; did you mean `duration_minutes`?",
        ),
        (
            json!({"project_id": project, "duration_minutes": 5, "budget": {"usd": "1", "period": "day"}}),
            400,
            "invalid request body",
        ),
        (
            json!({"project_id": project, "duration_minutes": 5, "allowed_ips": ["10.0.0.0/33"]}),
            400,
            "`allowed_ips`: `10.0.0.0/33` is no address or network; write one such as `203.0.113.7` or `10.0.0.0/8`",
        ),
        (
            json!({"project_id": project, "duration_minutes": 5, "allowed_endpoints": ["v1/../x"]}),
            400,
            "`allowed_endpoints`: `v1/../x` is not a path; write one such as `/v1/chat/completions` or `/v1/files/*`",
        ),
    ];
    for (body, status, text) in table {
        let seen = bench.admin("POST", "/manage/tokens", body.clone()).await;
        assert_eq!((seen.status, seen.error()), (status, text), "{body}");
    }
    assert!(bench.world.tokens.lock().is_empty());
}

#[tokio::test]
async fn inactive_projects_get_no_tokens() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    bench
        .admin(
            "PATCH",
            &format!("/manage/projects/{project}"),
            json!({"is_active": false}),
        )
        .await;
    let seen = bench
        .admin(
            "POST",
            "/manage/tokens",
            json!({"project_id": project, "duration_minutes": 5}),
        )
        .await;
    assert_eq!(seen.status, 403);
    assert_eq!(
        seen.json,
        json!({"error": "cannot create tokens for inactive projects", "code": "project_inactive"})
    );
    assert_eq!(bench.last_event().project_id.unwrap().to_string(), project);
    assert!(bench.world.tokens.lock().is_empty());
}

#[tokio::test]
async fn the_bounds_of_a_life_are_accepted() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let table = [
        (json!({"duration_minutes": 1}), "2026-01-31T12:01:00Z"),
        (json!({"duration_minutes": 525_600}), "2027-01-31T12:00:00Z"),
        (
            json!({"expires_at": "2026-01-31T13:00:01+01:00"}),
            "2026-01-31T12:00:01Z",
        ),
        (
            json!({"expires_at": "2027-01-31T12:00:00Z", "max_requests": 0}),
            "2027-01-31T12:00:00Z",
        ),
    ];
    for (mut body, expires_at) in table {
        body["project_id"] = json!(project);
        let seen = bench.admin("POST", "/manage/tokens", body).await;
        assert_eq!((seen.status, &seen.json["expires_at"]), (200, &json!(expires_at)));
        assert!(seen.json.get("max_requests").is_none());
    }
}

#[tokio::test]
async fn tokens_are_patched_and_never_extended() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let id = bench.token(&project).await;
    let path = format!("/manage/tokens/{id}");
    let rules = json!({
        "max_requests": 10, "allowed_ips": ["::ffff:10.1.2.3", "10.9.9.9/8"],
        "allowed_endpoints": ["/v1/chat/completions"], "limits": {"rpm": 60, "concurrency": 3},
        "allowed_models": ["gpt-*"], "metadata": {"a": {"b": 1, "c": 2}}
    });
    let seen = bench.admin("PATCH", &path, rules).await;
    assert_eq!(seen.status, 200, "{:?}", seen.json);
    assert_eq!(seen.json["allowed_ips"], json!(["10.1.2.3/32", "10.0.0.0/8"]));
    assert!(bench.world.forgotten.lock().contains(&id.parse().unwrap()));
    let merge = json!({"limits": {"rpm": null}, "metadata": {"a": {"c": null}}, "allowed_models": null, "max_requests": 0});
    let seen = bench.admin("PATCH", &path, merge).await;
    assert_eq!(seen.json["limits"], json!({"concurrency": 3}));
    assert_eq!(seen.json["metadata"], json!({"a": {"b": 1}}));
    assert_eq!(seen.json["allowed_models"], json!([]));
    assert_eq!(seen.json["max_requests"], Value::Null);
    let seen = bench
        .admin("PATCH", &path, json!({"expires_at": "2026-01-31T12:30:00Z"}))
        .await;
    assert_eq!(seen.json["expires_at"], "2026-01-31T12:30:00Z");
    for later in [json!("2026-01-31T12:30:01Z"), Value::Null] {
        let seen = bench.admin("PATCH", &path, json!({"expires_at": later})).await;
        assert_eq!((seen.status, seen.error()), (400, "expiry cannot be extended"));
    }
}

#[tokio::test]
async fn patches_are_refused_with_the_known_texts() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let id = bench.token(&project).await;
    let path = format!("/manage/tokens/{id}");
    let missing = "/manage/tokens/3f2b8c1e-8f0a-4a53-9a57-0a4a2b8f3f10";
    let table = [
        (path.as_str(), json!({}), 400, "no fields to update"),
        (
            path.as_str(),
            json!({"max_requests": -1}),
            400,
            "max_requests must be >= 0",
        ),
        (
            path.as_str(),
            json!({"is_active": "no"}),
            400,
            "invalid request body",
        ),
        (
            path.as_str(),
            json!({"active": true}),
            400,
            "unknown field `active`; did you mean `is_active`?",
        ),
        (missing, json!({}), 404, "token not found"),
        (missing, json!({"max_requests": -1}), 404, "token not found"),
        ("/manage/tokens/", json!({}), 400, "token ID is required"),
    ];
    for (path, body, status, text) in table {
        let seen = bench.admin("PATCH", path, body.clone()).await;
        assert_eq!((seen.status, seen.error()), (status, text), "{path} {body}");
    }
}

#[tokio::test]
async fn revoking_is_idempotent_and_reversible() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let id = bench.token(&project).await;
    let path = format!("/manage/tokens/{id}");
    for _ in 0..2 {
        let seen = bench.admin("DELETE", &path, Value::Null).await;
        assert_eq!((seen.status, seen.body.len()), (204, 0));
    }
    let event = bench.last_event();
    assert_eq!(event.action, "token.revoke");
    assert_eq!(event.token_id.unwrap().to_string(), id);
    let seen = bench.admin("GET", &path, Value::Null).await;
    assert_eq!(seen.json["deactivated_at"], "2026-01-31T12:00:00Z");
    let seen = bench.admin("PATCH", &path, json!({"is_active": true})).await;
    assert_eq!(
        (&seen.json["is_active"], &seen.json["deactivated_at"]),
        (&json!(true), &Value::Null)
    );
    let seen = bench
        .admin("DELETE", "/manage/tokens/nonsense", Value::Null)
        .await;
    assert_eq!((seen.status, seen.error()), (404, "token not found"));
}

#[tokio::test]
async fn tokens_are_listed_newest_first_with_filters() {
    let bench = Bench::new();
    let (one, two) = (bench.project("one").await, bench.project("two").await);
    let first = bench.token(&one).await;
    let second = bench.token(&one).await;
    let other = bench.token(&two).await;
    bench
        .admin("DELETE", &format!("/manage/tokens/{second}"), Value::Null)
        .await;
    let table = [
        (String::new(), vec![&other, &second, &first]),
        (format!("?project_id={one}"), vec![&second, &first]),
        (format!("?projectId={one}"), vec![&second, &first]),
        (format!("?projectId={one}&active_only=true"), vec![&first]),
        ("?activeOnly=1".to_owned(), vec![&other, &first]),
        ("?project_id=nonsense".to_owned(), vec![]),
        ("?page=1&page_size=1".to_owned(), vec![&other]),
    ];
    for (query, expected) in table {
        let seen = bench
            .admin("GET", &format!("/manage/tokens{query}"), Value::Null)
            .await;
        let ids: Vec<&str> = seen
            .json
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
    }
    let seen = bench
        .admin("GET", "/manage/tokens?active_only=perhaps", Value::Null)
        .await;
    assert_eq!(seen.status, 400);
    bench.clock.advance(Duration::from_secs(3601));
    let seen = bench
        .admin("GET", "/manage/tokens?active_only=true", Value::Null)
        .await;
    assert_eq!(seen.json, json!([]));
}

#[tokio::test]
async fn rotation_shows_a_new_secret_once() {
    let bench = Bench::new();
    let project = bench.project("p").await;
    let id = bench.token(&project).await;
    let path = format!("/manage/tokens/{id}/rotate");
    let seen = bench.admin("POST", &path, json!({"overlap_minutes": 5})).await;
    assert_eq!(
        (seen.status, &seen.json["old_valid_until"]),
        (200, &json!("2026-01-31T12:05:00Z"))
    );
    let secret = seen.json["token"].as_str().unwrap();
    assert_eq!(bench.world.tokens.lock()[0].1, TokenHash::of(secret));
    assert_eq!(bench.admin("POST", &path, Value::Null).await.status, 200);
    for bad in [
        json!({"overlap_minutes": -1}),
        json!({"overlap_minutes": 10_081}),
        json!({"overlap": 5}),
    ] {
        assert_eq!(bench.admin("POST", &path, bad.clone()).await.status, 400, "{bad}");
    }
    bench
        .admin("DELETE", &format!("/manage/tokens/{id}"), Value::Null)
        .await;
    assert_eq!(bench.admin("POST", &path, Value::Null).await.status, 400);
}
