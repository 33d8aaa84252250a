//! Pods written for cert-manager's csi-driver work unchanged, with cert-manager's own issuers: the
//! cases that its users rely on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificate::openssl;
use crate::kubernetes::{Namespace, Pod, RENEWED_SOON, eventually, kubectl, no_volumes_left};

const NAME: &str = "csi.cert-manager.io/issuer-name";
const DNS_NAMES: (&str, &str) =
    ("csi.cert-manager.io/dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc.cluster.local");

/// A namespace with the Issuer `ca`.
fn namespace() -> Namespace {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    namespace
}

/// A running pod with `attributes` besides the issuer and a name.
fn start<'a>(namespace: &'a Namespace, attributes: &[(&str, &str)]) -> Pod<'a> {
    start_with(namespace, "web", attributes, &json!({}))
}

fn start_with<'a>(
    namespace: &'a Namespace,
    name: &str,
    attributes: &[(&str, &str)],
    spec: &Value,
) -> Pod<'a> {
    let prefixed: Vec<_> = attributes
        .iter()
        .map(|(name, value)| match name.contains('/') {
            true => ((*name).to_owned(), *value),
            false => (format!("csi.cert-manager.io/{name}"), *value),
        })
        .collect();
    let mut all = vec![(NAME, "ca"), DNS_NAMES];
    all.retain(|(name, _)| !prefixed.iter().any(|(own, _)| own == name));
    all.extend(prefixed.iter().map(|(name, value)| (name.as_str(), *value)));
    let pod = namespace.create_pod(name, &all, spec);
    pod.wait("Ready");
    pod
}

/// The only `CertificateRequest` there is.
fn request(namespace: &Namespace) -> Value {
    let mut requests = namespace.objects("certificaterequests");
    assert_eq!(requests.len(), 1, "{requests:#?}");
    requests.remove(0)
}

#[test]
fn attributes_of_others_become_annotations_of_the_request() {
    let namespace = namespace();
    start(&namespace, &[("custom.group.io/custom-key", "custom-value")]);
    let request = request(&namespace);
    let annotations = &request["metadata"]["annotations"];
    assert_eq!(annotations["custom.group.io/custom-key"], "custom-value");
    assert_eq!(request["spec"]["duration"], "7776000s");
}

#[test]
fn the_group_of_the_attribute_can_read() {
    let namespace = namespace();
    let spec = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 2000}});
    let pod = start_with(&namespace, "web", &[("fs-group", "2000")], &spec);
    pod.certificate();
    assert_eq!(pod.exec(&["stat", "-L", "-c", "%g", "/tls/tls.key"]).trim(), "2000");
}

#[test]
fn keys_are_written_as_asked() {
    let namespace = namespace();
    for (name, attributes, label) in [
        ("default", &[][..], "RSA PRIVATE KEY"),
        ("pkcs1", &[("key-encoding", "PKCS1")], "RSA PRIVATE KEY"),
        ("pkcs8", &[("key-encoding", "PKCS8")], "PRIVATE KEY"),
        ("ecdsa", &[("key-algorithm", "ECDSA"), ("key-size", "384")], "PRIVATE KEY"),
        ("ed25519", &[("key-algorithm", "Ed25519")], "PRIVATE KEY"),
    ] {
        let pod = start_with(&namespace, name, attributes, &json!({}));
        pod.certificate();
        let key = pod.read("tls.key");
        assert!(key.starts_with(&format!("-----BEGIN {label}-----\n")), "{name}: {key}");
    }
}

#[test]
fn the_process_is_in_the_metrics() {
    let pods = ["-n", "drop-in", "get", "pods", "-o", "jsonpath={.items[0].metadata.name}"];
    let pod = kubectl(&pods);
    let path = format!("/api/v1/namespaces/drop-in/pods/{pod}:9402/proxy/metrics");
    let metrics = kubectl(&["get", "--raw", &path]);
    for metric in ["process_resident_memory_bytes ", "process_open_fds ", "process_max_fds "] {
        assert!(metrics.contains(metric), "no {metric} in {metrics}");
    }
}

