//! Volume attributes, one `key=value` a line: what any pod author can write.

#![no_main]

use std::collections::BTreeMap;

use certmount::spec::request::{NodeContext, PublishRequest, RawRequest, Secrets};
use certmount::spec::volume::VolumeId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut attributes = BTreeMap::from(
        [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", "web-0"),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("csi.storage.k8s.io/pod.uid", "uid"),
            ("csi.storage.k8s.io/serviceAccount.name", "web"),
            ("certmount.dev/issuer-name", "ca"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        // A bare name is taken for one of ours, so that the fuzzer need not find the prefix.
        let prefix = if key.contains('/') { "" } else { "certmount.dev/" };
        attributes.insert(format!("{prefix}{key}"), value.to_owned());
    }
    let volume = VolumeId::of_inline_volume("uid", "tls");
    let raw = RawRequest {
        volume_id: volume.as_str(),
        target_path: "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/tls/mount",
        attributes: &attributes,
        volume_mount_group: "2000",
        pod_ip: None,
    };
    let node = NodeContext {
        driver_name: "csi.certmount.dev".to_owned(),
        node_name: "node1".to_owned(),
    };
    match PublishRequest::parse(raw, &Secrets::default(), &node) {
        Ok(request) => {
            for name in request.files.names() {
                let name = name.as_str();
                assert!(!name.contains('/') && !name.starts_with("..") && name != ".", "{name}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
