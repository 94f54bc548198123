use super::*;
use crate::domain::ManualClock;
use http::HeaderMap;
use pingora_cache::trace::Span;

const MIB: u64 = 1 << 20;

fn store(max_bytes: u64, sharing: RunningFills) -> (&'static MemoryStore, Arc<ManualClock>) {
    let clock = ManualClock::at(Timestamp::from_micros(1_000_000_000_000_000));
    (MemoryStore::leak(max_bytes, sharing, clock.clone()), clock)
}

fn key(project: u8, path: &str) -> CacheKey {
    let headers = HeaderMap::new();
    EntryKey::of(&super::super::KeyParts {
        project: ProjectId::from_bytes([project; 16]),
        method: "GET",
        path,
        query: None,
        targets: &[],
        headers: &headers,
        body: b"",
    })
    .to_pingora()
}

fn rules() -> FillRules {
    FillRules {
        fresh_for: Duration::from_mins(1),
        age: Duration::ZERO,
        max_object_bytes: MIB,
        content_length: None,
        is_stream: false,
    }
}

fn span() -> SpanHandle {
    Span::inactive().handle()
}

async fn begin(store: &'static MemoryStore, key: &CacheKey, rules: FillRules) -> MissHandler {
    let header = ResponseHeader::build(200, None).unwrap();
    let mut meta = CacheMeta::new(UNIX_EPOCH, UNIX_EPOCH, 0, 0, header);
    meta.extensions_mut().insert(rules);
    store.get_miss_handler(key, &meta, &span()).await.unwrap()
}

async fn put(store: &'static MemoryStore, key: &CacheKey, body: impl Into<Bytes>, rules: FillRules) {
    let mut writer = begin(store, key, rules).await;
    writer.write_body(body.into(), true).await.unwrap();
    writer.finish().await.unwrap();
}

async fn read(hit: &mut HitHandler) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = hit.read_body().await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn get(store: &'static MemoryStore, key: &CacheKey) -> Option<Vec<u8>> {
    let (_, mut hit) = store.lookup(key, &span()).await.unwrap()?;
    Some(read(&mut hit).await.unwrap())
}

