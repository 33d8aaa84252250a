//! Pods have their certificates from CAs outside of the cluster, by the driver's own issuers, as an
//! operator sets them up: with the chart's values, objects, and what the CA's side needs. The CAs run
//! on the node.

use std::io::Write as _;

use certmount::x509::chain_to_pem;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::bao::Bao;
use crate::certificate::openssl;
use crate::cloud::Cloud;
use crate::common::named::Named;
use crate::kubernetes::{
    DRIVER_NAMESPACE, NODE, Namespace, cluster, enter_network, eventually, no_volumes_left, run,
    try_kubectl,
};
use crate::pebble::{Options, Pebble};
use crate::renewals::{App, serve_through_renewals};
use crate::tpp::{Settings, Tpp};

/// As in `values.yaml`: where the chart's Service leads to what answers HTTP-01.
const HTTP01_NODE_PORT: u16 = 30080;

#[test]
fn acme_proves_names_by_http_and_an_app_serves_through_its_renewals() {
    enter_network();
    let namespace = Namespace::new();
    let pebble = Pebble::start(Options {
        address: NODE,
        http_port: Some(HTTP01_NODE_PORT),
        seconds: Some(36),
        ..Options::default()
    });
    let acme = |profile: &str| {
        let mut acme = acme(&pebble, json!({"http01": {}}));
        acme["acme"]["profile"] = profile.into();
        acme
    };
    let mut objects = Objects::default();
    objects.made_by_the_driver("Secret", "acme-account");
    objects.create(cluster_issuer("acme", acme("default")));
    objects.create(cluster_issuer("acme-short", acme("seconds")));
    let pod = namespace.start_pod("first", &attributes("acme", "first.shop.example.com"));
    let certificate = pod.certificate_below(&pebble.root(0));
    assert!(certificate.names.ends_with("DNS:first.shop.example.com"), "{certificate:?}");
    pod.told("CertificateIssued", "ClusterIssuer acme");
    let key = ["get", "secret", "acme-account", "-o", "jsonpath={.data.tls\\.key}"];
    let key = Namespace::existing(DRIVER_NAMESPACE).kubectl(&key);
    assert!(key.starts_with("LS0tLS1CRUdJTiBQUklWQVRFIEtFWS"), "{key}");

    let server = json!({
        "image": "localhost/https-server:test",
        "command": ["/https-server"],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
    });
    let name = "web.shop.example.com";
    let app = json!({"containers": [server]});
    // Pebble advises any time until the certificate expires, and an order takes seconds.
    let early = [attributes("acme-short", name).as_slice(), &[("renew-before", "24s")]].concat();
    namespace.create_pod("web", &early, &app).wait("Ready");
    namespace.create(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "web"},
            "ports": [{"port": 443, "targetPort": 8443}],
        },
    }));
    let port = ["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"];
    let port = namespace.kubectl(&port).parse().unwrap();
    serve_through_renewals([App::meet(&namespace, "web", name.to_owned(), port)], 2);
    assert_eq!(pebble.accounts(), 1);
}

/// The CA asks at the ports that it asks at on the internet. The node has them from the chart.
#[test]
fn acme_proves_names_at_ports_of_the_node() {
    enter_network();
    let namespace = Namespace::new();
    let pebble = Pebble::start(Options {
        address: NODE,
        http_port: Some(80),
        tls_port: Some(443),
        ..Options::default()
    });
    let mut objects = Objects::default();
    objects.made_by_the_driver("Secret", "acme-account");
    let _ports = Upgraded::with("acme.http01.hostPort=80,acme.tlsAlpn01.enabled=true");
    for (issuer, solver) in
        [("acme-http", json!({"http01": {}})), ("acme-tls", json!({"tlsALPN01": {}}))]
    {
        objects.create(cluster_issuer(issuer, acme(&pebble, solver)));
        let name = format!("{issuer}.shop.example.com");
        let pod = namespace.start_pod(issuer, &attributes(issuer, &name));
        let certificate = pod.certificate_below(&pebble.root(0));
        assert!(certificate.names.ends_with(&name), "{certificate:?}");
        pod.delete();
    }
    assert_eq!(pebble.accounts(), 1);
    no_volumes_left();
}

