use super::*;
use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;

use crate::domain::{NanoUsd, ProjectId, RecordId, SystemClock, TokenId, TokenUsage};
use crate::store::{Page, Paged, RecordFilter, Spending, UsageQuery, UsageRow};

fn record(n: u8) -> UsageRecord {
    UsageRecord {
        record_id: RecordId::new(Timestamp::from_micros(
            1_800_000_000_000_000 + i64::from(n) * 1000,
        )),
        request_id: format!("r-{n}"),
        project_id: ProjectId::from_bytes([1; 16]),
        token_id: TokenId::from_bytes([2; 16]),
        endpoint: "/v1/chat/completions".to_owned(),
        model: "m".to_owned(),
        provider: "openai".into(),
        served_model: Some("m-1".into()),
        status: 200,
        usage: TokenUsage {
            prompt: 5,
            ..TokenUsage::default()
        },
        cost: NanoUsd::from_nanos(7),
        estimated: true,
        cut: false,
        received_at: Timestamp::from_micros(1),
        finished_at: Timestamp::from_micros(2),
        duration: Duration::from_micros(3),
        time_to_first_byte: Some(Duration::from_micros(4)),
        attempts: Vec::new(),
    }
}

/// `record` with the same id each time.
pub(super) fn known(n: u8) -> UsageRecord {
    static KNOWN: Mutex<Option<HashMap<u8, UsageRecord>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap();
    known
        .get_or_insert_default()
        .entry(n)
        .or_insert_with(|| record(n))
        .clone()
}

/// A store that can be away, or silent.
#[derive(Default)]
struct Fake {
    kept: Mutex<HashMap<RecordId, UsageRecord>>,
    away: AtomicBool,
    silent: AtomicBool,
    appends: AtomicU64,
}

#[async_trait]
impl LedgerStore for Fake {
    async fn append(&self, records: &[UsageRecord]) -> Result<(), StoreError> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("gone".to_owned()));
        }
        let mut kept = self.kept.lock().unwrap();
        for record in records {
            kept.entry(record.record_id).or_insert_with(|| record.clone());
        }
        Ok(())
    }

    async fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn records(&self, _: &RecordFilter, _: Page) -> Result<Paged<UsageRecord>, StoreError> {
        Err(StoreError::Unavailable("not asked here".to_owned()))
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

struct Bench {
    store: Arc<Fake>,
    settings: Arc<ArcSwap<LedgerSettings>>,
    folder: tempfile::TempDir,
    ledger: Arc<Ledger>,
}

fn bench(settings: LedgerSettings) -> Bench {
    let store = Arc::new(Fake::default());
    let folder = tempfile::tempdir().unwrap();
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let ledger = start(&store, &folder, &settings);
    Bench {
        store,
        settings,
        folder,
        ledger,
    }
}

fn start(
    store: &Arc<Fake>,
    folder: &tempfile::TempDir,
    settings: &Arc<ArcSwap<LedgerSettings>>,
) -> Arc<Ledger> {
    Ledger::start(
        Arc::clone(store) as Arc<dyn LedgerStore>,
        folder.path(),
        Arc::clone(settings),
        SystemClock::shared(),
    )
}

impl Bench {
    fn kept(&self) -> usize {
        self.store.kept.lock().unwrap().len()
    }

    async fn wait_until_kept(&self, count: usize) {
        for _ in 0..100 {
            if self.kept() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} are kept, not {count}", self.kept());
    }
}

#[tokio::test]
async fn under_strict_a_record_is_in_the_store_when_its_answer_may_end() {
    let bench = bench(LedgerSettings::default());
    for n in 0..3 {
        bench.ledger.record(known(n), None).await;
        assert_eq!(bench.kept(), usize::from(n) + 1);
    }
    assert_eq!(bench.ledger.stats().committed, 3);
}

#[tokio::test]
async fn who_comes_at_the_same_time_shares_a_commit() {
    let bench = bench(LedgerSettings::default());
    let all: Vec<_> = (0..100).map(|n| bench.ledger.record(record(n), None)).collect();
    futures_util::future::join_all(all).await;
    assert_eq!(bench.kept(), 100);
    let commits = bench.store.appends.load(Ordering::SeqCst);
    assert!(
        commits < 5,
        "{commits} commits for what ended in one turn of the loop"
    );
}

#[tokio::test]
async fn a_record_is_kept_whose_caller_has_left() {
    let bench = bench(LedgerSettings::default());
    for n in 0..3 {
        let mut call = Box::pin(bench.ledger.record(known(n), None));
        // it is on its way once it was polled
        let now = std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context)));
        assert!(now.await.is_pending());
        drop(call);
    }
    bench.ledger.flush().await;
    assert_eq!(bench.kept(), 3);
}

#[test]
fn a_flush_takes_along_what_a_worker_left_that_has_ended() {
    let control = tokio::runtime::Runtime::new().unwrap();
    let bench = control.block_on(async { bench(LedgerSettings::default()) });
    let worker = tokio::runtime::Builder::new_current_thread().build().unwrap();
    worker.block_on(async {
        let mut call = Box::pin(bench.ledger.record(known(1), None));
        let now = std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context)));
        assert!(now.await.is_pending());
    });
    // its turn never ended
    drop(worker);
    control.block_on(bench.ledger.flush());
    assert_eq!(bench.kept(), 1);
}

