//! A pod starts with its certificate, or says why not; and goes without a trace.

use serde_json::json;

use crate::certificate::Certificate;
use crate::kubernetes::{Namespace, eventually, no_volumes_left};

#[test]
fn a_pod_has_its_certificate_before_it_starts() {
    let namespace = Namespace::new();
    let command = ["cat", "/tls/tls.crt", "/tls/tls.key", "/tls/ca.crt"];
    let pod = namespace.create_pod(
        "web-0",
        &[("dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc")],
        &json!({
            "restartPolicy": "Never",
            "containers": [{"command": command}],
        }),
    );
    eventually("the pod has ended", || {
        let phase = pod.field(".status.phase");
        assert_ne!(phase, "Failed");
        (phase == "Succeeded").then_some(())
    });
    let certificate = Certificate::verified(&namespace.kubectl(&["logs", "web-0"]));
    let name = format!("DNS:web-0.{}.svc", namespace.name());
    assert!(certificate.names.ends_with(&name), "{certificate:?}");
}

#[test]
fn a_pod_without_root_reads_its_key_through_its_group() {
    let namespace = Namespace::new();
    let pod = namespace.create_pod(
        "web",
        &[("dns-names", "web.${POD_NAMESPACE}.svc")],
        &json!({
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000},
        }),
    );
    pod.wait("Ready");
    assert_eq!(pod.exec(&["id", "-u"]).trim(), "1000");
    pod.certificate();
    assert_eq!(pod.exec(&["stat", "-L", "-c", "%g", "/tls/tls.key"]).trim(), "2000");
}

#[test]
fn a_pod_without_root_and_without_a_group_reads_its_key_as_its_user() {
    let namespace = Namespace::new();
    let attributes = [("dns-names", "web.${POD_NAMESPACE}.svc"), ("file-uid", "1000")];
    let spec = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1000}});
    let pod = namespace.create_pod("web", &attributes, &spec);
    pod.wait("Ready");
    pod.certificate();
}

#[test]
fn a_wrong_attribute_is_told_on_the_pod() {
    let namespace = Namespace::new();
    let pod = namespace.create_pod("web", &[("dns-nmaes", "web.example.svc")], &json!({}));
    let message = eventually("kubelet says why the pod does not start", || {
        pod.events("FailedMount").into_iter().find(|message| message.contains("dns-nmaes"))
    });
    assert!(message.contains("InvalidArgument"), "{message}");
    assert!(message.contains("dns-names"), "no suggestion: {message}");
    pod.delete();
    no_volumes_left();
}

#[test]
fn names_of_others_are_denied_on_the_pod() {
    let namespace = Namespace::new();
    let pod = namespace.create_pod("web", &[("dns-names", "web.kube-system.svc")], &json!({}));
    let message = eventually("kubelet says why the pod does not start", || {
        pod.events("FailedMount").into_iter().find(|message| message.contains("kube-system"))
    });
    assert!(message.contains("PermissionDenied"), "{message}");
    pod.delete();
    no_volumes_left();
}

#[test]
fn nothing_is_left_of_a_pod() {
    let namespace = Namespace::new();
    let pods: Vec<_> = (0..3)
        .map(|number| {
            let attributes = [("dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc")];
            namespace.start_pod(&format!("web-{number}"), &attributes)
        })
        .collect();
    for pod in pods {
        pod.delete();
    }
    no_volumes_left();
}
