//! The driver with a real API server and cert-manager's real controller, and with no more rights
//! than the chart gives. Kubelet is played.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, which may panic and asks for the time"
)]

#[path = "kubernetes/api.rs"]
mod api;
mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use api::Api;
use certmount::clock::Clock;
use certmount::config::{Root, RootOptions};
use certmount::csi::client::{InlineVolume, Kubelet};
use certmount::x509::{Certificate, KeyAlgorithm, certificates_from_pem, chain_to_pem};
use common::{Plugin, namespaced_async};
use serde_json::Value;
use tonic::Code;

const CA: &str = "
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata: {name: ca}
spec: {ca: {secretName: root}}
";

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn an_issuer_of_the_cluster_is_taken_up_live() {
    namespaced_async(|| async {
        let api = Api::start();
        let plugin = Plugin::with_kubernetes(&api.driver(), &[]);
        let kubelet = plugin.kubelet();
        let volume = web("web-0", &[("certmount.dev/issuer-name", "ca")]);
        let status = kubelet.publish(&volume).await.unwrap_err();
        assert!(status.message().contains("there is no ClusterIssuer ca"), "{status}");

        api.apply(CA);
        plugin.wait("the Secret is missed", || {
            plugin.log().contains("there is no Secret root in namespace certmount-system")
        });
        let first = root("first");
        apply_secret(&api, "certmount-system", &first);
        let target = until_published(&kubelet, &volume).await;
        assert_eq!(anchors(&target), [first.certificate().clone()]);
        let leaf = leaf(&target);
        assert!(leaf.is_signed_by(first.certificate()));
        assert_eq!(leaf.names(), ["dns:web.shop.svc"]);

        // Another CA is trusted at once, beside the one that certificates in use need.
        let second = root("second");
        apply_secret(&api, "certmount-system", &second);
        plugin.wait("the new CA is trusted", || anchors(&target).contains(second.certificate()));
        assert!(anchors(&target).contains(first.certificate()));

        let listed = api.kubectl(&["get", "clusterissuers.certmount.dev"]);
        assert!(listed.lines().nth(1).unwrap().starts_with("ca     root"), "{listed}");

        // Gone from the API server, and with it from the driver; the volume stays.
        api.kubectl(&["delete", "clusterissuers.certmount.dev", "ca"]);
        let other = web("web-1", &[("certmount.dev/issuer-name", "ca")]);
        plugin.wait("the issuer is gone", || plugin.log().contains("trust anchors replaced"));
        let status = until_refused(&kubelet, &other).await;
        assert!(status.contains("there is no ClusterIssuer ca"), "{status}");
        assert!(target.join("tls.crt").exists());

        let may = |verb: &str, what: &str, namespace: &str| {
            let can_i = ["auth", "can-i", verb, what, "-n", namespace];
            api.kubectl_as("driver", &can_i, "").is_ok()
        };
        assert!(may("watch", "secrets/root", "certmount-system"), "what it does needs that");
        assert!(!may("list", "secrets", "certmount-system"));
        assert!(!may("get", "secrets", "shop"));
    });
}

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn a_wrong_issuer_is_refused_when_it_is_applied() {
    namespaced_async(|| async {
        let api = Api::start();
        let cluster = |spec: &str| {
            format!(
                "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: x}}, spec: {spec}}}"
            )
        };
        let wrong = [
            ("{}", "say how to sign, in one way: acme or ca or"),
            ("{selfSigned: {}, ca: {secretName: a}}", "say how to sign, in one way"),
            ("{certManager: {issuerRef: {name: a}}}", "unknown field \"spec.certManager\""),
            ("{selfSigned: {crlDistributionPoint: []}}", "unknown field"),
            ("{ca: {}}", "ca needs one of secretName and files"),
            ("{ca: {secretName: A_b}}", "spec.ca.secretName"),
            ("{ca: {files: {certFile: tls.crt, keyFile: /k}}}", "spec.ca.files.certFile"),
            ("{ca: {files: {certFile: /c}}}", "spec.ca.files.keyFile"),
            ("{ca: {secretName: a, maxDuration: 90 days}}", "spec.ca.maxDuration"),
            ("{ca: {secretName: a, ocspServers: [nowhere]}}", "spec.ca.ocspServers[0]"),
            ("{selfSigned: {}, policy: [{dnsNames: ['a b']}]}", "spec.policy[0].dnsNames[0]"),
            ("{selfSigned: {}, policy: [{namespaces: []}]}", "spec.policy[0].namespaces"),
            ("{selfSigned: {}, policy: [{usages: [serverAuth]}]}", "spec.policy[0].usages[0]"),
            ("{selfSigned: {}, policy: [{isCA: 1}]}", "spec.policy[0].isCA"),
        ];
        for (spec, words) in wrong {
            let error = api.try_kubectl(&["apply", "-f", "-"], &cluster(spec)).unwrap_err();
            assert!(error.contains(words), "{spec}: {error} does not say {words:?}");
        }
        let namespaced = "{apiVersion: certmount.dev/v1alpha1, kind: Issuer, metadata: {name: x, namespace: shop},
            spec: {ca: {files: {certFile: /c, keyFile: /k}}}}";
        let error = api.try_kubectl(&["apply", "-f", "-"], namespaced).unwrap_err();
        assert!(error.contains("ca.files is for a ClusterIssuer only"), "{error}");

        // Everything at once that may be said.
        api.apply(&cluster(
            "{ca: {secretName: a.b-c, crlDistributionPoints: ['http://a/crl'], ocspServers: ['http://a'],
               issuingCertificateURLs: ['http://a/ca'], maxDuration: 720h, backdate: '0'},
              policy: [{namespaces: ['team-*'], serviceAccounts: [web], dnsNames: ['**.{namespace}.example.com'],
                ipRanges: [10.0.0.0/8, '2001:db8::/32'], uris: ['spiffe://{trustDomain}/ns/*/sa/*'],
                emailAddresses: ['*@example.com'], commonNames: ['any text'], subject: {O: [Example]},
                usages: [server auth, code signing, 1.3.6.1.5.2.3.5], isCA: true, maxDuration: 1h30m,
                keyAlgorithms: [ecdsa, RSA-4096]}]}",
        ));
        api.kubectl(&[
            "explain",
            "clusterissuers.spec.policy.dnsNames",
            "--api-version=certmount.dev/v1alpha1",
        ]);
    });
}

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn cert_manager_signs_and_renews() {
    namespaced_async(|| async {
        let mut api = Api::start();
        let root = root("cert-manager");
        apply_secret(&api, "shop", &root);
        api.apply(
            "
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: ca, namespace: shop}
spec: {ca: {secretName: root}}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: self, namespace: shop}
spec: {selfSigned: {}}
",
        );
        api.start_cert_manager();
        let plugin = Plugin::with_kubernetes(&api.driver(), &[]);
        let kubelet = plugin.kubelet();
        let volume = web(
            "web-0",
            &[
                ("certmount.dev/issuer-name", "ca"),
                ("certmount.dev/issuer-kind", "Issuer"),
                ("certmount.dev/issuer-group", "cert-manager.io"),
                ("certmount.dev/duration", "20s"),
                ("certmount.dev/key-usages", "digital signature,server auth"),
                ("example.com/team", "shop"),
            ],
        );
        let target = until_published(&kubelet, &volume).await;
        assert_eq!(anchors(&target), [root.certificate().clone()]);
        let first = leaf(&target);
        assert!(first.is_signed_by(root.certificate()));
        assert_eq!(first.names(), ["dns:web.shop.svc"]);

        let requests = api.objects("certificaterequests");
        let [request] = requests.as_slice() else { panic!("{requests:?}") };
        assert_eq!(request["metadata"]["annotations"]["example.com/team"], "shop");
        assert_eq!(request["metadata"]["ownerReferences"][0]["uid"], "shop-web-0-uid");
        assert_eq!(request["spec"]["issuerRef"]["name"], "ca");
        assert_eq!(request["spec"]["username"].as_str().unwrap_or(DRIVER), DRIVER);

        plugin.wait("the renewal", || leaf(&target) != first);
        plugin.wait("the old request is gone", || {
            let requests = api.objects("certificaterequests");
            requests.iter().all(|other| other["metadata"]["name"] != request["metadata"]["name"])
        });
        assert!(!api.objects("certificaterequests").is_empty(), "the last one is kept");
        api.wait("the events", || {
            let events = api.events("web-0");
            ["CertificateIssued", "CertificateRenewed"].iter().all(|reason| {
                events.iter().any(|(other, message)| {
                    other == reason && message.starts_with("Issuer.cert-manager.io ca ")
                })
            })
        });

        // What only cert-manager can say: its own selfSigned wants the private key.
        let mut volume = volume;
        volume.pod.uid = "shop-web-1-uid".to_owned();
        volume.pod.name = "web-1".to_owned();
        volume.attributes.insert("certmount.dev/issuer-name".to_owned(), "self".to_owned());
        let status = kubelet.publish(&volume).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status.message().contains("issuer-group certmount.dev with selfSigned"),
            "{status}"
        );
    });
}

