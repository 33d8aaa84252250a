//! Many pods at once.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use crate::kubernetes::{
    DRIVER_NAMESPACE, Namespace, driver_pod, eventually, kubectl, no_volumes_left,
};

const PODS: usize = 200;

/// Every other one has its certificate through cert-manager.
#[test]
#[allow(clippy::print_stdout, reason = "a measurement")]
fn two_hundred_pods_start_at_once() {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    let name = ("dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc");
    let asking = [
        name,
        ("issuer-name", "ca"),
        ("issuer-kind", "Issuer"),
        ("issuer-group", "cert-manager.io"),
    ];
    let attributes = [&[name][..], &asking];
    let pods: Vec<_> = (0..PODS)
        .map(|number| namespace.pod(&format!("web-{number}"), attributes[number % 2]))
        .collect();
    let before = resident_mebibytes();
    let start = Instant::now();
    namespace.create(&json!({"apiVersion": "v1", "kind": "List", "items": pods}));
    namespace.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=10m"]);
    println!("{PODS} pods are ready {:?} after they were asked for", start.elapsed());
    let peak = resident_mebibytes();

    let volumes = inspect();
    let serials: BTreeSet<_> =
        volumes.iter().map(|volume| volume["serialNumber"].to_string()).collect();
    assert_eq!(volumes.iter().filter(|volume| volume["phase"] == "ready").count(), PODS);
    assert_eq!(serials.len(), PODS);
    // One that has to wait for its turn at cert-manager is told so; nothing else is.
    for event in namespace.objects("events") {
        if event["reason"] == "FailedMount" {
            let message = event["message"].as_str().unwrap();
            let its_turn = message.contains("Aborted") && message.contains("CertificateRequest");
            assert!(its_turn, "{message}");
        }
    }
    assert_eq!(namespace.objects("certificaterequests").len(), PODS / 2);

    let start = Instant::now();
    let patience = "--timeout=10m";
    namespace.kubectl(&["delete", "pods", "--all", "--grace-period=1", patience]);
    println!("and gone {:?} after they were deleted", start.elapsed());
    no_volumes_left();
    assert!(inspect().is_empty());
    eventually("the requests go with their pods", || {
        namespace.objects("certificaterequests").is_empty().then_some(())
    });
    let after = resident_mebibytes();
    println!("the driver had {before} MiB before, {peak} MiB with all, {after} MiB after");
    // What an allocator keeps for later, but nothing of each volume.
    assert!(after < before + 16, "{after} MiB are left of {peak}, where {before} had been");
}

/// What the driver says of its volumes.
fn inspect() -> Vec<Value> {
    let pod = driver_pod();
    let inspect = ["exec", &pod, "--", "/certmount", "inspect", "-o", "json"];
    let volumes = kubectl(&[&["-n", DRIVER_NAMESPACE], &inspect[..]].concat());
    serde_json::from_str(&volumes).unwrap()
}

/// Of the driver.
fn resident_mebibytes() -> u64 {
    let pod = driver_pod();
    let pod = pod.strip_prefix("pod/").unwrap();
    let metrics = format!("/api/v1/namespaces/{DRIVER_NAMESPACE}/pods/{pod}:9402/proxy/metrics");
    let metrics = kubectl(&["get", "--raw", &metrics]);
    let name = "process_resident_memory_bytes ";
    let bytes = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    bytes.parse::<f64>().unwrap() as u64 >> 20
}