#[test]
fn a_keystore_holds_the_same_key_and_certificate() {
    let namespace = namespace();
    let attributes = [
        ("pkcs12-enable", "true"),
        ("pkcs12-filename", "crt.p12"),
        ("pkcs12-password", "a password"),
    ];
    let pod = start(&namespace, &attributes);
    let certificate = pod.certificate();
    let encoded = pod.exec(&["base64", "/tls/crt.p12"]).replace('\n', "");
    let keystore = STANDARD.decode(encoded).unwrap();
    let open = [
        "pkcs12",
        "-legacy",
        "-in",
        "/dev/stdin",
        "-clcerts",
        "-noenc",
        "-passin",
        "pass:a password",
    ];
    let opened = openssl(&open, keystore);
    assert_eq!(openssl(&["x509", "-noout", "-serial"], &opened), certificate.serial);
    assert_eq!(openssl(&["pkey", "-pubout"], &opened), certificate.public_key);
}

#[test]
fn renewals_keep_or_replace_the_key() {
    let namespace = namespace();
    let pods = [("keeps", Some("true")), ("default", None), ("replaces", Some("false"))];
    let pods = pods.map(|(name, reuse)| {
        let mut attributes = RENEWED_SOON.to_vec();
        attributes.extend(reuse.map(|reuse| ("reuse-private-key", reuse)));
        (start_with(&namespace, name, &attributes, &json!({})), reuse == Some("true"))
    });
    let mut old = pods.each_ref().map(|(pod, _)| pod.certificate_at_hand());
    for _ in 0..2 {
        for ((pod, keeps), old) in pods.iter().zip(&mut old) {
            let new = pod.renewed(old);
            assert_eq!(new.public_key == old.public_key, *keeps, "{pod:?}");
            *old = new;
        }
    }
    for (pod, _) in pods {
        pod.delete();
    }
}

