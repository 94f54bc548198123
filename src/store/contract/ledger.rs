//! What the ledger of every back end does.

use std::sync::Arc;
use std::time::Duration;

use super::{ALL, at};
use crate::domain::{
    AttemptRecord, MediaUsage, NanoUsd, ProjectId, RecordId, Timestamp, TokenId, TokenUsage, UsageRecord,
};
use crate::store::{INSTALLATION, Page, RecordFilter, Store, UsageGroup, UsageQuery, UsageRow};

const HOUR: i64 = 3600;

pub(in crate::store) fn record(project: ProjectId, token: TokenId, second: i64, cost: i64) -> UsageRecord {
    UsageRecord {
        record_id: RecordId::new(at(second)),
        request_id: "mine-1".to_owned(),
        project_id: project,
        token_id: token,
        endpoint: "/v1/chat/completions".to_owned(),
        model: "gpt-a".to_owned(),
        provider: "openai".into(),
        served_model: Some("gpt-a-2026".into()),
        status: 200,
        usage: TokenUsage {
            prompt: 100,
            completion: 10,
            cache_read: 50,
            cache_write: 20,
            cache_write_1h: 5,
            reasoning: 3,
            media: MediaUsage {
                images: 2,
                audio_millis: 8470,
                characters: 11,
            },
        },
        cost: NanoUsd::from_nanos(cost),
        estimated: false,
        cut: false,
        received_at: at(second - 1),
        finished_at: at(second),
        duration: Duration::from_micros(1_000_001),
        time_to_first_byte: Some(Duration::from_micros(7)),
        attempts: vec![AttemptRecord {
            provider: "openai".to_owned(),
            model: Some("gpt-a-2026".to_owned()),
            key_id: "project".to_owned(),
            status: 200,
            usage: TokenUsage::default(),
            cost_nano_usd: cost,
            estimated: false,
        }],
    }
}

fn ids() -> (ProjectId, TokenId) {
    (ProjectId::random(), TokenId::random())
}

async fn all(store: &Store) -> Vec<UsageRecord> {
    let filter = RecordFilter::default();
    store.ledger.records(&filter, ALL).await.unwrap().rows
}

async fn sums(store: &Store, groups: &[UsageGroup], start: Option<i64>, end: Option<i64>) -> Vec<UsageRow> {
    let query = UsageQuery {
        group_by: groups.to_vec(),
        start: start.map(at),
        end: end.map(at),
    };
    store.ledger.usage(&query).await.unwrap()
}

pub async fn a_record_reads_back_as_it_was_written(store: &Store) {
    let (project, token) = ids();
    let whole = record(project, token, 10, 1);
    let mut bare = record(project, token, 20, i64::MAX / 4);
    bare.served_model = None;
    bare.time_to_first_byte = None;
    bare.estimated = true;
    bare.cut = true;
    bare.model = "odd `'\" ü".to_owned();
    bare.attempts = Vec::new();
    bare.usage.media = MediaUsage::default();
    let mut usual = record(project, token, 30, 7);
    usual.attempts[0].usage = usual.usage;
    let mut twice = usual.clone();
    twice.record_id = RecordId::new(at(31));
    twice.finished_at = at(31);
    twice.attempts.push(usual.attempts[0].clone());
    let all_of_them = [whole.clone(), bare.clone(), usual.clone(), twice.clone()];
    store.ledger.append(&all_of_them).await.unwrap();
    store.ledger.append(&[]).await.unwrap();
    assert_eq!(all(store).await, [twice, usual, bare, whole]);
}

pub async fn a_record_that_is_given_again_changes_nothing(store: &Store) {
    let (project, token) = ids();
    let one = record(project, token, 10, 5);
    let mut forged = one.clone();
    forged.cost = NanoUsd::from_nanos(99);
    store.ledger.append(std::slice::from_ref(&one)).await.unwrap();
    let two = record(project, token, 11, 7);
    store
        .ledger
        .append(&[forged, two.clone(), two.clone()])
        .await
        .unwrap();
    assert_eq!(all(store).await, [two, one]);
    let total = sums(store, &[], None, None).await;
    assert_eq!((total[0].sums.requests, total[0].sums.cost.nanos()), (2, 12));
    let spent = store.ledger.spent(vec![token.to_string()]).await.unwrap();
    assert_eq!(spent[&token.to_string()].nanos(), 12);
}

