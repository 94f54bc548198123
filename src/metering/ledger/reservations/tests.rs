use super::*;

fn reserved(n: u8) -> Reserved {
    Reserved {
        record_id: format!("01J00000000000000000000{n:03}").parse().unwrap(),
        request_id: format!("r{n}"),
        project_id: ProjectId::from_bytes([1; 16]),
        token_id: TokenId::from_bytes([n; 16]),
        endpoint: "/v1/chat/completions".to_owned(),
        model: "gpt-4o".to_owned(),
        provider: "openai".to_owned(),
        received_at: Timestamp::from_micros(1_800_000_000_000_000),
        amount: NanoUsd::from_nanos(i64::from(n)),
    }
}

fn start(folder: &Path) -> (Reservations, Left) {
    Reservations::start(folder, || true)
}

fn ids(left: &Left) -> Vec<RecordId> {
    left.records.iter().map(|record| record.record_id).collect()
}

#[tokio::test]
async fn what_is_open_when_the_process_dies_becomes_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let (log, left) = start(folder.path());
    assert!(left.records.is_empty());
    let (one, two, three) = (reserved(1), reserved(2), reserved(3));
    let first = log.open(one.clone()).await.unwrap();
    let second = log.open(two.clone()).await.unwrap();
    let third = log.open(three.clone()).await.unwrap();
    let more = Reserved {
        amount: NanoUsd::from_nanos(99),
        ..two.clone()
    };
    log.write(more).await.unwrap();
    drop(first);
    // whatever is opened later is written later
    let fourth = log.open(reserved(4)).await.unwrap();
    for guard in [second, third, fourth] {
        std::mem::forget(guard);
    }
    let (_, left) = start(folder.path());
    assert_eq!(
        ids(&left),
        [two.record_id, three.record_id, reserved(4).record_id]
    );
    let record = &left.records[0];
    assert_eq!(
        (record.cost.nanos(), record.estimated, record.cut),
        (99, true, true)
    );
    assert_eq!(record.attempts[0].cost_nano_usd, 99);
    assert_eq!(record.finished_at, two.received_at);
    // the next one dies before the records are safe
    let (_, again) = start(folder.path());
    assert_eq!(ids(&again), ids(&left));
    again.forget();
    assert!(start(folder.path()).1.records.is_empty());
}

#[tokio::test]
async fn who_leaves_before_the_line_is_written_leaves_nothing_open() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = start(folder.path());
    for n in 1..=3 {
        let mut leaving = Box::pin(log.open(reserved(n)));
        let is_pending = std::future::poll_fn(|context| {
            std::task::Poll::Ready(leaving.as_mut().poll(context).is_pending())
        });
        assert!(is_pending.await);
        // its line is still to be handed over: that it is closed comes first
        drop(leaving);
    }
    std::mem::forget(log.open(reserved(9)).await.unwrap());
    drop(log.open(reserved(10)).await.unwrap());
    log.write(reserved(9)).await.unwrap();
    let (_, left) = start(folder.path());
    assert_eq!(ids(&left), [reserved(9).record_id]);
}

#[tokio::test]
async fn a_line_that_was_not_finished_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = start(folder.path());
    std::mem::forget(log.open(reserved(1)).await.unwrap());
    let path = folder.path().join("reservations.jsonl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], b"{\"open\":{\"record_id\":\"01J"].concat()).unwrap();
    let (_, left) = start(folder.path());
    assert_eq!(ids(&left), [reserved(1).record_id]);
}

#[tokio::test]
async fn the_file_stays_short_and_keeps_what_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = start(folder.path());
    let kept = log.open(reserved(1)).await.unwrap();
    let path = folder.path().join("reservations.jsonl");
    for _ in 0..200 {
        drop(log.open(reserved(2)).await.unwrap());
        assert!(std::fs::metadata(&path).unwrap().len() < REWRITE_ABOVE_BYTES + 1024);
    }
    std::mem::forget(kept);
    std::mem::forget(log.open(reserved(3)).await.unwrap());
    let (_, left) = start(folder.path());
    assert_eq!(ids(&left), [reserved(1).record_id, reserved(3).record_id]);
}

#[tokio::test]
async fn what_cannot_be_read_stays_and_the_rest_is_charged() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = start(folder.path());
    std::mem::forget(log.open(reserved(1)).await.unwrap());
    // a folder can be opened, not read
    let aside = folder.path().join("reservations.replay.jsonl");
    std::fs::create_dir(&aside).unwrap();
    for _ in 0..2 {
        let (_, left) = start(folder.path());
        assert_eq!(ids(&left), [reserved(1).record_id]);
        left.forget();
        assert!(aside.exists());
    }
}

#[tokio::test]
async fn a_broken_disk_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = start(&folder.path().join("missing"));
    let error = log.open(reserved(1)).await.unwrap_err();
    assert!(error.to_string().contains("reservations.jsonl"), "{error}");
}