/// Who the API server takes the driver for.
const DRIVER: &str = "system:serviceaccount:certmount-system:certmount";

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn a_pod_asks_in_its_own_name() {
    namespaced_async(|| async {
        let api = Api::start();
        api.apply(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: certificaterequests, namespace: shop}
rules:
  - {apiGroups: [cert-manager.io], resources: [certificaterequests], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: certificaterequests, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: certificaterequests}
subjects:
  - {kind: ServiceAccount, name: web, namespace: shop}
",
        );
        let mut plugin = Plugin::with_kubernetes(&api.driver(), &["--use-token-request"]);
        let kubelet = plugin.kubelet();
        let mut volume = web(
            "web-0",
            &[
                ("certmount.dev/issuer-name", "vault"),
                ("certmount.dev/issuer-kind", "VaultIssuer"),
                ("certmount.dev/issuer-group", "example.com"),
            ],
        );
        volume.pod.service_account = "web".to_owned();
        let status = kubelet.publish(&volume).await.unwrap_err();
        assert!(status.message().contains("has not handed over its token"), "{status}");
        // Among the attributes, a pod's author could have written it.
        let mut forged = volume.clone();
        forged.attributes.insert(TOKENS.to_owned(), tokens(&api, "certmount-system", "certmount"));
        forged.pod.name = "web-1".to_owned();
        forged.pod.uid = "shop-web-1-uid".to_owned();
        let status = kubelet.publish(&forged).await.unwrap_err();
        assert!(status.message().contains("has not handed over its token"), "{status}");
        assert!(api.objects("certificaterequests").is_empty());

        // Kubelet publishes again and again, each time with the token as it is now.
        let mut of_nobody = volume.clone();
        of_nobody.secrets.insert(TOKENS.to_owned(), tokens(&api, "shop", "nobody"));
        let said = until_it_says(&kubelet, &of_nobody, "may not create").await;
        assert!(said.contains("Role in that namespace"), "{said}");
        volume.secrets.insert(TOKENS.to_owned(), tokens(&api, "shop", "web"));
        until_it_says(&kubelet, &volume, "is not approved yet").await;
        let requests = api.objects("certificaterequests");
        let [request] = requests.as_slice() else { panic!("{requests:?}") };
        assert_eq!(request["metadata"]["ownerReferences"][0]["name"], "web-0");

        // Kubelet's token is nowhere but in memory, and a restart goes on without one.
        let token = volume.secrets[TOKENS].split('"').nth(5).unwrap().to_owned();
        assert!(token.starts_with("ey"), "{token}");
        assert!(!plugin.log().contains(&token));
        for entry in fs::read_dir(plugin.data_root().join(volume.id())).unwrap().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            assert!(!text.contains(&token), "{}", entry.path().display());
        }
        plugin.restart();
        volume.secrets.remove(TOKENS);
        until_it_says(&kubelet, &volume, "is not approved yet").await;
        assert_eq!(api.objects("certificaterequests").len(), 1);

        for volume in [&volume, &forged] {
            kubelet.unpublish(volume).await.unwrap();
        }
        assert!(plugin.leftovers().is_empty());
    });
}

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn a_pod_of_the_host_network_gets_its_address() {
    namespaced_async(|| async {
        let mut api = Api::start();
        api.apply(
            "{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {name: self},
              spec: {selfSigned: {}, policy: [{ipRanges: [10.0.0.0/24]}]}}",
        );
        let plugin = Plugin::with_kubernetes(&api.driver(), &[]);
        let kubelet = plugin.kubelet();
        let with_address = |pod: &str, uid: &str, address: &str| {
            let attributes =
                [("certmount.dev/issuer-name", "self"), ("certmount.dev/ip-sans", address)];
            let mut volume = web(pod, &attributes);
            volume.pod.uid = uid.to_owned();
            volume
        };
        let volume = |pod: &str, uid: &str| with_address(pod, uid, "${POD_IP}");
        let pod = |name: &str, host_network: bool| {
            api.apply(&format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}},
                  spec: {{hostNetwork: {host_network}, containers: [{{name: a, image: a}}]}}}}"
            ));
            let get = ["get", "pod", name, "-n", "shop", "-o", "jsonpath={.metadata.uid}"];
            api.kubectl(&get)
        };
        let of_host = volume("host", &pod("host", true));
        let status = kubelet.publish(&of_host).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("does not know the pod's IP address yet"), "{status}");
        api.kubectl(&[
            "patch",
            "pod",
            "host",
            "-n",
            "shop",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status": {"hostIP": "10.0.0.7", "podIP": "10.0.0.7"}}"#,
        ]);
        let target = until_published(&kubelet, &of_host).await;
        assert_eq!(leaf(&target).names(), ["dns:web.shop.svc", "ip:10.0.0.7"]);

        // What is there needs nobody to ask again.
        api.kubectl(&["delete", "pod", "host", "-n", "shop", "--force"]);
        kubelet.publish(&of_host).await.unwrap();

        let other = volume("other", &pod("other", false));
        let status = kubelet.publish(&other).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("POD_IP is not known yet"), "{status}");

        // Nobody has to say whose an address is that the issuer allows to all.
        api.stop("apiserver");
        let allowed = with_address("allowed", "allowed-uid", "10.0.0.9");
        let target = kubelet.publish(&allowed).await.unwrap();
        assert_eq!(leaf(&target).names(), ["dns:web.shop.svc", "ip:10.0.0.9"]);
        let maybe_its_own = with_address("maybe", "maybe-uid", "10.9.0.9");
        let named = volume("named", "named-uid");
        for volume in [&maybe_its_own, &named] {
            let status = kubelet.publish(volume).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("does not tell the pod's IP address"), "{status}");
        }
        for volume in [&of_host, &allowed, &maybe_its_own, &named] {
            kubelet.unpublish(volume).await.unwrap();
        }
        assert!(plugin.leftovers().is_empty());
    });
}

