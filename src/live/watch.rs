//! Asks for a reload when a configuration file changes, however it changes.
//!
//! Editors rename over a file, Kubernetes swaps a symlink two folders away, network file systems send no events.
//! So events of the folders are only a hint to look at once, and a look every two seconds needs no hint: what
//! decides is whether device, inode, size or times of a file differ from what they were before the last reload.
//!
//! A write to a file that stays open is no hint: logs and the database may lie in the same folder, and each of their
//! lines would wake us.

use std::collections::BTreeSet;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::folders::{Folders, Hints, watched_folders};
use super::reload::{Reloader, Trigger};

/// Quiet time after the last event before the file is read.
const QUIET: Duration = Duration::from_millis(100);
/// Most events that are waited out.
const MOST_EVENTS: usize = 10;
/// How often the files are looked at without an event.
const POLL: Duration = Duration::from_secs(2);
/// Longest chain of symlinks followed.
const MOST_LINKS: usize = 16;

/// Device, inode, size, modification and change time; `None` when there is no file.
pub(super) type Fingerprint = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// Watches the files of `reloader` until `stop` ends.
pub async fn run<S: Send + Sync + 'static>(
    reloader: Arc<Reloader<S>>,
    stop: impl Future<Output = ()> + Send,
) {
    let (mut folders, mut hints) = watched_folders();
    let mut seen = look(&reloader.watched_files(), &mut folders).await;
    // WHY: an edit between the start of the process and this first look would never be seen as a change.
    reloader.reload(Trigger::Watch).await;
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = poll.tick() => {}
            () = hints.next() => wait_for_quiet(&mut hints).await,
        }
        let before = look(&reloader.watched_files(), &mut folders).await;
        if before != seen {
            let outcome = reloader.reload(Trigger::Watch).await;
            let after = look(&reloader.watched_files(), &mut folders).await;
            seen = after
                .into_iter()
                .map(|(path, print)| remember(path, print, &before, outcome.ok))
                .collect();
        }
    }
}

/// What is remembered of a file after a reload: how it was before it was read. One that the reload brought counts
/// as never seen, so that it is read once more; not so after a failure, which would only be told twice.
fn remember(
    path: PathBuf,
    print: Fingerprint,
    before: &[(PathBuf, Fingerprint)],
    reloaded: bool,
) -> (PathBuf, Fingerprint) {
    let unknown = if reloaded { None } else { print };
    let known = before
        .iter()
        .find(|(other, _)| *other == path)
        .map(|(_, print)| *print);
    (path, known.unwrap_or(unknown))
}

async fn wait_for_quiet(hints: &mut Hints) {
    for _ in 0..MOST_EVENTS {
        if tokio::time::timeout(QUIET, hints.next()).await.is_err() {
            return;
        }
    }
}

/// The fingerprints of all files; their folders are watched from now on.
async fn look(files: &Arc<Vec<PathBuf>>, folders: &mut Folders) -> Vec<(PathBuf, Fingerprint)> {
    let files = Arc::clone(files);
    let work = tokio::task::spawn_blocking(move || {
        let prints: Vec<_> = files
            .iter()
            .map(|file| (file.clone(), fingerprint(file)))
            .collect();
        let folders: BTreeSet<PathBuf> = files.iter().flat_map(|file| folders_of(file)).collect();
        (prints, folders)
    });
    match work.await {
        Ok((prints, wanted)) => {
            folders.watch(wanted);
            prints
        }
        Err(_) => Vec::new(),
    }
}

/// What tells whether a file changed.
pub(super) fn fingerprint(file: &Path) -> Fingerprint {
    let data = std::fs::metadata(file).ok()?;
    Some((
        data.dev(),
        data.ino(),
        data.size(),
        data.mtime(),
        data.mtime_nsec(),
        data.ctime(),
        data.ctime_nsec(),
    ))
}

/// The folder of a file, and those of every symlink on the way to it.
fn folders_of(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut waiting = vec![file.to_owned()];
    let mut links = 0;
    while let Some(path) = waiting.pop() {
        for part in path.ancestors() {
            let Some(folder) = part.parent() else { continue };
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            if part == path {
                folders.insert(folder.to_owned());
            }
            if let Ok(target) = std::fs::read_link(part) {
                folders.insert(folder.to_owned());
                links += 1;
                if links <= MOST_LINKS {
                    let below = path.strip_prefix(part).unwrap_or(Path::new(""));
                    let next = folder.join(target);
                    waiting.push(if below.as_os_str().is_empty() {
                        next
                    } else {
                        next.join(below)
                    });
                }
                break;
            }
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_on_the_way_through_symlinks_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("releases/1")).unwrap();
        std::fs::create_dir(root.join("conf")).unwrap();
        std::fs::write(root.join("releases/1/edge.yaml"), "").unwrap();
        std::os::unix::fs::symlink("1", root.join("releases/current")).unwrap();
        std::os::unix::fs::symlink("../releases/current/edge.yaml", root.join("conf/edge.yaml")).unwrap();
        let found = folders_of(&root.join("conf/edge.yaml"));
        let ends = |end: &str| found.iter().any(|folder| folder.ends_with(end));
        assert!(ends("conf") && ends("releases") && ends("1"), "{found:?}");
    }

    #[test]
    fn a_circle_of_symlinks_ends() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("b", root.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", root.path().join("b")).unwrap();
        assert!(folders_of(&root.path().join("a")).len() < 40);
    }
}
