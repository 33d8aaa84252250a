//! What requests mean, and what is said about wrong ones.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::spec::attributes::{Name, Prefix};
use crate::spec::layout::FileName;
use crate::x509::{BasicConstraints, ExtendedKeyUsage, GeneralName, KeyUsage};

const UID: &str = "1d1a4a26-5c49-4ef6-8a9c-7a3b7b3b3b3b";

/// A request as kubelet makes it, to be changed by a test.
pub(in crate::spec) struct Request {
    volume_id: String,
    target_path: String,
    attributes: BTreeMap<String, String>,
    secrets: Secrets,
    mount_group: &'static str,
    pod_ip: Option<IpAddr>,
}

impl Request {
    /// Nothing but what kubelet adds.
    pub(in crate::spec) fn bare() -> Self {
        let mut request = Self {
            volume_id: VolumeId::of_inline_volume(UID, "tls").to_string(),
            target_path: format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/tls/mount"),
            attributes: BTreeMap::new(),
            secrets: Secrets::default(),
            mount_group: "",
            pod_ip: None,
        };
        for (key, value) in [
            ("ephemeral", "true"),
            ("pod.name", "web-0"),
            ("pod.namespace", "shop"),
            ("pod.uid", UID),
            ("serviceAccount.name", "seller"),
            ("serviceAccount.tokens", "{\"\":{\"token\":\"t0ken\"}}"),
        ] {
            request.set(&format!("csi.storage.k8s.io/{key}"), value);
        }
        request
    }

    /// With an issuer and a name, so that it is right as it is.
    fn new(prefix: Prefix) -> Self {
        let mut request = Self::bare();
        request.set(&format!("{}issuer-name", prefix.as_str()), "internal");
        request.set(&format!("{}dns-names", prefix.as_str()), "web.shop.svc");
        request
    }

    fn ours() -> Self {
        Self::new(Prefix::Certmount)
    }

    fn cert_managers() -> Self {
        Self::new(Prefix::CertManager)
    }

    pub(in crate::spec) fn set(&mut self, key: &str, value: &str) {
        self.attributes.insert(key.to_owned(), value.to_owned());
    }

    pub(in crate::spec) fn secret(&mut self, key: &str, value: &str) {
        self.secrets.0.insert(key.to_owned(), Zeroizing::new(value.to_owned()));
    }

    /// With one of certmount's attributes.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.set(&format!("certmount.dev/{name}"), value);
        self
    }

    /// With one of cert-manager's attributes.
    fn with_theirs(mut self, name: &str, value: &str) -> Self {
        self.set(&format!("csi.cert-manager.io/{name}"), value);
        self
    }

    pub(in crate::spec) fn parse(&self) -> Result<PublishRequest, RequestError> {
        let raw = RawRequest {
            volume_id: &self.volume_id,
            target_path: &self.target_path,
            attributes: &self.attributes,
            volume_mount_group: self.mount_group,
            pod_ip: self.pod_ip,
        };
        let node = NodeContext {
            driver_name: "csi.certmount.dev".to_owned(),
            node_name: "node1".to_owned(),
        };
        PublishRequest::parse(raw, &self.secrets, &node)
    }

    fn parsed(&self) -> PublishRequest {
        self.parse().unwrap()
    }

    /// What is said about it, which must not be praise.
    fn refused(&self) -> String {
        let error = self.parse().unwrap_err();
        assert_eq!(error.kind, RequestErrorKind::Invalid, "{error}");
        error.message
    }
}

fn parsed(name: &str, value: &str) -> PublishRequest {
    Request::ours().with(name, value).parsed()
}

#[track_caller]
fn refused(name: &str, value: &str, because: &str) {
    let message = Request::ours().with(name, value).refused();
    assert!(message.contains(&format!("certmount.dev/{name}")), "{message}");
    assert!(message.contains(because), "{message}");
}

fn file_names(request: &PublishRequest) -> Vec<&str> {
    request.files.names().map(FileName::as_str).collect()
}

// Whom it trusts.