#[tokio::test]
async fn what_was_finished_is_found_until_it_expires() {
    let (store, clock) = store(4 * MIB, RunningFills::Private);
    let key = key(1, "/a");
    let aged = FillRules {
        age: Duration::from_secs(7),
        ..rules()
    };
    put(store, &key, "hello", aged).await;
    clock.advance(Duration::from_secs(59));
    let (meta, _) = store.lookup(&key, &span()).await.unwrap().unwrap();
    assert_eq!(meta.headers()["content-length"], "5");
    let wall = system_time(clock.now());
    assert_eq!(
        wall.duration_since(meta.created()).unwrap(),
        Duration::from_secs(66)
    );
    assert_eq!(
        meta.fresh_until().duration_since(wall).unwrap(),
        Duration::from_secs(1)
    );
    assert_eq!(get(store, &key).await.unwrap(), b"hello");
    clock.advance(Duration::from_secs(1));
    assert!(get(store, &key).await.is_none());
    assert_eq!(store.stats().entries, 0, "an expired entry is let go");
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_changes_nothing() {
    let (store, clock) = store(4 * MIB, RunningFills::Private);
    let key = key(1, "/a");
    put(store, &key, "hello", rules()).await;
    clock.jump_wall(Timestamp::from_micros(9_000_000_000_000_000));
    assert!(get(store, &key).await.is_some());
    clock.jump_wall(Timestamp::EPOCH);
    assert!(get(store, &key).await.is_some());
    clock.advance(Duration::from_secs(61));
    assert!(get(store, &key).await.is_none());
}

#[tokio::test]
async fn a_fill_that_is_dropped_cut_too_large_or_without_its_end_leaves_nothing() {
    let (store, _) = store(4 * MIB, RunningFills::Private);
    let dropped = key(1, "/dropped");
    let mut writer = begin(store, &dropped, rules()).await;
    writer.write_body("half".into(), false).await.unwrap();
    drop(writer);
    let cut = FillRules {
        content_length: Some(10),
        ..rules()
    };
    put(store, &key(1, "/cut"), "half", cut).await;
    put(store, &key(1, "/large"), vec![0; 2 << 20], rules()).await;
    let stream = FillRules {
        is_stream: true,
        ..rules()
    };
    put(store, &key(1, "/stream"), "data: {}\n\n", stream).await;
    for path in ["/dropped", "/cut", "/large", "/stream"] {
        assert!(get(store, &key(1, path)).await.is_none(), "{path}");
    }
    put(store, &key(1, "/whole"), "data: {}\n\ndata: [DONE]\n\n", stream).await;
    assert!(get(store, &key(1, "/whole")).await.is_some());
    let stats = store.stats();
    assert_eq!((stats.dropped, stats.stored), (4, 1));
    assert_eq!((stats.fills, stats.fill_bytes), (0, 0));
}

#[tokio::test]
async fn the_store_stays_within_its_bytes() {
    let (store, _) = store(8 * MIB, RunningFills::Private);
    for n in 0..400 {
        put(store, &key(1, &format!("/{n}")), vec![0; 64 * 1024], rules()).await;
    }
    let stats = store.stats();
    assert!(stats.bytes <= 8 * MIB, "{stats:?}");
    assert!(stats.entries > 60, "{stats:?}");
    assert_eq!(stats.entries + stats.evicted, 400);
    put(store, &key(1, "/largest"), vec![0; 1 << 20], rules()).await;
    assert!(get(store, &key(1, "/largest")).await.is_some());
}

#[tokio::test]
async fn too_many_bytes_in_fills_at_once_are_given_up() {
    let (store, _) = store(MIB, RunningFills::Private);
    let mut writers = Vec::new();
    for n in 0..4 {
        let mut writer = begin(store, &key(1, &format!("/{n}")), rules()).await;
        writer
            .write_body(vec![0; 400 * 1024].into(), false)
            .await
            .unwrap();
        writers.push(writer);
    }
    assert!(store.stats().fill_bytes <= MIB);
    drop(writers);
    assert_eq!(store.stats().fill_bytes, 0);
}

#[tokio::test]
async fn readers_of_a_shared_fill_get_all_of_it() {
    let (store, _) = store(4 * MIB, RunningFills::Shared);
    let key = key(1, "/a");
    let mut writer = begin(store, &key, rules()).await;
    writer.write_body("one ".into(), false).await.unwrap();
    let (_, mut early) = store.lookup(&key, &span()).await.unwrap().unwrap();
    let reading = crate::domain::spawn::spawn("reader", async move { read(&mut early).await.unwrap() });
    writer.write_body("two ".into(), false).await.unwrap();
    let (_, mut late) = store.lookup(&key, &span()).await.unwrap().unwrap();
    writer.write_body("three".into(), false).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(reading.await.unwrap(), b"one two three");
    assert_eq!(read(&mut late).await.unwrap(), b"one two three");
    assert_eq!(get(store, &key).await.unwrap(), b"one two three");
}

#[tokio::test]
async fn readers_of_a_fill_that_fails_get_an_error() {
    let (store, _) = store(4 * MIB, RunningFills::Shared);
    let key = key(1, "/a");
    let mut writer = begin(store, &key, rules()).await;
    writer.write_body("half".into(), false).await.unwrap();
    let (_, mut reader) = store.lookup(&key, &span()).await.unwrap().unwrap();
    assert_eq!(reader.read_body().await.unwrap().unwrap(), "half");
    drop(writer);
    assert!(reader.read_body().await.is_err());
    assert!(get(store, &key).await.is_none());
    assert!(store.running.lock().is_empty());
}

#[tokio::test]
async fn private_fills_are_not_read_by_others() {
    let (store, _) = store(4 * MIB, RunningFills::Private);
    let key = key(1, "/a");
    let mut writer = begin(store, &key, rules()).await;
    writer.write_body("half".into(), false).await.unwrap();
    assert!(store.lookup(&key, &span()).await.unwrap().is_none());
    assert!(!store.support_streaming_partial_write());
    writer.finish().await.unwrap();
    assert!(get(store, &key).await.is_some());
}

#[tokio::test]
async fn each_purge_removes_what_it_names() {
    let (store, _) = store(4 * MIB, RunningFills::Private);
    let project = |n: u8| ProjectId::from_bytes([n; 16]);
    let fill = async || {
        for (owner, path) in [(1, "/a"), (1, "/b"), (2, "/a")] {
            put(store, &key(owner, path), "x", rules()).await;
        }
    };
    fill().await;
    assert_eq!(store.purge_entries(&Purge::address("GET", "http://h/a", None)), 2);
    fill().await;
    assert_eq!(
        store.purge_entries(&Purge::address("get", "/a", Some(project(2)))),
        1
    );
    assert_eq!(store.purge_entries(&Purge::address("POST", "/a", None)), 0);
    fill().await;
    assert_eq!(store.purge_entries(&Purge::Project(project(1))), 2);
    fill().await;
    let shown_key = shown(&key(1, "/b").combined_bin());
    assert_eq!(
        store.purge_entries(&Purge::key_prefix(&shown_key[..20].to_uppercase())),
        1
    );
    assert!(get(store, &key(1, "/b")).await.is_none());
    assert_eq!(store.purge_entries(&Purge::All), 2);
    assert_eq!(store.stats().entries, 0);
}

#[tokio::test]
async fn what_was_being_filled_during_a_purge_is_not_stored() {
    let (store, _) = store(4 * MIB, RunningFills::Private);
    let key = key(1, "/a");
    let mut writer = begin(store, &key, rules()).await;
    writer.write_body("old".into(), false).await.unwrap();
    store.purge_entries(&Purge::All);
    writer.finish().await.unwrap();
    assert!(get(store, &key).await.is_none());
}

#[tokio::test]
async fn a_range_of_what_is_stored_can_be_read() {
    let (store, _) = store(4 * MIB, RunningFills::Private);
    let key = key(1, "/a");
    put(store, &key, "0123456789", rules()).await;
    let (_, mut hit) = store.lookup(&key, &span()).await.unwrap().unwrap();
    assert!(hit.can_seek());
    hit.seek(2, Some(5)).unwrap();
    assert_eq!(read(&mut hit).await.unwrap(), b"234");
    assert!(hit.seek(20, None).is_err());
}
