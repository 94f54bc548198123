//! Reads the configuration again and swaps the snapshot, or changes nothing and says why.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::Live;
use super::watch::fingerprint;
use crate::config::history::History;
use crate::config::{ConfigErrors, Fault, Loaded, Settings, diff};
use crate::domain::{Clock, Timestamp};

/// Longest reload; a file system that hangs is a failed reload.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a file that changes while it is read is read again, and the pause before.
const READINGS: usize = 10;
const REST: Duration = Duration::from_millis(50);
/// The file in `server.state_dir` that holds the last outcome.
const RESULT_FILE: &str = "reload-result.json";

/// What asked for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The process started.
    Start,
    /// A watched file changed.
    Watch,
    /// SIGHUP.
    Signal,
    /// `POST /manage/config/reload`.
    Api,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Counts the attempts of this process, from 1 at its start.
    pub sequence: u64,
    /// The process.
    pub pid: u32,
    /// What asked for it.
    pub trigger: Trigger,
    /// When it ended.
    pub time: Timestamp,
    /// Whether the new configuration is in force.
    pub ok: bool,
    /// The generation now in force.
    pub generation: u64,
    /// Every fault, with line and column, as a text of one or more lines.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The faults one by one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub faults: Vec<Fault>,
    /// Keys that changed.
    #[serde(default)]
    pub changed: Vec<String>,
    /// Keys whose change needs a new process; their running value holds.
    #[serde(default)]
    pub process_only: Vec<String>,
}

/// Builds a snapshot out of settings, with the one before to carry state over. Runs where it may block.
pub type Builder<S> = Box<dyn Fn(&Settings, Option<&Arc<S>>) -> Result<S, String> + Send + Sync>;
/// Reads and checks the configuration. Runs where it may block.
pub type Loader = Box<dyn Fn() -> Result<Loaded, ConfigErrors> + Send + Sync>;
/// Hears of every outcome but the first, for metrics and audit.
pub type Observer = Box<dyn Fn(&Outcome) + Send + Sync>;

/// The one place where configurations are swapped.
pub struct Reloader<S> {
    live: Arc<Live<S>>,
    loader: Loader,
    builder: Builder<S>,
    observer: Observer,
    clock: Arc<dyn Clock>,
    running: ArcSwap<Loaded>,
    last: ArcSwap<Outcome>,
    watched: ArcSwap<Vec<PathBuf>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

/// What a good reload brings.
struct Fresh<S> {
    loaded: Loaded,
    snapshot: Option<Arc<S>>,
    diff: crate::config::Diff,
}

/// Why a reload was refused.
struct Refused {
    text: String,
    faults: Vec<Fault>,
    watched_files: Option<Vec<PathBuf>>,
}

impl<S: Send + Sync + 'static> Reloader<S> {
    /// Builds the first snapshot out of `first` and writes the first outcome to its state directory, over
    /// whatever a process before left there.
    ///
    /// # Errors
    /// What the builder says.
    pub fn start(
        first: Loaded,
        loader: Loader,
        builder: Builder<S>,
        observer: Observer,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let live = Arc::new(Live::new(builder(&first.settings, None)?));
        let outcome = Outcome {
            sequence: 1,
            pid: std::process::id(),
            trigger: Trigger::Start,
            time: clock.now(),
            ok: true,
            generation: live.generation(),
            error: None,
            faults: Vec::new(),
            changed: Vec::new(),
            process_only: Vec::new(),
        };
        write_result(&first.settings.server.state_dir, &outcome);
        Ok(Self {
            live,
            loader,
            builder,
            observer,
            clock,
            watched: ArcSwap::from_pointee(first.watched_files.clone()),
            running: ArcSwap::from_pointee(first),
            last: ArcSwap::from_pointee(outcome),
            one_at_a_time: tokio::sync::Mutex::new(()),
        })
    }

    /// The handle that requests take their snapshot from.
    pub fn live(&self) -> &Arc<Live<S>> {
        &self.live
    }

    /// The configuration in force, keys that need a new process at their running values.
    pub fn running(&self) -> Arc<Loaded> {
        self.running.load_full()
    }

    /// How the last attempt ended.
    pub fn last_outcome(&self) -> Arc<Outcome> {
        self.last.load_full()
    }

    /// The files whose change asks for a reload; after a failure also those that the bad file named.
    pub fn watched_files(&self) -> Arc<Vec<PathBuf>> {
        self.watched.load_full()
    }

