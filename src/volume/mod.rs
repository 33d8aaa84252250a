//! Volumes: a tmpfs each, its private record and state, and the files that the pod sees.
//!
//! `<data-root>/<volume id>/` is a tmpfs that holds
//!
//! ```text
//! record.json          what was asked; no secrets
//! secrets.json         keystore passwords, mode 0600
//! pending/key          the key of an order under way (PKCS#8 DER)
//! pending/handle       the CA's handle on it
//! state/<timestamp>    the bundle as PEM, one for each data/<timestamp>; ..data decides which counts
//! data/                what the pod sees, bind-mounted read-only on the target path
//! ```
//!
//! `<data-root>/.node` is a tmpfs of the node's own: see [`NodeState`].
//!
//! All calls are blocking system calls on memory; none waits for a disk or a network. Calls for one
//! volume must come one after the other; different volumes do not mind each other.
//!
//! A process killed at any point leaves volumes that [`Volumes::find`] takes over whole, or that it
//! removes: a tmpfs without `record.json` was never finished, and a directory without a tmpfs is
//! what a reboot leaves of a volume.

mod directory;
mod mount;
mod node_state;
mod record;
mod write;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

pub use node_state::NodeState;
pub use record::{Fingerprint, Record};

use self::directory::Directory;
use self::mount::Bound;
use self::write::Writer;
use crate::clock::Clock;
use crate::spec::layout::Payload;
use crate::spec::request::Ownership;
use crate::spec::volume::{TargetPath, VolumeId};

/// All volumes below one data root, of which this process is the only user.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
    /// Held for as long as a copy of this lives; two drivers would adopt each other's volumes.
    _lock: Arc<Flock<File>>,
}

/// One mounted volume.
#[derive(Clone, Debug)]
pub struct Volume {
    directory: Arc<Path>,
    /// The number of its tmpfs, which no other has while this one is mounted.
    device: u64,
}

/// What adoption found for one directory below the data root.
#[derive(Debug)]
pub struct Found {
    /// The volume itself.
    pub volume: Volume,
    /// What was asked of it.
    pub record: Record,
    /// Whether it is on its target path.
    pub mounted: bool,
}

/// Why a volume operation failed: which path, doing what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct VolumeIoError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system answered.
    #[source]
    pub source: io::Error,
}

/// A result of volume operations.
pub type Result<T, E = VolumeIoError> = std::result::Result<T, E>;

impl Volumes {
    /// Makes the data root if need be (mode 0750).
    ///
    /// # Errors
    ///
    /// When the data root cannot be made, or another process uses it.
    pub fn open(root: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(root);
        made.map_err(|error| VolumeIoError::new("make", root, error))?;
        let root = &root.canonicalize().map_err(|error| VolumeIoError::new("open", root, error))?;
        let directory =
            File::open(root).map_err(|error| VolumeIoError::new("open", root, error))?;
        let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            let error = io::Error::from(errno);
            VolumeIoError::new("lock", root, match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another certmount uses it; end that one, or give each its own data root",
                ),
                _ => error,
            })
        })?;
        Ok(Self { root: root.clone(), _lock: Arc::new(lock) })
    }

    /// Every mounted volume with a readable record, and an error for each other one, with its id.
    /// What an earlier process left half made or half written is swept up, where that is possible.
    ///
    /// Each directory is gone into once: kubelet waits for this after a restart.
    pub fn find(&self) -> Result<Vec<Result<Found, (String, VolumeIoError)>>> {
        each_of(&self.root, |directory| match directory {
            VolumeDirectory::Mounted(volume) => volume.take_over(),
            // Only if it is empty: a data root set wrongly must cost nobody their files.
            VolumeDirectory::Empty(path) => {
                let _ = fs::remove_dir(path);
                Ok(None)
            }
        })
    }

    /// The same for a data root that another process may be using: nothing is locked, made or
    /// swept up, so only to be read.
    pub fn look(root: &Path) -> Result<Vec<Result<Found, (String, VolumeIoError)>>> {
        each_of(root, |directory| match directory {
            VolumeDirectory::Mounted(volume) => {
                let directory = volume.open()?;
                volume.read(&directory)?.ok_or_else(|| unrecorded(&directory)).map(Some)
            }
            VolumeDirectory::Empty(_) => Ok(None),
        })
    }

    /// A new tmpfs that holds `record`. Anything left of an earlier one of the same id is removed.
    ///
    /// # Errors
    ///
    /// Nothing of the new volume is left behind.
    pub fn create(&self, record: &Record) -> Result<Volume> {
        let id = VolumeId::try_from(record.raw().volume_id.to_owned()).map_err(|error| {
            VolumeIoError::new("make a volume in", &self.root, io::Error::other(error))
        })?;
        let path = self.path(&id);
        let make = || DirBuilder::new().mode(0o750).create(&path);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                clear_away(&path)?;
                make()
            }
            made => made,
        }
        .map_err(|error| VolumeIoError::new("make", &path, error))?;
        let fill = || {
            mount::mount_tmpfs(&path)
                .map_err(|error| VolumeIoError::new("mount a tmpfs on", &path, error))?;
            let directory = Directory::open(&path)?;
            directory.make_directory(OsStr::new(DATA), write::DIRECTORY_MODE)?;
            directory.make_private_directory(OsStr::new(STATE))?;
            directory.make_private_directory(OsStr::new(PENDING))?;
            // Last: a volume counts from the moment that its record is there.
            record.store(&directory)?;
            directory.device()
        };
        let device = fill().inspect_err(|_| {
            let _ = clear_away(&path);
        })?;
        Ok(Volume { directory: path.into(), device })
    }

    /// Unmounts and removes everything of a volume: stacked mounts on `target`, `target` itself,
    /// the tmpfs and its directory. What is missing is fine. Never touches the target's parent.
    pub fn remove(&self, id: &VolumeId, target: &TargetPath) -> Result<()> {
        let target = target.as_path();
        if self.root.starts_with(target) {
            let error = io::Error::new(
                io::ErrorKind::InvalidInput,
                "the data root lies in it, so it is no volume's target path",
            );
            return Err(VolumeIoError::new("remove", target, error));
        }
        clear_away(target)?;
        clear_away(&self.path(id))
    }

    fn path(&self, id: &VolumeId) -> PathBuf {
        self.root.join(id.as_str())
    }
}

