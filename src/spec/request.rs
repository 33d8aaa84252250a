//! A publish request: all that a pod asked for, parsed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::layout::FileLayout;
use super::volume::{IssuerRef, PodRef, TargetPath, VolumeId};
use crate::x509::{KeyAlgorithm, Template};

/// What one NodePublishVolume call asks for.
#[derive(Debug)]
pub struct PublishRequest {
    pub volume: VolumeId,
    pub target: TargetPath,
    pub pod: PodRef,
    pub certificate: CertificateSpec,
    pub files: FileLayout,
    pub ownership: Ownership,
    /// Attributes to hand to the issuer, such as `venafi.cert-manager.io/custom-fields`.
    pub annotations: BTreeMap<String, String>,
    /// Things that work but that the pod's owner should know, such as a misspelt attribute.
    pub warnings: Vec<String>,
}

/// The certificate that is wanted and when to renew it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateSpec {
    pub issuer: IssuerRef,
    pub template: Template,
    pub duration: Duration,
    pub key_algorithm: KeyAlgorithm,
    pub renew_before: Option<RenewBefore>,
    /// Keep the private key at renewal.
    pub reuse_private_key: bool,
}

/// How long before the end of its life a certificate is renewed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RenewBefore {
    Duration(Duration),
    /// Percent of the real lifetime, 1 to 99.
    Percent(u8),
}

/// Who may read the files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ownership {
    /// Permission bits of each file; never writable or executable by others.
    pub mode: u32,
    pub uid: Option<u32>,
    /// The pod's fsGroup, or the attribute that overrides it.
    pub gid: Option<u32>,
}

/// What kubelet hands over with NodePublishVolume, not yet looked at.
#[derive(Clone, Copy)]
pub struct RawRequest<'a> {
    pub volume_id: &'a str,
    pub target_path: &'a str,
    pub attributes: &'a BTreeMap<String, String>,
    pub volume_mount_group: &'a str,
    /// For `${POD_IP}`; kubelet does not say it, so it is known only where somebody has asked.
    pub pod_ip: Option<IpAddr>,
}

/// Facts about this node and driver that requests are read with.
#[derive(Clone, Debug)]
pub struct NodeContext {
    pub driver_name: String,
    pub node_name: String,
}

/// A request that cannot be carried out as written; the message says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// Whose fault it is.
    pub kind: RequestErrorKind,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestErrorKind {
    /// The pod's author or the cluster's operator has something to change.
    Invalid,
    /// The pod says to be another than the one kubelet makes the volume for.
    Forged,
}

impl PublishRequest {
    /// Reads a request. `secrets` are the keys of `nodePublishSecretRef`; only passwords that the
    /// attributes refer to are taken from it.
    pub fn parse(
        _raw: RawRequest<'_>,
        _secrets: &Secrets,
        _node: &NodeContext,
    ) -> Result<Self, RequestError> {
        todo!()
    }
}

/// Secret values by name: prints nothing, zeroized. What a volume keeps of it is in its own tmpfs.
#[derive(Default)]
pub struct Secrets(pub BTreeMap<String, Zeroizing<String>>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// Names only: attributes can hold passwords.
impl std::fmt::Debug for RawRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawRequest")
            .field("volume_id", &self.volume_id)
            .field("target_path", &self.target_path)
            .field("attributes", &self.attributes.keys())
            .finish_non_exhaustive()
    }
}