    /// Reads, checks and swaps; a reload that is asked for meanwhile waits and then reads again.
    pub async fn reload(self: &Arc<Self>, trigger: Trigger) -> Arc<Outcome> {
        let _turn = self.one_at_a_time.lock().await;
        let before = self.running();
        let me = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || me.read_and_build(trigger));
        let result = match tokio::time::timeout(TIMEOUT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Refused::because(
                "the configuration could not be read: the reader panicked",
            )),
            Err(_) => Err(Refused::because(
                "the configuration could not be read within 30 seconds",
            )),
        };
        let previous = self.last_outcome();
        let is_noise = trigger == Trigger::Watch && previous.ok;
        match result {
            // WHY: a file that was touched, or other files of a swapped folder, are no event.
            Ok(fresh) if fresh.snapshot.is_none() && is_noise => previous,
            Ok(fresh) => self.accept(trigger, fresh, &before).await,
            Err(refused) => self.refuse(trigger, refused).await,
        }
    }

    fn read_and_build(&self, trigger: Trigger) -> Result<Fresh<S>, Refused> {
        let read = self.read_at_rest().map_err(|errors| Refused {
            text: errors.to_string(),
            watched_files: Some(errors.watched_files),
            faults: errors.faults,
        })?;
        let running = self.running();
        let diff = diff(&running, &read);
        let loaded = read.pinned_to(&running).map_err(|errors| Refused {
            text: format!("with the values that need a new process left as they are: {errors}"),
            faults: errors.faults,
            watched_files: Some(read.watched_files.clone()),
        })?;
        // WHY: what stands in certificates and price tables shows in no key.
        let has_files = loaded.settings.prices.file.is_some()
            || loaded
                .settings
                .providers
                .iter()
                .any(|provider| provider.ca_file.is_some());
        let unchanged = diff.is_empty() && trigger == Trigger::Watch && !has_files;
        let snapshot = if unchanged {
            None
        } else {
            let built = (self.builder)(&loaded.settings, Some(&self.live.snapshot()));
            Some(Arc::new(built.map_err(|text| Refused {
                text,
                faults: Vec::new(),
                watched_files: Some(read.watched_files.clone()),
            })?))
        };
        Ok(Fresh {
            loaded,
            snapshot,
            diff,
        })
    }

    /// Reads again while a file changes under the reading: an editor that writes in place leaves an empty or half
    /// a file for a moment, which may be a valid one. A file that stays empty for all the readings is meant so.
    fn read_at_rest(&self) -> Result<Loaded, ConfigErrors> {
        let prints = || -> Vec<_> { self.watched.load().iter().map(|file| fingerprint(file)).collect() };
        for _ in 0..READINGS {
            let before = prints();
            let read = (self.loader)();
            let is_empty = before.iter().flatten().any(|(_, _, size, ..)| *size == 0);
            if !is_empty && before == prints() {
                return read;
            }
            std::thread::sleep(REST);
        }
        (self.loader)()
    }

    async fn accept(&self, trigger: Trigger, fresh: Fresh<S>, before: &Loaded) -> Arc<Outcome> {
        let Fresh {
            loaded,
            snapshot,
            diff,
        } = fresh;
        let new_warnings: Vec<&String> = loaded
            .warnings
            .iter()
            .filter(|warning| !before.warnings.contains(warning))
            .collect();
        for warning in new_warnings {
            log::warn!("configuration: {warning}");
        }
        self.watched.store(Arc::new(loaded.watched_files.clone()));
        self.running.store(Arc::new(loaded));
        let generation = match snapshot {
            Some(snapshot) => self.live.swap(snapshot),
            None => self.live.generation(),
        };
        log::info!(
            generation, changed = diff.changed.join(" ");
            "configuration reloaded, {} keys changed", diff.changed.len()
        );
        for key in &diff.process_only {
            log::warn!(key = key.as_str(); "`{key}` changed and needs a new process; the running value holds");
        }
        self.report(self.outcome(trigger, true, None, Vec::new(), diff))
            .await
    }

    async fn refuse(&self, trigger: Trigger, refused: Refused) -> Arc<Outcome> {
        if let Some(mut files) = refused.watched_files {
            files.extend(self.running().watched_files.iter().cloned());
            files.sort();
            files.dedup();
            self.watched.store(Arc::new(files));
        }
        log::error!("configuration refused, the running one stays:\n{}", refused.text);
        let nothing = crate::config::Diff::default();
        self.report(self.outcome(trigger, false, Some(refused.text), refused.faults, nothing))
            .await
    }

    fn outcome(
        &self,
        trigger: Trigger,
        ok: bool,
        error: Option<String>,
        faults: Vec<Fault>,
        diff: crate::config::Diff,
    ) -> Outcome {
        Outcome {
            sequence: self.last.load().sequence + 1,
            pid: std::process::id(),
            trigger,
            time: self.clock.now(),
            ok,
            generation: self.live.generation(),
            error,
            faults,
            changed: diff.changed,
            process_only: diff.process_only,
        }
    }

    async fn report(&self, outcome: Outcome) -> Arc<Outcome> {
        let outcome = Arc::new(outcome);
        self.last.store(Arc::clone(&outcome));
        (self.observer)(&outcome);
        let running = self.running.load_full();
        let written = Arc::clone(&outcome);
        let write = tokio::task::spawn_blocking(move || {
            if written.ok {
                keep(&running, written.time);
            }
            write_result(&running.settings.server.state_dir, &written);
        });
        let _ = tokio::time::timeout(TIMEOUT, write).await;
        outcome
    }
}

impl Refused {
    fn because(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            faults: Vec::new(),
            watched_files: None,
        }
    }
}

/// Where a process with this state directory writes its outcomes.
pub fn result_file(state_dir: &Path) -> PathBuf {
    state_dir.join(RESULT_FILE)
}

/// The last outcome that a process with this state directory wrote.
pub fn read_result(state_dir: &Path) -> Option<Outcome> {
    let text = std::fs::read(result_file(state_dir)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes beside and renames, so that a reader sees the old or the new outcome, never half of one.
/// Keeps a copy of the configuration that takes force, for `config diff` and `config rollback`. May block.
pub fn keep(running: &Loaded, now: Timestamp) {
    if running.path.is_none() {
        return;
    }
    let state_dir = &running.settings.server.state_dir;
    if let Err(error) = History::in_state_dir(state_dir).keep(&running.text, now) {
        log::warn!(
            "no copy of the configuration is kept in `{}`: {error}",
            state_dir.display()
        );
    }
}

fn write_result(state_dir: &Path, outcome: &Outcome) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(outcome)?;
        let beside = state_dir.join(format!(".{RESULT_FILE}.{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        std::io::Write::write_all(&mut file, &text)?;
        std::fs::rename(&beside, result_file(state_dir))
    };
    if let Err(error) = write() {
        log::warn!(
            "cannot write the result of the reload to `{}`: {error}",
            state_dir.display()
        );
    }
}

#[cfg(test)]
mod tests;
