//! cert-manager signs what the driver asks of it, and what happens when it does not.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::certificate::Certificate;
use crate::kubernetes::{
    DRIVER_NAMESPACE, Namespace, RENEWED_SOON, Stopped, VolumeOnNode, cluster, eventually, kubectl,
    no_volumes_left, run,
};

const ISSUER: [(&str, &str); 4] = [
    ("issuer-name", "ca"),
    ("issuer-kind", "Issuer"),
    ("issuer-group", "cert-manager.io"),
    ("dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc"),
];

fn renewed_soon() -> Vec<(&'static str, &'static str)> {
    [&ISSUER[..], &RENEWED_SOON].concat()
}

#[test]
fn a_request_is_the_pod_s_and_the_last_one_is_kept() {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    let pod = namespace.start_pod("web", &renewed_soon());
    let requests = namespace.objects("certificaterequests");
    let first = pod.certificate();
    assert_eq!(requests[0]["metadata"]["ownerReferences"][0]["uid"], pod.uid());
    pod.told("CertificateIssued", "Issuer.cert-manager.io ca issued a certificate");

    pod.renewed(&first);
    pod.told("CertificateRenewed", "Issuer.cert-manager.io ca renewed the certificate");
    eventually("only the last request is kept", || {
        let kept = namespace.objects("certificaterequests");
        (kept.len() == 1 && kept[0]["metadata"]["uid"] != requests[0]["metadata"]["uid"])
            .then_some(())
    });
    pod.delete();
    no_volumes_left();
    eventually("the requests go with their pod", || {
        namespace.objects("certificaterequests").is_empty().then_some(())
    });
}

#[test]
fn a_pod_waits_for_cert_manager_and_is_told() {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    // It is told what it waits for after ten seconds, and still holds then.
    let lasting = [("duration", "60s"), ("renew-before", "40s")];
    let live = namespace.start_pod("live", &[&ISSUER[..], &lasting].concat());
    let cert_manager = Stopped::now("cert-manager");
    let old = live.certificate_at_hand();
    let pod = namespace.create_pod("web", &ISSUER, &json!({}));
    pod.told("CertificatePending", "is not approved yet");
    let message = pod.events("FailedMount");
    assert!(message.iter().all(|message| message.contains("Aborted")), "{message:?}");
    live.told("RenewalPending", "is not approved yet");
    drop(cert_manager);
    pod.wait("Ready");
    pod.certificate();
    live.renewed(&old);
    pod.delete();
    live.delete();
    no_volumes_left();
}

#[test]
fn a_denied_request_is_told_and_the_pod_can_go() {
    let namespace = Namespace::new();
    // No issuer of cert-manager's, so its approver leaves the request alone.
    let attributes =
        [("issuer-name", "ca"), ("issuer-kind", "Other"), ("issuer-group", "example.com")];
    let pod = namespace.create_pod("web", &attributes, &json!({}));
    let name = eventually("it asks", || {
        let requests = namespace.objects("certificaterequests");
        Some(requests.first()?["metadata"]["name"].as_str()?.to_owned())
    });
    let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True",
        "reason": "Test", "message": "only example.org is allowed"}]}});
    namespace.kubectl(&[
        "patch",
        "certificaterequests",
        &name,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &denied.to_string(),
    ]);
    pod.told("CertificateDenied", "only example.org is allowed");
    pod.delete();
    no_volumes_left();
}

/// Longer than a renewal takes to come, in which a built-in issuer goes on.
#[test]
fn renewals_go_on_without_the_api_server_and_catch_up_after_it() {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    let of_node = [&ISSUER[3..], &RENEWED_SOON].concat();
    let built_in = namespace.start_pod("built-in", &of_node);
    let asking = namespace.start_pod("asking", &renewed_soon());
    let [of_built_in, of_asking] = [&built_in, &asking].map(|pod| VolumeOnNode::of(&pod.uid()));
    // Its clients come back by themselves, but cert-manager gives up after a while.
    let cert_manager = Stopped::now("cert-manager");
    let api = Stopped::now("kube-apiserver");
    let before = of_asking.certificate();
    for _ in 0..2 {
        next(&of_built_in, &of_built_in.certificate());
    }
    assert_eq!(of_asking.certificate().serial, before.serial);
    drop(api);
    drop(cert_manager);
    next(&of_asking, &before);
    for pod in [&built_in, &asking] {
        assert_eq!(pod.field(".status.containerStatuses[0].restartCount"), "0");
        pod.delete();
    }
    no_volumes_left();
}

/// Returns once there is another certificate than `old`.
fn next(volume: &VolumeOnNode, old: &Certificate) {
    eventually("the certificate is renewed", || {
        (volume.certificate().serial != old.serial).then_some(())
    });
}

#[test]
fn pods_go_when_everything_that_could_issue_is_gone() {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    let built_in = namespace.start_pod("built-in", &[("dns-names", "a.${POD_NAMESPACE}.svc")]);
    let asking = namespace.start_pod("asking", &ISSUER);
    let cert_manager = Stopped::now("cert-manager");
    let outage = Outage::begin();
    namespace.kubectl(&["delete", "issuers.cert-manager.io", "ca"]);
    let began = Instant::now();
    built_in.delete();
    asking.delete();
    no_volumes_left();
    let took = began.elapsed();
    drop(outage);
    drop(cert_manager);
    // Deleting a pod takes seconds; no call for its volume may wait for somebody to come back.
    assert!(took < Duration::from_secs(60), "it took {took:?}");
    // And all is as it was.
    namespace.start_pod("again", &[("dns-names", "a.${POD_NAMESPACE}.svc")]);
}

/// The driver has neither its issuer nor a network, until this is dropped.
struct Outage {
    /// The driver's address.
    address: String,
}

impl Outage {
    fn begin() -> Self {
        let address = ["get", "pods", "-o", "jsonpath={.items[0].status.podIP}"];
        let address = kubectl(&[&["-n", DRIVER_NAMESPACE], &address[..]].concat());
        let outage = Self { address };
        kubectl(&["delete", "clusterissuers.certmount.dev", "cluster-ca"]);
        cluster(&["exec", "ip", "route", "add", "blackhole", &outage.address]);
        outage
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        let issuer = json!({
            "apiVersion": "certmount.dev/v1alpha1",
            "kind": "ClusterIssuer",
            "metadata": {"name": "cluster-ca"},
            "spec": {"ca": {"secretName": "cluster-ca"}},
        });
        run(&["exec", "ip", "route", "delete", "blackhole", &self.address], "");
        run(&["exec", "kubectl", "create", "-f", "-"], &issuer.to_string());
    }
}
