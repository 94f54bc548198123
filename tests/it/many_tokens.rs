//! A hundred thousand tokens (`make test-long`; else a tenth): lists whole and in pages, filters, and a start beside them, on
//! both stores.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{Store, TestEdge};
use crate::provider::Provider;
use crate::servers::Postgres;
use crate::wait::is_long_run;

fn many() -> usize {
    if is_long_run() { 100_000 } else { 10_000 }
}

/// Copies the one token there is; every second copy is revoked.
fn copies(numbers: &str, as_text: &str, active: [&str; 2]) -> String {
    let [yes, no] = active;
    format!(
        "WITH {numbers} INSERT INTO tokens (id, project_id, name, obfuscated, expires_at, is_active, created_at, allowed_models, \
         allowed_endpoints, allowed_ips, metadata) SELECT '00000000-0000-4000-8000-' || {as_text}, project_id, 'copy ' || i, \
         obfuscated, expires_at, CASE i % 2 WHEN 0 THEN {yes} ELSE {no} END, created_at - i, allowed_models, allowed_endpoints, \
         allowed_ips, metadata FROM tokens, n WHERE name IS NULL"
    )
}

fn assert_lists(store: &Store, fill: impl FnOnce(&TestEdge)) {
    let many = many();
    let mut edge = TestEdge::plan(&Provider::start()).on(store).start();
    let user = edge.token(json!({"name": null}));
    edge.stop();
    fill(&edge);
    edge.start_again();
    let admin = edge.admin();
    let before = edge.resident_kib();
    let from = Instant::now();
    let all = admin.get("/manage/tokens").expect(200).json();
    let all = all.as_array().expect("a list");
    assert_eq!(all.len(), many + 1);
    let ids: std::collections::HashSet<&str> = all.iter().filter_map(|token| token["id"].as_str()).collect();
    assert_eq!(ids.len(), many + 1);
    let active = admin.get("/manage/tokens?active_only=true").expect(200).json();
    assert_eq!(active.as_array().map(Vec::len), Some(many / 2 + 1));
    let project = admin
        .get(&format!("/manage/tokens?project_id={}", user.project_id))
        .expect(200)
        .json();
    assert_eq!(project.as_array().map(Vec::len), Some(many + 1));
    // the first pages, and the last
    let page = |number: usize| {
        let answer = admin
            .get(&format!("/manage/tokens?page={number}&page_size=100"))
            .expect(200);
        assert_eq!(
            answer.header("x-total-count"),
            Some(format!("{}", many + 1).as_str())
        );
        answer.json().as_array().expect("a page").clone()
    };
    let shown: Vec<Value> = (1..=3).flat_map(page).collect();
    assert_eq!(shown, all[..300]);
    assert_eq!(page(many / 100 + 1), all[many..]);
    assert!(page(many / 100 + 2).is_empty());
    assert!(from.elapsed() < Duration::from_mins(1), "{:?}", from.elapsed());
    user.at(&edge.anonymous()).chat("gpt-a").expect(200);
    let peak = edge.peak_kib().saturating_sub(before);
    assert!(peak < 400 * 1024, "{peak} KiB more at the peak");
}

#[test]
fn lists_of_very_many_tokens_are_whole_on_sqlite() {
    assert_lists(&Store::Sqlite, |edge| {
        let many = many();
        let numbers = format!("RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})");
        let database = rusqlite::Connection::open(edge.database_path()).expect("the database");
        let inserted = database.execute(&copies(&numbers, "printf('%012d', i)", ["1", "0"]), []);
        assert_eq!(inserted.expect("copies"), many);
    });
}

#[test]
fn lists_of_very_many_tokens_are_whole_on_postgres() {
    let postgres = Postgres::shared();
    let url = postgres.new_database();
    let name = Postgres::name_in(&url).to_owned();
    assert_lists(&Store::Url(url), |_| {
        let many = many();
        let numbers = format!("n AS (SELECT i FROM generate_series(1, {many}) i)");
        postgres.sql(
            &name,
            &copies(&numbers, "lpad(i::text, 12, '0')", ["true", "false"]),
        );
    });
}
