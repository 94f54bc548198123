//! Counters against a store that can be told to fail and to wait.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::domain::ManualClock;

struct FakeStore {
    rows: Mutex<HashMap<TokenId, (u64, u64, Timestamp)>>,
    away: AtomicBool,
    gate: Semaphore,
}

#[async_trait]
impl UsageStore for FakeStore {
    async fn add(&self, deltas: &[UsageDelta]) -> Result<(), StoreError> {
        drop(self.gate.acquire().await.unwrap());
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("connection refused".into()));
        }
        let mut rows = self.rows.lock();
        for delta in deltas {
            let row = rows.entry(delta.token_id).or_insert((0, 0, Timestamp::EPOCH));
            *row = (
                row.0 + delta.requests,
                row.1 + delta.cache_hits,
                row.2.max(delta.last_used_at),
            );
        }
        Ok(())
    }
}

struct Bench {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: Arc::new(FakeStore {
                rows: Mutex::new(HashMap::new()),
                away: AtomicBool::new(false),
                gate: Semaphore::new(1),
            }),
            clock: ManualClock::at(Timestamp::EPOCH),
        }
    }

    fn row(&self, number: u8) -> Option<(u64, u64, i64)> {
        let row = self.store.rows.lock().get(&id(number)).copied();
        row.map(|(requests, hits, at)| (requests, hits, at.as_seconds()))
    }
}

fn id(number: u8) -> TokenId {
    TokenId::from_bytes([number; 16])
}

#[tokio::test]
async fn a_flush_writes_what_was_counted_with_the_time_of_last_use() {
    let bench = Bench::new();
    let counters = UsageCounters::start(bench.store.clone(), bench.clock.clone());
    counters.count_request(id(1));
    counters.count_request(id(1));
    bench.clock.advance(Duration::from_secs(5));
    counters.count_cache_hit(id(1));
    counters.note_use(id(2));
    counters.flush().await.unwrap();
    assert_eq!(bench.row(1), Some((2, 1, 5)));
    assert_eq!(bench.row(2), Some((0, 0, 5)));
    assert_eq!(counters.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn counts_are_written_each_second_by_themselves() {
    let bench = Bench::new();
    let counters = UsageCounters::start(bench.store.clone(), bench.clock.clone());
    counters.count_request(id(1));
    while bench.row(1).is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.row(1), Some((1, 0, 0)));
}

#[tokio::test]
async fn a_failed_write_loses_nothing_and_merges_with_what_follows() {
    let bench = Bench::new();
    let counters = UsageCounters::new(bench.store.clone(), bench.clock.clone(), MOST);
    bench.store.away.store(true, Ordering::SeqCst);
    for number in 0..200 {
        counters.count_request(id(number));
    }
    assert!(counters.flush().await.is_err());
    assert_eq!(counters.pending(), 200);
    for number in 0..200 {
        counters.count_request(id(number));
    }
    bench.store.away.store(false, Ordering::SeqCst);
    counters.flush().await.unwrap();
    assert!((0..200).all(|number| bench.row(number) == Some((2, 0, 0))));
    counters.flush().await.unwrap();
    assert_eq!(bench.row(7), Some((2, 0, 0)), "nothing is written twice");
}

#[tokio::test]
async fn a_flush_whose_caller_leaves_goes_on_and_the_next_one_waits_for_it() {
    let bench = Bench::new();
    let counters = UsageCounters::new(bench.store.clone(), bench.clock.clone(), MOST);
    counters.count_request(id(1));
    bench.store.gate.forget_permits(1);
    {
        let mut leaving = std::pin::pin!(counters.flush());
        while counters.pending() > 0 {
            tokio::select! { biased; _ = &mut leaving => unreachable!(), () = tokio::task::yield_now() => {} }
        }
    }
    let next = counters.flush();
    bench.store.gate.add_permits(1);
    next.await.unwrap();
    assert_eq!(bench.row(1), Some((1, 0, 0)));
}

#[tokio::test]
async fn at_the_bound_counts_of_further_tokens_are_lost_and_counted() {
    let bench = Bench::new();
    let counters = UsageCounters::new(bench.store.clone(), bench.clock.clone(), 10);
    for number in 0..12 {
        counters.count_request(id(number));
    }
    counters.count_request(id(0));
    assert_eq!((counters.pending(), counters.lost()), (10, 2));
    counters.flush().await.unwrap();
    counters.count_request(id(11));
    counters.flush().await.unwrap();
    assert_eq!((bench.row(0), bench.row(11)), (Some((2, 0, 0)), Some((1, 0, 0))));
}

#[tokio::test]
async fn nothing_is_lost_when_threads_count_while_it_is_written() {
    let bench = Bench::new();
    let counters = Arc::new(UsageCounters::new(bench.store.clone(), bench.clock.clone(), MOST));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let counters = counters.clone();
            std::thread::spawn(move || (0..5_000).for_each(|n| counters.count_request(id((n % 50) as u8))))
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        counters.flush().await.unwrap();
    }
    counters.flush().await.unwrap();
    let total: u64 = bench.store.rows.lock().values().map(|row| row.0).sum();
    assert_eq!(total, 20_000);
}