/// Where kubelet puts the tokens of a pod's service account.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A token of a service account for the API server, as kubelet hands it over.
fn tokens(api: &Api, namespace: &str, account: &str) -> String {
    api.apply(&format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: {namespace}}}}}"
    ));
    let token = api.kubectl(&["create", "token", account, "-n", namespace]);
    format!(
        r#"{{"": {{"token": "{}", "expirationTimestamp": "2100-01-01T00:00:00Z"}}}}"#,
        token.trim()
    )
}

/// Publishes as kubelet does until that is the answer, and answers all of it.
async fn until_it_says(kubelet: &Kubelet, volume: &InlineVolume, words: &str) -> String {
    let mut last = None;
    for _ in 0..60 {
        let status = kubelet.publish(volume).await.unwrap_err();
        if status.message().contains(words) {
            return status.message().to_owned();
        }
        last = Some(status);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("it never says {words:?}: {last:?}");
}

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn whoever_waits_for_an_approval_or_is_denied_one_is_told() {
    namespaced_async(|| async {
        let api = Api::start();
        let plugin = Plugin::with_kubernetes(&api.driver(), &[]);
        let kubelet = plugin.kubelet();
        let volume = web(
            "web-0",
            &[
                ("certmount.dev/issuer-name", "vault"),
                ("certmount.dev/issuer-kind", "VaultIssuer"),
                ("certmount.dev/issuer-group", "example.com"),
            ],
        );
        let status = kubelet.publish(&volume).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        let name = name_of(&api.objects("certificaterequests")[0]);
        for words in [
            &format!("CertificateRequest shop/{name} is not approved yet"),
            "vaultissuers.example.com/shop.vault",
            &format!("cmctl approve -n shop {name}"),
        ] {
            assert!(status.message().contains(words), "{status} does not say {words}");
        }
        api.wait("the event", || {
            api.events("web-0").iter().any(|(reason, _)| reason == "CertificatePending")
        });

        decide(&api, &name, "Denied", "only example.org is allowed");
        api.wait("the event", || {
            let message =
                format!("CertificateRequest shop/{name} was denied: only example.org is allowed");
            api.events("web-0").iter().any(|(reason, said)| {
                reason == "CertificateDenied"
                    && said.contains(&message)
                    && said.contains("next try at")
            })
        });
        let status = kubelet.publish(&volume).await.unwrap_err();
        assert!(status.message().contains("was denied: only example.org"), "{status}");
        assert!(api.objects("certificaterequests").len() == 1, "the denied one is kept for audit");

        kubelet.unpublish(&volume).await.unwrap();
        assert!(plugin.leftovers().is_empty());
    });
}

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn a_restart_goes_on_with_the_request_and_its_key() {
    namespaced_async(|| async {
        let mut api = Api::start();
        let root = root("cert-manager");
        apply_secret(&api, "shop", &root);
        api.apply(
            "{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: ca, namespace: shop},
              spec: {ca: {secretName: root}}}",
        );
        let mut plugin = Plugin::with_kubernetes(&api.driver(), &[]);
        let kubelet = plugin.kubelet();
        // As pods write it for cert-manager's own driver.
        let volume = web(
            "web-0",
            &[
                ("csi.cert-manager.io/issuer-name", "ca"),
                ("csi.cert-manager.io/dns-names", "web.shop.svc"),
            ],
        );
        let publish = tokio::spawn({
            let (kubelet, volume) = (kubelet.clone(), volume.clone());
            async move { kubelet.publish(&volume).await }
        });
        while api.objects("certificaterequests").is_empty() {
            tokio::task::yield_now().await;
        }
        plugin.kill();
        publish.await.unwrap().unwrap_err();
        let before = api.objects("certificaterequests");

        // The driver comes back before anyone has signed, and once more after it.
        plugin.restart();
        plugin.kill();
        api.start_cert_manager();
        api.wait("it is signed", || {
            !api.objects("certificaterequests")[0]["status"]["certificate"].is_null()
        });
        plugin.restart();
        let target = until_published(&kubelet, &volume).await;
        let after = api.objects("certificaterequests");
        assert_eq!(after.len(), 1);
        assert_eq!(after[0]["metadata"]["uid"], before[0]["metadata"]["uid"]);
        // The key of the certificate is the one that the request was made with.
        assert_eq!(public_key(&target.join("tls.crt"), "x509"), {
            use base64::Engine as _;
            let request = after[0]["spec"]["request"].as_str().unwrap();
            let request = base64::engine::general_purpose::STANDARD.decode(request).unwrap();
            let file = api.path("request.pem");
            fs::write(&file, request).unwrap();
            public_key(&file, "req")
        });
    });
}

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn a_signer_of_kubernetes_signs_what_was_approved() {
    namespaced_async(|| async {
        let mut api = Api::start();
        api.start_signers();
        let plugin = Plugin::with_kubernetes(&api.driver(), &[]);
        let kubelet = plugin.kubelet();
        let volume = InlineVolume::new(
            "shop",
            "web-0",
            &[
                ("certmount.dev/issuer-name", "kubernetes.io/kube-apiserver-client"),
                ("certmount.dev/issuer-group", "certificates.k8s.io"),
                ("certmount.dev/common-name", "web"),
                ("certmount.dev/duration", "1h"),
                ("certmount.dev/key-usages", "digital signature,key encipherment,client auth"),
            ],
        );
        let status = kubelet.publish(&volume).await.unwrap_err();
        let waiting: Value =
            serde_json::from_str(&api.kubectl(&["get", "csr", "-o", "json"])).unwrap();
        let name = name_of(&waiting["items"][0]);
        let advice = format!("kubectl certificate approve {name}");
        assert!(status.message().contains(&advice), "{status}");

        api.kubectl(&["certificate", "approve", &name]);
        let target = until_published(&kubelet, &volume).await;
        let leaf = leaf(&target);
        assert_eq!(leaf.subject(), "CN=web");
        let life = leaf.validity().not_after.duration_since(Clock::system().now());
        assert!(Duration::try_from(life).unwrap() <= Duration::from_secs(3600));
    });
}

