//! An intermediate on each node: what verifiers make of its chains, and what pods see while the
//! upstream is there, gone, and back.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "files for other programs, in a folder of our own")]

mod common;
#[path = "chained/step_ca.rs"]
#[allow(unreachable_pub, reason = "a part of this test")]
mod step_ca;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use certmount::clock::{Clock, Timestamp};
use certmount::config::{Root, RootOptions};
use certmount::csi::client::InlineVolume;
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Certificate, CertificateAuthority, DistinguishedName,
    GeneralName, KeyAlgorithm, KeyUsages, NameConstraints, NameSubtree, PrivateKey, Template,
    Validity, certificates_from_pem, chain_to_pem, self_sign,
};
use common::{Plugin, ca_template, namespaced_async};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use step_ca::StepCa;
use tempfile::TempDir;
use tonic::Code;

const DAY: Duration = Duration::from_secs(86_400);

const MESH: &str = "
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata:
  name: mesh
spec:
  chained:
    issuerRef:
      name: root
    nameConstraints:
      permitted:
        dnsDomains: [svc, svc.cluster.local]
        uriDomains: [cluster.local]
      excluded:
        ipRanges: [0.0.0.0/0, '::/0']
  policy:
    - dnsNames: ['**.example.com']
";

/// The objects of the issuer `root`: a Secret with a CA, and a ClusterIssuer that signs with it.
fn root_files() -> [(String, String); 2] {
    let folder = tempfile::tempdir().unwrap();
    let options = RootOptions {
        name: "root".to_owned(),
        common_name: "the root".to_owned(),
        algorithm: KeyAlgorithm::EcdsaP384,
        duration: 365 * DAY,
        path_len: Some(1),
    };
    let files = Root::make(&options, now()).unwrap().write(folder.path(), false).unwrap();
    files.map(|file| {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(file).unwrap())
    })
}

fn now() -> Timestamp {
    Clock::system().now()
}

/// A driver with the issuers `root` and `mesh`.
struct Node {
    plugin: Plugin,
    root: [(String, String); 2],
}

impl Node {
    fn start() -> Self {
        let root = root_files();
        let [secret, issuer] = &root;
        let files = [("mesh.yaml", MESH), (&secret.0, &secret.1), (&issuer.0, &issuer.1)];
        Self { plugin: Plugin::with_config(&files), root }
    }

    /// Takes the upstream away, and returns when the driver knows.
    async fn lose_upstream(&self) {
        for (name, _) in &self.root {
            fs::remove_file(self.plugin.path("config").join(name)).unwrap();
        }
        self.until_upstream_answers("gone", |answer| {
            answer.contains("there is no ClusterIssuer root")
        })
        .await;
    }