#[test]
fn trust_comes_from_config_maps_and_bundles() {
    let config_map =
        |name: &str, key: &str| TrustRef::ConfigMap { name: name.into(), key: key.into() };
    let request = Request::ours()
        .with("trust-config-maps", "kube-root-ca.crt, ${SERVICE_ACCOUNT_NAME}-roots/bundle.pem")
        .with_theirs("trust-bundles", "example.com:serving:1,kubernetes.io/kube-apiserver-serving")
        .parsed();
    let wanted = [
        config_map("kube-root-ca.crt", "ca.crt"),
        config_map("seller-roots", "bundle.pem"),
        TrustRef::Bundle("example.com:serving:1".into()),
        TrustRef::Signer("kubernetes.io/kube-apiserver-serving".into()),
    ];
    assert_eq!(request.trust, wanted);
    assert_eq!(Request::ours().parsed().trust, []);
    for wrong in ["../x", "a/b/c", "a/", "/a", "A", "other namespace/a"] {
        refused("trust-config-maps", wrong, "is not a ConfigMap of the pod's namespace");
    }
    for wrong in ["a/b/c", "example.com:", "A", "a=b"] {
        refused("trust-bundles", wrong, "neither the name of a ClusterTrustBundle");
    }
    let many = "abcdefghi".split("").collect::<Vec<_>>().join(",");
    let said = Request::ours().with("trust-bundles", &many).refused();
    assert!(said.contains("name 9 sources: at most 8"), "{said}");
}

// Who the volume is for.

#[test]
fn the_pod_is_kubelets() {
    let request = Request::ours().parsed();
    assert_eq!(request.volume, VolumeId::of_inline_volume(UID, "tls"));
    assert!(request.target.as_path().ends_with(Path::new("kubernetes.io~csi/tls/mount")));
    let pod = &request.pod;
    let said = [&pod.namespace, &pod.name, &pod.uid, &pod.service_account];
    assert_eq!(said, ["shop", "web-0", UID, "seller"]);
}

#[test]
fn a_pod_cannot_pass_for_another() {
    let mut other_uid = Request::ours();
    other_uid.set("csi.storage.k8s.io/pod.uid", "2d1a4a26-5c49-4ef6-8a9c-7a3b7b3b3b3b");
    let mut other_id = Request::ours();
    other_id.volume_id = VolumeId::of_inline_volume(UID, "other").to_string();
    let mut elsewhere = Request::ours();
    elsewhere.target_path = "/tmp/target".to_owned();
    for request in [other_uid, other_id, elsewhere] {
        let error = request.parse().unwrap_err();
        assert_eq!(error.kind, RequestErrorKind::Forged, "{error}");
        assert!(error.message.contains("podInfoOnMount: true"), "{error}");
    }
}

#[test]
fn each_of_kubelets_keys_is_needed() {
    for key in ["ephemeral", "pod.name", "pod.namespace", "pod.uid", "serviceAccount.name"] {
        let mut request = Request::ours();
        request.attributes.remove(&format!("csi.storage.k8s.io/{key}"));
        let message = request.refused();
        assert!(message.contains(key) && message.contains("podInfoOnMount: true"), "{message}");
    }
}

#[test]
fn persistent_volumes_are_refused() {
    let mut request = Request::ours();
    request.set("csi.storage.k8s.io/ephemeral", "false");
    assert!(request.refused().contains("inline"));
}

#[test]
fn kubelets_keys_are_checked_before_they_get_into_names() {
    for (key, value) in [
        ("pod.name", "a,b"),
        ("pod.name", "UPPER"),
        ("pod.namespace", "a.b"),
        ("pod.namespace", "-a"),
        ("serviceAccount.name", "a\nb"),
        ("pod.uid", "../x"),
    ] {
        let mut request = Request::ours();
        request.set(&format!("csi.storage.k8s.io/{key}"), value);
        assert!(request.refused().contains(key), "{key}={value}");
    }
}

#[test]
fn bad_ids_and_paths_are_refused() {
    let mut request = Request::ours();
    request.volume_id = "../x".to_owned();
    assert!(request.refused().contains("volume id"));
    let mut request = Request::ours();
    request.target_path = "relative".to_owned();
    assert!(request.refused().contains("not absolute"));
}

// Defaults and prefixes.

#[test]
fn defaults_are_those_of_cert_manager() {
    for request in [Request::ours().parsed(), Request::cert_managers().parsed()] {
        let spec = &request.certificate;
        assert_eq!(spec.issuer.kind, "Issuer");
        assert_eq!(spec.duration, Duration::from_secs(2160 * 3600));
        assert_eq!(spec.renew_before, None);
        assert_eq!(spec.key_algorithm, KeyAlgorithm::Rsa2048);
        assert!(!spec.reuse_private_key);
        let usages = &spec.template.usages;
        assert_eq!(usages.key, [KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment]);
        assert_eq!(usages.extended, []);
        assert_eq!(spec.template.basic_constraints, BasicConstraints::EndEntity);
        assert!(spec.template.subject.is_empty());
        assert_eq!(file_names(&request), ["tls.crt", "tls.key", "ca.crt"]);
        assert!(format!("{:?}", request.files).contains("PrivateKey(Pkcs1)"));
        assert_eq!(request.ownership, Ownership { mode: 0o440, uid: None, gid: None });
        assert_eq!(request.annotations, BTreeMap::new());
        assert_eq!(request.warnings, [""; 0]);
    }
}

