//! What the watched files are now, and when it is worth looking.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Files and folders that are watched.
#[derive(Debug)]
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    /// Absent where the kernel has none left to give.
    events: Option<Inotify>,
}

/// What the watched files are; two of them are the same while nothing has changed.
#[derive(Debug, PartialEq)]
pub(super) struct State(Vec<Files>);

#[derive(Debug, PartialEq)]
enum Files {
    /// All change at once, by a swap of this link's target.
    Swapped(PathBuf),
    Plain(BTreeMap<OsString, Stamp>),
}

/// Tells one content of a file from another without reading it.
#[derive(Debug, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Watch {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let events = Inotify::init(flags).inspect_err(|error| {
            tracing::warn!(
                %error,
                "cannot have the kernel tell of changes, so they are noticed late; \
                 is fs.inotify.max_user_instances too low?"
            );
        });
        Self { paths, events: events.ok() }
    }

    /// What the files are now; fails with a path that has none.
    pub(super) fn look(&self) -> Result<State, &Path> {
        let read = |path: &PathBuf| {
            // Each time, as the folder may have been replaced; and first, to miss nothing.
            self.subscribe(path);
            Files::read(path).ok().flatten()
        };
        let files = self.paths.iter().map(|path| read(path).ok_or(path.as_path()));
        files.collect::<Result<_, _>>().map(State)
    }

    /// Takes the events that have come; answers whether there were any.
    pub(super) fn drain(&self) -> bool {
        let read = || self.events.as_ref().and_then(|events| events.read_events().ok());
        std::iter::from_fn(read).fold(false, |_, _| true)
    }

    /// Readable when something has happened.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(|events| events.as_fd())
    }

    fn subscribe(&self, path: &Path) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        if let Some(events) = &self.events {
            // A folder that is not there yet is looked for again.
            let _ = events.add_watch(folder_of(path), flags);
        }
    }
}

/// The folder in which `path` changes: itself, or the one that it is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        _ if path.is_dir() => path,
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.paths.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", path.display())?;
        }
        Ok(())
    }
}

impl Files {
    /// `None` where there are none.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let metadata = path.metadata()?;
        let folder = folder_of(path);
        if let Ok(target) = fs::read_link(folder.join("..data")) {
            let whole = folder.join(&target).is_dir();
            return Ok(whole.then_some(Self::Swapped(target)));
        }
        if !metadata.is_dir() {
            return Ok(Some(Self::Plain([(OsString::new(), Stamp::of(&metadata))].into())));
        }
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // Hidden files are another program's half-written ones.
            let hidden = entry.file_name().as_bytes().starts_with(b".");
            match entry.path().metadata() {
                Ok(metadata) if metadata.is_file() && !hidden => {
                    files.insert(entry.file_name(), Stamp::of(&metadata));
                }
                _ => {}
            }
        }
        Ok((!files.is_empty()).then_some(Self::Plain(files)))
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
        }
    }
}