    /// Returns when what the upstream says to a pod that asks it itself is as it should be.
    async fn until_upstream_answers(&self, pod: &str, fact: impl Fn(&str) -> bool) {
        let kubelet = self.plugin.kubelet();
        for attempt in 0..200 {
            let volume =
                volume(&format!("{pod}-{attempt}"), "root", "${POD_NAME}.${POD_NAMESPACE}.svc");
            let answer = match kubelet.publish(&volume).await {
                Ok(_) => String::new(),
                Err(status) => status.message().to_owned(),
            };
            kubelet.unpublish(&volume).await.unwrap();
            if fact(&answer) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not in time; the log is\n{}", self.plugin.log());
    }

    /// What the pod sees once its volume is there.
    async fn publish(&self, pod: &str) -> Seen {
        let volume = volume(pod, "mesh", "${POD_NAME}.${POD_NAMESPACE}.svc");
        let target = self.plugin.kubelet().publish(&volume).await.unwrap();
        let read = |name| certificates_from_pem(&fs::read(target.join(name)).unwrap()).unwrap();
        Seen { chain: read("tls.crt"), anchors: read("ca.crt"), target }
    }
}

struct Seen {
    chain: Vec<Certificate>,
    anchors: Vec<Certificate>,
    target: std::path::PathBuf,
}

fn volume(pod: &str, issuer: &str, names: &str) -> InlineVolume {
    let attributes = [
        ("certmount.dev/issuer-name", issuer),
        ("certmount.dev/issuer-kind", "ClusterIssuer"),
        ("certmount.dev/dns-names", names),
        (
            "certmount.dev/uri-sans",
            "spiffe://cluster.local/ns/${POD_NAMESPACE}/sa/${SERVICE_ACCOUNT_NAME}",
        ),
    ];
    InlineVolume::new("shop", pod, &attributes)
}

#[test]
fn pods_start_while_the_upstream_is_gone_and_a_name_outside_of_the_constraints_is_refused() {
    namespaced_async(|| async {
        let node = Node::start();
        let first = node.publish("web-0").await;
        let [leaf, intermediate] = &first.chain[..] else { panic!("{:?}", first.chain) };
        assert!(leaf.is_signed_by(intermediate));
        assert_eq!(intermediate.subject(), "CN=certmount mesh node-1");
        assert_eq!(intermediate.basic_constraints(), BasicConstraints::Ca { path_len: Some(0) });
        assert_eq!(first.anchors.len(), 1);
        assert_eq!(first.anchors[0].subject(), "CN=the root");
        assert!(leaf.validity().not_after < intermediate.validity().not_after);
        // It does not look into URIs, so where they are constrained it takes none.
        rustls_verifies(&first.chain, &first.anchors[0], "web-0.shop.svc").unwrap_err();

        node.lose_upstream().await;
        for pod in 1..20 {
            let pod = format!("web-{pod}");
            let seen = node.publish(&pod).await;
            assert_eq!(seen.chain[1], *intermediate, "{pod}");
            assert_eq!(seen.anchors, first.anchors);
        }
        let outside = volume("web-99", "mesh", "web.example.com");
        let status = node.plugin.kubelet().publish(&outside).await.unwrap_err();
        let said = status.message();
        assert!(said.contains("do not allow dns:web.example.com"), "{said}");
        assert!(said.contains("permitted: dns:svc, dns:svc.cluster.local"), "{said}");
    });
}

#[test]
fn a_restart_goes_on_with_the_intermediate_though_the_upstream_is_gone() {
    namespaced_async(|| async {
        let mut node = Node::start();
        let before = node.publish("web-0").await;
        node.lose_upstream().await;
        node.plugin.restart();
        assert_eq!(node.publish("web-0").await.chain, before.chain, "the volume was touched");
        let after = node.publish("web-1").await;
        assert_eq!(after.chain[1], before.chain[1]);
        assert_ne!(after.chain[0], before.chain[0]);

        // The key lies on a tmpfs of its own, for root alone.
        let kept = node.plugin.data_root().join(".node");
        assert_ne!(device(&kept), device(&node.plugin.data_root()));
        let files: Vec<_> = fs::read_dir(&kept).unwrap().flatten().collect();
        let [file] = &files[..] else { panic!("{files:?}") };
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(!node.plugin.log().contains("PRIVATE KEY"));
    });
}

#[test]
fn without_an_intermediate_pods_wait_for_the_upstream_and_are_told_so() {
    namespaced_async(|| async {
        let node = Node::start();
        node.lose_upstream().await;
        let pod = volume("web-0", "mesh", "${POD_NAME}.${POD_NAMESPACE}.svc");
        let kubelet = node.plugin.kubelet();
        let status = kubelet.publish(&pod).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "kubelet has to come back: {status}");
        for words in
            ["this node has no intermediate CA to sign with", "there is no ClusterIssuer root"]
        {
            assert!(status.message().contains(words), "{status}");
        }
        for (name, text) in &node.root {
            node.plugin.configure(name, text);
        }
        let mut published = false;
        for _ in 0..200 {
            published = kubelet.publish(&pod).await.is_ok();
            if published {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(published, "{}", node.plugin.log());
    });
}

fn device(path: &Path) -> u64 {
    fs::metadata(path).unwrap().dev()
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_verifies_the_chain_of_a_pod_strictly() {
    namespaced_async(|| async {
        let node = Node::start();
        let seen = node.publish("web-0").await;
        let own = Path::new("ca.crt");
        openssl_verify(&seen.target, "web-0.shop.svc", own).unwrap();
        let refused = openssl_verify(&seen.target, "web-1.shop.svc", own).unwrap_err();
        assert!(refused.contains("hostname mismatch"), "{refused}");
    });
}

/// As the platform guide draws it: the root signs an intermediate by ACME, and that the servers.
#[test]
#[ignore = "needs step-ca, pebble-challtestsrv and openssl; .ci/run installs them"]
fn a_root_that_speaks_acme_signs_the_intermediate_that_signs_the_servers() {
    const MESH: &str = "
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata:
  name: mesh
spec:
  chained:
    issuerRef:
      name: root
    dnsNames: ['${NODE_NAME}.mesh.example.com']
    duration: 10m
    renewBefore: 9m50s
    nameConstraints:
      permitted:
        dnsDomains: [svc]
";
    namespaced_async(|| async {
        let mut step = StepCa::start();
        let http = format!("127.0.0.1:{}", step.http_port);
        let state = step.path("state");
        let arguments = ["--acme-http01-address", &http, "--state-dir", state.to_str().unwrap()];
        let files = [("mesh.yaml", MESH), ("root.yaml", &step.issuer())];
        let plugin = Plugin::with_arguments(&files, &arguments);
        let root = certificates_from_pem(&fs::read(step.root()).unwrap()).unwrap();
        let node = Node { plugin, root: Default::default() };

        let first = node.publish("web-0").await;
        let [leaf, intermediate] = &first.chain[..] else { panic!("{:?}", first.chain) };
        assert!(leaf.is_signed_by(intermediate) && intermediate.is_signed_by(&root[0]));
        assert_eq!(intermediate.subject(), "CN=node-1.mesh.example.com");
        assert_eq!(intermediate.issuer(), "CN=RootCA");
        assert_eq!(intermediate.basic_constraints(), BasicConstraints::Ca { path_len: Some(0) });
        assert_eq!(first.anchors, root);
        openssl_verify(&first.target, "web-0.shop.svc", &step.root()).unwrap();
        openssl_verify(&first.target, "web-1.shop.svc", &step.root()).unwrap_err();

        // Replaced in time, with a new key, under pods that start.
        let mut pods = 0;
        let second = loop {
            pods += 1;
            let seen = node.publish(&format!("web-{pods}")).await;
            if seen.chain[1] != *intermediate {
                break seen;
            }
            assert!(pods < 600, "{}\n{}", node.plugin.log(), step.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_ne!(second.chain[1].public_key_info(), intermediate.public_key_info());
        for (pod, seen) in [(0, &first), (pods, &second)] {
            openssl_verify(&seen.target, &format!("web-{pod}.shop.svc"), &step.root()).unwrap();
        }
        assert!((2..5).contains(&step.orders()), "{}", step.log());

        step.stop();
        for pod in 1000..1020 {
            let seen = node.publish(&format!("web-{pod}")).await;
            openssl_verify(&seen.target, &format!("web-{pod}.shop.svc"), &step.root()).unwrap();
        }
    });
}

#[test]
fn rustls_enforces_the_name_constraints() {
    let stolen = Stolen::new();
    let (chain, root) = stolen.sign("web.shop.svc");
    rustls_verifies(&chain, &root, "web.shop.svc").unwrap();
    let (chain, root) = stolen.sign("bank.example");
    let refused = rustls_verifies(&chain, &root, "bank.example").unwrap_err();
    assert!(refused.contains("NameConstraintViolation"), "{refused}");
}

#[test]
#[ignore = "needs openssl; .ci/run runs it"]
fn openssl_enforces_the_name_constraints() {
    let stolen = Stolen::new();
    for (name, said) in
        [("web.shop.svc", None), ("bank.example", Some("permitted subtree violation"))]
    {
        let (chain, root) = stolen.sign(name);
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("tls.crt"), chain_to_pem(&chain)).unwrap();
        fs::write(folder.path().join("ca.crt"), chain_to_pem([&root])).unwrap();
        match (openssl_verify(folder.path(), name, Path::new("ca.crt")), said) {
            (Ok(()), None) => {}
            (Err(refused), Some(said)) => assert!(refused.contains(said), "{refused}"),
            (verified, _) => panic!("{name}: {verified:?}"),
        }
    }
}

/// The key of a node's intermediate in the hands of somebody who does not care what it may sign.
struct Stolen {
    root: CertificateAuthority,
    constrained: Certificate,
    unchecked: CertificateAuthority,
}

impl Stolen {
    fn new() -> Self {
        let root = {
            let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
            let root =
                self_sign(&ca_template("CN=root", None), &key, validity(), &Default::default());
            CertificateAuthority::new(vec![root.unwrap()], Vec::new(), key).unwrap()
        };
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let sign = |template: &Template| {
            let information = AuthorityInformation::default();
            root.sign(template, key.public_key_info(), validity(), &information).unwrap()
        };
        let free = ca_template("CN=node", Some(0));
        let permitted = vec![NameSubtree::dns("svc").unwrap()];
        let name_constraints = NameConstraints { permitted, excluded: Vec::new() };
        let constrained = sign(&Template { name_constraints, ..free.clone() });
        let anchors = root.trust_anchors().to_vec();
        let unchecked = CertificateAuthority::new(vec![sign(&free)], anchors, Arc::clone(&key));
        Self { unchecked: unchecked.unwrap(), constrained, root }
    }

    fn sign(&self, name: &str) -> (Vec<Certificate>, Certificate) {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let template = Template {
            subject: DistinguishedName::default(),
            subject_alt_names: vec![GeneralName::dns(name).unwrap()],
            usages: KeyUsages::parse(["digital signature", "server auth"]).unwrap(),
            basic_constraints: BasicConstraints::EndEntity,
            name_constraints: NameConstraints::default(),
        };
        let information = AuthorityInformation::default();
        let leaf = self.unchecked.sign(&template, key.public_key_info(), validity(), &information);
        (vec![leaf.unwrap(), self.constrained.clone()], self.root.certificate().clone())
    }
}

fn validity() -> Validity {
    Validity { not_before: now() - DAY, not_after: now() + DAY }
}

/// What a client with rustls makes of a server's chain.
fn rustls_verifies(chain: &[Certificate], root: &Certificate, name: &str) -> Result<(), String> {
    let der = |certificate: &Certificate| CertificateDer::from(certificate.der().to_vec());
    let mut roots = RootCertStore::empty();
    roots.add(der(root)).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
    );
    let intermediates: Vec<_> = chain[1..].iter().map(der).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second().unsigned_abs()));
    verifier
        .build()
        .unwrap()
        .verify_server_cert(&der(&chain[0]), &intermediates, &name, &[], at)
        .map(drop)
        .map_err(|error| format!("{error:?}"))
}

/// What `openssl verify` makes of `tls.crt` in `folder`, for who trusts what is in `ca`.
fn openssl_verify(folder: &Path, name: &str, ca: &Path) -> Result<(), String> {
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name])
        .arg("-CAfile")
        .arg(ca)
        .args(["-untrusted", "tls.crt", "tls.crt"])
        .current_dir(folder)
        .output()
        .expect("openssl is there");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
