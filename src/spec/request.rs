//! A publish request: all that a pod asked for, parsed.

mod certificate;
mod files;
mod problems;
mod reader;
mod trust;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use self::problems::tame;
use self::reader::{Reader, is_dns_label, is_dns_subdomain};
use super::attributes::{is_secret, referenced_secret_keys};
use super::layout::{FileLayout, Password};
use super::tokens::PodTokens;
use super::values::{ValueError, quoted};
use super::variables::Variables;
use super::volume::{IssuerRef, PodRef, TargetPath, TrustRef, VolumeId};
use crate::x509::{KeyAlgorithm, Template};

/// What one NodePublishVolume call asks for.
#[derive(Debug)]
pub struct PublishRequest {
    /// Which volume.
    pub volume: VolumeId,
    /// Where kubelet wants it.
    pub target: TargetPath,
    /// The pod it is for.
    pub pod: PodRef,
    /// The pod's address, where it is known: see [`RawRequest::pod_ip`].
    pub pod_ip: Option<IpAddr>,
    /// The certificate that is wanted.
    pub certificate: CertificateSpec,
    /// Whom to trust beside the issuer.
    pub trust: Vec<TrustRef>,
    /// The files to write.
    pub files: FileLayout,
    /// Who may read them.
    pub ownership: Ownership,
    /// Attributes to hand to the issuer, such as `venafi.cert-manager.io/custom-fields`.
    pub annotations: BTreeMap<String, String>,
    /// Tokens of the pod's service account. Whoever has the call they came with puts them here:
    /// they are not part of what is asked.
    pub tokens: PodTokens,
    /// Things that work but that the pod's owner should know, such as a misspelt attribute.
    pub warnings: Vec<String>,
}

/// The certificate that is wanted and when to renew it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateSpec {
    /// Who is to sign it.
    pub issuer: IssuerRef,
    /// What it says.
    pub template: Template,
    /// How long it shall hold, at least a second.
    pub duration: Duration,
    /// The kind of its key.
    pub key_algorithm: KeyAlgorithm,
    /// When to renew it, if the pod has a wish.
    pub renew_before: Option<RenewBefore>,
    /// Keep the private key at renewal.
    pub reuse_private_key: bool,
}

/// How long before the end of its life a certificate is renewed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RenewBefore {
    /// More than zero and less than the duration asked for.
    Duration(Duration),
    /// Percent of the real lifetime, 1 to 99.
    Percent(u8),
}

/// Who may read the files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ownership {
    /// Permission bits of each file: readable by the owner, never executable, never writable by
    /// others. Others may be allowed to read, which the directory above has to allow too.
    pub mode: u32,
    /// The owner, if it is not root.
    pub uid: Option<u32>,
    /// The pod's fsGroup, or the attribute that overrides it.
    pub gid: Option<u32>,
}

/// What kubelet hands over with NodePublishVolume, not yet looked at.
#[derive(Clone, Copy)]
pub struct RawRequest<'a> {
    /// `volume_id`.
    pub volume_id: &'a str,
    /// `target_path`.
    pub target_path: &'a str,
    /// `volume_context`.
    pub attributes: &'a BTreeMap<String, String>,
    /// `volume_capability.mount.volume_mount_group`: the pod's fsGroup, or empty.
    pub volume_mount_group: &'a str,
    /// The pod's own address, which policies allow it and `${POD_IP}` stands for.
    ///
    /// Kubelet does not say it, and makes a pod's volumes before the pod gets one; so it is known
    /// for pods of the host network only, and only where somebody has asked the Kubernetes API.
    pub pod_ip: Option<IpAddr>,
}

/// Facts about this node and driver that requests are read with.
#[derive(Clone, Debug)]
pub struct NodeContext {
    /// The driver's name, as in the CSIDriver object.
    pub driver_name: String,
    /// The node's name.
    pub node_name: String,
}

/// A request that cannot be carried out as written; the message says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// Whose fault it is.
    pub kind: RequestErrorKind,
    /// What is wrong, and what to do; cut to what fits into an Event.
    pub message: String,
    /// Each thing that is wrong, for those who have the room.
    pub problems: Vec<String>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestErrorKind {
    /// The pod's author or the cluster's operator has something to change.
    Invalid,
    /// The pod says to be another than the one kubelet makes the volume for.
    Forged,
}

impl RequestError {
    /// One thing that is wrong.
    pub fn new(kind: RequestErrorKind, message: String) -> Self {
        Self { kind, problems: vec![message.clone()], message }
    }
}

/// Secret values by name: prints nothing, zeroized. What a volume keeps of it is in its own tmpfs.
///
/// They are the keys of `nodePublishSecretRef`, and attributes that are secret under their full
/// names. The two cannot clash: a Secret's keys have no slash.
#[derive(Default)]
pub struct Secrets(pub BTreeMap<String, Zeroizing<String>>);

impl RawRequest<'_> {
    /// Which volume for which pod, checked against each other.
    ///
    /// # Errors
    ///
    /// As for [`PublishRequest::parse`], as far as it is about that.
    pub fn identity(&self) -> Result<(VolumeId, TargetPath, PodRef), RequestError> {
        identity(self)
    }
}