#[tokio::test]
async fn under_off_only_what_was_reserved_is_recorded() {
    let bench = bench(LedgerSettings {
        durability: Durability::Off,
        ..LedgerSettings::default()
    });
    bench.ledger.record(known(1), None).await;
    bench.ledger.offer(known(2), None);
    for n in [3, 4] {
        let opened = bench.ledger.reserve(reserved(&known(n))).await.unwrap();
        if n == 3 {
            bench.ledger.record(known(n), Some(opened)).await;
        } else {
            bench.ledger.offer(known(n), Some(opened));
        }
    }
    bench.ledger.flush().await;
    let kept = bench.store.kept.lock().unwrap().clone();
    let mut kept: Vec<RecordId> = kept.into_keys().collect();
    kept.sort();
    assert_eq!(kept, [known(3).record_id, known(4).record_id]);
}

fn reserved(record: &UsageRecord) -> Reserved {
    Reserved {
        record_id: record.record_id,
        request_id: record.request_id.clone(),
        project_id: record.project_id,
        token_id: record.token_id,
        endpoint: record.endpoint.clone(),
        model: record.model.clone(),
        provider: record.provider.to_string(),
        received_at: record.received_at,
        amount: NanoUsd::from_nanos(i64::MAX / 8),
    }
}

#[tokio::test]
async fn under_batched_nobody_waits_and_a_flush_does() {
    let bench = bench(LedgerSettings {
        durability: Durability::Batched,
        ..LedgerSettings::default()
    });
    for n in 0..50 {
        bench.ledger.record(record(n), None).await;
    }
    bench.ledger.flush().await;
    assert_eq!(bench.kept(), 50);
}

#[tokio::test]
async fn a_store_that_is_away_or_silent_holds_nobody_up_and_gets_everything_once_it_is_back() {
    for silent in [false, true] {
        let bench = bench(LedgerSettings::default());
        bench.ledger.record(known(0), None).await;
        bench.store.away.store(true, Ordering::SeqCst);
        bench.store.silent.store(silent, Ordering::SeqCst);
        let clock = SystemClock::shared();
        let begun = clock.monotonic();
        for n in 1..20 {
            bench.ledger.record(known(n), None).await;
        }
        let taken = clock.monotonic().saturating_sub(begun);
        assert!(taken < Duration::from_secs(3), "{taken:?}");
        let stats = bench.ledger.stats();
        assert_eq!((bench.kept(), stats.spooled), (1, 19));
        assert!(stats.spool_bytes > 0 && !bench.ledger.is_stuck());
        bench.store.away.store(false, Ordering::SeqCst);
        bench.store.silent.store(false, Ordering::SeqCst);
        if !silent {
            bench.wait_until_kept(20).await;
            bench.ledger.record(known(30), None).await;
            assert_eq!((bench.kept(), bench.ledger.stats().lost), (21, 0));
        }
    }
}

#[tokio::test]
async fn the_next_process_brings_the_spool_into_the_store() {
    let bench = bench(LedgerSettings::default());
    bench.store.away.store(true, Ordering::SeqCst);
    for n in 0..5 {
        bench.ledger.record(known(n), None).await;
    }
    // it dies while half of it is replayed: the next one gives all of it again
    bench
        .store
        .kept
        .lock()
        .unwrap()
        .insert(known(2).record_id, known(2));
    drop(Arc::clone(&bench.ledger));
    bench.store.away.store(false, Ordering::SeqCst);
    let _next = start(&bench.store, &bench.folder, &bench.settings);
    bench.wait_until_kept(5).await;
}

#[tokio::test]
async fn when_nothing_takes_records_requests_wait_or_records_are_dropped() {
    let bench = bench(LedgerSettings {
        spool_max_bytes: 10,
        ..LedgerSettings::default()
    });
    bench.store.away.store(true, Ordering::SeqCst);
    let ledger = Arc::clone(&bench.ledger);
    let waiting = spawn::spawn("waiting", async move { ledger.record(known(1), None).await });
    for _ in 0..50 {
        if bench.ledger.is_stuck() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(bench.ledger.is_stuck() && !waiting.is_finished());
    bench.store.away.store(false, Ordering::SeqCst);
    waiting.await.unwrap();
    assert!(!bench.ledger.is_stuck());
    assert_eq!((bench.kept(), bench.ledger.stats().lost), (1, 0));

    bench.store.away.store(true, Ordering::SeqCst);
    bench.settings.store(Arc::new(LedgerSettings {
        spool_max_bytes: 10,
        on_full: OnFull::Drop,
        ..LedgerSettings::default()
    }));
    bench.ledger.record(known(2), None).await;
    assert_eq!((bench.ledger.stats().lost, bench.ledger.is_stuck()), (1, false));
}

#[tokio::test]
async fn a_record_in_the_spool_stands_above_what_its_request_had_reserved() {
    let bench = bench(LedgerSettings::default());
    bench.store.away.store(true, Ordering::SeqCst);
    let (ended, running) = (known(1), known(2));
    for record in [&ended, &running] {
        let opened = bench.ledger.reserve(reserved(record));
        // the process dies before it can say that nothing is reserved any more
        std::mem::forget(opened.await.unwrap());
    }
    bench.ledger.record(ended.clone(), None).await;
    assert_eq!(bench.ledger.stats().spooled, 1);
    bench.store.away.store(false, Ordering::SeqCst);
    let next = start(&bench.store, &bench.folder, &bench.settings);
    bench.wait_until_kept(2).await;
    let kept = bench.store.kept.lock().unwrap().clone();
    assert_eq!(kept[&ended.record_id], ended);
    assert_eq!(kept[&running.record_id].cost, NanoUsd::from_nanos(i64::MAX / 8));
    drop(next);
}