/// What `find` finds in each directory below the data root that can be a volume.
fn each_of(
    root: &Path,
    find: impl Fn(VolumeDirectory) -> Result<Option<Found>>,
) -> Result<Vec<Result<Found, (String, VolumeIoError)>>> {
    let each = |(id, directory): (VolumeId, _)| {
        find(directory).map_err(|error| (id.to_string(), error)).transpose()
    };
    Ok(directories(root)?.into_iter().filter_map(each).collect())
}

/// The directories below the data root that can be volumes.
fn directories(root: &Path) -> Result<Vec<(VolumeId, VolumeDirectory)>> {
    let list = || -> io::Result<_> {
        let device = fs::symlink_metadata(root)?.dev();
        let mut directories = Vec::new();
        for entry in fs::read_dir(root)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let Ok(id) = VolumeId::try_from(name) else { continue };
            let path = root.join(id.as_str());
            match fs::symlink_metadata(&path) {
                // Another process may remove one meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(found) if !found.is_dir() => {}
                Ok(found) if found.dev() == device => {
                    directories.push((id, VolumeDirectory::Empty(path)));
                }
                Ok(found) => {
                    let volume = Volume { directory: path.into(), device: found.dev() };
                    directories.push((id, VolumeDirectory::Mounted(volume)));
                }
            }
        }
        Ok(directories)
    };
    list().map_err(|error| VolumeIoError::new("list", root, error))
}

/// A directory below the data root, by whether something is mounted on it.
enum VolumeDirectory {
    Empty(PathBuf),
    Mounted(Volume),
}

impl Volume {
    /// Writes the files atomically with the state they were made from: whoever opens `..data` sees
    /// all of the old files or all of the new, and [`Volume::state`] answers what belongs to them.
    ///
    /// # Errors
    ///
    /// The old files and their state stay.
    pub fn write(&self, payload: &Payload, state: &[u8], ownership: &Ownership) -> Result<()> {
        let files: Vec<(&str, &[u8])> =
            payload.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        self.writer()?.write(&files, state, ownership, Clock::system().now())
    }

    /// The state that belongs to the files now visible; `None` before the first write, and where
    /// files or state were lost.
    pub fn state(&self) -> Result<Option<Zeroizing<Vec<u8>>>> {
        self.writer()?.state()
    }

