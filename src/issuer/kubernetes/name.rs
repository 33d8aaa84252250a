//! What requests are called and labelled with.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::{digest, rand};
use data_encoding::HEXLOWER;
use kube::ResourceExt;

use crate::issuer::{IssueError, IssueErrorKind, Order, Requester};
use crate::spec::object::is_object_name;
use crate::spec::volume::VolumeId;

/// The node that a request was made on.
pub(super) const NODE_LABEL: &str = "certmount.dev/node";

/// What a request was made for: a volume, or an issuer that signs on the node.
pub(super) const VOLUME_LABEL: &str = "certmount.dev/volume";

/// The name of one request.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Name {
    /// `None` for objects that are in no namespace.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl Name {
    pub(super) fn of(object: &impl ResourceExt) -> Self {
        Self { namespace: object.namespace(), name: object.name_any() }
    }

    /// The request that `order` has under way, or else the one that it will make: the name is saved
    /// before it is used.
    pub(super) fn of_order(namespace: Option<&str>, order: &Order<'_>) -> Result<Self, IssueError> {
        let name = match order.handle.load().filter(|name| is_object_name(name)) {
            Some(name) => name,
            None => save_new(order)?,
        };
        Ok(Self { namespace: namespace.map(str::to_owned), name })
    }
}

/// The next attempt makes another request: this one is decided.
pub(super) fn forget(order: &Order<'_>) -> Result<(), IssueError> {
    save_new(order).map(drop)
}

fn save_new(order: &Order<'_>) -> Result<String, IssueError> {
    let name = match order.requester {
        Requester::Volume { pod, .. } => new_name(&pod.name),
        Requester::Node { name, issuer } => new_name(&format!("{}-{name}", issuer.name)),
    };
    order.handle.save(&name).map_err(|error| {
        IssueError::new(IssueErrorKind::Node, "the name of the request cannot be kept")
            .caused_by(error)
    })?;
    Ok(name)
}

/// Begins with `prefix`, for people, and ends so that no two are the same.
fn new_name(prefix: &str) -> String {
    /// Leaves room for the rest in the 253 bytes that a name may have.
    const LONGEST_PREFIX: usize = 200;
    const SUFFIX: usize = 10;
    /// As in the names that Kubernetes makes up: nothing that reads as a word.
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; SUFFIX];
    rand::fill(&mut random).expect("the operating system has random bytes");
    let prefix = prefix.get(..LONGEST_PREFIX).unwrap_or(prefix).trim_end_matches(['.', '-']);
    let prefix = if is_object_name(prefix) { prefix } else { "node" };
    let suffix = random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
    format!("{prefix}-{}", suffix.collect::<String>())
}

/// The labels of a request.
pub(super) fn labels(node: &str, requester: Requester<'_>) -> BTreeMap<String, String> {
    let of = requester_label(requester);
    [(NODE_LABEL.to_owned(), node.to_owned()), (VOLUME_LABEL.to_owned(), of)].into()
}

/// The value of [`VOLUME_LABEL`].
pub(super) fn requester_label(requester: Requester<'_>) -> String {
    match requester {
        Requester::Volume { id, .. } => volume_label(id),
        Requester::Node { issuer, .. } => hash(&issuer.to_string()),
    }
}

/// A label has no room for all of a volume id, so it has the first 160 bits of its hash.
fn volume_label(volume: &VolumeId) -> String {
    let id = volume.as_str();
    match id.strip_prefix("csi-").and_then(|hash| hash.get(..40)) {
        Some(hash) => hash.to_owned(),
        None => hash(id),
    }
}

/// The node's name where a label has room for it.
pub(super) fn node_label(node: &str) -> String {
    /// Of a label's value.
    const LONGEST: usize = 63;
    let fits = (1..=LONGEST).contains(&node.len()) && is_object_name(node);
    if fits { node.to_owned() } else { hash(node) }
}

fn hash(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    HEXLOWER.encode(&hash.as_ref()[..20])
}

/// `namespace/name`
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_allowed_whatever_the_pod_is_called() {
        for pod in ["web-0", &"x".repeat(253), &format!("{}.-{}", "x".repeat(198), "y".repeat(50))]
        {
            let name = new_name(pod);
            assert!(is_object_name(&name), "{name}");
            assert!(name.starts_with(&pod[..5]), "{name}");
            assert_ne!(name, new_name(pod));
        }
    }

    #[test]
    fn labels_fit_and_tell_volumes_and_nodes_apart() {
        let label = |volume| volume_label(&VolumeId::of_inline_volume("uid", volume));
        assert_eq!(label("tls").len(), 40);
        assert_ne!(label("tls"), label("tls2"));
        let odd = VolumeId::try_from("A_b.c".to_owned()).unwrap();
        assert_eq!(volume_label(&odd).len(), 40);

        assert_eq!(node_label("node-1.example.com"), "node-1.example.com");
        let long = |end: char| format!("{}{end}", "n".repeat(100));
        assert_eq!(node_label(&long('a')).len(), 40);
        assert_ne!(node_label(&long('a')), node_label(&long('b')));
    }
}