#[test]
fn the_issuers_group_follows_the_prefix() {
    assert_eq!(Request::ours().parsed().certificate.issuer.group, "certmount.dev");
    assert_eq!(Request::cert_managers().parsed().certificate.issuer.group, "cert-manager.io");
    let request = Request::cert_managers().with_theirs("issuer-group", "certmount.dev");
    assert_eq!(request.parsed().certificate.issuer.group, "certmount.dev");
    let mixed = Request::cert_managers().with("email-sans", "a@example.com").parsed();
    assert_eq!(mixed.certificate.issuer.group, "cert-manager.io");
}

#[test]
fn the_issuer_is_needed() {
    let mut request = Request::cert_managers();
    request.attributes.remove("csi.cert-manager.io/issuer-name");
    assert!(request.refused().starts_with("csi.cert-manager.io/issuer-name is required"));
    assert!(Request::bare().refused().starts_with("certmount.dev/issuer-name is required"));
}

#[test]
fn issuers_are_well_formed() {
    refused("issuer-name", "a b", "not the name of an issuer");
    refused("issuer-name", "../x", "not the name of an issuer");
    refused("issuer-kind", "SomethingElse", "must be Issuer or ClusterIssuer");
    refused("issuer-group", "a/b", "not an API group");
    let signer = Request::ours()
        .with("issuer-group", "certificates.k8s.io")
        .with("issuer-kind", "ClusterSigner")
        .with("issuer-name", "example.com/serving")
        .parsed();
    assert_eq!(signer.certificate.issuer.name, "example.com/serving");
}

#[test]
fn one_attribute_with_both_prefixes_is_an_error_that_names_both() {
    let message = Request::ours().with_theirs("dns-names", "web.shop.svc").refused();
    assert!(message.contains("certmount.dev/dns-names"), "{message}");
    assert!(message.contains("csi.cert-manager.io/dns-names"), "{message}");
}

#[test]
fn empty_values_count_as_none() {
    let mut request = Request::ours();
    for attribute in crate::spec::attributes::table() {
        if !["issuer-name", "dns-names"].contains(&attribute.name) {
            request.set(&format!("csi.cert-manager.io/{}", attribute.name), "");
        }
    }
    assert_eq!(request.parsed().certificate, Request::ours().parsed().certificate);
}

// What is not an attribute.

#[test]
fn unknown_attributes_of_ours_are_refused_with_the_nearest_name() {
    refused("dns-name", "x", "did you mean dns-names?");
    refused("zzz", "x", "docs/attributes.md");
}

#[test]
fn unknown_attributes_of_cert_manager_are_warned_about() {
    let request = Request::cert_managers().with_theirs("pkcs12-file", "x").parsed();
    assert_eq!(
        request.warnings,
        ["csi.cert-manager.io/pkcs12-file is not an attribute: did you mean pkcs12-filename?"]
    );
}

#[test]
fn attributes_of_others_are_for_the_issuer() {
    let mut request = Request::ours();
    request.set("venafi.cert-manager.io/custom-fields", "[]");
    request.set("csi.storage.k8s.io/something-new", "x");
    let annotations = request.parsed().annotations;
    let kept: Vec<_> =
        annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(kept, [("venafi.cert-manager.io/custom-fields", "[]")]);
}

#[test]
fn a_misspelt_prefix_is_warned_about() {
    let mut request = Request::ours();
    request.set("certmount.io/key-size", "4096");
    assert!(request.parsed().warnings[0].contains("did you mean certmount.dev/key-size?"));
}

#[test]
fn keys_that_are_nobodys_are_refused() {
    for key in ["dns-names", "/dns-names", "a/", "a/b/c", "A/b", "a b/c", "a/-"] {
        let mut request = Request::ours();
        request.set(key, "x");
        let message = request.refused();
        assert!(message.contains(key) && message.contains("certmount.dev/"), "{message}");
    }
}

#[test]
fn the_issuers_share_is_bounded() {
    let mut request = Request::ours();
    request.set("example.com/a", &"x".repeat(300_000));
    assert!(request.refused().contains("256 KiB"));
}