#[test]
#[ignore = "needs etcd, kube-apiserver and cert-manager's controller; .ci/run builds them"]
fn trust_comes_from_config_maps_and_bundles_and_follows_them() {
    namespaced_async(|| async {
        let mut api = Api::start();
        api.start_signers();
        let plugin = Plugin::with_kubernetes(&api.driver(), &[]);
        let kubelet = plugin.kubelet();
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        let volume = InlineVolume::new(
            "shop",
            "web-0",
            &[
                ("certmount.dev/issuer-name", SIGNER),
                ("certmount.dev/issuer-group", "certificates.k8s.io"),
                ("certmount.dev/common-name", "web"),
                ("certmount.dev/duration", "1h"),
                ("certmount.dev/key-usages", "digital signature,key encipherment,client auth"),
                ("certmount.dev/trust-bundles", SIGNER),
                ("certmount.dev/trust-config-maps", "roots"),
            ],
        );
        let missing = "there is no ConfigMap shop/roots, which trust-config-maps names: create it";
        until_it_says(&kubelet, &volume, missing).await;
        let partner = root("partner");
        apply_roots(&api, &pem(&partner));
        let missing = format!("there is no ClusterTrustBundle of the signer {SIGNER}");
        until_it_says(&kubelet, &volume, &missing).await;
        assert_eq!(api.kubectl(&["get", "csr", "-o", "name"]), "", "nothing is asked for yet");

        // A signer of Kubernetes does not say whom to trust for its certificates.
        let signer = fs::read_to_string(api.path("signer.crt")).unwrap();
        apply_bundle(&api, SIGNER, "1", &signer);
        until_it_says(&kubelet, &volume, "kubectl certificate approve").await;
        let request = api.kubectl(&["get", "csr", "-o", "jsonpath={.items[0].metadata.name}"]);
        api.kubectl(&["certificate", "approve", &request]);
        let target = until_published(&kubelet, &volume).await;
        let signer = certificates_from_pem(signer.as_bytes()).unwrap().remove(0);
        assert_eq!(anchors(&target), [partner.certificate().clone(), signer.clone()]);
        let issued = leaf(&target);
        assert!(issued.is_signed_by(&signer));

        let [second, third] = [root("second"), root("third")];
        apply_roots(&api, &pem(&second));
        apply_bundle(&api, SIGNER, "2", &pem(&third));
        let wanted = [second.certificate().clone(), signer, third.certificate().clone()];
        plugin.wait("the new anchors are trusted", || anchors(&target) == wanted);
        assert_eq!(leaf(&target), issued, "the certificate stays");

        apply_roots(&api, "no PEM");
        let said = "ConfigMap shop/roots: there is no certificate in PEM";
        api.wait("the event", || {
            api.events("web-0")
                .iter()
                .any(|(reason, message)| reason == "TrustAnchorsKept" && message.starts_with(said))
        });
        assert_eq!(anchors(&target), wanted);

        let may = |verb: &str, what: &str| {
            api.kubectl_as("driver", &["auth", "can-i", verb, what, "-n", "shop"], "").is_ok()
        };
        assert!(may("watch", "configmaps/roots"), "what it does needs that");
        assert!(!may("list", "configmaps"));
        kubelet.unpublish(&volume).await.unwrap();
        assert!(plugin.leftovers().is_empty());
    });
}

