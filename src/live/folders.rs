//! Events of folders, where the system sends any.

#[cfg(target_os = "linux")]
pub(super) use linux::{Folders, Hints, watched_folders};
#[cfg(not(target_os = "linux"))]
pub(super) use nowhere::{Folders, Hints, watched_folders};

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;

    use futures_util::StreamExt as _;
    use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

    /// Bytes of events that are read at once.
    const BUFFER_BYTES: usize = 4096;

    /// The folders that send events.
    pub(in crate::live) struct Folders {
        watches: Option<Watches>,
        watched: BTreeMap<PathBuf, WatchDescriptor>,
    }

    /// What the folders send.
    pub(in crate::live) struct Hints(Option<EventStream<Vec<u8>>>);

    /// No folders yet. Without inotify nothing is ever sent, and a line of the log says so.
    pub(in crate::live) fn watched_folders() -> (Folders, Hints) {
        let opened = Inotify::init().and_then(|inotify| {
            let watches = inotify.watches();
            Ok((watches, inotify.into_event_stream(vec![0; BUFFER_BYTES])?))
        });
        let (watches, events) = opened
            .inspect_err(|error| log::warn!("cannot watch files, looking every two seconds instead: {error}"))
            .ok()
            .unzip();
        let folders = Folders {
            watches,
            watched: BTreeMap::new(),
        };
        (folders, Hints(events))
    }

    impl Folders {
        /// Watches these folders and no others.
        pub(in crate::live) fn watch(&mut self, wanted: BTreeSet<PathBuf>) {
            let Some(watches) = &mut self.watches else { return };
            let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.watched)
                .into_iter()
                .partition(|(folder, _)| wanted.contains(folder));
            self.watched = kept;
            for (_, watch) in gone {
                // two paths may lead to one folder, and a folder that is gone has lost its watch
                if !self.watched.values().any(|kept| *kept == watch) {
                    let _ = watches.remove(watch);
                }
            }
            let mask = WatchMask::CREATE
                | WatchMask::CLOSE_WRITE
                | WatchMask::MOVE
                | WatchMask::DELETE
                | WatchMask::ATTRIB
                | WatchMask::MOVE_SELF
                | WatchMask::DELETE_SELF
                | WatchMask::ONLYDIR;
            for folder in wanted {
                // Also those that are watched: another folder may have come into its place. One that cannot be
                // watched is tried again at the next look, which the poll does anyway.
                if let Ok(watch) = watches.add(&folder, mask)
                    && let Some(before) = self.watched.insert(folder, watch.clone())
                    && before != watch
                {
                    let _ = watches.remove(before);
                }
            }
        }
    }

    impl Hints {
        /// Waits for the next event. Nothing is lost when it is not waited for to the end.
        pub(in crate::live) async fn next(&mut self) {
            if let Some(events) = &mut self.0
                && events.next().await.is_some()
            {
                return;
            }
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod nowhere {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    pub(in crate::live) struct Folders;
    pub(in crate::live) struct Hints;

    pub(in crate::live) fn watched_folders() -> (Folders, Hints) {
        (Folders, Hints)
    }

    impl Folders {
        pub(in crate::live) fn watch(&mut self, _wanted: BTreeSet<PathBuf>) {}
    }

    impl Hints {
        pub(in crate::live) async fn next(&mut self) {
            std::future::pending::<()>().await;
        }
    }
}