// Everything at once.

#[test]
fn all_problems_are_reported_together() {
    let message = Request::ours()
        .with("duration", "1x")
        .with("key-size", "1024")
        .with("dns-names", "a b,*.*.x")
        .with("common-name", "${NOPE}")
        .with("dsn-names", "x")
        .refused();
    for part in ["duration \"1x\"", "key-size \"1024\"", "a b", "*.*.x", "NOPE", "dsn-names"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn messages_are_short_and_clean_whatever_is_written() {
    let mut request = Request::ours();
    for n in 0..1000 {
        request.set(&format!("certmount.dev/{n}\n\u{1b}[31m{}", "x".repeat(1000)), "v");
    }
    let message = request.with("duration", &"\n\u{202e}".repeat(5000)).refused();
    assert!(message.len() < 1000, "{}", message.len());
    assert!(!message.contains(['\n', '\u{1b}', '\u{202e}']), "{message}");
}

#[test]
fn endless_values_are_refused() {
    refused("dns-names", &"a,".repeat(9000), "16 KiB");
    let many: Vec<_> = (0..1001).map(|n| format!("{n:x}.a")).collect();
    refused("dns-names", &many.join(","), "more than 1000");
}

// Names.

#[test]
fn names_are_expanded_in_the_order_of_go() {
    let mut request = Request::cert_managers()
        .with_theirs("common-name", "$POD_NAME.${POD_NAMESPACE}")
        .with_theirs(
            "dns-names",
            "\n  ${POD_NAME}.svc,\n  $SERVICE_ACCOUNT_NAME.${POD_NAMESPACE},\n ${POD_NAME}.svc,",
        )
        .with_theirs("uri-sans", "spiffe://$NODE_NAME/${POD_UID}")
        .with_theirs("ip-sans", "::1, ${POD_IP}")
        .with("email-sans", "$POD_NAME@example.com");
    request.pod_ip = Some("10.1.2.3".parse().unwrap());
    let template = request.parsed().certificate.template;
    assert_eq!(template.subject.common_name(), Some("web-0.shop"));
    let names = [
        GeneralName::Dns("web-0.svc".into()),
        GeneralName::Dns("seller.shop".into()),
        GeneralName::Email("web-0@example.com".into()),
        GeneralName::Ip("::1".parse().unwrap()),
        GeneralName::Ip("10.1.2.3".parse().unwrap()),
        GeneralName::Uri(format!("spiffe://node1/{UID}")),
    ];
    assert_eq!(template.subject_alt_names, names);
}

#[test]
fn an_address_that_is_not_known_yet_is_explained() {
    refused("ip-sans", "${POD_IP}", "not known yet");
}

#[test]
fn wrong_names_are_all_named() {
    let message = Request::ours().with("ip-sans", "1.2.3.4,1.2.3,x").refused();
    assert!(message.contains("\"1.2.3\"") && message.contains("\"x\""), "{message}");
    assert!(!message.contains("1.2.3.4"), "{message}");
    refused("uri-sans", "no-scheme", "no-scheme");
    refused("email-sans", "nobody", "nobody");
}

#[test]
fn subject_fields_are_csv() {
    let request = Request::cert_managers()
        .with_theirs("organizations", "\"${POD_NAMESPACE}, Inc.\",Other")
        .with_theirs("organizationalunits", "a")
        .with_theirs("countries", "DE")
        .with_theirs("provinces", "p")
        .with_theirs("localities", "l")
        .with_theirs("streetaddresses", "s")
        .with_theirs("postalcodes", "12345")
        .with_theirs("common-name", "web")
        .with_theirs("serialnumber", "$NOT_EXPANDED");
    assert_eq!(
        request.parsed().certificate.template.subject.to_string(),
        "SERIALNUMBER=$NOT_EXPANDED,CN=web,postalCode=12345,STREET=s,ST=p,L=l,OU=a,\
         O=Other+O=shop\\, Inc.,C=DE"
    );
    let many: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    refused("organizations", &many.join(","), "organizations has more than 1000");
    refused("organizations", "a\nb", "several lines");
    refused("organizations", "\"a", "not closed");
}

#[test]
fn a_literal_subject_takes_the_place_of_the_other_fields() {
    let request = Request::cert_managers()
        .with_theirs("literal-subject", "CN=${POD_NAME},OU=a+OU=b,DC=example,DC=com")
        .with_theirs("common-name", "ignored")
        .with_theirs("countries", "ignored")
        .parsed();
    let subject = &request.certificate.template.subject;
    assert_eq!(subject.common_name(), Some("web-0"));
    assert_eq!(subject.to_string(), "CN=web-0,OU=a+OU=b,DC=example,DC=com");
    assert!(request.warnings[0].contains("countries, common-name"), "{:?}", request.warnings);
    refused("literal-subject", "nonsense", "nonsense");
}

#[test]
fn a_certificate_names_somebody() {
    let mut request = Request::ours();
    request.attributes.remove("certmount.dev/dns-names");
    assert!(request.refused().contains("name nobody"));
    // Others' issuers may fill in names of their own.
    let mut request = Request::cert_managers();
    request.attributes.remove("csi.cert-manager.io/dns-names");
    request.parsed();
}

// The certificate.

#[test]
fn durations_are_more_than_zero_and_renewal_comes_before_the_end() {
    assert_eq!(parsed("duration", "1h30m").certificate.duration, Duration::from_secs(5400));
    refused("duration", "-1h", "more than zero");
    refused("duration", "300ms", "at least 1s");
    let renew = |value| parsed("renew-before", value).certificate.renew_before;
    assert_eq!(renew("24h"), Some(RenewBefore::Duration(Duration::from_secs(86_400))));
    assert_eq!(renew("30%"), Some(RenewBefore::Percent(30)));
    refused("renew-before", "2160h", "less than the certificate's duration");
    for value in ["0", "-1s", "0%", "100%", "-1%", "1.5%", "%", "256%", "x"] {
        refused("renew-before", value, value);
    }
}

#[test]
fn usages_have_cert_managers_names_or_are_identifiers() {
    let usages = |value| parsed("key-usages", value).certificate.template.usages;
    let all = usages("signing,\n server auth , 1.3.6.1.5.5.7.3.2,data encipherment");
    assert_eq!(all.key, [KeyUsage::DigitalSignature, KeyUsage::DataEncipherment]);
    assert_eq!(all.extended, [ExtendedKeyUsage::ServerAuth, ExtendedKeyUsage::ClientAuth]);
    refused("key-usages", "serving", "serving");
    refused("key-usages", " , ", "names no usage");
}

#[test]
fn a_ca_may_sign_and_has_a_subject() {
    let ca = Request::ours().with("is-ca", "true").with("common-name", "sub-ca");
    let template = ca.parsed().certificate.template;
    assert_eq!(template.basic_constraints, BasicConstraints::Ca { path_len: None });
    assert!(template.usages.key.contains(&KeyUsage::CertSign));
    let limited = ca.with("max-path-len", "0").parsed().certificate.template;
    assert_eq!(limited.basic_constraints, BasicConstraints::Ca { path_len: Some(0) });
    refused("is-ca", "true", "needs a subject");
    refused("is-ca", "True", "must be \"true\" or \"false\"");
    refused("max-path-len", "0", "needs is-ca");
    refused("max-path-len", "256", "0 to 255");
}

#[test]
fn booleans_in_camel_case_are_refused() {
    for name in ["is-ca", "reuse-private-key", "pkcs12-enable"] {
        refused(name, "True", "must be");
        refused(name, "FALSE", "must be");
    }
    assert!(parsed("reuse-private-key", "true").certificate.reuse_private_key);
}

// Keys.

#[test]
fn key_sizes_fit_their_algorithm() {
    let key = |algorithm: &str, size: &str| {
        Request::ours().with("key-algorithm", algorithm).with("key-size", size)
    };
    for (algorithm, size, chosen) in [
        ("RSA", "", KeyAlgorithm::Rsa2048),
        ("rsa", "2048", KeyAlgorithm::Rsa2048),
        ("RSA", "3072", KeyAlgorithm::Rsa3072),
        ("RSA", "4096", KeyAlgorithm::Rsa4096),
        ("RSA", "8192", KeyAlgorithm::Rsa8192),
        ("ecdsa", "", KeyAlgorithm::EcdsaP256),
        ("ECDSA", "256", KeyAlgorithm::EcdsaP256),
        ("ECDSA", "384", KeyAlgorithm::EcdsaP384),
        ("ECDSA", "521", KeyAlgorithm::EcdsaP521),
        ("ed25519", "", KeyAlgorithm::Ed25519),
    ] {
        let spec = key(algorithm, size).parsed().certificate;
        assert_eq!(spec.key_algorithm, chosen, "{algorithm} {size}");
    }
    for (algorithm, size, because) in [
        ("RSA", "1024", "2048, 3072, 4096, 8192"),
        ("RSA", "2049", "2048, 3072, 4096, 8192"),
        ("RSA", "8193", "2048, 3072, 4096, 8192"),
        ("RSA", "-2048", "2048, 3072, 4096, 8192"),
        ("ECDSA", "2048", "256, 384, 521"),
        ("Ed25519", "256", "must not be given"),
        ("DSA", "", "RSA, ECDSA, Ed25519"),
    ] {
        let message = key(algorithm, size).refused();
        assert!(message.contains(because), "{algorithm} {size}: {message}");
    }
}

#[test]
fn key_encodings_fit_their_algorithm() {
    let request = |algorithm: &str, encoding: &str| {
        Request::ours().with("key-algorithm", algorithm).with("key-encoding", encoding)
    };
    for (algorithm, encoding, chosen) in [
        ("RSA", "", "Pkcs1"),
        ("RSA", "pkcs8", "Pkcs8"),
        ("ECDSA", "", "Pkcs8"),
        ("ECDSA", "SEC1", "Sec1"),
        ("Ed25519", "", "Pkcs8"),
        ("Ed25519", "PKCS8", "Pkcs8"),
    ] {
        let files = format!("{:?}", request(algorithm, encoding).parsed().files);
        assert!(files.contains(&format!("PrivateKey({chosen})")), "{algorithm}: {files}");
    }
    for (algorithm, encoding) in [
        ("ECDSA", "PKCS1"),
        ("Ed25519", "PKCS1"),
        ("RSA", "SEC1"),
        ("Ed25519", "SEC1"),
        ("RSA", "DER"),
    ] {
        let message = request(algorithm, encoding).refused();
        assert!(message.contains("key-encoding"), "{algorithm} {encoding}: {message}");
    }
}

// Files.

#[test]
fn every_form_has_its_attribute() {
    let mut request = Request::ours()
        .with("certificate-file", "chain.pem")
        .with("privatekey-file", "key.pem")
        .with("ca-file", "ca.pem")
        .with("leaf-file", "leaf.pem")
        .with("intermediates-file", "intermediates.pem")
        .with("full-chain-file", "full.pem")
        .with("key-then-chain-file", "key-chain.pem")
        .with("chain-then-key-file", "chain-key.pem")
        .with("certificate-der-file", "leaf.der")
        .with("privatekey-der-file", "key.der")
        .with("privatekey-encrypted-file", "key.enc")
        .with("privatekey-password", "one")
        .with("pkcs12-enable", "true")
        .with("pkcs12-truststore-file", "trust.p12")
        .with("pkcs12-password-key", "p12")
        .with("jks-file", "key.jks")
        .with("jks-truststore-file", "trust.jks")
        .with("jks-alias", "web")
        .with("jks-password", "three");
    request.secret("p12", "two");
    let parsed = request.parsed();
    assert_eq!(
        file_names(&parsed),
        [
            "chain.pem",
            "key.pem",
            "ca.pem",
            "leaf.pem",
            "intermediates.pem",
            "full.pem",
            "key-chain.pem",
            "chain-key.pem",
            "leaf.der",
            "key.der",
            "key.enc",
            "keystore.p12",
            "trust.p12",
            "key.jks",
            "trust.jks",
        ]
    );
    assert_eq!(parsed.warnings, [""; 0]);
}

#[test]
fn file_names_stay_in_the_volume_and_apart_from_each_other() {
    for name in ["a/b", "/etc/passwd", "..", "..data", "../x", ".", " a", "a\n", &"x".repeat(256)] {
        refused("ca-file", name, "ca-file");
    }
    let message = Request::ours().with("ca-file", "tls.crt").refused();
    assert!(message.contains("ca-file is \"tls.crt\", and so is certificate-file"), "{message}");
    let clash = Request::ours()
        .with("pkcs12-enable", "true")
        .with("pkcs12-filename", "tls.key")
        .with("pkcs12-password", "p");
    assert!(clash.refused().contains("privatekey-file"));
}

#[test]
fn keystores_need_a_password() {
    for (name, value) in [
        ("pkcs12-enable", "true"),
        ("pkcs12-truststore-file", "t"),
        ("jks-file", "j"),
        ("jks-truststore-file", "j"),
        ("privatekey-encrypted-file", "k"),
    ] {
        let message = Request::ours().with(name, value).refused();
        assert!(message.contains("password") && message.contains("required"), "{message}");
    }
}

#[test]
fn a_disabled_keystore_needs_nothing() {
    let request = Request::cert_managers().with_theirs("pkcs12-enable", "false").parsed();
    assert_eq!(file_names(&request), ["tls.crt", "tls.key", "ca.crt"]);
    refused("pkcs12-filename", "k.p12", "pkcs12-enable");
    let unused = parsed("pkcs12-password", "hunter2");
    assert!(unused.warnings[0].contains("pkcs12-password"), "{:?}", unused.warnings);
    assert!(!unused.warnings[0].contains("hunter2"));
}

#[test]
fn the_pkcs12_profile_follows_the_prefix() {
    let files = |request: Request| format!("{:?}", request.parsed().files);
    let ours = || Request::ours().with("pkcs12-enable", "true").with("pkcs12-password", "p");
    let theirs = || {
        Request::cert_managers().with_theirs("pkcs12-enable", "true").with("pkcs12-password", "p")
    };
    assert!(files(ours()).contains("Modern2023"));
    assert!(files(theirs()).contains("LegacyRc2"));
    assert!(files(theirs().with("pkcs12-profile", "modern2023")).contains("Modern2023"));
    assert!(files(ours().with("pkcs12-profile", "LegacyDES")).contains("LegacyDes"));
}

#[test]
fn a_password_comes_from_one_place() {
    let mut request = Request::ours().with("jks-file", "j").with("jks-password-key", "nope");
    assert!(request.refused().contains("no nodePublishSecretRef"));
    request.secret("jks", "hunter2");
    request.secret("csi.storage.k8s.io/serviceAccount.tokens", "t0ken");
    let message = request.refused();
    assert!(message.contains("\"nope\" is no key of the Secret, which has jks"), "{message}");
    assert!(!message.contains("hunter2") && !message.contains("oken"), "{message}");
    let right = request.with("jks-password-key", "jks");
    right.parsed();
    let message = right.with("jks-password", "hunter3").refused();
    assert!(message.contains("keep one of them") && !message.contains("hunter"), "{message}");
    let mut token = Request::ours()
        .with("jks-file", "j")
        .with("jks-password-key", "csi.storage.k8s.io/serviceAccount.tokens");
    token.secret("csi.storage.k8s.io/serviceAccount.tokens", "t0ken");
    assert!(token.refused().contains("is no key"));
}

#[test]
fn passwords_and_aliases_fit_keystores() {
    let request = |name: &str, value: &str| {
        Request::ours().with("jks-file", "j").with("jks-password", "changeit").with(name, value)
    };
    request("jks-alias", "web").parsed();
    for (name, value) in
        [("jks-alias", "a\n"), ("jks-alias", "\u{1f511}"), ("jks-password", "\u{1f511}")]
    {
        let message = request(name, value).refused();
        assert!(message.contains(name), "{message}");
        assert!(name == "jks-alias" || !message.contains(value), "{message}");
    }
    let mut empty = Request::ours().with("jks-file", "j").with("jks-password-key", "k");
    empty.secret("k", "");
    assert!(empty.refused().contains("jks-password-key \"k\" is an empty password"));
    empty.secret("k", "hunter2\n");
    let warnings = empty.parsed().warnings;
    assert!(warnings[0].contains("jks-password-key ends with a line break"), "{warnings:?}");
    assert!(!warnings[0].contains("hunter2"), "{warnings:?}");
}

// Who may read.

#[test]
fn the_group_is_the_attributes_or_else_the_pods() {
    let mut request = Request::ours();
    request.mount_group = "3000";
    assert_eq!(request.parsed().ownership.gid, Some(3000));
    assert_eq!(request.with("fs-group", "2000").parsed().ownership.gid, Some(2000));
    let mut request = Request::ours();
    request.mount_group = "0";
    assert_eq!(request.parsed().ownership.gid, Some(0));
    for group in ["x", "-1", "4294967295", "4294967296"] {
        request.mount_group = group;
        assert!(request.refused().contains("volume_mount_group"), "{group}");
    }
    for group in ["0", "-1", "4294967295", "x"] {
        refused("fs-group", group, "from 1 to 4294967294");
    }
}

#[test]
fn modes_and_owners_are_checked() {
    let ownership = Request::ours().with("file-mode", "0400").with("file-uid", "999").parsed();
    assert_eq!(ownership.ownership, Ownership { mode: 0o400, uid: Some(999), gid: None });
    for mode in ["0660", "0777", "0", "rw-"] {
        refused("file-mode", mode, "octal mode");
    }
    refused("file-uid", "0", "from 1");
}

// Secrets.

#[test]
fn nothing_printed_holds_a_secret() {
    let mut request = Request::ours()
        .with("pkcs12-enable", "true")
        .with("pkcs12-password", "hunter2")
        .with("jks-file", "j")
        .with("jks-password-key", "k")
        .with_theirs("keystore-password", "hunter2");
    request.secret("k", "hunter2");
    let printed = format!("{:?} {:?}", request.parsed(), request.secrets);
    assert!(!printed.contains("hunter2") && !printed.contains("t0ken"), "{printed}");
    let raw = RawRequest {
        volume_id: "v",
        target_path: "/t",
        attributes: &request.attributes,
        volume_mount_group: "",
        pod_ip: None,
    };
    let printed = format!("{raw:?}");
    assert!(!printed.contains("hunter2") && !printed.contains("t0ken"), "{printed}");
    let message = request.with("pkcs12-profile", "x").with("jks-password", "hunter2").refused();
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn attributes_that_are_secret_may_come_apart_from_the_rest() {
    let mut request = Request::ours()
        .with("jks-file", "j")
        .with("jks-password", "hunter2")
        .with_theirs("keystore-pasword", "hunter2");
    request.set("password", "hunter2");
    request.secret("k", "hunter2");
    request.secrets.take_from(&mut request.attributes);
    let apart: Vec<_> = request.secrets.attributes().map(|(key, _)| key).collect();
    assert_eq!(
        apart,
        [
            "certmount.dev/jks-password",
            "csi.cert-manager.io/keystore-pasword",
            "csi.storage.k8s.io/serviceAccount.tokens"
        ]
    );
    assert!(request.refused().contains("\"password\" is not an attribute"));
    request.attributes.remove("password");
    assert!(request.parsed().warnings[0].contains("keystore-pasword is not an attribute"));
    // A key of the Secret is none of them, and no attribute passes for one.
    let request = request
        .with("pkcs12-enable", "true")
        .with("pkcs12-password-key", "certmount.dev/jks-password");
    assert!(request.refused().contains("is no key of the Secret, which has k"));
}

#[test]
fn a_password_is_not_handed_to_the_issuer() {
    let mut request = Request::ours();
    request.set("certmonut.dev/jks-password", "hunter2");
    let message = request.refused();
    assert!(message.contains("certmonut.dev/jks-password would be handed"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

// Anything at all.

/// Keys that mean something now and then, and values that nearly do.
fn attributes() -> impl Strategy<Value = BTreeMap<String, String>> {
    let prefix = prop_oneof!["certmount.dev/", "csi.cert-manager.io/", "csi.storage.k8s.io/", ".*"];
    let name = prop_oneof![
        4 => (0..Name::COUNT).prop_map(|n| crate::spec::attributes::table()[n].name.to_owned()),
        1 => any::<String>(),
    ];
    let value = prop_oneof![
        "[a-z0-9.,:/*@%=+$\\{\\}A-Z_\" \n-]{0,40}",
        "(true|false|0440|2048|RSA|ECDSA|10s|a\\.b,c|CN=a,O=b|30%|\\$\\{POD_NAME\\})",
        any::<String>(),
    ];
    prop::collection::btree_map((prefix, name).prop_map(|(a, b)| a + &b), value, 0..12)
}

proptest! {
    #[test]
    fn parsing_never_panics_and_errors_are_fit_to_print(attributes in attributes()) {
        let mut request = Request::ours();
        request.attributes.extend(attributes);
        match request.parse() {
            Ok(parsed) => {
                for name in parsed.files.names() {
                    let path = Path::new("/v").join(name.as_str());
                    prop_assert_eq!(path.parent(), Some(Path::new("/v")));
                }
                if let Some(RenewBefore::Duration(before)) = parsed.certificate.renew_before {
                    prop_assert!(before < parsed.certificate.duration);
                }
                prop_assert_eq!(parsed.ownership.mode & 0o7133, 0);
            }
            Err(error) => {
                prop_assert!(!error.message.is_empty() && error.message.len() < 1300);
                prop_assert!(!error.message.contains(char::is_control));
            }
        }
    }

    #[test]
    fn any_request_at_all_is_read_without_panic(
        volume_id in any::<String>(),
        target_path in any::<String>(),
        attributes in attributes(),
    ) {
        let request = Request { volume_id, target_path, attributes, ..Request::bare() };
        let _ = request.parse();
    }
}