fn apply_roots(api: &Api, pem: &str) {
    let metadata = serde_json::json!({"name": "roots", "namespace": "shop"});
    let roots = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
        "data": {"ca.crt": pem}});
    api.apply(&roots.to_string());
}

fn apply_bundle(api: &Api, signer: &str, name: &str, pem: &str) {
    let name = format!("{}:{name}", signer.replace('/', ":"));
    let bundle = serde_json::json!({"apiVersion": "certificates.k8s.io/v1beta1",
        "kind": "ClusterTrustBundle", "metadata": {"name": name},
        "spec": {"signerName": signer, "trustBundle": pem}});
    api.apply(&bundle.to_string());
}

fn pem(root: &Root) -> String {
    chain_to_pem([root.certificate()])
}

/// A volume of a pod in `shop`.
fn web(pod: &str, attributes: &[(&str, &str)]) -> InlineVolume {
    let mut volume = InlineVolume::new("shop", pod, attributes);
    let ours = |name: &str| format!("certmount.dev/{name}");
    if volume.attributes.keys().any(|key| key.starts_with("certmount.dev/")) {
        let attributes = &mut volume.attributes;
        attributes.insert(ours("dns-names"), "web.shop.svc".to_owned());
        attributes.entry(ours("issuer-kind")).or_insert_with(|| "ClusterIssuer".to_owned());
        attributes.insert(ours("key-algorithm"), "ECDSA".to_owned());
    }
    volume
}

