//! A running pod's certificate is renewed in place, whatever is restarted around it.

use std::time::{Duration, Instant};

use crate::kubernetes::{
    DRIVER_NAMESPACE, Namespace, PATIENTLY, Pod, RENEWED_SOON, cluster, driver_container,
    driver_pod, eventually, kubectl, no_volumes_left, volumes_on_node,
};

const SHORT: [(&str, &str); 3] = [NAME, RENEWED_SOON[0], RENEWED_SOON[1]];
/// Not renewed while a test runs.
const LONG: [(&str, &str); 1] = [NAME];
const NAME: (&str, &str) = ("dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc");

#[test]
fn a_running_pod_sees_its_renewals() {
    let namespace = Namespace::new();
    let pod = namespace.start_pod("web", &SHORT);
    let first = pod.certificate();
    let second = pod.renewed(&first);
    assert_ne!(first.public_key, second.public_key, "a new certificate has a new key");
    assert_eq!(first.names, second.names);
    let third = pod.renewed(&second);
    assert_ne!(first.serial, third.serial);
}

#[test]
fn volumes_outlive_the_driver() {
    let namespace = Namespace::new();
    let steady = namespace.start_pod("steady", &LONG);
    let renewing = namespace.start_pod("renewing", &SHORT);
    let before = steady.certificate();
    replace_driver();
    assert_eq!(steady.certificate(), before);
    renewing.renewed(&renewing.certificate_at_hand());
    undisturbed(&[&steady, &renewing]);
    gone_without_a_trace(&[&steady, &renewing]);
}

#[test]
fn volumes_outlive_a_kubelet() {
    let namespace = Namespace::new();
    let steady = namespace.start_pod("steady", &LONG);
    let renewing = namespace.start_pod("renewing", &SHORT);
    let before = steady.certificate();
    restart_kubelet();
    // A new pod can only start when kubelet has been told of the driver again.
    let new = namespace.start_pod("new", &LONG);
    assert_eq!(steady.certificate(), before);
    renewing.renewed(&renewing.certificate_at_hand());
    undisturbed(&[&steady, &renewing]);
    gone_without_a_trace(&[&steady, &renewing, &new]);
}

#[test]
fn volumes_outlive_driver_and_kubelet_together() {
    let namespace = Namespace::new();
    let steady = namespace.start_pod("steady", &LONG);
    let renewing = namespace.start_pod("renewing", &SHORT);
    let before = steady.certificate();
    cluster(&["stop", "kubelet"]);
    kill_driver();
    cluster(&["start", "kubelet"]);
    driver_pod();
    let new = namespace.start_pod("new", &LONG);
    assert_eq!(steady.certificate(), before);
    renewing.renewed(&renewing.certificate_at_hand());
    undisturbed(&[&steady, &renewing]);
    gone_without_a_trace(&[&steady, &renewing, &new]);
}

#[test]
fn a_pod_deleted_without_the_driver_goes_once_it_is_back() {
    let namespace = Namespace::new();
    let pod = namespace.start_pod("web", &LONG);
    let nowhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":"yes"}}}}}"#;
    let somewhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":null}}}}}"#;
    patch_driver(nowhere);
    kubectl(&["-n", DRIVER_NAMESPACE, "wait", "--for=delete", "pods", "--all", PATIENTLY]);
    namespace.kubectl(&["delete", "pod", "web", "--wait=false"]);
    eventually("the container has ended", || {
        ["Failed", "Succeeded"].contains(&&*pod.field(".status.phase")).then_some(())
    });
    // Only the driver can take the volume away, and kubelet keeps asking for it.
    assert_ne!(volumes_on_node(), [] as [&str; 0]);
    patch_driver(somewhere);
    driver_pod();
    pod.delete();
    no_volumes_left();
}

#[test]
fn after_a_reboot_pods_come_back_with_new_keys() {
    let namespace = Namespace::new();
    let pod = namespace.start_pod("web", &LONG);
    let (uid, before) = (pod.uid(), pod.certificate());
    cluster(&["reboot"]);
    driver_pod();
    eventually("the container runs again", || {
        (pod.field(".status.containerStatuses[0].restartCount") == "1"
            && pod.field(".status.containerStatuses[0].ready") == "true")
            .then_some(())
    });
    assert_eq!(pod.uid(), uid);
    let after = pod.certificate();
    assert_ne!(after.public_key, before.public_key);
    assert_eq!(after.names, before.names);
    gone_without_a_trace(&[&pod]);
}

/// As an update of the chart does: the old pod ends, and the new one takes the volumes over.
fn replace_driver() {
    let old = driver_pod();
    kubectl(&["-n", DRIVER_NAMESPACE, "rollout", "restart", "daemonset/certmount"]);
    assert_ne!(driver_pod(), old);
}

/// Ends the driver's process at once, as the kernel does when memory runs out.
fn kill_driver() {
    cluster(&["exec", "ctr", "tasks", "kill", "--signal=SIGKILL", &driver_container()]);
}

fn restart_kubelet() {
    cluster(&["stop", "kubelet"]);
    cluster(&["start", "kubelet"]);
}

fn patch_driver(patch: &str) {
    kubectl(&["-n", DRIVER_NAMESPACE, "patch", "daemonset/certmount", "--patch", patch]);
}

/// No container of these pods was restarted, and no call for their volumes failed.
fn undisturbed(pods: &[&Pod<'_>]) {
    for pod in pods {
        assert_eq!(pod.field(".status.containerStatuses[0].restartCount"), "0");
        for message in pod.events("FailedMount") {
            // What a kubelet says that has just come back and has not looked around yet.
            let unregistered = message.contains("not found in the list of registered CSI drivers");
            assert!(unregistered, "{message}");
        }
    }
}

fn gone_without_a_trace(pods: &[&Pod<'_>]) {
    let start = Instant::now();
    for pod in pods {
        pod.delete();
    }
    // It takes seconds; a call that fails at first is repeated after minutes.
    assert!(start.elapsed() < Duration::from_secs(90), "it took {:?}", start.elapsed());
    no_volumes_left();
}