pub async fn sums_by_groups_are_those_of_the_records_whatever_the_range(store: &Store) {
    let (project, token) = ids();
    let (other_project, other_token) = ids();
    let mut records = Vec::new();
    for (index, second) in [-1, 0, 1, HOUR - 1, HOUR, 5 * HOUR + 7, 30 * HOUR]
        .into_iter()
        .enumerate()
    {
        let (project, token) = if index % 2 == 0 {
            (project, token)
        } else {
            (other_project, other_token)
        };
        let mut record = record(project, token, second, 1 << index);
        record.model = if index % 3 == 0 { "a" } else { "b" }.to_owned();
        record.provider = if second < HOUR { "x" } else { "y" }.into();
        record.estimated = index == 1;
        record.cut = index == 2;
        records.push(record);
    }
    store.ledger.append(&records).await.unwrap();
    let groups = [
        UsageGroup::Project,
        UsageGroup::Token,
        UsageGroup::Model,
        UsageGroup::Provider,
        UsageGroup::Day,
    ];
    for (start, end) in [
        (None, None),
        (Some(0), None),
        (None, Some(HOUR)),
        (Some(1), Some(HOUR - 1)),
        (Some(-1), Some(5 * HOUR + 8)),
        (Some(HOUR), Some(2 * HOUR)),
        (Some(3), Some(3)),
    ] {
        let expected: Vec<&UsageRecord> = records
            .iter()
            .filter(|record| start.is_none_or(|start| record.finished_at >= at(start)))
            .filter(|record| end.is_none_or(|end| record.finished_at < at(end)))
            .collect();
        let rows = sums(store, &groups, start, end).await;
        assert_eq!(
            rows.len(),
            expected.len(),
            "each is alone in its groups: {start:?}..{end:?}"
        );
        for record in &expected {
            let day = record.finished_at.to_string()[..10].to_owned();
            let name = [
                record.project_id.to_string(),
                record.token_id.to_string(),
                record.model.clone(),
                record.provider.to_string(),
                day,
            ];
            let row = rows.iter().find(|row| row.groups == name).unwrap();
            assert_eq!(
                (row.sums.cost, row.sums.estimated, row.sums.cut),
                (record.cost, u64::from(record.estimated), u64::from(record.cut))
            );
            assert_eq!((row.sums.usage.prompt, row.sums.usage.reasoning), (100, 3));
        }
        let total = sums(store, &[], start, end).await;
        let cost: NanoUsd = expected.iter().map(|record| record.cost).sum();
        assert_eq!(total.first().map_or(NanoUsd::ZERO, |row| row.sums.cost), cost);
        let by_model = sums(store, &[UsageGroup::Model], start, end).await;
        let requests: u64 = by_model.iter().map(|row| row.sums.requests).sum();
        assert_eq!(requests, expected.len() as u64);
    }
}

pub async fn records_are_newest_first_filtered_and_paged(store: &Store) {
    let (project, token) = ids();
    let (other_project, other_token) = ids();
    let mut records: Vec<UsageRecord> = (0..5).map(|n| record(project, token, n, 1)).collect();
    records.push(record(other_project, other_token, 9, 1));
    records[3].request_id = "mine-3".to_owned();
    // the client of the first named nothing, the client of the second named its request after the first
    let name = records[0].record_id.to_string();
    for record in &mut records[..2] {
        record.request_id.clone_from(&name);
    }
    store.ledger.append(&records).await.unwrap();
    let seconds = async |filter: RecordFilter, page: Page| -> (Vec<i64>, u64) {
        let listed = store.ledger.records(&filter, page).await.unwrap();
        let seconds = listed
            .rows
            .iter()
            .map(|record| (record.finished_at.as_micros() - at(0).as_micros()) / 1_000_000);
        (seconds.collect(), listed.total)
    };
    let none = RecordFilter::default;
    assert_eq!(seconds(none(), ALL).await, (vec![9, 4, 3, 2, 1, 0], 6));
    let page = Page { number: 2, size: 2 };
    assert_eq!(seconds(none(), page).await, (vec![3, 2], 6));
    let by_request = RecordFilter {
        request_id: Some("mine-3".to_owned()),
        ..none()
    };
    assert_eq!(seconds(by_request, ALL).await, (vec![3], 1));
    for (request_id, expected) in [(name, vec![1, 0]), (records[4].record_id.to_string(), vec![])] {
        let total = expected.len() as u64;
        let named = RecordFilter {
            request_id: Some(request_id),
            ..none()
        };
        assert_eq!(seconds(named, ALL).await, (expected, total));
    }
    let by_token = RecordFilter {
        token_id: Some(other_token),
        ..none()
    };
    assert_eq!(seconds(by_token, ALL).await, (vec![9], 1));
    let by_project = RecordFilter {
        project_id: Some(project),
        start: Some(at(1)),
        end: Some(at(3)),
        ..none()
    };
    assert_eq!(seconds(by_project, ALL).await, (vec![2, 1], 2));
}

