//! What do money and its records cost: the meter of an answer, a price, a record that is made safe, a reservation on disk?
//!
//! NUMBERS
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use criterion::Criterion;
use llm_proxy::config::LedgerSettings;
use llm_proxy::dialect::sse::StreamKind;
use llm_proxy::domain::{
    AttemptRecord, CacheWrites, NanoUsd, PriceTable, Priced, Prices, ProjectId, RecordId, SystemClock,
    Timestamp, TokenId, TokenUsage, UsageRecord,
};
use llm_proxy::metering::{Ledger, Meter, Reserved};
use llm_proxy::store::{LedgerStore, Page, Paged, RecordFilter, Spending, StoreError, UsageQuery, UsageRow};

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    meter(&mut criterion);
    prices(&mut criterion);
    ledger(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

fn meter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("meter");
    let event = br#"{"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":" word"}}]}"#;
    group.bench_function("event", |bencher| {
        let mut meter = Meter::new(StreamKind::Chat);
        bencher.iter(|| meter.event(black_box(event)));
    });
    let body = format!(
        r#"{{"id":"c","model":"gpt-4o","choices":[{{"message":{{"role":"assistant","content":"{}"}}}}],"usage":{{"prompt_tokens":9,"completion_tokens":200}}}}"#,
        "word ".repeat(160)
    );
    group.bench_function("answer_1KiB", |bencher| {
        bencher.iter(|| {
            let mut meter = Meter::new(StreamKind::Chat);
            meter.body(black_box(body.as_bytes()));
            meter.told()
        });
    });
    group.finish();
}

fn prices(criterion: &mut Criterion) {
    let prices = Prices::new(PriceTable::built_in().clone(), HashMap::new());
    let priced = Priced {
        public: "gpt-4o-2024-08-06",
        provider: "openai",
        family: "openai",
        model: "gpt-4o-2024-08-06",
    };
    let usage = TokenUsage {
        prompt: 1000,
        completion: 200,
        ..TokenUsage::default()
    };
    let mut group = criterion.benchmark_group("price");
    group.bench_function("find_and_cost", |bencher| {
        bencher.iter(|| prices.find(black_box(priced)).map(|price| price.cost(&usage)));
    });
    group.bench_function("find_and_bound", |bencher| {
        bencher.iter(|| {
            prices
                .find(black_box(priced))
                .map(|price| price.bound(4000, 1000, CacheWrites::Some))
        });
    });
    group.finish();
}

fn ledger(criterion: &mut Criterion) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir()?;
    let _entered = runtime.enter();
    let ledger = Ledger::start(
        Arc::new(Nowhere),
        folder.path(),
        Arc::new(ArcSwap::from_pointee(LedgerSettings::default())),
        SystemClock::shared(),
    );
    let mut group = criterion.benchmark_group("ledger");
    group.bench_function("record_made_safe_by_a_store_that_answers_at_once", |bencher| {
        bencher.iter(|| runtime.block_on(ledger.record(record(), None)));
    });
    group.bench_function("sixty_four_records_at_once", |bencher| {
        bencher.iter(|| {
            let all = (0..64).map(|_| ledger.record(record(), None));
            runtime.block_on(futures_util::future::join_all(all))
        });
    });
    group.bench_function("reservation_written_and_closed", |bencher| {
        bencher.iter(|| runtime.block_on(ledger.reserve(reserved())).is_ok());
    });
    group.finish();
    Ok(())
}

fn record() -> UsageRecord {
    let now = Timestamp::from_micros(1_800_000_000_000_000);
    UsageRecord {
        record_id: RecordId::new(now),
        request_id: "req-1".to_owned(),
        project_id: ProjectId::from_bytes([1; 16]),
        token_id: TokenId::from_bytes([2; 16]),
        endpoint: "/v1/chat/completions".to_owned(),
        model: "gpt-4o".to_owned(),
        provider: "openai".into(),
        served_model: None,
        status: 200,
        usage: TokenUsage::default(),
        cost: NanoUsd::from_nanos(58_000),
        estimated: false,
        cut: false,
        received_at: now,
        finished_at: now,
        duration: Duration::from_millis(5),
        time_to_first_byte: None,
        attempts: vec![AttemptRecord {
            provider: "openai".to_owned(),
            model: Some("gpt-4o".to_owned()),
            key_id: "project".to_owned(),
            status: 200,
            usage: TokenUsage::default(),
            cost_nano_usd: 58_000,
            estimated: false,
        }],
    }
}

fn reserved() -> Reserved {
    let now = Timestamp::from_micros(1_800_000_000_000_000);
    Reserved {
        record_id: RecordId::new(now),
        request_id: "req-1".to_owned(),
        project_id: ProjectId::from_bytes([1; 16]),
        token_id: TokenId::from_bytes([2; 16]),
        endpoint: "/v1/chat/completions".to_owned(),
        model: "gpt-4o".to_owned(),
        provider: "openai".to_owned(),
        received_at: now,
        amount: NanoUsd::from_nanos(1_000_000),
    }
}

/// A store that takes everything and keeps nothing.
struct Nowhere;

#[async_trait]
impl LedgerStore for Nowhere {
    async fn append(&self, _: &[UsageRecord]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn records(&self, _: &RecordFilter, _: Page) -> Result<Paged<UsageRecord>, StoreError> {
        Err(StoreError::Unavailable("nothing is kept here".to_owned()))
    }

    async fn spent(&self, _: Vec<String>) -> Result<HashMap<String, NanoUsd>, StoreError> {
        Ok(HashMap::new())
    }

    async fn spending(&self, _: &str, _: i64) -> Result<Spending, StoreError> {
        Ok(Spending::default())
    }

    async fn forget_spend_before(&self, _: i64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn prune(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}
