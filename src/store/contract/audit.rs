//! What every store of audit events does.

use super::{ALL, at};
use crate::domain::audit::{AuditEvent, AuditOutcome};
use crate::domain::ids::AuditId;
use crate::domain::{ProjectId, TokenId};
use crate::store::{AuditFilter, Page, Store};

fn full_event(seconds: i64) -> AuditEvent {
    AuditEvent {
        project_id: Some(ProjectId::random()),
        token_id: Some(TokenId::random()),
        request_id: Some(format!("req-{seconds}")),
        correlation_id: Some(format!("cor-{seconds}")),
        client_ip: Some(format!("10.0.0.{seconds}").parse().unwrap()),
        method: Some("POST".to_owned()),
        path: Some(format!("/manage/tokens/{seconds}")),
        user_agent: Some("curl".to_owned()),
        reason: Some("because".to_owned()),
        metadata: serde_json::json!({"n": seconds}).as_object().unwrap().clone(),
        ..AuditEvent::new(
            at(seconds),
            "token.create",
            "management_api",
            AuditOutcome::Success,
        )
    }
}

async fn ids(store: &Store, filter: AuditFilter) -> Vec<AuditId> {
    let list = store.audit.list(&filter, ALL).await.unwrap();
    assert_eq!(list.total, list.rows.len() as u64);
    list.rows.into_iter().map(|event| event.id).collect()
}

pub(crate) async fn events_read_back_and_a_repeated_batch_is_harmless(store: &Store) {
    let bare = AuditEvent::new(at(0), "audit.list", "system", AuditOutcome::Denied);
    let batch = [full_event(1), bare, full_event(2)];
    store.audit.append(&batch).await.unwrap();
    store.audit.append(&batch).await.unwrap();
    for event in &batch {
        assert_eq!(store.audit.get(event.id).await.unwrap().as_ref(), Some(event));
    }
    assert_eq!(store.audit.get(AuditId::random()).await.unwrap(), None);
    assert_eq!(
        ids(store, AuditFilter::default()).await,
        [batch[2].id, batch[0].id, batch[1].id]
    );
    let page = store
        .audit
        .list(&AuditFilter::default(), Page { number: 2, size: 1 })
        .await
        .unwrap();
    assert_eq!((page.rows[0].id, page.total), (batch[0].id, 3));
}

pub(crate) async fn every_filter_selects(store: &Store) {
    let mut odd = full_event(1);
    "project.update".clone_into(&mut odd.action);
    "system".clone_into(&mut odd.actor);
    odd.outcome = AuditOutcome::Error;
    odd.method = Some("PATCH".to_owned());
    store
        .audit
        .append(&[full_event(2), odd.clone(), full_event(3)])
        .await
        .unwrap();
    let some = |text: &str| Some(text.to_owned());
    let none = AuditFilter::default;
    let filters = [
        AuditFilter {
            action: some("project.update"),
            ..none()
        },
        AuditFilter {
            actor: some("system"),
            ..none()
        },
        AuditFilter {
            outcome: some("error"),
            ..none()
        },
        AuditFilter {
            client_ip: some("10.0.0.1"),
            ..none()
        },
        AuditFilter {
            project_id: odd.project_id,
            ..none()
        },
        AuditFilter {
            request_id: some("req-1"),
            ..none()
        },
        AuditFilter {
            correlation_id: some("cor-1"),
            ..none()
        },
        AuditFilter {
            method: some("PATCH"),
            ..none()
        },
        AuditFilter {
            path: some("/manage/tokens/1"),
            ..none()
        },
        AuditFilter {
            search: some("TOKENS/1"),
            ..none()
        },
        AuditFilter {
            end: Some(at(1)),
            ..none()
        },
        AuditFilter {
            start: Some(at(1)),
            end: Some(at(1)),
            ..none()
        },
    ];
    for filter in filters {
        assert_eq!(ids(store, filter.clone()).await, [odd.id], "{filter:?}");
    }
    let later = AuditFilter {
        start: Some(at(2)),
        ..none()
    };
    assert_eq!(ids(store, later).await.len(), 2);
}

pub(crate) async fn search_takes_wildcards_literally(store: &Store) {
    let mut event = full_event(1);
    event.reason = Some("100%_sure\\".to_owned());
    store.audit.append(&[event.clone(), full_event(2)]).await.unwrap();
    for (needle, hits) in [
        ("100%_", 1),
        ("%", 1),
        ("100_", 0),
        ("m_n", 0),
        ("sure\\", 1),
        ("\\%", 0),
        ("'", 0),
        ("x\0", 0),
    ] {
        let filter = AuditFilter {
            search: Some(needle.to_owned()),
            ..AuditFilter::default()
        };
        assert_eq!(ids(store, filter).await.len(), hits, "`{needle}`");
    }
}

pub(crate) async fn old_events_are_pruned(store: &Store) {
    let events: Vec<AuditEvent> = (0..10).map(full_event).collect();
    store.audit.append(&events).await.unwrap();
    assert_eq!(store.audit.prune(at(4)).await.unwrap(), 4);
    assert_eq!(store.audit.prune(at(4)).await.unwrap(), 0);
    assert_eq!(ids(store, AuditFilter::default()).await.len(), 6);
}
