//! Clients of apps behind NodePorts, which do not notice that certificates are renewed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

use crate::common::https::client_config;
use crate::kubernetes::{NODE, Namespace, VolumeOnNode, enter_network, eventually};

/// What the project promises.
const SOON: Duration = Duration::from_secs(2);

/// An app under requests.
pub(crate) struct App {
    name: String,
    volume: VolumeOnNode,
    /// The certificates in its volume.
    written: Seen,
    stop: Arc<AtomicBool>,
    /// Answers how many requests there were, and the certificates that were served.
    client: JoinHandle<(u64, Seen)>,
}

impl App {
    /// Begins to ask the app of that pod, as `name` and by its NodePort, over a new connection each
    /// time.
    pub(crate) fn meet(namespace: &Namespace, pod: &str, name: String, port: u16) -> Self {
        let uid = namespace.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]);
        let volume = VolumeOnNode::of(&uid);
        let tls = Arc::new(trusting(&volume.read("ca.crt")));
        let stop = Arc::new(AtomicBool::new(false));
        let client = thread::spawn({
            let (name, stop) = (name.clone(), Arc::clone(&stop));
            move || {
                enter_network();
                eventually("kube-proxy knows the port", || get(&tls, port, &name).ok());
                let (mut requests, mut served) = (0, Seen::default());
                while !stop.load(Ordering::Relaxed) {
                    served.note(get(&tls, port, &name).unwrap());
                    requests += 1;
                    thread::sleep(Duration::from_millis(20));
                }
                (requests, served)
            }
        });
        Self { name, volume, written: Seen::default(), stop, client }
    }
}

/// Each of these apps answers every request while its certificate is renewed so often, and soon with
/// the new one.
#[allow(clippy::print_stdout, reason = "a measurement")]
pub(crate) fn serve_through_renewals<const COUNT: usize>(mut apps: [App; COUNT], renewals: usize) {
    let start = Instant::now();
    while apps.iter().any(|app| app.written.0.len() <= renewals) {
        for app in &mut apps {
            app.written.note(leaf(&app.volume.read("tls.crt")));
            assert!(!app.client.is_finished(), "a request to {} was lost", app.name);
        }
        assert!(start.elapsed() < Duration::from_secs(120), "too few renewals");
        thread::sleep(Duration::from_millis(10));
    }
    // What the last renewal did to requests shows in those that follow.
    thread::sleep(SOON);
    for app in &apps {
        app.stop.store(true, Ordering::Relaxed);
    }

    for App { name, written, client, .. } in apps {
        let (requests, served) = client.join().unwrap_or_else(|_| panic!("{name} lost one"));
        let late = |(leaf, written): &(Leaf, Instant)| {
            let served = served.0.iter().find(|(served, _)| served == leaf);
            let (_, served) = served.unwrap_or_else(|| panic!("{name} left one out"));
            served.saturating_duration_since(*written)
        };
        let late = written.0[1..].iter().map(late).max();
        println!("{name} answered {requests} requests and was {late:?} late at most");
        assert!(late < Some(SOON), "{name} served a new certificate {late:?} late");
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

fn trusting(anchors: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_slice_iter(anchors.as_bytes()) {
        roots.add(anchor.unwrap()).unwrap();
    }
    client_config(roots)
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
