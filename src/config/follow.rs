//! Following the folder: waking up when something changes, and when it may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::{Problem, Severity, Source};
use crate::anchors::ConfigMaps;
use crate::issuer::IssuerSet;
use crate::sync::lock;

/// How often the folder is read though nothing was heard of it.
const POLL: Duration = Duration::from_secs(60);

/// A change is over when nothing was heard for so long.
const QUIET: Duration = Duration::from_millis(100);

/// Changes that never end are looked at after so many times [`QUIET`].
const MOST_PATIENCE: u32 = 5;

/// Brings everything up to date at each change, until nobody looks at the issuers.
pub(super) async fn follow(
    mut source: Source,
    issuers: watch::Sender<Arc<IssuerSet>>,
    config_maps: watch::Sender<Arc<ConfigMaps>>,
    problems: watch::Sender<Vec<Problem>>,
) {
    let dir = source.folder.dir.clone();
    let changes = Arc::new(Notify::new());
    let mut watches = Watches::new(Arc::clone(&changes));
    loop {
        let refreshed = tokio::task::spawn_blocking(move || {
            let refreshed = refresh(&mut source, &mut watches);
            (source, watches, refreshed)
        });
        let (set, said);
        match refreshed.await {
            Ok(refreshed) => (source, watches, (set, said)) = refreshed,
            Err(error) => {
                // Else the runtime shuts down.
                if error.is_panic() {
                    problems.send_modify(|problems| problems.push(broken_down(&dir)));
                }
                return;
            }
        }
        make_known(set, said, &issuers, &problems);
        let now = source.config_maps();
        config_maps.send_if_modified(|before| {
            let differ = **before != now;
            *before = Arc::new(now);
            differ
        });
        tokio::select! {
            () = settled(&changes) => {}
            () = tokio::time::sleep(POLL) => {}
            () = issuers.closed() => return,
        }
    }
}

fn broken_down(dir: &Path) -> Problem {
    let message = "reading this folder broke down, and its changes are not seen any more: \
                   restart certmount, and report this";
    Problem::in_file(dir, Severity::Error, message.to_owned())
}

/// Returns some time after a change, so that one change of several steps is read once.
async fn settled(changes: &Notify) {
    changes.notified().await;
    for _ in 0..MOST_PATIENCE {
        if timeout(QUIET, changes.notified()).await.is_err() {
            return;
        }
    }
}

/// Reads the folder, and again where a change could have slipped by before it was watched.
fn refresh(source: &mut Source, watches: &mut Watches) -> (IssuerSet, Vec<Problem>) {
    watches.update(&source.folder.dir, &source.assembler.files());
    let (mut set, mut problems) = source.refresh();
    if watches.update(&source.folder.dir, &source.assembler.files()) {
        (set, problems) = source.refresh();
    }
    problems.extend(watches.problem(&source.folder.dir));
    (set, problems)
}

/// Passes on what was read, and wakes whom it makes a difference for.
pub(super) fn make_known(
    set: IssuerSet,
    said: Vec<Problem>,
    issuers: &watch::Sender<Arc<IssuerSet>>,
    problems: &watch::Sender<Vec<Problem>>,
) {
    problems.send_if_modified(|before| {
        let differ = *before != said;
        *before = said;
        differ
    });
    issuers.send_if_modified(|before| {
        let differ = !same(before, &set);
        *before = Arc::new(set);
        differ
    });
}

/// Whether volumes would see no difference.
fn same(before: &IssuerSet, after: &IssuerSet) -> bool {
    before.unread == after.unread
        && before.is_partial == after.is_partial
        && before.issuers.len() == after.issuers.len()
        && before
            .issuers
            .iter()
            .zip(&after.issuers)
            .all(|((a, before), (b, after))| a == b && before.is_same(after))
}

/// The folders that the kernel tells about.
///
/// Folders, not files: a file that is replaced is another one. The folder's parent is watched as
/// well, because the folder itself may be replaced.
struct Watches {
    watcher: Option<RecommendedWatcher>,
    /// Each with its device and inode when it was watched.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    interest: Arc<Mutex<Interest>>,
    /// Why changes may go by unseen.
    trouble: Option<notify::Error>,
}

/// What changes matter.
#[derive(Default)]
struct Interest {
    /// Whatever is directly in here.
    dir: PathBuf,
    /// These themselves.
    paths: BTreeSet<PathBuf>,
}

impl Watches {
    fn new(changes: Arc<Notify>) -> Self {
        let interest = Arc::new(Mutex::new(Interest::default()));
        let seen = Arc::clone(&interest);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let interest = lock(&seen);
            // An error means that something was missed.
            if event.as_ref().is_ok_and(|event| !interest.matters(event)) {
                return;
            }
            changes.notify_one();
        });
        let (watcher, trouble) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error)),
        };
        Self { watcher, watched: BTreeMap::new(), interest, trouble }
    }

    /// Watches what `dir` and `files` are in; answers whether anything is watched anew.
    fn update(&mut self, dir: &Path, files: &[PathBuf]) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let parents = || files.iter().filter_map(|file| file.parent());
        let mut paths: BTreeSet<PathBuf> = files.iter().cloned().collect();
        // Kubelet replaces this link, not the files behind it.
        paths.extend(parents().map(|parent| parent.join("..data")));
        paths.insert(dir.to_owned());
        *lock(&self.interest) = Interest { dir: dir.to_owned(), paths };

        let wanted: BTreeSet<&Path> = parents().chain([dir]).chain(dir.parent()).collect();
        self.watched.retain(|path, _| {
            let keep = wanted.contains(path.as_path());
            if !keep {
                // Fails where the folder is gone, and its watch with it.
                let _ = watcher.unwatch(path);
            }
            keep
        });
        self.trouble = None;
        let mut anew = false;
        for path in wanted {
            let identity = fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
            if self.watched.get(path).copied() == identity {
                continue;
            }
            if self.watched.remove(path).is_some() {
                let _ = watcher.unwatch(path);
            }
            let Some(identity) = identity else { continue };
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.to_owned(), identity);
                    anew = true;
                }
                Err(error) => self.trouble = Some(error),
            }
        }
        anew
    }

    fn problem(&self, dir: &Path) -> Option<Problem> {
        self.trouble.as_ref().map(|error| {
            let message = format!(
                "changes may be seen only after {} seconds, because the kernel does not tell of \
                 them: {error}",
                POLL.as_secs()
            );
            Problem::in_file(dir, Severity::Warning, message)
        })
    }
}

impl Interest {
    fn matters(&self, event: &Event) -> bool {
        let kind_matters = match event.kind {
            // Reading the files must not wake up the reader.
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        };
        let path_matters =
            |path: &PathBuf| path.parent() == Some(&*self.dir) || self.paths.contains(path);
        event.need_rescan() || kind_matters && event.paths.iter().any(path_matters)
    }
}