#[test]
fn acme_proves_names_by_records_of_a_name_server() {
    enter_network();
    let namespace = Namespace::new();
    let folder = tempfile::tempdir().unwrap();
    let named = name_server(folder.path());
    let pebble = Pebble::start(Options {
        address: NODE,
        dns_server: Some(NAME_SERVER),
        ..Options::default()
    });
    let mut objects = Objects::default();
    objects.made_by_the_driver("Secret", "acme-account");
    objects.create(secret("tsig", json!({"secret": TSIG})));
    let rfc2136 = json!({"nameserver": NAME_SERVER, "tsigKeyName": "certmount",
        "tsigSecretSecretRef": {"name": "tsig", "key": "secret"}});
    let solver = json!({"dns01": {"nameservers": [NAME_SERVER], "rfc2136": rfc2136}});
    let issuer = cluster_issuer("acme-dns", acme(&pebble, solver));
    assert_eq!(check(&issuer).unwrap(), FINE, "the key of updates is in the cluster");
    assert_eq!(pebble.accounts(), 0);
    objects.create(issuer.clone());
    let pod = namespace.start_pod("web", &attributes("acme-dns", "*.shop.example.com"));
    let certificate = pod.certificate_below(&pebble.root(0));
    assert_eq!(check(&issuer).unwrap(), FINE, "and so is that of the account");
    assert_eq!(pebble.accounts(), 1);
    assert!(certificate.names.ends_with("DNS:*.shop.example.com"), "{certificate:?}");
    eventually("the record is gone again", || {
        named.texts("_acme-challenge.shop.example.com").is_empty().then_some(())
    });
    pod.delete();
    no_volumes_left();
}

/// The driver's issuer is a service account, whose tokens the API server makes and looks at for
/// OpenBao.
#[test]
fn vault_knows_the_driver_by_a_service_account() {
    enter_network();
    let namespace = Namespace::new();
    let bao = Bao::start();
    let mut objects = Objects::default();
    trust_the_cluster(&bao, &namespace, &mut objects);
    bao.run(
        "write auth/kubernetes/role/certmount bound_service_account_names=vault-issuer \
         bound_service_account_namespaces=certmount-system audience=vault://vault \
         token_policies=certmount",
        "",
    );
    objects.create(json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "vault-issuer"}}));
    let auth = json!({"kubernetes": {"role": "certmount", "mountPath": "/v1/auth/kubernetes",
        "serviceAccountRef": {"name": "vault-issuer"}}});
    let issuer = cluster_issuer("vault", vault(&bao, auth));
    assert_eq!(check(&issuer).unwrap(), FINE);
    objects.create(issuer);
    let name = format!("web.{}.svc", namespace.name());
    let pod = namespace.start_pod("web", &attributes("vault", &name));
    let certificate = pod.certificate();
    assert!(certificate.names.ends_with(&name), "{certificate:?}");
    assert_eq!(pod.read("ca.crt").trim(), bao.root);

    bao.run("delete auth/kubernetes/role/certmount", "");
    let auth = json!({"kubernetes": {"role": "certmount", "mountPath": "/v1/auth/kubernetes",
        "serviceAccountRef": {"name": "vault-issuer"}}});
    let said = check(&cluster_issuer("vault", vault(&bao, auth))).unwrap_err();
    assert!(said.contains("error: ClusterIssuer vault: "), "{said}");
    assert!(said.contains("certmount"), "{said}");
}

/// The driver logs in as each pod, with the token that kubelet hands over.
#[test]
fn vault_knows_pods_by_their_own_service_accounts() {
    enter_network();
    let namespace = Namespace::new();
    let bao = Bao::start();
    let mut objects = Objects::default();
    trust_the_cluster(&bao, &namespace, &mut objects);
    bao.run(
        &format!(
            "write auth/kubernetes/role/pods bound_service_account_names=web \
             bound_service_account_namespaces={} audience=vault token_policies=certmount",
            namespace.name()
        ),
        "",
    );
    let auth = json!({"kubernetes": {"role": "pods", "mountPath": "/v1/auth/kubernetes",
        "podIdentity": {"audience": "vault"}}});
    objects.create(cluster_issuer("vault-by-pod", vault(&bao, auth)));
    let _tokens = Upgraded::with("driver.tokenRequests[0].audience=vault");
    namespace.kubectl(&["create", "serviceaccount", "web"]);
    let name = format!("web.{}.svc", namespace.name());
    let attributes = attributes("vault-by-pod", &name);
    let pod = namespace.create_pod("web", &attributes, &json!({"serviceAccountName": "web"}));
    pod.wait("Ready");
    pod.certificate_below(&bao.root);
    let other = namespace.create_pod("other", &attributes, &json!({}));
    other.told("FailedMount", "auth/kubernetes");
    other.delete();
    pod.delete();
    no_volumes_left();
}