#[test]
fn all_attributes_at_once_and_the_pod_goes_in_time() {
    let namespace = namespace();
    let attributes = [
        ("issuer-kind", "Issuer"),
        ("issuer-group", "cert-manager.io"),
        ("common-name", "${POD_NAME}.example"),
        ("dns-names", "a.example,\n  b.example"),
        ("ip-sans", "10.0.0.1,10.0.0.2"),
        ("uri-sans", "spiffe://example.org/ns/$POD_NAMESPACE"),
        ("organizations", "\"Acme, Inc.\",Other"),
        ("duration", "1h"),
        ("renew-before", "10m"),
        ("is-ca", "false"),
        ("key-usages", "digital signature, key encipherment, server auth"),
        ("key-algorithm", "RSA"),
        ("key-size", "3072"),
        ("key-encoding", "PKCS8"),
        ("certificate-file", "my.crt"),
        ("privatekey-file", "my.key"),
        ("ca-file", "my-ca.crt"),
        ("fs-group", "3000"),
        ("reuse-private-key", "true"),
        ("pkcs12-enable", "true"),
        ("pkcs12-password", "a password"),
    ];
    let pod = start(&namespace, &attributes);
    let files = pod.exec(&["ls", "/tls"]);
    assert_eq!(files, "keystore.p12\nmy-ca.crt\nmy.crt\nmy.key\n");
    let subject =
        openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253"], pod.read("my.crt"));
    for part in ["CN=web.example", "O=Acme\\, Inc.", "O=Other"] {
        assert!(subject.contains(part), "{subject}");
    }
    let names = openssl(&["x509", "-noout", "-ext", "subjectAltName"], pod.read("my.crt"));
    let wanted = format!(
        "DNS:a.example, DNS:b.example, IP Address:10.0.0.1, IP Address:10.0.0.2, \
         URI:spiffe://example.org/ns/{}",
        namespace.name()
    );
    let sorted = |names: &str| {
        let mut names: Vec<_> = names.split(", ").map(|name| name.trim().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(names.lines().nth(1).unwrap()), sorted(&wanted));
    let spec = &request(&namespace)["spec"];
    assert_eq!(spec["duration"], "3600s");
    pod.delete();
    no_volumes_left();
}

#[test]
fn key_usages_are_asked_for() {
    let namespace = namespace();
    let usages = "signing,digital signature,content commitment,key encipherment,key agreement,data encipherment";
    let pod = start(&namespace, &[("key-usages", usages)]);
    let usage = openssl(&["x509", "-noout", "-ext", "keyUsage"], pod.read("tls.crt"));
    for usage_of_the_field in [
        "Digital Signature",
        "Non Repudiation",
        "Key Encipherment",
        "Key Agreement",
        "Data Encipherment",
    ] {
        assert!(usage.contains(usage_of_the_field), "{usage}");
    }
}

#[test]
fn variables_are_expanded_everywhere() {
    // A DNS label has no more than 63 characters, and the pod's uid takes 36 of them.
    let namespace = Namespace::called("vars");
    namespace.cert_manager_ca();
    let pod = start(
        &namespace,
        &[
            ("common-name", "$POD_NAME.${POD_NAMESPACE}"),
            (
                "dns-names",
                "$POD_NAME-my-dns-$POD_NAMESPACE-${POD_UID},\n ${POD_NAME},${POD_NAME}.${POD_NAMESPACE}",
            ),
            (
                "uri-sans",
                "spiffe://foo.bar/${POD_NAMESPACE}/${POD_NAME}/$POD_UID,spiffe://foo.bar/${SERVICE_ACCOUNT_NAME}",
            ),
        ],
    );
    let (namespace, uid) = (namespace.name(), pod.uid());
    let certificate = pod.read("tls.crt");
    let subject = openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253"], &certificate);
    assert_eq!(subject, format!("subject=CN=web.{namespace}"));
    let names = openssl(&["x509", "-noout", "-ext", "subjectAltName"], &certificate);
    for name in [
        format!("DNS:web-my-dns-{namespace}-{uid}"),
        "DNS:web,".to_owned(),
        format!("DNS:web.{namespace},"),
        format!("URI:spiffe://foo.bar/{namespace}/web/{uid}"),
        "URI:spiffe://foo.bar/default".to_owned(),
    ] {
        assert!(names.contains(&name), "no {name} in {names}");
    }
}

#[test]
fn a_literal_subject_is_kept_in_its_order() {
    let namespace = namespace();
    let pod = start(&namespace, &[("literal-subject", "CN=${POD_NAME},OU=shop,DC=example,DC=org")]);
    let subject =
        openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253"], pod.read("tls.crt"));
    assert_eq!(subject, "subject=CN=web,OU=shop,DC=example,DC=org");
}

#[test]
fn a_pod_may_have_several_volumes() {
    let namespace = namespace();
    let mut pod = namespace.pod("web", &[(NAME, "ca"), DNS_NAMES]);
    let mut second = pod["spec"]["volumes"][0].clone();
    second["name"] = json!("client");
    let attributes = &mut second["csi"]["volumeAttributes"];
    attributes["csi.cert-manager.io/dns-names"] = json!("client.example");
    attributes["csi.cert-manager.io/key-usages"] = json!("digital signature,client auth");
    pod["spec"]["volumes"].as_array_mut().unwrap().push(second);
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "client", "mountPath": "/client", "readOnly": true}));
    let pod = namespace.create_whole_pod(&pod);
    pod.wait("Ready");
    pod.certificate();
    let names = openssl(
        &["x509", "-noout", "-ext", "subjectAltName"],
        pod.exec(&["cat", "/client/tls.crt"]),
    );
    assert!(names.contains("DNS:client.example"), "{names}");
    assert_eq!(namespace.objects("certificaterequests").len(), 2);
    pod.delete();
    no_volumes_left();
    eventually("the requests go with their pod", || {
        namespace.objects("certificaterequests").is_empty().then_some(())
    });
}
