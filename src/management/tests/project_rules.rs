//! Projects: statuses, texts, shapes.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::management::fakes::{ADMIN, Bench, request};

#[tokio::test]
async fn a_project_is_created_listed_and_read_with_its_key_obfuscated() {
    let bench = Bench::new();
    let body = json!({
        "name": "team", "api_key": "sk-provider-1234567890", "providers": {"anthropic": "sk-ant-abcdefghijkl"},
        "allowed_models": ["gpt-4o-*"], "limits": {"rpm": 60}, "metadata": {"owner": "ann"}
    });
    let created = bench.admin("POST", "/manage/projects", body).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.json["api_key"], "sk-provi...7890");
    assert_eq!(created.json["providers"]["anthropic"], "sk-ant-a...ijkl");
    assert_eq!(created.json["is_active"], true);
    assert_eq!(created.json["created_at"], "2026-01-31T12:00:00Z");
    assert_eq!(created.json["limits"], json!({"rpm": 60}));
    assert!(created.json.get("deactivated_at").is_none());
    let id = created.json["id"].as_str().unwrap();
    let shown = bench
        .admin("GET", &format!("/manage/projects/{id}"), Value::Null)
        .await;
    assert_eq!((shown.status, &shown.json), (200, &created.json));
    let listed = bench.admin("GET", "/manage/projects", Value::Null).await;
    assert_eq!(listed.json, json!([created.json]));
    let stored = bench.world.projects.lock()[0].provider_keys["openai"]
        .sealed
        .clone();
    assert_eq!(stored.expose(), "sk-provider-1234567890");
}

