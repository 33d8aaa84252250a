//! Which volume, for which pod: the identities kubelet hands over, and those of what it names.
//!
//! Kubelet makes the volume id from the pod's uid and the volume's name, and the target path holds
//! both. [`VolumeId::belongs_to`] compares the three, so that a pod cannot pass for another by
//! forging `csi.storage.k8s.io/*` attributes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// A CSI volume id: safe as one file name, so it can never leave the data root.
///
/// Letters, digits, `.`, `_` and `-`, at most 128 bytes, and not starting with a dot.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(Arc<str>);

/// The absolute path at which kubelet wants the volume: UTF-8, no `.` or `..`, no doubled or
/// trailing slashes, no control characters, and not the root.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct TargetPath(Arc<Path>);

/// The pod a volume belongs to, as kubelet names it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// The pod's namespace: one DNS label.
    pub namespace: String,
    /// The pod's name: a DNS subdomain.
    pub name: String,
    /// The pod's uid, mostly a UUID.
    pub uid: String,
    /// The name of the pod's service account, in the pod's namespace.
    pub service_account: String,
}

/// The issuer a volume names.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct IssuerRef {
    /// `certmount.dev` for the built-in ones.
    pub group: String,
    /// `Issuer` or `ClusterIssuer`, or an external issuer's kind.
    pub kind: String,
    /// The issuer's name.
    pub name: String,
}

/// Where a volume takes trust anchors from, beside those of its issuer.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TrustRef {
    /// The PEM text under a key of a ConfigMap in the pod's namespace.
    ConfigMap {
        /// The ConfigMap's name.
        name: String,
        /// The key.
        key: String,
    },
    /// The ClusterTrustBundle of this name.
    Bundle(String),
    /// Every ClusterTrustBundle of this signer.
    Signer(String),
}

/// Why an identity is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct VolumeError(pub String);

impl VolumeId {
    /// The id of a pod's inline volume, as kubelet makes it: `csi-` and the SHA-256 of both in hex.
    pub fn of_inline_volume(pod_uid: &str, volume_name: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(pod_uid.as_bytes());
        hash.update(volume_name.as_bytes());
        Self(format!("csi-{}", HEXLOWER.encode(hash.finish().as_ref())).into())
    }

    /// The id as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that kubelet made this id for the inline volume at `target` of the pod `pod_uid`.
    ///
    /// # Errors
    ///
    /// When id, path and uid do not tell the same story: the uid was not filled in by kubelet.
    pub fn belongs_to(&self, target: &TargetPath, pod_uid: &str) -> Result<(), VolumeError> {
        let (uid_in_path, volume_name) = target.pod_uid_and_volume_name()?;
        if uid_in_path != pod_uid {
            return Err(VolumeError(format!(
                "the target path is in pod {uid_in_path:?}, but the pod's uid is said to be {pod_uid:?}"
            )));
        }
        let kubelets = Self::of_inline_volume(pod_uid, volume_name);
        if *self != kubelets {
            return Err(VolumeError(format!(
                "volume {volume_name:?} of pod {pod_uid:?} has the id {kubelets}, not {self}"
            )));
        }
        Ok(())
    }
}

impl TargetPath {
    /// The path itself.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The pod uid and volume name in `…/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`.
    ///
    /// # Errors
    ///
    /// When the path is not of that form, so not one of kubelet's for an inline volume.
    pub fn pod_uid_and_volume_name(&self) -> Result<(&str, &str), VolumeError> {
        let mut from_the_end = self.as_str().rsplit('/');
        let mut next = || from_the_end.next().unwrap_or_default();
        let (mount, name, plugin, volumes, uid, pods) =
            (next(), next(), next(), next(), next(), next());
        let fixed = [mount, plugin, volumes, pods];
        if fixed != ["mount", "kubernetes.io~csi", "volumes", "pods"] {
            return Err(VolumeError(format!(
                "the target path {:?} is not of the form …/pods/<pod uid>/volumes/kubernetes.io~csi/<volume>/mount",
                self.as_str()
            )));
        }
        Ok((uid, name))
    }

    fn as_str(&self) -> &str {
        self.0.to_str().expect("TargetPath::try_from took UTF-8 only")
    }
}

impl IssuerRef {
    /// The group of the issuers that certmount itself serves.
    pub const BUILT_IN_GROUP: &str = "certmount.dev";
}

