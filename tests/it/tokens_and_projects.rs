//! The management API: projects, tokens, their rules, and what is kept of them.

use serde_json::{Value, json};

use crate::edge::{Plan, Store, TestEdge, text};
use crate::for_both_stores;
use crate::http::{Client, Request};
use crate::provider::Provider;
use crate::servers::Postgres;

fn start(store: &Store) -> TestEdge {
    TestEdge::plan(&Provider::start()).on(store).start()
}

fn plan() -> Plan {
    TestEdge::plan(&Provider::start())
}

/// A time so many seconds from now, as RFC 3339.
fn in_seconds(seconds: i64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let at = jiff::Timestamp::from_second(now.as_secs().cast_signed() + seconds).expect("a time");
    at.to_string()
}

for_both_stores! {
    fn project_is_created_listed_read_and_changed(store) {
        let edge = start(store);
        let admin = edge.admin();
        let fields = json!({"name": "team b", "api_key": "sk-a-real-looking-key-0123456789"});
        let created = admin.post("/manage/projects", fields).expect(201).json();
        assert_eq!(created["name"], "team b");
        assert_eq!(created["is_active"], true);
        assert_eq!(created["api_key"], "sk-a-rea...6789", "never in clear, not at creation either");
        assert!(created["created_at"].is_string() && created["updated_at"].is_string());
        let id = text(&created, "id");
        admin.post("/manage/projects", json!({"name": "team a"})).expect(201);
        let list = admin.get("/manage/projects").expect(200).json();
        let names: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
        assert_eq!(names, ["team a", "team b"], "ordered by name");

        let path = format!("/manage/projects/{id}");
        assert_eq!(admin.get(&path).expect(200).json()["id"], created["id"]);
        let changed = admin.patch(&path, json!({"name": "team c", "is_active": false})).expect(200).json();
        assert_eq!((&changed["name"], &changed["is_active"]), (&json!("team c"), &json!(false)));
        assert!(changed["deactivated_at"].is_string());
        let back = admin.patch(&path, json!({"is_active": true})).expect(200).json();
        assert!(back["deactivated_at"].is_null());
    }

    fn refused_project_requests_say_why(store) {
        let edge = start(store);
        let admin = edge.admin();
        let error = |answer: crate::http::Answer| text(&answer.json(), "error");
        admin.post("/manage/projects", json!({"name": "taken"})).expect(201);
        admin.post("/manage/projects", json!({"name": "taken"})).expect(409);
        admin.post("/manage/projects", json!({})).expect(400);
        let obfuscated = json!({"name": "n", "api_key": "sk-a-rea...6789"});
        let said = error(admin.post("/manage/projects", obfuscated).expect(400));
        assert_eq!(said, "cannot save obfuscated API key - please provide the full API key");
        let said = error(admin.send(Request::new("POST", "/manage/projects").bytes("{")).expect(400));
        assert!(said.starts_with("invalid request body"), "{said}");
        let said = error(admin.post("/manage/projects", json!({"name": "n", "api_kee": "k"})).expect(400));
        assert!(said.contains("api_kee") && said.contains("api_key"), "{said}");
        let missing = "/manage/projects/00000000-0000-4000-8000-000000000000";
        assert_eq!(error(admin.get(missing).expect(404)), "project not found");
        assert_eq!(error(admin.patch(missing, json!({})).expect(404)), "project not found");
        let project = edge.project(json!({}));
        let path = format!("/manage/projects/{}", project.id);
        admin.patch(&path, json!({"name": ""})).expect(400);
        assert_eq!(error(admin.patch(&path, json!({"revoke_tokens": true})).expect(400)), "revoke_tokens requires is_active=false");
        let refused = admin.delete(&path).expect(405);
        assert_eq!(refused.json(), json!({"error": "method not allowed", "message": "project deletion is not permitted"}));
        assert_eq!(refused.header("allow"), Some("GET, PATCH"));
        admin.send(Request::new("PUT", "/manage/projects")).expect(405);
    }

    fn token_is_created_once_in_clear_and_then_only_obfuscated(store) {
        let edge = start(store);
        let admin = edge.admin();
        let project = edge.project(json!({}));
        let fields = json!({"project_id": project.id, "duration_minutes": 10, "max_requests": 5, "name": "ci"});
        let created = admin.post("/manage/tokens", fields).expect(200).json();
        let secret = text(&created, "token");
        assert!(secret.starts_with("sk-") && secret.len() >= 46, "{secret}");
        assert!(secret[3..].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(created["max_requests"], 5);
        assert!(created["expires_at"].is_string());

        let read = admin.read_token(&text(&created, "id"));
        let shown = text(&read, "token");
        assert_eq!(shown.len(), secret.len());
        assert_eq!((&shown[..7], &shown[shown.len() - 4..]), (&secret[..7], &secret[secret.len() - 4..]));
        assert!(shown[7..shown.len() - 4].bytes().all(|b| b == b'*'), "{shown}");
        assert_eq!(read["project_id"], json!(project.id));
        assert_eq!((&read["request_count"], &read["cache_hit_count"]), (&json!(0), &json!(0)));
        for field in ["is_active", "max_requests", "created_at", "expires_at", "last_used_at", "deactivated_at"] {
            assert!(read.get(field).is_some(), "{field} in {read}");
        }
    }

    fn refused_token_requests_say_why(store) {
        let edge = start(store);
        let admin = edge.admin();
        let project = edge.project(json!({}));
        let said = |fields: Value, status: u16| {
            let answer = admin.post("/manage/tokens", fields).expect(status).json();
            (text(&answer, "error"), answer["code"].as_str().unwrap_or("").to_owned())
        };
        let id = &project.id;
        assert_eq!(said(json!({"duration_minutes": 5}), 400).0, "project_id is required");
        said(json!({"project_id": id}), 400);
        said(json!({"project_id": id, "duration_minutes": 0}), 400);
        assert_eq!(said(json!({"project_id": id, "duration_minutes": 525_601}), 400).0, "duration_minutes exceeds maximum allowed");
        assert_eq!(said(json!({"project_id": id, "duration_minutes": 5, "max_requests": -1}), 400).0, "max_requests must be >= 0");
        said(json!({"project_id": id, "duration_minutes": 5, "expires_at": in_seconds(60)}), 400);
        said(json!({"project_id": id, "expires_at": in_seconds(-5)}), 400);
        said(json!({"project_id": id, "expires_at": in_seconds(366 * 86_400)}), 400);
        let unknown = said(json!({"project_id": id, "duration_minutes": 5, "max_request": 1}), 400).0;
        assert!(unknown.contains("max_request") && unknown.contains("max_requests"), "{unknown}");
        let nowhere = json!({"project_id": "00000000-0000-4000-8000-000000000000", "duration_minutes": 5});
        assert_eq!(said(nowhere, 404).0, "project not found");
        admin.change_project(id, json!({"is_active": false})).expect(200);
        let refused = said(json!({"project_id": id, "duration_minutes": 5}), 403);
        assert_eq!(refused, ("cannot create tokens for inactive projects".to_owned(), "project_inactive".to_owned()));
    }

    fn token_list_is_newest_first_and_can_be_filtered(store) {
        let edge = start(store);
        let admin = edge.admin();
        let (first, second) = (edge.token(json!({})), edge.token(json!({})));
        let third = edge.token_of(&crate::edge::Project { id: first.project_id.clone() }, json!({}));
        let ids = |query: &str| -> Vec<String> {
            let list = admin.get(&format!("/manage/tokens{query}")).expect(200).json();
            list.as_array().expect("a list").iter().map(|token| text(token, "id")).collect()
        };
        assert_eq!(ids(""), [third.id.clone(), second.id.clone(), first.id.clone()]);
        assert_eq!(ids(&format!("?project_id={}", first.project_id)), [third.id.clone(), first.id.clone()]);
        assert_eq!(ids(&format!("?projectId={}", second.project_id)), std::slice::from_ref(&second.id));
        admin.revoke(&third.id);
        assert_eq!(ids("?active_only=true"), [second.id.clone(), first.id.clone()]);
        let page = admin.get("/manage/tokens?page=2&page_size=1").expect(200);
        assert_eq!(page.json().as_array().map(Vec::len), Some(1));
        assert_eq!(page.header("x-total-count"), Some("3"));
        assert!(page.header("link").is_some_and(|link| link.contains("page=3") && link.contains("rel=\"next\"")));
    }

    fn token_changes_follow_the_rules(store) {
        let edge = start(store);
        let admin = edge.admin();
        let user = edge.token(json!({"max_requests": 3, "allowed_models": ["gpt-a"]}));
        let error = |answer: crate::http::Answer| text(&answer.json(), "error");
        assert_eq!(admin.change_token(&user.id, json!({"max_requests": 9})).expect(200).json()["max_requests"], 9);
        assert!(admin.change_token(&user.id, json!({"max_requests": 0})).expect(200).json()["max_requests"].is_null());
        assert_eq!(error(admin.change_token(&user.id, json!({"max_requests": -1})).expect(400)), "max_requests must be >= 0");
        assert_eq!(error(admin.change_token(&user.id, json!({})).expect(400)), "no fields to update");
        let missing = "00000000-0000-4000-8000-000000000000";
        assert_eq!(error(admin.change_token(missing, json!({"is_active": true})).expect(404)), "token not found");
        assert_eq!(error(admin.get(&format!("/manage/tokens/{missing}")).expect(404)), "token not found");
        admin.delete(&format!("/manage/tokens/{missing}")).expect(404);
        let longer = json!({"expires_at": in_seconds(7200)});
        assert!(error(admin.change_token(&user.id, longer).expect(400)).contains("expiry cannot be extended"));
        admin.change_token(&user.id, json!({"expires_at": in_seconds(600)})).expect(200);
        user.chat("gpt-b").refused(403, "model_not_allowed");
        admin.change_token(&user.id, json!({"allowed_models": null})).expect(200);
        user.chat("gpt-b").expect(200);
        let limits = json!({"limits": {"rpm": 100, "concurrency": 7}});
        admin.change_token(&user.id, limits).expect(200);
        let merged = admin.change_token(&user.id, json!({"limits": {"rpm": null}})).expect(200).json();
        assert_eq!(merged["limits"]["concurrency"], 7, "merge, not replace: {merged}");
        assert!(merged["limits"]["rpm"].is_null());
        admin.change_token(&user.id, json!({"limits": {"rpm": 0}})).expect(400);
    }

    fn revoking_twice_answers_the_same_and_tells_when(store) {
        let edge = start(store);
        let user = edge.token(json!({}));
        let path = format!("/manage/tokens/{}", user.id);
        let first = edge.admin().delete(&path).expect(204);
        assert!(first.body.is_empty());
        edge.admin().delete(&path).expect(204);
        let read = edge.admin().read_token(&user.id);
        assert_eq!(read["is_active"], false);
        assert!(read["deactivated_at"].is_string());
        user.chat("gpt-a").refused(401, "token_inactive");
    }

    fn all_tokens_of_a_project_are_revoked_in_one_call(store) {
        let edge = start(store);
        let project = edge.project(json!({}));
        let users: Vec<_> = (0..3).map(|_| edge.token_of(&project, json!({}))).collect();
        let other = edge.token(json!({}));
        edge.admin().revoke(&users[0].id);
        let path = format!("/manage/projects/{}/tokens/revoke", project.id);
        let answer = edge.admin().post(&path, json!({})).expect(200).json();
        assert_eq!(answer, json!({"revoked_count": 2, "already_revoked_count": 1, "total_tokens": 3}));
        let again = edge.admin().post(&path, json!({})).expect(200).json();
        assert_eq!(again["revoked_count"], 0);
        for user in &users {
            user.chat("gpt-a").refused(401, "token_inactive");
        }
        other.chat("gpt-a").expect(200);
    }

    fn deactivating_a_project_can_revoke_its_tokens(store) {
        let edge = start(store);
        let user = edge.token(json!({}));
        edge.admin().change_project(&user.project_id, json!({"is_active": false, "revoke_tokens": true})).expect(200);
        edge.admin().change_project(&user.project_id, json!({"is_active": true})).expect(200);
        user.chat("gpt-a").refused(401, "token_inactive");
    }

    fn counters_survive_a_clean_stop(store) {
        let mut edge = start(store);
        let (limited, free) = (edge.token(json!({"max_requests": 10})), edge.token(json!({})));
        for _ in 0..4 {
            limited.chat("gpt-a").expect(200);
            free.chat("gpt-a").expect(200);
        }
        edge.stop();
        edge.start_again();
        for user in [&limited, &free] {
            let read = edge.admin().read_token(&user.id);
            assert_eq!(read["request_count"], 4, "{read}");
            assert!(read["last_used_at"].is_string());
        }
        let known = limited.at(&edge.anonymous());
        (0..6).for_each(|_| drop(known.chat("gpt-a").expect(200)));
        known.chat("gpt-a").refused(429, "token_quota_exceeded");
    }

    fn rotated_secret_replaces_the_old_one(store) {
        let edge = start(store);
        let user = edge.token(json!({}));
        let path = format!("/manage/tokens/{}/rotate", user.id);
        let rotated = edge.admin().post(&path, json!({"overlap_minutes": 5})).expect(200).json();
        let second = crate::edge::TokenUser::new(&edge.anonymous(), &user.id, &user.project_id, &text(&rotated, "token"));
        assert_ne!(user.secret, second.secret);
        user.chat("gpt-a").expect(200);
        second.chat("gpt-a").expect(200);
        let rotated = edge.admin().post(&path, json!({"overlap_minutes": 0})).expect(200).json();
        let third = crate::edge::TokenUser::new(&edge.anonymous(), &user.id, &user.project_id, &text(&rotated, "token"));
        third.chat("gpt-a").expect(200);
        second.chat("gpt-a").refused(401, "token_expired");
        edge.admin().post(&path, json!({"overlap_minutes": 10_081})).expect(400);
    }

    fn management_actions_and_denied_callers_are_audited(store) {
        let edge = start(store);
        let user = edge.token(json!({}));
        edge.admin().revoke(&user.id);
        user.chat("gpt-a").refused(401, "token_inactive");
        edge.sidecar().with("Authorization", "Bearer wrong-bearer-wrong").get("/manage/projects").expect(401);
        let events = crate::wait::wait_for("the audit events", std::time::Duration::from_secs(5), || {
            let list = edge.admin().get("/manage/audit?page_size=100").expect(200).json();
            let actions: Vec<String> = list["events"].as_array()?.iter().map(|e| text(e, "action")).collect();
            let wanted = ["project.create", "token.create", "token.revoke"];
            (wanted.iter().all(|w| actions.iter().any(|a| a == w)) && list["events"].as_array()?.iter().filter(|e| e["outcome"] != "success").count() >= 2)
                .then_some(list)
        });
        assert!(events["pagination"]["total_count"].as_u64().is_some_and(|count| count >= 3), "{events}");
        let id = text(&events["events"][0], "id");
        edge.admin().get(&format!("/manage/audit/{id}")).expect(200);
        edge.admin().get("/manage/audit/no-such-event").expect(404);
        let file = std::fs::read_to_string(edge.folder().join("audit.log")).expect("the audit file");
        assert!(file.lines().any(|line| line.contains("token.revoke")), "{file}");
        assert!(!file.contains(&user.secret));
    }
}

#[test]
fn empty_list_is_an_empty_array() {
    let edge = plan().start();
    assert_eq!(edge.admin().get("/manage/projects").expect(200).json(), json!([]));
    assert_eq!(edge.admin().get("/manage/tokens").expect(200).json(), json!([]));
}

#[test]
fn project_without_any_key_is_refused() {
    let edge = plan()
        .with(json!({"providers": {"openai": {"api_key": null}}}))
        .start();
    edge.admin()
        .post("/manage/projects", json!({"name": "keyless"}))
        .expect(400);
    edge.admin()
        .post(
            "/manage/projects",
            json!({"name": "keyed", "api_key": "sk-a-key-of-its-own-000"}),
        )
        .expect(201);
}

#[test]
fn secrets_are_kept_as_hashes_and_sealed_on_sqlite() {
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let mut edge = plan().with(json!({"encryption": {"key": key}})).start();
    let project = edge.project(json!({"api_key": "sk-sealed-key-of-the-project-77"}));
    let user = edge.token_of(&project, json!({}));
    user.chat("gpt-a").expect(200);
    edge.stop();
    for entry in std::fs::read_dir(edge.state_dir())
        .expect("the state folder")
        .flatten()
    {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        for secret in [user.secret.as_str(), "sk-sealed-key-of-the-project-77", key] {
            assert!(
                crate::http::find(&bytes, secret.as_bytes()).is_none(),
                "{:?} holds a secret",
                entry.path()
            );
        }
    }
    edge.start_again();
    user.at(&edge.anonymous()).chat("gpt-a").expect(200);
}

#[test]
fn secrets_are_kept_as_hashes_and_sealed_on_postgres() {
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let url = Postgres::shared().new_database();
    let edge = plan()
        .on(&Store::Url(url.clone()))
        .with(json!({"encryption": {"key": key}}))
        .start();
    let project = edge.project(json!({"api_key": "sk-sealed-key-of-the-project-77"}));
    let user = edge.token_of(&project, json!({}));
    let dump = Postgres::dump(&url);
    assert!(dump.contains(&user.project_id), "the dump is whole");
    assert!(!dump.contains(&user.secret) && !dump.contains("sk-sealed-key-of-the-project-77"));
}

#[test]
fn sealed_key_without_its_encryption_key_is_an_upstream_auth_error() {
    let provider = Provider::start();
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let mut edge = TestEdge::plan(&provider)
        .with(json!({"encryption": {"key": key}}))
        .start();
    let project = edge.project(json!({"api_key": "sk-sealed-key-of-the-project-77"}));
    let user = edge.token_of(&project, json!({}));
    edge.stop();
    let other = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
    edge.save_config(json!({"encryption": {"key": other}}));
    edge.start_again();
    user.at(&edge.anonymous())
        .chat("gpt-a")
        .refused(502, "upstream_auth_error");
    assert_eq!(provider.count(), 0);
}

#[test]
fn management_answers_json_errors_with_a_content_type() {
    let edge = plan().start();
    let answer = edge.admin().get("/manage/projects/nonsense");
    assert!(matches!(answer.status, 400 | 404));
    assert!(
        answer
            .header("content-type")
            .is_some_and(|t| t.starts_with("application/json"))
    );
    let nobody: Client = edge.sidecar();
    assert!(nobody.get("/manage/tokens").expect(401).json()["error"].is_string());
}

#[test]
fn wrong_types_in_a_body_are_refused_with_the_fields_name() {
    let edge = plan().start();
    let project = edge.project(json!({}));
    let fields = json!({"project_id": project.id, "duration_minutes": "ten"});
    let answer = edge.admin().post("/manage/tokens", fields).expect(400).json();
    assert!(
        text(&answer, "error").contains("duration_minutes")
            || text(&answer, "error").contains("invalid request body"),
        "{answer}"
    );
}
