//! What the node keeps for itself: files on one tmpfs, `.node` in the data root.
//!
//! They outlive the driver but not the machine's boot, and never touch a disk. The tmpfs is made when
//! there is something to keep.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::fcntl::Flock;
use zeroize::Zeroizing;

use super::directory::Directory;
use super::{Result, VolumeIoError, Volumes, mount};

use crate::sync::lock;

/// Files of the node by name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeState {
    directory: Arc<Mutex<PathBuf>>,
    _lock: Arc<Flock<File>>,
}

/// No volume's id begins with a dot.
const NAME: &str = ".node";

impl Volumes {
    /// The node's own files beside the volumes.
    pub fn node_state(&self) -> NodeState {
        let directory = Arc::new(Mutex::new(self.root.join(NAME)));
        NodeState { directory, _lock: Arc::clone(&self._lock) }
    }
}

impl NodeState {
    /// What was stored under `name`, a plain file name, since the machine was started.
    ///
    /// # Errors
    ///
    /// When it is there but cannot be read.
    pub fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let directory = lock(&self.directory);
        match is_mounted(&directory)? {
            true => Directory::open(&directory)?.read(OsStr::new(name)),
            false => Ok(None),
        }
    }

    /// Keeps `bytes` under `name` in place of what was there.
    ///
    /// # Errors
    ///
    /// What was there stays.
    pub fn store(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let directory = lock(&self.directory);
        if !is_mounted(&directory)? {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&*directory)
                .map_err(|error| VolumeIoError::new("make", &directory, error))?;
            mount::mount_tmpfs(&directory)
                .map_err(|error| VolumeIoError::new("mount a tmpfs on", &directory, error))?;
        }
        Directory::open(&directory)?.replace(OsStr::new(name), bytes)
    }

    /// Under which names something is stored.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let directory = lock(&self.directory);
        if !is_mounted(&directory)? {
            return Ok(Vec::new());
        }
        let names = Directory::open(&directory)?.names()?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Removes what is stored under `name`.
    ///
    /// # Errors
    ///
    /// When it is not there, or stays.
    pub fn remove(&self, name: &str) -> Result<()> {
        Directory::open(&lock(&self.directory))?.remove(OsStr::new(name))
    }
}

fn is_mounted(directory: &Path) -> Result<bool> {
    let above = directory.parent().unwrap_or(directory);
    let look = || -> io::Result<bool> {
        match fs::symlink_metadata(directory) {
            Ok(found) => Ok(found.dev() != fs::symlink_metadata(above)?.dev()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    };
    look().map_err(|error| VolumeIoError::new("look at", directory, error))
}