impl TryFrom<String> for VolumeId {
    type Error = VolumeError;
    fn try_from(text: String) -> Result<Self, VolumeError> {
        const LONGEST: usize = 128;
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let refuse = |what: &str| Err(VolumeError(format!("the volume id {what}")));
        match text.as_bytes() {
            [] => refuse("is empty"),
            long if long.len() > LONGEST => refuse("is longer than 128 bytes"),
            [b'.', ..] => refuse("starts with a dot"),
            bytes if bytes.iter().copied().all(safe) => Ok(Self(text.into())),
            _ => refuse("holds something other than letters, digits, '.', '_' and '-'"),
        }
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> Self {
        id.as_str().to_owned()
    }
}

impl TryFrom<PathBuf> for TargetPath {
    type Error = VolumeError;
    fn try_from(path: PathBuf) -> Result<Self, VolumeError> {
        /// PATH_MAX less the final NUL.
        const LONGEST: usize = 4095;
        let refuse = |what: &str| Err(VolumeError(format!("the target path {what}")));
        let Some(text) = path.to_str() else { return refuse("is not UTF-8") };
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.len() > LONGEST {
            return refuse("is longer than 4095 bytes");
        }
        if !text.starts_with('/') {
            return refuse("is not absolute");
        }
        if text.chars().any(char::is_control) {
            return refuse("holds a control character");
        }
        if text.split('/').any(|part| part == "." || part == "..") {
            return refuse("has a '.' or '..' in it");
        }
        if text.bytes().all(|byte| byte == b'/') {
            return refuse("is the root directory");
        }
        if text.contains("//") || text.ends_with('/') {
            // Components leave out doubled and trailing slashes.
            return Ok(Self(path.components().collect::<PathBuf>().into()));
        }
        Ok(Self(path.into()))
    }
}

impl From<TargetPath> for PathBuf {
    fn from(target: TargetPath) -> Self {
        target.as_path().to_owned()
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `namespace/name`.
impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `kind name`, with the group where it is not the built-in one.
impl fmt::Display for IssuerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_str() {
            Self::BUILT_IN_GROUP => write!(f, "{} {}", self.kind, self.name),
            group => write!(f, "{}.{group} {}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "1d1a4a26-5c49-4ef6-8a9c-7a3b7b3b3b3b";

    fn target(path: &str) -> Result<TargetPath, VolumeError> {
        TargetPath::try_from(PathBuf::from(path))
    }

    fn kubelets_path(uid: &str, name: &str) -> TargetPath {
        target(&format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{name}/mount"))
            .unwrap()
    }

    #[test]
    fn inline_volume_id_is_kubelets() {
        // printf '%s' 'abctls' | sha256sum
        assert_eq!(
            VolumeId::of_inline_volume("abc", "tls").as_str(),
            "csi-e365191fd54890ceb404fb0b1bec7cd9846c590f6da1450cb9e57725570d4bda"
        );
    }

    #[test]
    fn volume_ids_are_one_safe_file_name() {
        for good in ["csi-0a", "fake-vol-id-1", "a", "A_b.c", &"x".repeat(128)] {
            assert_eq!(VolumeId::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "a/b", "/", "a\0", "a b", "é", "a\n", &"x".repeat(129)] {
            assert!(VolumeId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn target_paths_are_absolute_and_plain() {
        for (given, kept) in [("/a", "/a"), ("//a///b/", "/a/b"), ("/a/..b/c..", "/a/..b/c..")] {
            assert_eq!(target(given).unwrap().as_path(), Path::new(kept));
        }
        let bad = ["", "a", "./a", "/a/../b", "/a/.", "/./a", "/..", "/", "//", "/a\0", "/a\nb"];
        for bad in bad {
            assert!(target(bad).is_err(), "{bad:?}");
        }
        assert!(target(&format!("/{}", "x".repeat(4095))).is_err());
    }

    #[test]
    fn a_target_path_names_pod_and_volume() {
        let path = kubelets_path(UID, "tls");
        assert_eq!(path.pod_uid_and_volume_name().unwrap(), (UID, "tls"));
        let below = target("/r/pods/u/volumes/kubernetes.io~csi/n/mount").unwrap();
        assert_eq!(below.pod_uid_and_volume_name().unwrap(), ("u", "n"));
        for other in [
            "/tmp/target",
            "/pods/u/volumes/kubernetes.io~csi/n",
            "/pods/u/volumes/kubernetes.io~secret/n/mount",
            "/mount",
        ] {
            assert!(target(other).unwrap().pod_uid_and_volume_name().is_err(), "{other}");
        }
    }

    #[test]
    fn an_id_belongs_to_one_pod_and_volume() {
        let id = VolumeId::of_inline_volume(UID, "tls");
        id.belongs_to(&kubelets_path(UID, "tls"), UID).unwrap();
        let forged_uid = id.belongs_to(&kubelets_path(UID, "tls"), "another").unwrap_err();
        assert!(forged_uid.to_string().contains("another"), "{forged_uid}");
        id.belongs_to(&kubelets_path(UID, "other"), UID).unwrap_err();
        id.belongs_to(&target("/tmp/target").unwrap(), UID).unwrap_err();
    }

    #[test]
    fn identities_survive_json_and_bad_ones_do_not_come_back() {
        let id = VolumeId::of_inline_volume(UID, "tls");
        let json = serde_json::to_string(&(&id, kubelets_path(UID, "tls"))).unwrap();
        let read: (VolumeId, TargetPath) = serde_json::from_str(&json).unwrap();
        assert_eq!(read, (id, kubelets_path(UID, "tls")));
        assert!(serde_json::from_str::<VolumeId>(r#""../x""#).is_err());
        assert!(serde_json::from_str::<TargetPath>(r#""/a/../x""#).is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_id_stays_below_the_data_root(text in ".{0,140}") {
            if let Ok(id) = VolumeId::try_from(text) {
                let joined = Path::new("/root").join(id.as_str());
                prop_assert_eq!(joined.parent(), Some(Path::new("/root")));
            }
        }

        #[test]
        fn normalising_a_target_path_twice_changes_nothing(text in "[/a.]{0,20}") {
            if let Ok(once) = target(&text) {
                prop_assert_eq!(target(once.as_str()).unwrap(), once);
            }
        }
    }
}
