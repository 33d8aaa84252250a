//! An app behind a NodePort ends TLS itself, and no client notices that its certificate is renewed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use serde_json::json;

use crate::kubernetes::{Namespace, Pod, cluster, eventually};

const NODE: &str = "10.77.0.1";
const PORT: u16 = 30443;
/// Renewed every 8 s.
const ATTRIBUTES: [(&str, &str); 2] =
    [("dns-names", "web.${POD_NAMESPACE}.svc"), ("duration", "12s")];

#[test]
fn a_node_port_serves_through_renewals_without_a_failed_request() {
    let namespace = Namespace::new();
    let server = json!({
        "image": "localhost/https-server:test",
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
    });
    let pod = namespace.create_pod("web", &ATTRIBUTES, &json!({"containers": [server]}));
    pod.wait("Ready");
    let uid = pod.uid();
    namespace.create(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "web"},
            "ports": [{"port": 443, "targetPort": 8443, "nodePort": PORT}],
        },
    }));
    let name = format!("web.{}.svc", namespace.name());
    let get = move |tls: &Arc<ClientConfig>| get(tls, &name);
    let tls = Arc::new(trusting(&Pod::on_node(&uid, "ca.crt")));
    {
        let (get, tls) = (get.clone(), tls.clone());
        let first = in_machine(move || eventually("kube-proxy knows the port", || get(&tls).ok()));
        first.join().unwrap();
    }

    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let stop = stop.clone();
        in_machine(move || {
            let mut seen: Vec<(Instant, String)> = Vec::new();
            let mut requests = 0;
            while !stop.load(Ordering::Relaxed) {
                let serial = get(&tls).unwrap();
                requests += 1;
                if seen.last().is_none_or(|(_, last)| *last != serial) {
                    seen.push((Instant::now(), serial));
                }
                thread::sleep(Duration::from_millis(2));
            }
            (requests, seen)
        })
    };
    let mut written = Vec::new();
    let mut old = Pod::on_node(&uid, "tls.crt");
    for _ in 0..3 {
        old = eventually("the certificate is renewed", || {
            Some(Pod::on_node(&uid, "tls.crt")).filter(|new| *new != old)
        });
        written.push(Instant::now());
    }
    // What the last renewal did to requests shows in those that follow.
    thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);

    let (requests, seen) = client.join().expect("no request failed");
    assert!(requests > 500, "only {requests} requests");
    assert_eq!(seen.len(), 4, "one certificate and three more: {seen:?}");
    for ((seen, _), written) in seen[1..].iter().zip(&written) {
        let late = seen.saturating_duration_since(*written);
        assert!(late < Duration::from_secs(2), "the new certificate was served {late:?} late");
    }
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
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The serial that the server says it serves, over a connection of its own.
fn get(tls: &Arc<ClientConfig>, name: &str) -> std::io::Result<String> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(tls.clone(), name).map_err(std::io::Error::other)?;
    let mut socket = TcpStream::connect((NODE, PORT))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = Stream::new(&mut connection, &mut socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").filter(|_| answer.starts_with("HTTP/1.1 200 "));
    let (_, body) = body.ok_or_else(|| std::io::Error::other(answer.clone()))?;
    Ok(body.to_owned())
}
