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
//! All calls are blocking system calls on memory; none waits for a disk or a network.

mod mount;
mod record;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub use record::Record;

use crate::spec::layout::Payload;
use crate::spec::request::Ownership;
use crate::spec::volume::{TargetPath, VolumeId};

/// All volumes below one data root.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
}

/// One mounted volume.
#[derive(Clone, Debug)]
pub struct Volume {
    directory: PathBuf,
}

/// What adoption found for one directory below the data root.
#[derive(Debug)]
pub struct Found {
    pub volume: Volume,
    pub record: Record,
    /// Whether it is on its target path.
    pub mounted: bool,
}

/// Why a volume operation failed: which path, doing what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct VolumeIoError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// A result of volume operations.
pub type Result<T, E = VolumeIoError> = std::result::Result<T, E>;

impl Volumes {
    /// Makes the data root if need be (mode 0750), and sweeps up what a crash left half made.
    pub fn open(_root: &Path) -> Result<Self> {
        todo!()
    }
    /// Every mounted volume with a readable record, and an error for each other one.
    pub fn find(&self) -> Result<Vec<Result<Found, (String, VolumeIoError)>>> {
        todo!()
    }
    /// A new tmpfs that holds `record`. Anything left of an earlier one of the same id is removed.
    pub fn create(&self, _record: &Record) -> Result<Volume> {
        todo!()
    }
    /// Unmounts and removes everything of a volume: stacked mounts on `target`, `target` itself,
    /// the tmpfs and its directory. What is missing is fine. Never touches the target's parent.
    pub fn remove(&self, _id: &VolumeId, _target: &TargetPath) -> Result<()> {
        let _ = &self.root;
        todo!()
    }
}

impl Volume {
    /// Writes the files atomically with the state they were made from.
    pub fn write(&self, _payload: &Payload, _state: &[u8], _ownership: &Ownership) -> Result<()> {
        let _ = &self.directory;
        todo!()
    }
    /// The state that belongs to the files now visible; `None` before the first write.
    pub fn state(&self) -> Result<Option<Zeroizing<Vec<u8>>>> {
        todo!()
    }
    /// Bind-mounts the data directory read-only on `target`, which is made if missing; does nothing
    /// where it is mounted already.
    pub fn mount_on(&self, _target: &TargetPath) -> Result<()> {
        todo!()
    }
    /// Replaces the record.
    pub fn set_record(&self, _record: &Record) -> Result<()> {
        todo!()
    }
    pub fn pending_key(&self) -> Result<Option<Zeroizing<Vec<u8>>>> {
        todo!()
    }
    pub fn set_pending_key(&self, _pkcs8: &[u8]) -> Result<()> {
        todo!()
    }
    pub fn pending_handle(&self) -> Result<Option<String>> {
        todo!()
    }
    pub fn set_pending_handle(&self, _handle: &str) -> Result<()> {
        todo!()
    }
    /// Forgets the key and handle of an order under way.
    pub fn clear_pending(&self) -> Result<()> {
        todo!()
    }
}