#[tokio::test]
async fn creation_is_refused_with_the_known_texts() {
    let bench = Bench::new();
    bench.world.default_without_key.store(true, Ordering::Relaxed);
    bench.project("taken").await;
    let key = "sk-provider-1234567890";
    let table = [
        (json!({}), 400, "name and api_key are required"),
        (json!({"name": "p"}), 400, "name and api_key are required"),
        (
            json!({"name": "", "api_key": key}),
            400,
            "name and api_key are required",
        ),
        (
            json!({"name": "p", "api_key": ""}),
            400,
            "name and api_key are required",
        ),
        (json!({"name": 5, "api_key": key}), 400, "invalid request body"),
        (json!([]), 400, "invalid request body"),
        (
            json!({"name": "p", "api_key": "sk-provi...7890"}),
            400,
            "cannot save obfuscated API key - please provide the full API key",
        ),
        (
            json!({"name": "taken", "api_key": key}),
            409,
            "a project named `taken` exists already",
        ),
        (
            json!({"nmae": "p", "api_key": key}),
            400,
            "unknown field `nmae`; did you mean `name`?",
        ),
        (
            json!({"name": "p", "api_key": key, "limits": {"rmp": 1}}),
            400,
            "unknown field `limits.rmp`; did you mean `limits.rpm`?",
        ),
        (
            json!({"name": "p", "api_key": key, "limits": {"tpm": 0}}),
            400,
            "`limits.tpm` must be from 1 to 1000000000; found `0`; leave it out for no limit",
        ),
        (
            json!({"name": "p", "api_key": key, "limits": {"rpm": 0}}),
            400,
            "`limits.rpm` must be from 1 to 4294967295; found `0`; leave it out for no limit",
        ),
        (
            json!({"name": "p", "api_key": key, "providers": {"nobody": "k"}}),
            400,
            "`providers`: there is no provider `nobody`; configured are `openai`, `anthropic`",
        ),
        (
            json!({"name": "p", "api_key": "a b"}),
            400,
            "`api_key` must have 1 to 4096 visible ASCII characters and no spaces or line ends",
        ),
    ];
    for (body, status, text) in table {
        let seen = bench.admin("POST", "/manage/projects", body.clone()).await;
        assert_eq!((seen.status, seen.error()), (status, text), "{body}");
        assert_eq!(bench.last_event().reason.as_deref(), Some(text));
    }
    assert_eq!(bench.world.projects.lock().len(), 1);
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let bench = Bench::new();
    for body in ["", "{", "{} x"] {
        let seen = bench
            .send(request("POST", "/manage/projects", Some(ADMIN), body))
            .await;
        assert_eq!(
            (seen.status, seen.error()),
            (400, "invalid request body"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn api_key_is_optional_when_the_default_provider_has_one() {
    let bench = Bench::new();
    let seen = bench
        .admin("POST", "/manage/projects", json!({"name": "p", "budget": null}))
        .await;
    assert_eq!((seen.status, &seen.json["api_key"]), (201, &json!("")));
}

#[tokio::test]
async fn projects_are_patched_as_rfc_7396_says() {
    let bench = Bench::new();
    let id = bench.project("p").await;
    let path = format!("/manage/projects/{id}");
    let patched = bench
        .admin(
            "PATCH",
            &path,
            json!({"limits": {"rpm": 5, "concurrency": 2}, "metadata": {"a": 1, "b": 2}}),
        )
        .await;
    assert_eq!(patched.status, 200);
    let patched = bench
        .admin(
            "PATCH",
            &path,
            json!({"limits": {"rpm": null}, "metadata": {"a": null}, "providers": {"anthropic": "sk-ant-key-12345"}}),
        )
        .await;
    assert_eq!(patched.json["limits"], json!({"concurrency": 2}));
    assert_eq!(patched.json["metadata"], json!({"b": 2}));
    assert_eq!(patched.json["providers"]["anthropic"], "sk-ant-k...2345");
    let off = bench.admin("PATCH", &path, json!({"is_active": false})).await;
    assert_eq!(off.json["deactivated_at"], "2026-01-31T12:00:00Z");
    let on = bench
        .admin("PATCH", &path, json!({"is_active": true, "api_key": ""}))
        .await;
    assert!(on.json.get("deactivated_at").is_none());
    assert_eq!(on.json["api_key"], "sk-provi...7890");
    assert_eq!(bench.admin("PATCH", &path, json!({})).await.status, 200);
}

#[tokio::test]
async fn patches_are_refused_with_the_known_texts() {
    let bench = Bench::new();
    let id = bench.project("p").await;
    bench.project("taken").await;
    let table = [
        (json!({"name": ""}), 400, "`name` must not be empty"),
        (
            json!({"name": "taken"}),
            409,
            "a project named `taken` exists already",
        ),
        (
            json!({"revoke_tokens": true}),
            400,
            "revoke_tokens requires is_active=false",
        ),
        (
            json!({"revoke_tokens": true, "is_active": true}),
            400,
            "revoke_tokens requires is_active=false",
        ),
        (json!({"is_active": null}), 400, "`is_active` cannot be null"),
        (
            json!({"isactive": true}),
            400,
            "unknown field `isactive`; did you mean `is_active`?",
        ),
        (
            json!({"api_key": "sk-****"}),
            400,
            "cannot save obfuscated API key - please provide the full API key",
        ),
        (Value::Null, 400, "invalid request body"),
    ];
    for (body, status, text) in table {
        let seen = bench
            .admin("PATCH", &format!("/manage/projects/{id}"), body.clone())
            .await;
        assert_eq!((seen.status, seen.error()), (status, text), "{body}");
    }
}

#[tokio::test]
async fn the_only_key_cannot_be_removed() {
    let bench = Bench::new();
    let id = bench.project("p").await;
    bench.world.default_without_key.store(true, Ordering::Relaxed);
    let seen = bench
        .admin(
            "PATCH",
            &format!("/manage/projects/{id}"),
            json!({"api_key": null}),
        )
        .await;
    assert_eq!(seen.status, 400);
    bench.world.default_without_key.store(false, Ordering::Relaxed);
    let seen = bench
        .admin(
            "PATCH",
            &format!("/manage/projects/{id}"),
            json!({"api_key": null}),
        )
        .await;
    assert_eq!((seen.status, &seen.json["api_key"]), (200, &json!("")));
}

#[tokio::test]
async fn ids_that_are_none_are_told_apart() {
    let bench = Bench::new();
    let unknown = "3f2b8c1e-8f0a-4a53-9a57-0a4a2b8f3f10";
    let table = [
        ("GET", "/manage/projects/", 400, "invalid project id"),
        ("PATCH", "/manage/projects/", 400, "invalid project id"),
        ("GET", "/manage/projects/a/b", 400, "invalid project id"),
        ("GET", "/manage/projects/a%2Fb", 400, "invalid project id"),
        ("GET", "/manage/projects/nonsense", 404, "project not found"),
        (
            "POST",
            "/manage/projects/nonsense/tokens/revoke",
            404,
            "project not found",
        ),
    ];
    for (method, path, status, text) in table {
        let seen = bench.admin(method, path, json!({})).await;
        assert_eq!((seen.status, seen.error()), (status, text), "{method} {path}");
    }
    for method in ["GET", "PATCH"] {
        let seen = bench
            .admin(method, &format!("/manage/projects/{unknown}"), json!({}))
            .await;
        assert_eq!((seen.status, seen.error()), (404, "project not found"));
    }
}

#[tokio::test]
async fn projects_are_never_deleted() {
    let bench = Bench::new();
    let id = bench.project("p").await;
    let seen = bench
        .admin("DELETE", &format!("/manage/projects/{id}"), Value::Null)
        .await;
    assert_eq!(seen.status, 405);
    assert_eq!(
        seen.json,
        json!({"error": "method not allowed", "message": "project deletion is not permitted"})
    );
    assert_eq!(seen.header("allow"), "GET, PATCH");
    let event = bench.last_event();
    assert_eq!(
        (event.action.as_str(), event.outcome.as_str()),
        ("project.delete", "failure")
    );
    assert_eq!(event.project_id.unwrap().to_string(), id);
}

#[tokio::test]
async fn tokens_of_a_project_are_revoked_at_once() {
    let bench = Bench::new();
    let id = bench.project("p").await;
    let first = bench.token(&id).await;
    bench.token(&id).await;
    bench
        .admin("DELETE", &format!("/manage/tokens/{first}"), Value::Null)
        .await;
    let path = format!("/manage/projects/{id}/tokens/revoke");
    let seen = bench.admin("POST", &path, Value::Null).await;
    let counts = |revoked, already| json!({"revoked_count": revoked, "already_revoked_count": already, "total_tokens": 2});
    assert_eq!((seen.status, seen.json), (200, counts(1, 1)));
    let seen = bench.admin("POST", &path, Value::Null).await;
    assert_eq!((seen.status, seen.json), (200, counts(0, 2)));
    let third = bench.token(&id).await;
    let patch = json!({"is_active": false, "revoke_tokens": true});
    bench
        .admin("PATCH", &format!("/manage/projects/{id}"), patch)
        .await;
    assert_eq!(bench.last_event().metadata["tokens_revoked"], 1);
    let seen = bench
        .admin("GET", &format!("/manage/tokens/{third}"), Value::Null)
        .await;
    assert_eq!(seen.json["is_active"], false);
}

#[tokio::test]
async fn lists_come_whole_or_in_pages() {
    let bench = Bench::new();
    for number in 0..5 {
        bench.project(&format!("p{number}")).await;
    }
    let names = |json: &Value| -> Vec<String> {
        json.as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let whole = bench.admin("GET", "/manage/projects", Value::Null).await;
    assert_eq!(names(&whole.json), ["p0", "p1", "p2", "p3", "p4"]);
    let page = bench
        .admin("GET", "/manage/projects?page=2&page_size=2", Value::Null)
        .await;
    assert_eq!(names(&page.json), ["p2", "p3"]);
    assert_eq!(page.header("x-total-count"), "5");
    assert!(page.header("link").contains("page=3&page_size=2>; rel=\"next\""));
    for bad in ["page=0", "page_size=101", "page=x"] {
        let seen = bench
            .admin("GET", &format!("/manage/projects?{bad}"), Value::Null)
            .await;
        assert_eq!(seen.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_budget_is_shown_merged_and_removed() {
    let bench = Bench::new();
    let body = json!({"name": "rich", "api_key": "sk-1", "budget": {"usd": 0.25, "period": "week"}});
    let made = bench.admin("POST", "/manage/projects", body).await;
    assert_eq!(made.json["budget"], json!({"usd": 0.25, "period": "week"}));
    let path = format!("/manage/projects/{}", made.json["id"].as_str().unwrap());
    let changed = bench.admin("PATCH", &path, json!({"budget": {"usd": 3}})).await;
    assert_eq!(changed.json["budget"], json!({"usd": 3.0, "period": "week"}));
    let removed = bench.admin("PATCH", &path, json!({"budget": null})).await;
    assert_eq!(removed.json["budget"], json!(null));
    let half = bench.admin("PATCH", &path, json!({"budget": {"usd": 3}})).await;
    assert_eq!(half.status, 400, "{}", half.json);
    let nothing = bench
        .admin("PATCH", &path, json!({"budget": {"usd": 0, "period": "total"}}))
        .await;
    assert_eq!(nothing.json["budget"], json!({"usd": 0.0, "period": "total"}));
}

#[tokio::test]
async fn a_budget_that_is_none_is_refused() {
    let bench = Bench::new();
    let table = [
        (
            json!({"budget": {"usd": 5}}),
            "`budget.period` is missing; write `{\"usd\": 10, \"period\": \"month\"}`, or null for no budget",
        ),
        (
            json!({"budget": {"usd": -1, "period": "day"}}),
            "`budget.usd` must be from 0 to 1000000000; found `-1`",
        ),
        (
            json!({"budget": {"usd": 1, "period": "year"}}),
            "`budget.period` must be `day`, `week`, `month` or `total`; found `year`",
        ),
        (
            json!({"budget": {"usd": 1, "periods": "day"}}),
            "unknown field `budget.periods`; did you mean `budget.period`?",
        ),
    ];
    for (mut body, text) in table {
        body["name"] = json!("p");
        body["api_key"] = json!("sk-1");
        let seen = bench.admin("POST", "/manage/projects", body.clone()).await;
        assert_eq!((seen.status, seen.error()), (400, text), "{body}");
    }
}