pub async fn what_was_spent_adds_up_for_token_and_project(store: &Store) {
    let (project, token) = ids();
    let colleague = TokenId::random();
    let free = TokenId::random();
    let batch = [
        record(project, token, 0, 3),
        record(project, colleague, 1, 4),
        record(project, free, 2, 0),
        record(project, token, 3, 5),
    ];
    store.ledger.append(&batch).await.unwrap();
    let asked = [
        project.to_string(),
        token.to_string(),
        colleague.to_string(),
        free.to_string(),
    ];
    let spent = store.ledger.spent(asked.to_vec()).await.unwrap();
    let of = |id: &str| spent.get(id).map(|amount| amount.nanos());
    assert_eq!(
        asked.each_ref().map(|id| of(id)),
        [Some(12), Some(8), Some(4), None]
    );
    assert!(store.ledger.spent(Vec::new()).await.unwrap().is_empty());
}

pub async fn what_was_spent_is_known_by_the_day_and_for_everybody(store: &Store) {
    let (project, token) = ids();
    let (other_project, other_token) = ids();
    let day = at(0).as_micros() / (24 * HOUR * 1_000_000);
    let into_day = at(0).as_micros() / 1_000_000 - day * 24 * HOUR;
    let on = |token, project, days: i64, cost| record(project, token, days * 24 * HOUR - into_day, cost);
    let batch = [
        on(token, project, 0, 3),
        on(token, project, 0, 4),
        on(other_token, other_project, 1, 5),
        on(token, project, 2, 6),
        on(token, project, 3, 0),
    ];
    store.ledger.append(&batch).await.unwrap();
    store.ledger.append(&batch[..2]).await.unwrap();
    let of = async |subject: &str, first: i64| {
        let spending = store.ledger.spending(subject, day + first).await.unwrap();
        let days: Vec<(i64, i64)> = spending
            .days
            .iter()
            .map(|(at, amount)| (at - day, amount.nanos()))
            .collect();
        (spending.total.nanos(), days)
    };
    for subject in [token.to_string(), project.to_string()] {
        assert_eq!(of(&subject, 0).await, (13, vec![(0, 7), (2, 6)]));
        assert_eq!(of(&subject, 1).await, (13, vec![(2, 6)]));
    }
    assert_eq!(of(INSTALLATION, 0).await, (18, vec![(0, 7), (1, 5), (2, 6)]));
    assert_eq!(of("nobody", 0).await, (0, vec![]));
    store.ledger.forget_spend_before(day + 2).await.unwrap();
    assert_eq!(of(INSTALLATION, 0).await, (18, vec![(2, 6)]));
}

pub async fn old_records_go_and_their_sums_stay(store: &Store) {
    let (project, token) = ids();
    let batch: Vec<UsageRecord> = (0..4).map(|n| record(project, token, n * HOUR, 1)).collect();
    store.ledger.append(&batch).await.unwrap();
    assert_eq!(store.ledger.prune(at(2 * HOUR)).await.unwrap(), 2);
    assert_eq!(store.ledger.prune(at(2 * HOUR)).await.unwrap(), 0);
    assert_eq!(all(store).await.len(), 2);
    let total = sums(store, &[], None, None).await;
    assert_eq!(total[0].sums.requests, 4);
    assert_eq!(Timestamp::from_micros(at(0).as_micros()), at(0));
}

pub async fn batches_from_many_tasks_lose_nothing(store: &Store) {
    let (project, token) = ids();
    let ledger = Arc::clone(&store.ledger);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let ledger = Arc::clone(&ledger);
            crate::domain::spawn::spawn("appender", async move {
                for n in 0..10 {
                    let batch: Vec<UsageRecord> = (0..5)
                        .map(|k| record(project, token, task * 7 + n + k, 1))
                        .collect();
                    ledger.append(&batch).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let total = sums(store, &[UsageGroup::Token], None, None).await;
    assert_eq!((total[0].sums.requests, total[0].sums.cost.nanos()), (400, 400));
}
