use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use parking_lot::Mutex;

use super::*;
use crate::config::{FileChoice, LoadRequest, load};
use crate::domain::SystemClock;
use crate::live::watch;

/// A configuration on disk and a reloader whose snapshot is the number of retries.
struct Bench {
    folder: tempfile::TempDir,
    reloader: Arc<Reloader<u32>>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    /// What somebody writes to the file right after the next reading.
    written_after_reading: Arc<Mutex<Option<String>>>,
}

fn loader(folder: &Path) -> Loader {
    let folder = folder.to_owned();
    Box::new(move || {
        let env = BTreeMap::from([
            (
                "MANAGEMENT_TOKEN".to_owned(),
                "a-management-token-for-tests".to_owned(),
            ),
            (
                "DATABASE_PATH".to_owned(),
                folder.join("state/x.db").display().to_string(),
            ),
        ]);
        let file = FileChoice::Path("edge.yaml".into());
        load(&LoadRequest {
            file,
            env: &env,
            cwd: folder.clone(),
            needs_management_token: true,
        })
    })
}

impl Bench {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        prepare(folder.path());
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&outcomes);
        let first = loader(folder.path())().unwrap();
        let builder: Builder<u32> = Box::new(|settings, before| match settings.router.retries {
            13 => Err("13 brings bad luck".to_owned()),
            retries => Ok(retries + before.map_or(0, |before| (**before % 100) * 100)),
        });
        let observer: Observer = Box::new(move |outcome| heard.lock().push(outcome.clone()));
        let written_after_reading = Arc::new(Mutex::new(None::<String>));
        let (read, text, path) = (
            loader(folder.path()),
            Arc::clone(&written_after_reading),
            folder.path().join("edge.yaml"),
        );
        let reading: Loader = Box::new(move || {
            let loaded = read();
            if let Some(text) = text.lock().take() {
                std::fs::write(&path, text).unwrap();
            }
            loaded
        });
        let reloader = Reloader::start(first, reading, builder, observer, SystemClock::shared()).unwrap();
        Self {
            folder,
            reloader: Arc::new(reloader),
            outcomes,
            written_after_reading,
        }
    }

    fn plain(yaml: &str) -> Self {
        Self::new(|folder| std::fs::write(folder.join("edge.yaml"), yaml).unwrap())
    }

    fn write(&self, yaml: &str) {
        std::fs::write(self.folder.path().join("edge.yaml"), yaml).unwrap();
    }

    /// Runs the watcher while `act` changes files, until the last outcome is as wanted.
    async fn watched(&self, wanted: impl Fn(&Outcome) -> bool, act: impl AsyncFnOnce()) {
        let watching = watch::run(Arc::clone(&self.reloader), std::future::pending());
        let acting = async {
            act().await;
            while !wanted(&self.reloader.last_outcome()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), async {
            tokio::select! {
                () = watching => {}
                () = acting => {}
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_good_file_is_swapped_in_and_reported_everywhere() {
    let bench = Bench::plain("router: {retries: 1}\n");
    let state = bench.folder.path().join("state");
    assert_eq!(read_result(&state).unwrap().trigger, Trigger::Start);
    bench.write("router: {retries: 2}\nserver: {threads: 3}\n");
    let outcome = bench.reloader.reload(Trigger::Signal).await;
    assert!(outcome.ok);
    assert_eq!(outcome.changed, ["router.retries", "server.threads"]);
    assert_eq!(outcome.process_only, ["server.threads"]);
    assert_eq!((outcome.sequence, outcome.generation), (2, 2));
    assert_eq!(*bench.reloader.live().snapshot(), 102);
    assert_eq!(read_result(&state).unwrap(), *outcome);
    assert_eq!(bench.outcomes.lock().len(), 1);
    assert_eq!(*bench.reloader.last_outcome(), *outcome);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_line_and_column() {
    let bench = Bench::plain("router: {retries: 1}\n");
    bench.write("router:\n  retires: 2\n");
    let outcome = bench.reloader.reload(Trigger::Api).await;
    assert!(!outcome.ok);
    let error = outcome.error.as_ref().unwrap();
    assert!(
        error.starts_with("edge.yaml:2:3: unknown key `retires` in `router`; did you mean `retries`?"),
        "{error}"
    );
    assert_eq!(
        (outcome.faults[0].line, outcome.faults[0].column),
        (Some(2), Some(3))
    );
    assert_eq!(
        (
            *bench.reloader.live().snapshot(),
            bench.reloader.live().generation()
        ),
        (1, 1)
    );
    assert_eq!(bench.reloader.running().settings.router.retries, 1);
    bench.write("router: {retries: 13}\n");
    let outcome = bench.reloader.reload(Trigger::Api).await;
    assert_eq!(outcome.error.as_deref(), Some("13 brings bad luck"));
    assert_eq!(bench.reloader.running().settings.router.retries, 1);
}

#[tokio::test]
async fn a_key_that_needs_a_new_process_is_named_at_every_reload() {
    let bench = Bench::plain("server: {listen: ':1'}\n");
    bench.write("server: {listen: ':2'}\n");
    for _ in 0..2 {
        let outcome = bench.reloader.reload(Trigger::Signal).await;
        assert_eq!(outcome.process_only, ["server.listen"]);
        assert_eq!(bench.reloader.running().settings.server.listen[0].port, 1);
    }
}

#[tokio::test]
async fn a_write_in_place_is_noticed() {
    let bench = Bench::plain("router: {retries: 1}\n");
    bench
        .watched(
            |last| last.sequence == 2,
            async || bench.write("router: {retries: 3}\n"),
        )
        .await;
    assert_eq!(*bench.reloader.live().snapshot(), 103);
}

#[tokio::test]
async fn a_rename_over_the_file_is_noticed_twice() {
    let bench = Bench::plain("router: {retries: 1}\n");
    let replace = |yaml: &str| {
        let beside = bench.folder.path().join("beside");
        std::fs::write(&beside, yaml).unwrap();
        std::fs::rename(&beside, bench.folder.path().join("edge.yaml")).unwrap();
    };
    bench
        .watched(
            |last| last.sequence == 2,
            async || replace("router: {retries: 2}\n"),
        )
        .await;
    bench
        .watched(
            |last| last.sequence == 3,
            async || replace("router: {retries: 4}\n"),
        )
        .await;
    assert_eq!(bench.reloader.running().settings.router.retries, 4);
}

#[tokio::test]
async fn a_swapped_symlink_two_folders_away_is_noticed() {
    let bench = Bench::new(|folder| {
        for (name, retries) in [("..1", 1), ("..2", 5)] {
            std::fs::create_dir(folder.join(name)).unwrap();
            std::fs::write(
                folder.join(name).join("edge.yaml"),
                format!("router: {{retries: {retries}}}\n"),
            )
            .unwrap();
        }
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/edge.yaml", folder.join("edge.yaml")).unwrap();
    });
    bench
        .watched(
            |last| last.sequence == 2,
            async || {
                symlink("..2", bench.folder.path().join("..new")).unwrap();
                std::fs::rename(
                    bench.folder.path().join("..new"),
                    bench.folder.path().join("..data"),
                )
                .unwrap();
            },
        )
        .await;
    assert_eq!(bench.reloader.running().settings.router.retries, 5);
}

#[tokio::test]
async fn a_secret_file_that_appears_mends_a_refused_configuration() {
    let bench = Bench::plain("router: {retries: 1}\n");
    bench
        .watched(
            |last| !last.ok,
            async || {
                bench.write("router: {retries: 2}\nproviders: {openai: {api_key: '${file:secrets/key}'}}\n");
            },
        )
        .await;
    bench
        .watched(
            |last| last.ok,
            async || {
                std::fs::create_dir(bench.folder.path().join("secrets")).unwrap();
                std::fs::write(bench.folder.path().join("secrets/key"), "sk-x").unwrap();
            },
        )
        .await;
    let outcome = bench.reloader.last_outcome();
    assert!(outcome.ok, "{outcome:?}");
    assert_eq!(outcome.changed, ["providers.openai.api_key", "router.retries"]);
}

#[tokio::test]
async fn a_touched_file_is_no_event() {
    let bench = Bench::plain("router: {retries: 1}\n");
    bench.write("router: {retries: 1}\n");
    let outcome = bench.reloader.reload(Trigger::Watch).await;
    assert_eq!((outcome.sequence, bench.outcomes.lock().len()), (1, 0));
    let outcome = bench.reloader.reload(Trigger::Signal).await;
    assert_eq!((outcome.sequence, outcome.generation), (2, 2));
}

#[tokio::test]
async fn a_file_that_is_written_while_it_is_read_is_read_again() {
    let bench = Bench::plain("router: {retries: 1}\n");
    for (half, whole, retries) in [
        ("", "router: {retries: 3}\n", 3),
        ("router: {}\n", "router: {retries: 5}\n", 5),
    ] {
        bench.write(half);
        *bench.written_after_reading.lock() = Some(whole.to_owned());
        let outcome = bench.reloader.reload(Trigger::Api).await;
        assert!(outcome.ok, "{outcome:?}");
        assert_eq!(bench.reloader.running().settings.router.retries, retries);
    }
}

#[tokio::test]
async fn a_file_that_stays_empty_is_meant_so() {
    let bench = Bench::plain("router: {retries: 1}\n");
    bench.write("");
    assert!(bench.reloader.reload(Trigger::Api).await.ok);
    assert_eq!(bench.reloader.running().settings.router.retries, 2, "the default");
}
