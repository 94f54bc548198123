use std::time::Duration;

use super::*;
use crate::domain::{ManualClock, Timestamp};
use bytes::Bytes;

const MIB: u64 = 1 << 20;

struct Kept {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
}

fn kept(max_bytes: u64) -> Kept {
    let clock = ManualClock::at(Timestamp::from_micros(1_000_000_000_000_000));
    Kept {
        store: Arc::new(MemoryStore::new(max_bytes, clock.clone())),
        clock,
    }
}

fn key(project: u8, path: &str) -> EntryKey {
    key_of("GET", project, path)
}

fn key_of(method: &str, project: u8, path: &str) -> EntryKey {
    EntryKey::of(&super::super::KeyParts {
        project: ProjectId::from_bytes([project; 16]),
        token: None,
        method,
        path,
        query: None,
        targets: &[],
        headers: &HeaderMap::new(),
        body: b"",
    })
}

fn storable() -> Storable {
    Storable {
        fresh_for: Duration::from_mins(1),
        age: Duration::ZERO,
        forced: None,
        vary: VaryNames::default(),
        is_stream: false,
        content_length: None,
    }
}

fn varying(names: &str) -> Storable {
    let mut answer = HeaderMap::new();
    answer.insert("vary", names.parse().unwrap());
    let super::super::vary::Vary::By(vary) = super::super::vary::Vary::of(&answer, true) else {
        panic!("anything");
    };
    Storable { vary, ..storable() }
}

fn speaking(language: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("accept-language", language.parse().unwrap());
    headers
}

fn head() -> ResponseHeader {
    ResponseHeader::build(200, None).unwrap()
}

impl Kept {
    fn begin(&self, key: &EntryKey, storable: &Storable) -> Writer {
        self.store.begin(key, &HeaderMap::new(), head(), storable, MIB)
    }

    fn put(&self, key: &EntryKey, body: impl Into<Bytes>, storable: &Storable) {
        let mut writer = self.begin(key, storable);
        writer.write(body.into());
        writer.finish();
    }

    fn put_for(&self, request: &HeaderMap, key: &EntryKey, body: &'static str, storable: &Storable) {
        let mut writer = self.store.begin(key, request, head(), storable, MIB);
        writer.write(body.into());
        writer.finish();
    }

    fn answer(&self, key: &EntryKey) -> Option<Arc<Answer>> {
        self.store.look(key, &HeaderMap::new()).answer
    }

    fn get(&self, key: &EntryKey) -> Option<Bytes> {
        self.answer(key).map(|answer| answer.body().clone())
    }
}