impl PublishRequest {
    /// Reads a request. Of the keys of `nodePublishSecretRef` in `secrets` only the passwords that
    /// the attributes refer to are taken; the attributes in it are read as those in `raw` are.
    /// Service account tokens are never looked at.
    ///
    /// # Errors
    ///
    /// [`RequestErrorKind::Forged`] when the pod that the attributes name is not the one that
    /// kubelet made volume id and target path for. Otherwise everything that is wrong with the
    /// attributes, in one message.
    pub fn parse(
        raw: RawRequest<'_>,
        secrets: &Secrets,
        node: &NodeContext,
    ) -> Result<Self, RequestError> {
        let (volume, target, pod) = identity(&raw)?;
        let variables = Variables { pod: &pod, node_name: &node.node_name, pod_ip: raw.pod_ip };
        let mut reader = Reader::new(raw.attributes, variables, secrets);
        let certificate = certificate::certificate(&mut reader);
        let trust = trust::trust(&mut reader);
        let files = files::files(&mut reader, certificate.key_algorithm);
        let ownership = files::ownership(&mut reader, raw.volume_mount_group);
        let Reader { problems, warnings, annotations, .. } = reader;
        problems.into_result()?;
        Ok(Self {
            volume,
            target,
            pod,
            pod_ip: raw.pod_ip,
            certificate,
            trust,
            files,
            ownership,
            annotations,
            tokens: PodTokens::default(),
            warnings,
        })
    }
}

/// Which volume for which pod, checked against each other.
fn identity(raw: &RawRequest<'_>) -> Result<(VolumeId, TargetPath, PodRef), RequestError> {
    let invalid = |message| RequestError::new(RequestErrorKind::Invalid, message);
    let volume =
        VolumeId::try_from(raw.volume_id.to_owned()).map_err(|error| invalid(error.to_string()))?;
    let target = TargetPath::try_from(PathBuf::from(raw.target_path))
        .map_err(|error| invalid(error.to_string()))?;
    let pod = pod(raw.attributes).map_err(invalid)?;
    volume.belongs_to(&target, &pod.uid).map_err(|error| {
        let message = format!(
            "{}: csi.storage.k8s.io/pod.* must come from kubelet, which fills them in when the \
             CSIDriver object has podInfoOnMount: true",
            tame(&error.to_string())
        );
        RequestError::new(RequestErrorKind::Forged, message)
    })?;
    Ok((volume, target, pod))
}

/// The pod as kubelet describes it.
fn pod(attributes: &BTreeMap<String, String>) -> Result<PodRef, String> {
    const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
    const NAME: &str = "csi.storage.k8s.io/pod.name";
    const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
    const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
    const UID: &str = "csi.storage.k8s.io/pod.uid";
    let get = |key: &str| attributes.get(key).map_or("", String::as_str);
    let all = [NAME, NAMESPACE, UID, SERVICE_ACCOUNT, EPHEMERAL];
    let missing: Vec<_> = all.into_iter().filter(|key| get(key).is_empty()).collect();
    if !missing.is_empty() {
        return Err(format!(
            "kubelet did not say {}: the CSIDriver object needs podInfoOnMount: true",
            missing.join(", ")
        ));
    }
    if get(EPHEMERAL) != "true" {
        return Err("only inline volumes of a pod are served: write the driver under \
                    volumes[].csi of the pod, not into a PersistentVolume"
            .to_owned());
    }
    let check = |key: &str, well_formed: fn(&str) -> bool| {
        let text = get(key);
        match well_formed(text) {
            true => Ok(text.to_owned()),
            false => Err(format!("{key} {} is not one that Kubernetes gives", quoted(text))),
        }
    };
    Ok(PodRef {
        namespace: check(NAMESPACE, is_dns_label)?,
        name: check(NAME, is_dns_subdomain)?,
        uid: check(UID, is_uid)?,
        service_account: check(SERVICE_ACCOUNT, is_dns_subdomain)?,
    })
}

/// A UUID, or the hash that kubelet gives to static pods.
fn is_uid(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl Secrets {
    /// Moves what is secret of `attributes` to here. One without a slash could pass for a key of
    /// the Secret; it stays, and is refused like all of its kind.
    pub fn take_from(&mut self, attributes: &mut BTreeMap<String, String>) {
        for (key, value) in std::mem::take(attributes) {
            match is_secret(&key) && !is_of_secret(&key) {
                true => drop(self.0.insert(key, Zeroizing::new(value))),
                false => drop(attributes.insert(key, value)),
            }
        }
    }

    /// The attributes among them, by their full names.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let attributes = self.0.iter().filter(|(key, _)| !is_of_secret(key));
        attributes.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Drops the keys of `nodePublishSecretRef` that `attributes` do not refer to.
    pub fn keep_referenced(&mut self, attributes: &BTreeMap<String, String>) {
        let wanted = referenced_secret_keys(attributes);
        self.0.retain(|key, _| !is_of_secret(key) || wanted.contains(&key.as_str()));
    }

    /// The password under `key`.
    fn password(&self, key: &str) -> Result<Password, ValueError> {
        match self.0.get(key).filter(|_| is_of_secret(key)) {
            Some(password) => Password::new(password),
            None => {
                let keys = self.0.keys().map(String::as_str).filter(|key| is_of_secret(key));
                let keys: Vec<_> = keys.collect();
                let reason = match keys.as_slice() {
                    [] => {
                        "is no key: the volume has no nodePublishSecretRef, or its Secret is empty"
                            .to_owned()
                    }
                    keys => format!("is no key of the Secret, which has {}", keys.join(", ")),
                };
                Err(ValueError(reason.into()))
            }
        }
    }
}

/// Whether `key` is one of a Secret; attributes and kubelet's service account tokens have a slash.
fn is_of_secret(key: &str) -> bool {
    !key.contains('/')
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// Names only: attributes can hold passwords.
impl fmt::Debug for RawRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRequest")
            .field("volume_id", &self.volume_id)
            .field("target_path", &self.target_path)
            .field("attributes", &self.attributes.keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