#[test]
fn pods_start_below_an_intermediate_while_its_upstream_is_gone() {
    enter_network();
    let namespace = Namespace::new();
    let bao = Bao::start();
    let sign = r#"path "pki/root/sign-intermediate" { capabilities = ["update"] }"#;
    bao.run("policy write intermediates -", sign);
    let mut objects = Objects::default();
    objects.create(secret("vault", json!({"token": bao.token("intermediates")})));
    let auth = json!({"tokenSecretRef": {"name": "vault", "key": "token"}});
    objects.create(cluster_issuer("root", vault(&bao, auth)));
    let chained = json!({"chained": {
        "issuerRef": {"name": "root", "kind": "ClusterIssuer", "group": "certmount.dev"},
        "nameConstraints": {"permitted": {"dnsDomains": ["svc"]}},
    }});
    // The node keeps its intermediate, also from one run of the tests to the next.
    let mesh = format!("mesh-{}", std::process::id());
    objects.create(cluster_issuer(&mesh, chained));
    let name = |pod: &str| format!("{pod}.{}.svc", namespace.name());
    let pod = namespace.start_pod("web-0", &attributes(&mesh, &name("web-0")));
    let first = pod.certificate_below(&bao.root);
    let issuer = openssl(&["x509", "-noout", "-issuer"], pod.read("tls.crt"));
    assert!(issuer.contains(&mesh) && issuer.contains("node1"), "{issuer}");

    let root = bao.root.clone();
    drop(bao);
    let pod = namespace.start_pod("web-1", &attributes(&mesh, &name("web-1")));
    assert_ne!(pod.certificate_below(&root).serial, first.serial);
}

#[test]
fn venafi_signs_by_a_policy_folder() {
    enter_network();
    let namespace = Namespace::new();
    let runtime = Runtime::new().unwrap();
    let tpp = runtime.block_on(Tpp::with(Settings { address: NODE, ..Settings::default() }));
    let mut objects = Objects::default();
    objects.create(secret("tpp", json!({"access-token": "token-0"})));
    let venafi = json!({"venafi": {"zone": r"DevOps\shop", "tpp": {
        "url": tpp.server.url(),
        "caBundle": tpp.server.ca_bundle(),
        "credentialsRef": {"name": "tpp"},
    }}});
    objects.create(cluster_issuer("tpp", venafi));
    let name = format!("web.{}.svc", namespace.name());
    let mut attributes = attributes("tpp", &name).to_vec();
    attributes.push(("common-name", &name));
    let pod = namespace.start_pod("web", &attributes);
    pod.certificate();
    assert_eq!(tpp.objects().len(), 1);
}

#[test]
fn venafi_cloud_signs_by_application_and_template() {
    enter_network();
    let namespace = Namespace::new();
    let runtime = Runtime::new().unwrap();
    let cloud = runtime.block_on(Cloud::at(NODE));
    let mut objects = Objects::default();
    objects.create(secret("cloud", json!({"api-key": "key-0"})));
    let venafi = json!({"venafi": {"zone": r"My shop\Short lived", "cloud": {
        "url": cloud.server.url(),
        "caBundle": cloud.server.ca_bundle(),
        "apiTokenSecretRef": {"name": "cloud", "key": "api-key"},
    }}});
    objects.create(cluster_issuer("venafi-cloud", venafi));
    let name = format!("web.{}.svc", namespace.name());
    let mut attributes = attributes("venafi-cloud", &name).to_vec();
    attributes.push(("common-name", &name));
    let pod = namespace.start_pod("web", &attributes);
    pod.certificate_below(&chain_to_pem([&cloud.root()]));
    pod.told("CertificateIssued", "ClusterIssuer venafi-cloud");
    assert_eq!(cloud.calls("POST").len(), 1);
}

/// What a stolen token of the driver could not be used for.
#[test]
fn the_driver_may_make_no_secret_and_no_token_but_those_named() {
    let driver = format!("--as=system:serviceaccount:{DRIVER_NAMESPACE}:certmount");
    let may = |verb: &str, what: &[&str]| {
        let asked = [&["auth", "can-i", verb], what, &["-n", DRIVER_NAMESPACE, &driver]].concat();
        try_kubectl(&asked).is_ok()
    };
    assert!(may("create", &["secrets/acme-account"]));
    assert!(may("create", &["serviceaccounts/vault-issuer", "--subresource=token"]));
    for what in [
        &["secrets"][..],
        &["secrets/other"],
        &["serviceaccounts/certmount", "--subresource=token"],
        &["serviceaccounts", "--subresource=token"],
    ] {
        assert!(!may("create", what), "{what:?}");
    }
    assert!(!may("patch", &["secrets/cluster-ca"]));
}

/// Where the tests' name server listens.
pub(crate) const NAME_SERVER: &str = "10.77.0.1:53";
/// The secret of the key `certmount`, which may write TXT records there.
pub(crate) const TSIG: &str = "c2l4dGVlbiBieXRlcyBhcmUgZmV3";

