//! Ten million records of a million tokens in a month (`make test-long`; else a five-hundredth): sums, lists and admission
//! beside them, on both stores. What they take is printed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::edge::{Store, TestEdge, TokenUser};
use crate::provider::Provider;
use crate::servers::Postgres;
use crate::wait::is_long_run;

const PROJECTS: usize = 1000;

fn records() -> usize {
    if is_long_run() { 10_000_000 } else { 20_000 }
}

fn tokens() -> usize {
    records() / 10
}

/// How a store writes numbers, booleans and series.
struct Words {
    padded: fn(usize, &str) -> String,
    series: fn(usize) -> String,
    no: &'static str,
    yes: &'static str,
    sum: fn(&str) -> String,
}

const SQLITE: Words = Words {
    padded: |width, number| format!("printf('%0{width}d', {number})"),
    series: |most| format!("RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most})"),
    no: "0",
    yes: "1",
    sum: |column| format!("SUM({column})"),
};

const POSTGRES: Words = Words {
    padded: |width, number| format!("lpad(({number})::text, {width}, '0')"),
    series: |most| format!("n AS (SELECT i::bigint FROM generate_series(1, {most}) i)"),
    no: "false",
    yes: "true",
    sum: |column| format!("SUM({column})::BIGINT"),
};

/// Indexes of the records.
const INDEXES: [(&str, &str); 4] = [
    ("usage_records_by_time", "finished_at DESC, record_id DESC"),
    ("usage_records_by_project", "project_id, finished_at DESC"),
    ("usage_records_by_token", "token_id, finished_at DESC"),
    ("usage_records_by_request", "request_id"),
];

/// The statements that fill a database: tokens, records over 30 days from the given hour, and what is summed up of them.
fn filling(words: &Words, first_hour: i64) -> Vec<String> {
    let (records, tokens) = (records(), tokens());
    let numbered = |part: &str, number: &str| format!("'{part}' || {}", (words.padded)(12, number));
    let (token, project) = (
        numbered("00000000-1111-4000-8000-", &format!("i * 7919 % {tokens}")),
        numbered(
            "00000000-2222-4000-8000-",
            &format!("i * 7919 % {tokens} % {PROJECTS}"),
        ),
    );
    let (first, step) = (
        first_hour * 3_600_000_000,
        30 * 24 * 3_600_000_000 / records as i64,
    );
    let sum = words.sum;
    let filled = "project_id LIKE '00000000-2222-%'";
    let sums = [
        "requests",
        "prompt_tokens",
        "completion_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "cost_nano_usd",
        "estimated",
        "cut",
    ]
    .map(sum)
    .join(", ");
    // made anew afterwards: so many rows are not sorted in one by one
    let mut all: Vec<String> = INDEXES
        .iter()
        .map(|(name, _)| format!("DROP INDEX {name}"))
        .collect();
    all.extend([
        format!(
            "WITH {} INSERT INTO tokens (id, project_id, name, obfuscated, expires_at, is_active, created_at, allowed_models, \
             allowed_endpoints, allowed_ips, metadata) SELECT {}, project_id, 'copy', obfuscated, expires_at, {}, created_at, \
             allowed_models, allowed_endpoints, allowed_ips, metadata FROM tokens, n WHERE name IS NULL",
            (words.series)(tokens),
            numbered("00000000-1111-4000-8000-", "i"),
            words.yes,
        ),
        format!(
            "WITH {} INSERT INTO usage_records SELECT {}, 'request-' || i, {project}, {token}, '/v1/chat/completions', \
             'model-' || i % 20, 'provider-' || i % 2, NULL, 200, 100, 20, 0, 0, 0, 0, 58000, {}, {}, \
             {first} + i * {step}, {first} + i * {step}, 1000, 500, '[]', NULL FROM n",
            (words.series)(records),
            (words.padded)(26, "i"),
            words.no,
            words.no,
        ),
        format!(
            "INSERT INTO usage_hours SELECT finished_at / 3600000000, project_id, token_id, model, provider, COUNT(*), {}, {}, \
             0, 0, 0, {}, 0, 0 FROM usage_records WHERE {filled} GROUP BY 1, 2, 3, 4, 5",
            sum("prompt_tokens"),
            sum("completion_tokens"),
            sum("cost_nano_usd"),
        ),
        format!(
            "INSERT INTO usage_days SELECT hour / 24, project_id, model, provider, {sums} FROM usage_hours WHERE {filled} GROUP BY 1, 2, 3, 4"
        ),
    ]);
    all.extend(
        INDEXES
            .iter()
            .map(|(name, columns)| format!("CREATE INDEX {name} ON usage_records ({columns})")),
    );
    for subject in ["token_id", "project_id", "'installation'"] {
        let cost = sum("cost_nano_usd");
        all.push(format!(
            "INSERT INTO spend_days SELECT hour / 24, {subject}, {cost} FROM usage_hours WHERE {filled} GROUP BY 1, 2"
        ));
    }
    all.push(format!(
        "INSERT INTO spend SELECT subject, {} FROM spend_days WHERE subject LIKE '00000000-%' GROUP BY 1",
        sum("nano_usd")
    ));
    all
}

