//! A data root, and volumes in it, for tests that run inside [`super::namespaced`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use certmount::spec::layout::{FileName, Payload};
use certmount::spec::request::{Ownership, RawRequest, Secrets};
use certmount::spec::volume::{TargetPath, VolumeId};
use certmount::volume::{Record, Volume, Volumes};
use zeroize::Zeroizing;

/// A data root and a place for target paths, side by side in one directory.
#[derive(Debug)]
pub struct Node {
    directory: PathBuf,
    /// Removed with the node that made it.
    _temporary: Option<tempfile::TempDir>,
}

impl Node {
    /// A node in a temporary directory of its own.
    pub fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir(temporary.path().join("pods")).unwrap();
        Self { directory: temporary.path().to_owned(), _temporary: Some(temporary) }
    }

    /// The same node in another process.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), _temporary: None }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn root(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn open(&self) -> Volumes {
        Volumes::open(&self.root()).unwrap()
    }

    pub fn target(&self, id: &str) -> TargetPath {
        TargetPath::try_from(self.directory.join("pods").join(id)).unwrap()
    }

    pub fn record(&self, id: &str) -> Record {
        let target = self.target(id);
        let raw = RawRequest {
            volume_id: id,
            target_path: target.as_path().to_str().unwrap(),
            attributes: &BTreeMap::from([("certmount.dev/issuer-name".into(), "ca".into())]),
            volume_mount_group: "",
            pod_ip: None,
        };
        let password = ("keystore".to_owned(), Zeroizing::new("sesame".to_owned()));
        Record::new(raw, true, Secrets(BTreeMap::from([password])))
    }

    /// A volume with files, on its target.
    pub fn published(&self, volumes: &Volumes, id: &str) -> Volume {
        let volume = volumes.create(&self.record(id)).unwrap();
        volume.write(&payload(&[("tls.crt", "chain"), ("tls.key", "key")]), b"1", &OWNER).unwrap();
        volume.mount_on(&self.target(id)).unwrap();
        volume
    }
}

pub const OWNER: Ownership = Ownership { mode: 0o440, uid: None, gid: None };

pub fn payload(files: &[(&str, &str)]) -> Payload {
    let file = |(name, text): &(&str, &str)| {
        (FileName::try_from(*name).unwrap(), Zeroizing::new(text.as_bytes().to_vec()))
    };
    Payload(files.iter().map(file).collect())
}

pub fn id(text: &str) -> VolumeId {
    VolumeId::try_from(text.to_owned()).unwrap()
}