fn root(name: &str) -> Root {
    let options = RootOptions {
        name: "root".to_owned(),
        common_name: name.to_owned(),
        algorithm: KeyAlgorithm::EcdsaP256,
        duration: Duration::from_secs(86_400 * 365),
        path_len: None,
    };
    Root::make(&options, Clock::system().now()).unwrap()
}

fn apply_secret(api: &Api, namespace: &str, root: &Root) {
    let folder = tempfile::tempdir().unwrap();
    let [secret, _] = root.write(folder.path(), false).unwrap();
    let secret = secret.to_str().unwrap();
    api.kubectl(&["apply", "--server-side", "-n", namespace, "-f", secret]);
}

/// Publishes as kubelet does: again and again.
async fn until_published(kubelet: &Kubelet, volume: &InlineVolume) -> std::path::PathBuf {
    let mut last = None;
    for _ in 0..60 {
        match kubelet.publish(volume).await {
            Ok(target) => return target,
            Err(status) => last = Some(status),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("never published: {last:?}");
}

/// Publishes and unpublishes until the answer is no, and answers why.
async fn until_refused(kubelet: &Kubelet, volume: &InlineVolume) -> String {
    loop {
        if let Err(status) = kubelet.publish(volume).await {
            return status.message().to_owned();
        }
        kubelet.unpublish(volume).await.unwrap();
    }
}

/// Approves or denies as somebody who may.
fn decide(api: &Api, request: &str, decision: &str, message: &str) {
    let patch = format!(
        "{{\"status\":{{\"conditions\":[{{\"type\":\"{decision}\",\"status\":\"True\",\"reason\":\"Test\",\"message\":\"{message}\"}}]}}}}"
    );
    api.kubectl(&[
        "patch",
        "certificaterequests",
        request,
        "-n",
        "shop",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ]);
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn leaf(target: &Path) -> Certificate {
    let pem = fs::read(target.join("tls.crt")).unwrap();
    certificates_from_pem(&pem).unwrap().remove(0)
}

fn anchors(target: &Path) -> Vec<Certificate> {
    certificates_from_pem(&fs::read(target.join("ca.crt")).unwrap()).unwrap()
}

/// What openssl reads from a certificate or a request.
fn public_key(file: &Path, kind: &str) -> String {
    let output = std::process::Command::new("openssl")
        .args([kind, "-noout", "-pubkey", "-in"])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