/// The median of so many requests.
fn median(user: &TokenUser) -> Duration {
    let mut times: Vec<Duration> = (0..400)
        .map(|_| {
            let from = Instant::now();
            user.chat("gpt-a").expect(200);
            from.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn assert_many(store: &Store, fill: impl FnOnce(&TestEdge, i64)) {
    let plan = TestEdge::plan(&Provider::start()).with(json!({
        "database": {"timeout": "60s"},
        "prices": {"overrides": {"gpt-a": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}},
    }));
    let mut edge = plan.on(store).start();
    let user = edge.token(json!({"name": null}));
    let before = median(&user);
    edge.stop();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time");
    let first_hour = now.as_secs() as i64 / 3600 - 31 * 24;
    let from = Instant::now();
    fill(&edge, first_hour);
    eprintln!("filled in {:?}", from.elapsed());
    edge.start_again();
    let user = user.at(&edge.anonymous());
    let after = median(&user);
    eprintln!(
        "a request: {before:?} before, {after:?} among {} records",
        records()
    );
    let ask = |path: &str| -> Value {
        let from = Instant::now();
        let answer = edge.admin().get(path).expect(200).json();
        eprintln!("{:?}  {path}", from.elapsed());
        answer
    };
    let total = |answer: &Value| -> u64 {
        let rows = answer["data"].as_array().expect("rows");
        rows.iter()
            .map(|row| row["requests"].as_u64().expect("a number"))
            .sum()
    };
    let ours = 2 * 400;
    let day = |days: i64| {
        let at = jiff::Timestamp::from_second((first_hour + days * 24) * 3600).expect("a time");
        at.to_string()
    };
    assert_eq!(total(&ask("/manage/usage")), records() as u64 + ours);
    let range = format!("start_time={}&end_time={}", day(0), day(31));
    for groups in ["project", "model", "provider,day", "project,model,day"] {
        let answer = ask(&format!("/manage/usage?{range}&group_by={groups}"));
        assert_eq!(total(&answer), records() as u64, "{groups}");
    }
    // an hour of tokens; a day of them are more lines than an answer has
    let hour = |hours: i64| {
        let at = jiff::Timestamp::from_second((first_hour + 72 + hours) * 3600).expect("a time");
        at.to_string()
    };
    let answer = ask(&format!(
        "/manage/usage?start_time={}&end_time={}&group_by=token",
        hour(0),
        hour(1)
    ));
    assert!(total(&answer).abs_diff(records() as u64 / 720) <= records() as u64 / 1000);
    for filter in [
        "",
        "token_id=00000000-1111-4000-8000-000000000007",
        "project_id=00000000-2222-4000-8000-000000000007",
        "request_id=request-77",
    ] {
        let answer = ask(&format!("/manage/usage/records?{filter}"));
        assert!(!answer.as_array().expect("records").is_empty(), "{filter}");
    }
    // what a budget needs to know of a token with a past
    edge.admin()
        .change_token(&user.id, json!({"budget": {"usd": 5, "period": "month"}}))
        .expect(200);
    eprintln!("a request with a budget: {:?}", median(&user));
}

#[test]
fn very_many_records_are_added_up_and_stand_in_nobodys_way_on_sqlite() {
    assert_many(&Store::Sqlite, |edge, first_hour| {
        let database = rusqlite::Connection::open(edge.database_path()).expect("the database");
        database
            .execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -400000")
            .expect("settings");
        for statement in filling(&SQLITE, first_hour) {
            database.execute(&statement, []).expect(&statement);
        }
    });
}

#[test]
fn very_many_records_are_added_up_and_stand_in_nobodys_way_on_postgres() {
    let postgres = Postgres::shared();
    let url = postgres.new_database();
    let name = Postgres::name_in(&url).to_owned();
    assert_many(&Store::Url(url), |_, first_hour| {
        for statement in filling(&POSTGRES, first_hour) {
            postgres.sql(&name, &statement);
        }
        postgres.sql(&name, "ANALYZE");
    });
}
