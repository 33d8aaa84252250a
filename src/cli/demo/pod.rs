//! The pod of the demo, and what it asks for.

use crate::csi::client::InlineVolume;

/// The pod's namespace and name.
const NAMESPACE: &str = "demo";
const POD: &str = "web-0";

/// What the volume's attributes ask for. The name follows from the pod's namespace, so that the
/// issuer signs it without a policy that says so.
const ATTRIBUTES: [(&str, &str); 5] = [
    ("certmount.dev/issuer-kind", "ClusterIssuer"),
    ("certmount.dev/issuer-name", super::ISSUER),
    ("certmount.dev/dns-names", "web.${POD_NAMESPACE}.svc"),
    ("certmount.dev/key-algorithm", "ECDSA"),
    ("certmount.dev/duration", "10s"),
];

/// The name that the clients verify.
pub(super) const SERVER_NAME: &str = "web.demo.svc";

/// The pod's volume.
pub(super) fn volume() -> InlineVolume {
    InlineVolume::new(NAMESPACE, POD, &ATTRIBUTES)
}

/// `volume` as it stands in a manifest.
pub(super) fn manifest(volume: &InlineVolume) -> String {
    let mut text = format!(
        "volumes:\n- name: {}\n  csi:\n    driver: csi.certmount.dev\n    readOnly: {}\n    volumeAttributes:\n",
        volume.name, volume.read_only
    );
    for (name, value) in &volume.attributes {
        text.push_str(&format!("      {name}: {value}\n"));
    }
    text
}