async fn read_all(mut reader: super::super::fill::FillReader) -> pingora_core::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = reader.read().await? {
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[test]
fn what_was_finished_is_found_until_it_expires() {
    let kept = kept(4 * MIB);
    let key = key(1, "/a");
    let aged = Storable {
        age: Duration::from_secs(7),
        ..storable()
    };
    kept.put(&key, "hello", &aged);
    kept.clock.advance(Duration::from_secs(59));
    let head = kept.answer(&key).unwrap().head(&*kept.clock);
    assert_eq!(
        (&head.headers["content-length"], &head.headers["age"]),
        (&"5".parse().unwrap(), &"66".parse().unwrap())
    );
    assert_eq!(kept.get(&key).unwrap(), "hello");
    kept.clock.advance(Duration::from_secs(1));
    assert_eq!(kept.get(&key), None);
    assert_eq!(kept.store.stats().entries, 0, "an expired entry is let go");
}

#[test]
fn what_can_be_asked_about_stays_when_it_expires() {
    let kept = kept(4 * MIB);
    for (method, stays) in [("GET", true), ("POST", false)] {
        let key = key_of(method, 1, "/a");
        let mut head = head();
        head.insert_header("etag", "\"v1\"").unwrap();
        let mut writer = kept.store.begin(&key, &HeaderMap::new(), head, &storable(), MIB);
        writer.write("hello".into());
        writer.finish();
        kept.clock.advance(Duration::from_mins(2));
        assert_eq!(kept.answer(&key).is_some(), stays, "{method}");
    }
}

#[test]
fn a_jump_of_the_wall_clock_changes_nothing() {
    let kept = kept(4 * MIB);
    let key = key(1, "/a");
    kept.put(&key, "hello", &storable());
    for jump in [Timestamp::from_micros(9_000_000_000_000_000), Timestamp::EPOCH] {
        kept.clock.jump_wall(jump);
        assert!(kept.get(&key).is_some());
    }
    kept.clock.advance(Duration::from_secs(61));
    assert!(kept.get(&key).is_none());
}

#[test]
fn a_fill_that_is_dropped_cut_too_large_or_without_its_end_leaves_nothing() {
    let kept = kept(4 * MIB);
    let mut writer = kept.begin(&key(1, "/dropped"), &storable());
    writer.write("half".into());
    drop(writer);
    let cut = Storable {
        content_length: Some(10),
        ..storable()
    };
    kept.put(&key(1, "/cut"), "half", &cut);
    kept.put(&key(1, "/large"), vec![0; 2 << 20], &storable());
    let stream = Storable {
        is_stream: true,
        ..storable()
    };
    kept.put(&key(1, "/stream"), "data: {}\n\n", &stream);
    for path in ["/dropped", "/cut", "/large", "/stream"] {
        assert!(kept.get(&key(1, path)).is_none(), "{path}");
    }
    kept.put(&key(1, "/whole"), "data: {}\n\ndata: [DONE]\n\n", &stream);
    assert!(kept.get(&key(1, "/whole")).is_some());
    let stats = kept.store.stats();
    assert_eq!((stats.dropped, stats.stored), (4, 1));
    assert_eq!((stats.fills, stats.fill_bytes), (0, 0));
}

#[test]
fn the_store_stays_within_its_bytes() {
    let kept = kept(8 * MIB);
    for n in 0..400 {
        kept.put(&key(1, &format!("/{n}")), vec![0; 64 * 1024], &storable());
    }
    let stats = kept.store.stats();
    assert!(stats.bytes <= 8 * MIB, "{stats:?}");
    assert!(stats.entries > 60, "{stats:?}");
    assert_eq!(stats.entries + stats.evicted, 400);
    kept.put(&key(1, "/largest"), vec![0; 1 << 20], &storable());
    assert!(kept.get(&key(1, "/largest")).is_some());
}

#[test]
fn too_many_bytes_in_fills_at_once_are_given_up() {
    let kept = kept(MIB);
    let mut writers = Vec::new();
    for n in 0..4 {
        let mut writer = kept.begin(&key(1, &format!("/{n}")), &storable());
        writer.write(vec![0; 400 * 1024].into());
        writer.write(vec![0; 400].into());
        writers.push(writer);
    }
    assert!(kept.store.stats().fill_bytes <= MIB + 400);
    assert!(writers.iter().any(|writer| !writer.is_kept()));
    drop(writers);
    assert_eq!(kept.store.stats().fill_bytes, 0);
}

#[tokio::test]
async fn readers_of_a_fill_get_all_of_it() {
    let kept = kept(4 * MIB);
    let key = key(1, "/a");
    let mut writer = kept.begin(&key, &storable());
    writer.write("one ".into());
    let early = crate::domain::spawn::spawn("reader", read_all(writer.fill().reader()));
    writer.write("two ".into());
    let late = writer.fill().reader();
    writer.write("three".into());
    writer.finish();
    assert_eq!(early.await.unwrap().unwrap(), b"one two three");
    assert_eq!(read_all(late).await.unwrap(), b"one two three");
    assert_eq!(kept.get(&key).unwrap(), "one two three");
}

#[tokio::test]
async fn readers_of_a_fill_that_fails_get_what_came_and_an_error() {
    let kept = kept(4 * MIB);
    for last_words in [None, Some(Bytes::from("event: error\n\n"))] {
        let key = key(1, "/a");
        let mut writer = kept.begin(&key, &storable());
        writer.write("half".into());
        let mut reader = writer.fill().reader();
        match last_words.clone() {
            None => drop(writer),
            words => writer.break_off(words),
        }
        assert_eq!(reader.read().await.unwrap().unwrap(), "half");
        if let Some(words) = last_words {
            assert_eq!(reader.read().await.unwrap().unwrap(), words);
        }
        assert!(reader.read().await.is_err());
        assert!(kept.get(&key).is_none());
    }
}

#[tokio::test]
async fn readers_of_what_is_too_large_to_be_kept_go_on_inside_a_window() {
    let kept = kept(64 * MIB);
    let mut writer = kept.begin(&key(1, "/large"), &storable());
    let mut quick = writer.fill().reader();
    let mut slow = writer.fill().reader();
    let mut read = 0;
    for _ in 0..40 {
        writer.write(vec![7; 100 * 1024].into());
        read += quick.read().await.unwrap().unwrap().len();
    }
    assert!(!writer.is_kept() && kept.store.stats().fill_bytes <= MIB);
    writer.finish();
    assert!(quick.read().await.unwrap().is_none(), "a clean end");
    assert_eq!(read, 40 * 100 * 1024);
    assert!(slow.read().await.is_err(), "it fell behind");
    assert_eq!(kept.store.stats().entries, 0);
}

#[test]
fn nothing_is_held_of_what_is_too_large_and_read_by_nobody() {
    let kept = kept(64 * MIB);
    let mut writer = kept.begin(&key(1, "/large"), &storable());
    for _ in 0..40 {
        writer.write(vec![7; 100 * 1024].into());
    }
    assert_eq!(kept.store.stats().fill_bytes, 0);
}

#[test]
fn answers_that_vary_are_found_by_who_asks_the_same() {
    let kept = kept(4 * MIB);
    let key = key(1, "/a");
    let (german, english) = (speaking("de"), speaking("en"));
    kept.put_for(&german, &key, "hallo", &varying("accept-language"));
    let found = |request: &HeaderMap| kept.store.look(&key, request);
    assert_eq!(found(&german).answer.unwrap().body(), "hallo");
    let none = found(&english);
    assert!(none.answer.is_none() && none.other_variants);
    kept.put_for(&english, &key, "hello", &varying("accept-language"));
    assert_eq!(found(&german).answer.unwrap().body(), "hallo");
    assert_eq!(found(&english).answer.unwrap().body(), "hello");
    // further fields: what is known of the former ones stays
    let mut strange = speaking("fr");
    strange.insert("x-strange", "1".parse().unwrap());
    kept.put_for(&strange, &key, "bonjour", &varying("x-strange, accept-language"));
    assert_eq!(found(&strange).answer.unwrap().body(), "bonjour");
    assert_eq!(found(&english).answer.unwrap().body(), "hello");
    assert_eq!(
        kept.store.purge_entries(&Purge::address("GET", "/a", None)),
        3,
        "all variants, and not what says which there are"
    );
    assert_eq!(kept.store.stats().entries, 0);
}

#[test]
fn each_purge_removes_what_it_names() {
    let kept = kept(4 * MIB);
    let store = &kept.store;
    let project = |n: u8| ProjectId::from_bytes([n; 16]);
    let fill = || {
        for (owner, path) in [(1, "/a"), (1, "/b"), (2, "/a")] {
            kept.put(&key(owner, path), "x", &storable());
        }
    };
    fill();
    assert_eq!(store.purge_entries(&Purge::address("GET", "http://h/a", None)), 2);
    fill();
    assert_eq!(
        store.purge_entries(&Purge::address("get", "/a", Some(project(2)))),
        1
    );
    assert_eq!(store.purge_entries(&Purge::address("POST", "/a", None)), 0);
    fill();
    assert_eq!(store.purge_entries(&Purge::Project(project(1))), 2);
    fill();
    let shown_key = shown(&key(1, "/b").hash);
    assert_eq!(
        store.purge_entries(&Purge::key_prefix(&shown_key[..20].to_uppercase())),
        1
    );
    assert!(kept.get(&key(1, "/b")).is_none());
    assert_eq!(store.purge_entries(&Purge::All), 2);
    assert_eq!(store.stats().entries, 0);
}

#[test]
fn what_was_being_filled_during_a_purge_is_not_stored() {
    let kept = kept(4 * MIB);
    let key = key(1, "/a");
    let mut writer = kept.begin(&key, &storable());
    writer.write("old".into());
    kept.store.purge_entries(&Purge::All);
    writer.finish();
    assert!(kept.get(&key).is_none());
}