/// A name server that has `example.com`, for a folder of its own in `parent`.
pub(crate) fn name_server(parent: &std::path::Path) -> Named {
    let statements = format!(
        "key certmount {{ algorithm hmac-sha256; secret \"{TSIG}\"; }};\n\
         zone example.com {{ type primary; file \"zone\"; \
         update-policy {{ grant certmount zonesub TXT; }}; }};"
    );
    let zone = format!("$TTL 300\n@ SOA ns1 root 1 3600 600 86400 60\n@ NS ns1\nns1 A {NODE}\n");
    Named::start(parent, NODE, "", &statements, &[("zone", &zone)])
}

fn acme(pebble: &Pebble, solver: Value) -> Value {
    json!({
        "acme": {
            "server": pebble.directory(),
            "caBundle": pebble.ca_bundle(),
            "privateKeySecretRef": {"name": "acme-account"},
            "solvers": [solver],
        },
        "policy": [{"dnsNames": ["*.shop.example.com", "{*}.shop.example.com"]}],
    })
}

fn vault(bao: &Bao, auth: Value) -> Value {
    json!({"vault": {
        "server": bao.url(),
        "path": "pki/sign/web",
        "caBundle": bao.ca_bundle(),
        "auth": auth,
    }})
}

/// Lets service accounts log in to OpenBao, which has the API server look at their tokens.
fn trust_the_cluster(bao: &Bao, namespace: &Namespace, objects: &mut Objects) {
    namespace.kubectl(&["create", "serviceaccount", "reviewer"]);
    objects.create(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "openbao"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:auth-delegator"},
        "subjects": [
            {"kind": "ServiceAccount", "name": "reviewer", "namespace": namespace.name()},
        ],
    }));
    let config = json!({
        "kubernetes_host": format!("https://{NODE}:6443"),
        "kubernetes_ca_cert": cluster(&["exec", "cat", "/run/cluster/credentials/apiserver.crt"]),
        "token_reviewer_jwt": namespace.kubectl(&["create", "token", "reviewer"]).trim(),
        "disable_local_ca_jwt": true,
    });
    bao.run("auth enable kubernetes", "");
    bao.run("write auth/kubernetes/config -", &config.to_string());
}

/// What `certmount check` says of an issuer with nothing beside it but the cluster.
fn check(issuer: &Value) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("issuer.json");
    std::fs::File::create(file).unwrap().write_all(issuer.to_string().as_bytes()).unwrap();
    let certmount = env!("CARGO_BIN_EXE_certmount");
    let args = ["exec", certmount, "check", "--connect", "--kubeconfig", "/run/cluster/kubeconfig"];
    let output = run(&[&args[..], &[folder.path().to_str().unwrap()]].concat(), "");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    if output.status.success() { Ok(said) } else { Err(said) }
}

const FINE: &str = "ok: 1 issuer, 0 volumes\n";

/// Of a volume with a certificate for `name` by that ClusterIssuer.
fn attributes<'a>(issuer: &'a str, name: &'a str) -> [(&'a str, &'a str); 2] {
    [("issuer-name", issuer), ("dns-names", name)]
}

fn cluster_issuer(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "certmount.dev/v1alpha1", "kind": "ClusterIssuer",
        "metadata": {"name": name}, "spec": spec})
}

pub(crate) fn secret(name: &str, values: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})
}

/// Objects of the cluster and of the driver's namespace, which go when it is dropped.
#[derive(Debug, Default)]
struct Objects(Vec<(String, String)>);

impl Objects {
    fn create(&mut self, object: Value) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let kind = text(&object["kind"]);
        let kind = match text(&object["apiVersion"]).split_once('/') {
            Some((group, version)) => format!("{kind}.{version}.{group}"),
            None => kind,
        };
        let name = text(&object["metadata"]["name"]);
        Namespace::existing(DRIVER_NAMESPACE).apply(&object.to_string(), &[]);
        self.0.push((kind, name));
    }

    fn made_by_the_driver(&mut self, kind: &str, name: &str) {
        self.0.push((kind.to_owned(), name.to_owned()));
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Issuers before what they need.
        for (kind, name) in self.0.iter().rev() {
            let _ = try_kubectl(&["-n", DRIVER_NAMESPACE, "delete", kind, name]);
        }
    }
}

/// The chart with another value, until this is dropped.
#[derive(Debug)]
struct Upgraded;

impl Upgraded {
    fn with(value: &str) -> Self {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart");
        let args = ["upgrade", "certmount", chart, "--reset-then-reuse-values", "--set", value];
        cluster(&[&HELM[..], &args, &["--wait", "--timeout=2m"]].concat());
        Self
    }
}

const HELM: [&str; 4] = ["exec", "helm", "-n", DRIVER_NAMESPACE];

impl Drop for Upgraded {
    fn drop(&mut self) {
        cluster(&[&HELM[..], &["rollback", "certmount", "--wait"]].concat());
    }
}
