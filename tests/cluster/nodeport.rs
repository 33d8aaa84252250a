//! The apps in `examples/` as their users have them: a pod that ends TLS itself behind a NodePort,
//! and no client notices that its certificate is renewed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use serde_json::json;

use crate::kubernetes::{Namespace, PATIENTLY, VolumeOnNode, cluster, eventually, kubectl};

const NODE: &str = "10.77.0.1";

/// The folder of each, with its NodePort.
const APPS: [(&str, u16); 7] = [
    ("https-server", 30441),
    ("go", 30442),
    ("python", 30443),
    ("nodejs", 30444),
    ("java", 30445),
    ("nginx", 30446),
    ("haproxy", 30447),
];

/// For each image that the examples name, `tests/cluster/run` makes one of our own.
const IMAGES: [&str; 8] = [
    "registry.example.com/https-server",
    "golang",
    "python",
    "node",
    "eclipse-temurin",
    "nginx",
    "haproxy",
    "certmount",
];

const ROTATIONS: usize = 3;

/// What the project promises.
const SOON: Duration = Duration::from_secs(2);

#[test]
#[allow(clippy::print_stdout, reason = "a measurement")]
fn every_example_serves_through_renewals_without_a_failed_request() {
    let namespace = Namespace::new();
    namespace.apply(&manifests(namespace.name()), &[]);
    namespace.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", PATIENTLY]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut apps = APPS.map(|(folder, port)| App::meet(&namespace, folder, port, &stop));

    let start = Instant::now();
    while apps.iter().any(|app| app.written.0.len() <= ROTATIONS) {
        for app in &mut apps {
            app.written.note(leaf(&app.volume.read("tls.crt")));
            assert!(!app.client.is_finished(), "a request to {} was lost", app.folder);
        }
        assert!(start.elapsed() < Duration::from_secs(120), "too few renewals");
        thread::sleep(Duration::from_millis(10));
    }
    // What the last renewal did to requests shows in those that follow.
    thread::sleep(SOON);
    stop.store(true, Ordering::Relaxed);

    for App { folder, written, client, .. } in apps {
        let (requests, served) = client.join().unwrap_or_else(|_| panic!("{folder} lost one"));
        let late = |(leaf, written): &(Leaf, Instant)| {
            let served = served.0.iter().find(|(served, _)| served == leaf);
            let (_, served) = served.unwrap_or_else(|| panic!("{folder} left one out"));
            served.saturating_duration_since(*written)
        };
        let late = written.0[1..].iter().map(late).max();
        println!("{folder} answered {requests} requests and was {late:?} late at most");
        assert!(late < Some(SOON), "{folder} served a new certificate {late:?} late");
    }
    namespace.kubectl(&["delete", "pods", "--all", "--grace-period=1", PATIENTLY]);
}

/// What `kubectl apply` gets: the examples with other images, and with certificates that do not
/// last.
fn manifests(namespace: &str) -> String {
    let own = tempfile::tempdir().unwrap();
    // kustomize takes no absolute paths.
    let up = "../".repeat(own.path().canonicalize().unwrap().components().count() - 1);
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples").trim_start_matches('/');
    let resources = APPS.map(|(folder, _)| match folder {
        // It has no ConfigMap.
        "https-server" => format!("{up}{examples}/{folder}/pod.yaml"),
        _ => format!("{up}{examples}/{folder}"),
    });
    let images = IMAGES.map(|image| {
        let name = image.rsplit('/').next().unwrap();
        json!({"name": image, "newName": format!("localhost/{name}"), "newTag": "test"})
    });
    let attributes = "/spec/volumes/0/csi/volumeAttributes/certmount.dev~1";
    let patch = json!([
        {"op": "replace", "path": format!("{attributes}duration"), "value": "15s"},
        {"op": "replace", "path": format!("{attributes}issuer-name"), "value": "cluster-ca"},
    ]);
    let kustomization = json!({
        "resources": resources,
        "namespace": namespace,
        "images": images,
        "patches": [{"target": {"kind": "Pod"}, "patch": patch.to_string()}],
    });
    let mut file = File::create_new(own.path().join("kustomization.yaml")).unwrap();
    file.write_all(kustomization.to_string().as_bytes()).unwrap();
    let freely = "--load-restrictor=LoadRestrictionsNone";
    kubectl(&["kustomize", freely, own.path().to_str().unwrap()])
}

/// An app under requests.
struct App {
    folder: &'static str,
    volume: VolumeOnNode,
    /// The certificates in its volume.
    written: Seen,
    /// Answers how many requests there were, and the certificates that were served.
    client: JoinHandle<(u64, Seen)>,
}

impl App {
    /// Begins to ask, over a new connection each time, until `stop`.
    fn meet(
        namespace: &Namespace,
        folder: &'static str,
        port: u16,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let name = match folder {
            "https-server" => "https-rust".to_owned(),
            _ => format!("https-{folder}"),
        };
        let uid = namespace.kubectl(&["get", "pod", &name, "-o", "jsonpath={.metadata.uid}"]);
        let volume = VolumeOnNode::of(&uid);
        let tls = Arc::new(trusting(&volume.read("ca.crt")));
        let (name, stop) = (format!("{name}.{}.svc", namespace.name()), Arc::clone(stop));
        let client = in_machine(move || {
            eventually("kube-proxy knows the port", || get(&tls, port, &name).ok());
            let (mut requests, mut served) = (0, Seen::default());
            while !stop.load(Ordering::Relaxed) {
                served.note(get(&tls, port, &name).unwrap());
                requests += 1;
                thread::sleep(Duration::from_millis(20));
            }
            (requests, served)
        });
        Self { folder, volume, written: Seen::default(), client }
    }
}

type Leaf = CertificateDer<'static>;

/// Certificates, each with when it was first seen.
#[derive(Default)]
struct Seen(Vec<(Leaf, Instant)>);

impl Seen {
    fn note(&mut self, leaf: Leaf) {
        if self.0.last().is_none_or(|(last, _)| *last != leaf) {
            self.0.push((leaf, Instant::now()));
        }
    }
}

fn leaf(chain: &str) -> Leaf {
    CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()
}

/// Runs `body` with the node's network.
fn in_machine<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(|| {
        let process = cluster(&["machine"]);
        let network = File::open(format!("/proc/{}/ns/net", process.trim())).unwrap();
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        body()
    })
}

fn trusting(anchors: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_slice_iter(anchors.as_bytes()) {
        roots.add(anchor.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A session that is resumed shows no certificate.
    config.resumption = Resumption::disabled();
    config
}

/// What the server that answers says it is, over a connection of its own.
fn get(tls: &Arc<ClientConfig>, port: u16, name: &str) -> std::io::Result<Leaf> {
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection =
        ClientConnection::new(Arc::clone(tls), server).map_err(std::io::Error::other)?;
    let mut socket = TcpStream::connect((NODE, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut stream = Stream::new(&mut connection, &mut socket);
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // Not every server ends TLS before it ends the connection.
    let ended = stream.read_to_end(&mut answer);
    if !is_whole(&answer) {
        let answer = String::from_utf8_lossy(&answer).into_owned();
        return Err(ended.err().unwrap_or_else(|| std::io::Error::other(answer)));
    }
    let chain = connection.peer_certificates().expect("it has been verified");
    Ok(chain[0].clone().into_owned())
}

/// Whether that is a response with all of its body.
fn is_whole(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    head.starts_with("http/1.1 200")
        && length.is_some_and(|length| length.trim().parse() == Ok(body.len()))
}
