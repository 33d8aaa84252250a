//! cert-manager's issuers whose CAs are elsewhere pass through its CertificateRequests like any other.

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::bao::Bao;
use crate::external::{NAME_SERVER, TSIG, name_server, secret};
use crate::kubernetes::{NODE, Namespace, Pod, enter_network};
use crate::pebble::{Options, Pebble};
use crate::tpp::{Settings, Tpp};

/// All in one test, for with DNS-01 cert-manager waits a minute for caches that could know better.
#[test]
fn acme_vault_and_venafi_sign_through_cert_manager() {
    enter_network();
    let namespace = Namespace::new();
    let folder = tempfile::tempdir().unwrap();
    let _named = name_server(folder.path());
    let pebble = Pebble::start(Options {
        address: NODE,
        dns_server: Some(NAME_SERVER),
        ..Options::default()
    });
    let bao = Bao::start();
    let runtime = Runtime::new().unwrap();
    let tpp = runtime.block_on(Tpp::with(Settings { address: NODE, ..Settings::default() }));
    for (name, values) in [
        ("tsig", json!({"secret": TSIG})),
        ("vault", json!({"token": bao.token("certmount")})),
        ("tpp", json!({"access-token": "token-0"})),
    ] {
        namespace.create(&secret(name, values));
    }
    let rfc2136 = json!({"nameserver": NAME_SERVER, "tsigKeyName": "certmount",
        "tsigAlgorithm": "HMACSHA256", "tsigSecretSecretRef": {"name": "tsig", "key": "secret"}});
    let acme = json!({"acme": {
        "server": pebble.directory(),
        "caBundle": pebble.ca_bundle(),
        "privateKeySecretRef": {"name": "account"},
        "solvers": [{"dns01": {"rfc2136": rfc2136}}],
    }});
    let vault = json!({"vault": {
        "server": bao.url(),
        "path": "pki/sign/web",
        "caBundle": bao.ca_bundle(),
        "auth": {"tokenSecretRef": {"name": "vault", "key": "token"}},
    }});
    let venafi = json!({"venafi": {"zone": r"DevOps\shop", "tpp": {
        "url": format!("{}/vedsdk", tpp.server.url()),
        "caBundle": tpp.server.ca_bundle(),
        "credentialsRef": {"name": "tpp"},
    }}});
    let issuers = [
        ("acme", acme, pebble.root(0)),
        ("vault", vault, bao.root.clone()),
        ("venafi", venafi, certmount::x509::chain_to_pem([&tpp.root()])),
    ];
    let pods = issuers.map(|(issuer, spec, root)| (issuer, ask(&namespace, issuer, &spec), root));
    for (issuer, pod, root) in pods {
        pod.wait("Ready");
        let certificate = pod.certificate_below(&root);
        assert!(certificate.names.contains(&format!("DNS:{issuer}.{DOMAIN}")), "{certificate:?}");
        let said = format!("Issuer.cert-manager.io {issuer} issued a certificate");
        pod.told("CertificateIssued", &said);
    }
    assert_eq!(tpp.objects().len(), 1);
}

const DOMAIN: &str = "shop.example.com";

/// Creates an Issuer, and a pod of the same name whose certificate comes from there.
fn ask<'a>(namespace: &'a Namespace, name: &str, spec: &Value) -> Pod<'a> {
    namespace.create(&json!({"apiVersion": "cert-manager.io/v1", "kind": "Issuer",
        "metadata": {"name": name}, "spec": spec}));
    let certified = format!("{name}.{DOMAIN}");
    let attributes = [
        ("issuer-name", name),
        ("issuer-kind", "Issuer"),
        ("issuer-group", "cert-manager.io"),
        // Without it, the folder of TPP has no subject.
        ("common-name", &certified),
        ("dns-names", &certified),
    ];
    namespace.create_pod(name, &attributes, &json!({}))
}
