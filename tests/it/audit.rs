//! The audit trail, on both stores: what is found by which filter, in which pages, and what is never lost.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::TestEdge;
use crate::for_both_stores;
use crate::http::Answer;
use crate::provider::Provider;
use crate::wait::wait_until;

fn found(edge: &TestEdge, query: &str) -> Vec<Value> {
    let list = edge
        .admin()
        .get(&format!("/manage/audit?page_size=100&{query}"))
        .expect(200)
        .json();
    list["events"].as_array().expect("events").clone()
}

/// Someone who is refused.
fn refused(edge: &TestEdge, path: &str) -> Answer {
    edge.anonymous()
        .with("Authorization", "Bearer sk-nobody-has-this-secret")
        .with("X-Request-ID", "audit_request-7")
        .post(path, json!({}))
}

for_both_stores! {
    fn every_filter_finds_what_it_names_and_nothing_else(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        let project = edge.project(json!({"name": "audited"}));
        let other = edge.project(json!({"name": "another"}));
        let user = edge.token_of(&project, json!({}));
        edge.admin().with("X-Correlation-ID", "audit-correlation-9").get(&format!("/manage/projects/{}", other.id)).expect(200);
        refused(&edge, "/v1/chat/completions").refused(401, "token_not_found");
        edge.admin().revoke(&user.id);
        let all = found(&edge, "");
        let times: Vec<&str> = all.iter().filter_map(|event| event["timestamp"].as_str()).collect();
        assert!(times.is_sorted_by(|a, b| a >= b), "newest first: {times:?}");
        for (query, field, value, least) in [
            ("action=project.create", "action", "project.create", 2),
            ("action=proxy.denied", "action", "proxy.denied", 1),
            ("actor=anonymous", "actor", "anonymous", 1),
            ("outcome=denied", "outcome", "denied", 1),
            ("outcome=success", "outcome", "success", 4),
            ("client_ip=127.0.0.1", "client_ip", "127.0.0.1", 5),
            ("request_id=audit_request-7", "request_id", "audit_request-7", 1),
            ("correlation_id=audit-correlation-9", "correlation_id", "audit-correlation-9", 1),
            ("method=DELETE", "method", "DELETE", 1),
            ("path=%2Fv1%2Fchat%2Fcompletions", "path", "/v1/chat/completions", 1),
            (&format!("project_id={}", other.id), "project_id", &other.id, 1),
        ] {
            let events = found(&edge, query);
            assert!(events.len() >= least, "{query}: {} found", events.len());
            assert!(events.iter().all(|event| event[field] == value), "{query}: {events:?}");
        }
        let both = found(&edge, &format!("action=project.create&project_id={}", project.id));
        assert_eq!(both.len(), 1, "{both:?}");
        for nothing in ["action=project.cr", "client_ip=127.0.0.2", "request_id=audit_request", "start_time=2999-01-01T00:00:00Z", "end_time=2000-01-01T00:00:00Z"] {
            assert!(found(&edge, nothing).is_empty(), "{nothing}");
        }
        let newest = times.first().expect("an event");
        let since = found(&edge, &format!("start_time={newest}"));
        assert!(since.iter().any(|event| event["timestamp"] == *newest), "{since:?}");
        let until = found(&edge, &format!("end_time={newest}"));
        assert!(until.len() >= all.len() - 1, "{} of {}", until.len(), all.len());
    }

    fn search_takes_text_as_text(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        refused(&edge, "/v1/embeddings").refused(401, "token_not_found");
        edge.project(json!({"name": "searched"}));
        for hit in ["v1%2Fembed", "V1/EMBED", "token_not_found", "audit_request-7", "proxy.den", "anonym", "127.0.0", "searched"] {
            assert!(!found(&edge, &format!("search={hit}")).is_empty(), "{hit}");
        }
        // no pattern of either database
        for miss in ["%25", "audit-request_7", "audit%25", "auditXrequest", "%27%20OR%20%271%27%3D%271", "%5C", "nothing-like-it"] {
            let events = found(&edge, &format!("search={miss}&action=proxy.denied"));
            assert!(events.is_empty(), "{miss}: {events:?}");
        }
    }

    fn pages_are_bounded_and_meet(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).start();
        for index in 0..12 {
            edge.project(json!({"name": format!("paged {index}")}));
        }
        let page = |query: &str| edge.admin().get(&format!("/manage/audit?action=project.create&{query}"));
        let first = page("page=1&page_size=5").expect(200).json();
        assert_eq!(first["pagination"], json!({
            "page": 1, "page_size": 5, "total_count": 12, "total_pages": 3, "has_next": true, "has_prev": false,
        }));
        let last = page("page=3&page_size=5").expect(200).json();
        assert_eq!((last["events"].as_array().map(Vec::len), &last["pagination"]["has_next"]), (Some(2), &json!(false)));
        let beyond = page("page=9&page_size=5").expect(200).json();
        assert_eq!((&beyond["events"], &beyond["pagination"]["has_prev"]), (&json!([]), &json!(true)));
        let mut ids: Vec<String> = (1..=3)
            .flat_map(|number| page(&format!("page={number}&page_size=5")).json()["events"].as_array().cloned().unwrap_or_default())
            .map(|event| event["id"].to_string())
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 12);
        assert_eq!(page("page_size=5000").expect(200).json()["pagination"]["page_size"], 100);
        for wrong in ["page=0", "page=-1", "page=x", "page_size=0", "page=99999999999", "outcome=maybe", "client_ip=here", "start_time=yesterday", "project_id=x"] {
            let refused = page(wrong).expect(400);
            assert_eq!(refused.json()["code"], "invalid_value", "{wrong}");
        }
        edge.admin().get("/manage/audit/").expect(400);
        edge.admin().get("/manage/audit/0b3f6a3e-2c3f-4f5f-9d9a-0a4f0d5a9a11").expect(404);
    }

    fn nothing_is_lost_on_a_clean_stop(store) {
        let mut edge = TestEdge::plan(&Provider::start()).on(store).start();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let edge = &edge;
                scope.spawn(move || for index in 0..50 {
                    edge.project(json!({"name": format!("kept {worker} {index}")}));
                });
            }
        });
        edge.stop();
        let file = std::fs::read_to_string(edge.folder().join("audit.log")).expect("the audit file");
        let created = file.lines().filter(|line| line.contains("\"project.create\"")).count();
        assert_eq!(created, 200);
        assert!(file.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "half a line");
        edge.start_again();
        let list = edge.admin().get("/manage/audit?action=project.create&page_size=1").expect(200).json();
        assert_eq!(list["pagination"]["total_count"], 200);
    }

    fn a_flood_of_refusals_is_counted_instead_of_written(store) {
        let edge = TestEdge::plan(&Provider::start()).on(store).with(json!({"auth": {"failed_per_ip": 1_000_000}})).start();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| for _ in 0..200 {
                    refused(&edge, "/v1/chat/completions").refused(401, "token_not_found");
                });
            }
        });
        let admin = edge.admin();
        let list = || admin.get("/manage/audit?action=proxy.denied&page_size=1").expect(200).json();
        let written = list()["pagination"]["total_count"].as_u64().expect("a count");
        // a hundred for each second that the flood has touched
        assert!((100..1200).contains(&written), "{written} written of 1200");
        let text = edge.sidecar().get("/metrics/prometheus").expect(200).text();
        let refusals = text.lines().find(|line| line.starts_with("llm_proxy_errors_total") && line.contains("token_not_found")).expect("a counter");
        assert!(refusals.ends_with(" 1200"), "{refusals}");
    }
}

#[test]
fn the_file_is_opened_anew_when_somebody_else_has_rotated_it() {
    let edge = TestEdge::start(&Provider::start());
    let path = edge.folder().join("audit.log");
    edge.project(json!({"name": "before"}));
    assert!(wait_until(Duration::from_secs(5), || std::fs::read_to_string(
        &path
    )
    .is_ok_and(|text| text.contains("project.create"))));
    let moved = edge.folder().join("audit.log.moved");
    std::fs::rename(&path, &moved).expect("a rotation");
    edge.project(json!({"name": "after"}));
    let holds = |path: &std::path::Path, word: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(word))
    };
    assert!(
        wait_until(Duration::from_secs(5), || holds(&path, "after")),
        "{:?}",
        std::fs::read_to_string(&path)
    );
    assert!(holds(&moved, "before") && !holds(&moved, "after"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        std::fs::metadata(&path).expect("the file").permissions().mode() & 0o777,
        0o600
    );
}
