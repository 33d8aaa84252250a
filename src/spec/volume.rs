//! Which volume, for which pod: the identities kubelet hands over.
//!
//! Kubelet makes the volume id from the pod's uid and the volume's name, and the target path holds
//! both. [`VolumeId::belongs_to`] compares the three, so that a pod cannot pass for another by
//! forging `csi.storage.k8s.io/*` attributes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A CSI volume id: safe as one file name, so it can never leave the data root.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(String);

/// The absolute path at which kubelet wants the volume, without `.` or `..`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct TargetPath(PathBuf);

/// The pod a volume belongs to, as kubelet names it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub service_account: String,
}

/// The issuer a volume names.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct IssuerRef {
    /// `certmount.dev` for the built-in ones.
    pub group: String,
    /// `Issuer` or `ClusterIssuer`, or an external issuer's kind.
    pub kind: String,
    pub name: String,
}

/// Why an identity is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct VolumeError(pub String);

impl VolumeId {
    /// The id of a pod's inline volume, as kubelet makes it: `csi-` and the SHA-256 of both in hex.
    pub fn of_inline_volume(_pod_uid: &str, _volume_name: &str) -> Self {
        todo!()
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TargetPath {
    pub fn as_path(&self) -> &Path {
        &self.0
    }
    /// The pod uid and volume name in `…/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`.
    pub fn pod_uid_and_volume_name(&self) -> Result<(&str, &str), VolumeError> {
        todo!()
    }
}

impl TryFrom<String> for VolumeId {
    type Error = VolumeError;
    fn try_from(_text: String) -> Result<Self, VolumeError> {
        todo!()
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> Self {
        id.0
    }
}

impl TryFrom<PathBuf> for TargetPath {
    type Error = VolumeError;
    fn try_from(_path: PathBuf) -> Result<Self, VolumeError> {
        todo!()
    }
}

impl From<TargetPath> for PathBuf {
    fn from(target: TargetPath) -> Self {
        target.0
    }
}

impl std::fmt::Display for VolumeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
