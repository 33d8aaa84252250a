//! Many pods at once.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use crate::kubernetes::{DRIVER_NAMESPACE, Namespace, driver_pod, kubectl, no_volumes_left};

const PODS: usize = 200;

#[test]
#[allow(clippy::print_stdout, reason = "a measurement")]
fn two_hundred_pods_start_at_once() {
    let namespace = Namespace::new();
    let attributes = [("dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc")];
    let pods: Vec<_> =
        (0..PODS).map(|number| namespace.pod(&format!("web-{number}"), &attributes)).collect();
    let start = Instant::now();
    namespace.create(&json!({"apiVersion": "v1", "kind": "List", "items": pods}));
    namespace.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=10m"]);
    println!("{PODS} pods are ready {:?} after they were asked for", start.elapsed());

    let volumes = inspect();
    let serials: BTreeSet<_> =
        volumes.iter().map(|volume| volume["serialNumber"].to_string()).collect();
    assert_eq!(volumes.iter().filter(|volume| volume["phase"] == "ready").count(), PODS);
    assert_eq!(serials.len(), PODS);
    let failed = namespace.kubectl(&["get", "events", "--field-selector=reason=FailedMount"]);
    assert_eq!(failed.trim(), "", "kubelet reports failures");

    let start = Instant::now();
    let patience = "--timeout=10m";
    namespace.kubectl(&["delete", "pods", "--all", "--grace-period=1", patience]);
    println!("and gone {:?} after they were deleted", start.elapsed());
    no_volumes_left();
    assert!(inspect().is_empty());
}

/// What the driver says of its volumes.
fn inspect() -> Vec<Value> {
    let pod = driver_pod();
    let inspect = ["exec", &pod, "--", "/certmount", "inspect", "-o", "json"];
    let volumes = kubectl(&[&["-n", DRIVER_NAMESPACE], &inspect[..]].concat());
    serde_json::from_str(&volumes).unwrap()
}