    /// Bind-mounts the data directory read-only on `target`, which is made if missing; does nothing
    /// where it is mounted already. Another volume that is mounted there is unmounted.
    ///
    /// # Errors
    ///
    /// Among others when the parent of `target` is missing: that is kubelet's to make.
    pub fn mount_on(&self, target: &TargetPath) -> Result<()> {
        let (source, target) = (self.directory.join(DATA), target.as_path());
        let mount = || {
            match DirBuilder::new().mode(0o750).create(target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(target)?.is_dir() {
                        let message = "something other than a directory is in the way; remove it";
                        return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
                    }
                    match mount::how_bound(&source, target)? {
                        Bound::ReadOnly => return Ok(()),
                        Bound::Writable => return mount::make_read_only(target),
                        Bound::Not => mount::unmount_all(target)?,
                    }
                }
                made => made?,
            }
            mount::bind_read_only(&source, target)
        };
        mount().map_err(|error| VolumeIoError::new("mount the volume on", target, error))
    }

    /// Replaces the record.
    pub fn set_record(&self, record: &Record) -> Result<()> {
        record.store(&self.open()?)
    }

    /// The key of the order under way, as PKCS#8 DER.
    pub fn pending_key(&self) -> Result<Option<Zeroizing<Vec<u8>>>> {
        self.pending()?.read(OsStr::new(KEY))
    }

    /// Keeps the key of an order, so that a restart can carry on with it.
    pub fn set_pending_key(&self, pkcs8: &[u8]) -> Result<()> {
        self.pending()?.replace(OsStr::new(KEY), pkcs8)
    }

    /// The CA's handle on the order under way.
    pub fn pending_handle(&self) -> Result<Option<String>> {
        let pending = self.pending()?;
        let Some(bytes) = pending.read(OsStr::new(HANDLE))? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            .map_err(pending.error("read", HANDLE))?;
        Ok(Some(text.to_owned()))
    }

    /// Keeps the CA's handle on an order.
    pub fn set_pending_handle(&self, handle: &str) -> Result<()> {
        self.pending()?.replace(OsStr::new(HANDLE), handle.as_bytes())
    }

    /// Forgets the key and handle of an order under way.
    pub fn clear_pending(&self) -> Result<()> {
        let pending = self.pending()?;
        // The handle first: without its key it is worth nothing, the other way round it is.
        pending.remove(OsStr::new(HANDLE))?;
        pending.remove(OsStr::new(KEY))
    }

    /// Whether the volume is mounted on `target` as it should be; anything in the way of an answer
    /// is a no.
    fn is_on(&self, target: &Path) -> bool {
        mount::how_bound(&self.directory.join(DATA), target).is_ok_and(|how| how == Bound::ReadOnly)
    }

    /// The volume with its record, once what an earlier process left half written is swept up;
    /// `None` where the volume was never finished, and is removed.
    fn take_over(&self) -> Result<Option<Found>> {
        let directory = self.open()?;
        if let Some(found) = self.read(&directory)? {
            // What stays is swept up by the next write.
            let _ = writer_in(&directory).and_then(|writer| writer.sweep());
            return Ok(Some(found));
        }
        let path = &self.directory;
        let mounts = mount::mounts_below(path)
            .map_err(|error| VolumeIoError::new("read the mounts below", path, error))?;
        match mounts.iter().all(|mount| mount.is_ours) && clear_away(path).is_ok() {
            true => Ok(None),
            false => Err(unrecorded(&directory)),
        }
    }

    /// The volume with its record; `None` where `directory`, the volume's own, has none.
    fn read(&self, directory: &Directory) -> Result<Option<Found>> {
        let Some(record) = Record::load(directory)? else { return Ok(None) };
        let mounted = self.is_on(Path::new(record.raw().target_path));
        Ok(Some(Found { volume: self.clone(), record, mounted }))
    }

    fn writer(&self) -> Result<Writer> {
        writer_in(&self.open()?)
    }

    fn pending(&self) -> Result<Directory> {
        self.open()?.open_directory(OsStr::new(PENDING))
    }

    /// The volume's own directory, never what lies under it once somebody unmounted it: that may
    /// be on a disk.
    fn open(&self) -> Result<Directory> {
        let directory = Directory::open(&self.directory)?;
        if directory.device()? != self.device {
            let message = "its tmpfs was unmounted; delete the pod to have the volume made anew";
            let error = io::Error::new(io::ErrorKind::NotFound, message);
            return Err(directory.error("use", "")(error));
        }
        Ok(directory)
    }
}

impl VolumeIoError {
    fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.to_owned(), source: source.into() }
    }
}

const DATA: &str = "data";
const STATE: &str = "state";
const PENDING: &str = "pending";
const KEY: &str = "key";
const HANDLE: &str = "handle";

/// The writer of the volume whose own directory is `directory`.
fn writer_in(directory: &Directory) -> Result<Writer> {
    let open = |name| directory.open_directory(OsStr::new(name));
    Ok(Writer::new(open(DATA)?, open(STATE)?))
}

/// That `directory`, a volume's own, has no record.
fn unrecorded(directory: &Directory) -> VolumeIoError {
    let message = "there is no record of what was asked; unmount it if it is not needed";
    directory.error("adopt", "")(io::Error::new(io::ErrorKind::NotFound, message))
}

/// Unmounts all that is mounted on `path`, and removes it with what it holds. What is missing is
/// fine.
fn clear_away(path: &Path) -> Result<()> {
    let clear = || {
        mount::unmount_all(path)?;
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // A mount further down would lose its files as well.
                for mount in mount::mounts_below(path)?.iter().rev() {
                    mount::unmount_all(&mount.path)?;
                }
                fs::remove_dir_all(path)
            }
            removed => removed,
        }
    };
    match clear() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        cleared => cleared.map_err(|error| VolumeIoError::new("remove", path, error)),
    }
}
