//! Installing with what is in `deploy/`, as the chart's users and those without helm do it.

use crate::kubernetes::{DRIVER_NAMESPACE, cluster, driver_pod, kubectl};

/// The API server drops a field that it does not know; here it must know each.
#[test]
fn the_manifests_are_valid_to_the_letter() {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/manifests.yaml");
    kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", manifests]);
}

#[test]
fn the_driver_shows_what_it_does() {
    let pod = driver_pod();
    let exec = ["-n", DRIVER_NAMESPACE, "exec", &pod, "--", "/certmount"];
    kubectl(&[&exec[..], &["inspect"]].concat());
    let pod = pod.strip_prefix("pod/").unwrap();
    let metrics = format!("/api/v1/namespaces/{DRIVER_NAMESPACE}/pods/{pod}:9402/proxy/metrics");
    let metrics = kubectl(&["get", "--raw", &metrics]);
    assert!(metrics.contains("certmount_volumes{phase=\"ready\"}"), "{metrics}");
    assert!(metrics.contains("certmount_config_problems 0"), "{metrics}");
}

/// A container that mounts for its node gets every right from Kubernetes; the driver gives up what
/// it does not need.
#[test]
fn the_driver_keeps_few_rights() {
    let container = "jsonpath={.items[0].status.containerStatuses[0].containerID}";
    let id = kubectl(&["-n", DRIVER_NAMESPACE, "get", "pods", "-o", container]);
    let id = id.strip_prefix("containerd://").unwrap();
    let tasks = cluster(&["exec", "ctr", "tasks", "ls"]);
    let process = tasks.lines().find(|task| task.starts_with(id)).unwrap();
    let process = process.split_whitespace().nth(1).unwrap();
    let rights = format!("grep -h -e ^CapEff -e ^CapPrm /proc/{process}/task/*/status | sort -u");
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER and CAP_SYS_ADMIN.
    let expected = "CapEff:\t000000000020000b\nCapPrm:\t000000000020000b\n";
    assert_eq!(cluster(&["exec", "sh", "-c", &rights]), expected);
}
